"""Convolutions and pools over random geometries, against onnxruntime."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .nodes import check_node, floats

AUTO_PADS = st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])


@st.composite
def geometries(draw):
    """Sizes of the value, and window attributes that fit it.

    With SAME padding onnxruntime takes no dilation, and no stride beyond the window.
    """
    axes = range(draw(st.integers(1, 2)))
    auto_pad = draw(AUTO_PADS)
    same = auto_pad.startswith("SAME")
    window = [draw(st.integers(1, 3)) for _ in axes]
    attributes = {
        "kernel_shape": window,
        "strides": [draw(st.integers(1, size if same else 3)) for size in window],
        "dilations": [1 if same else draw(st.integers(1, 2)) for _ in axes],
        "auto_pad": auto_pad,
    }
    if auto_pad == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in window * 2]
    return [draw(st.integers(5, 9)) for _ in axes], attributes


@settings(max_examples=25)
@given(geometries(), st.booleans())
def test_max_pool(geometry, ceil):
    sizes, attributes = geometry
    assume(attributes["auto_pad"] == "NOTSET" or not ceil)
    check_node("MaxPool", [floats(2, 3, *sizes)], opset=22, ceil_mode=int(ceil), **attributes)


@settings(max_examples=25)
@given(geometries(), st.booleans(), st.booleans())
def test_average_pool(geometry, ceil, count):
    sizes, attributes = geometry
    assume(attributes["auto_pad"] == "NOTSET" or not ceil)
    settings = {"ceil_mode": int(ceil), "count_include_pad": int(count), **attributes}
    check_node("AveragePool", [floats(2, 3, *sizes)], opset=22, **settings)


@settings(max_examples=25)
@given(geometries(), st.sampled_from([(4, 4, 1), (4, 6, 2), (3, 6, 3)]), st.booleans())
def test_conv(geometry, channels, bias):
    sizes, attributes = geometry
    inputs, outputs, group = channels
    weights = floats(outputs, inputs // group, *attributes["kernel_shape"], seed=1)
    operands = [floats(2, inputs, *sizes), weights, floats(outputs) if bias else None]
    check_node("Conv", operands, (1, 2), opset=22, group=group, **attributes)


@settings(max_examples=25)
@given(geometries(), st.sampled_from([(4, 3, 1), (4, 6, 2), (3, 3, 3)]), st.integers(0, 1))
def test_conv_transpose(geometry, channels, output_padding):
    sizes, attributes = geometry
    assume(output_padding < min(attributes["strides"]))
    inputs, outputs, group = channels
    rank = len(sizes)
    weights = floats(inputs, outputs // group, *attributes["kernel_shape"], seed=1)
    operands = [floats(2, inputs, *sizes), weights, floats(outputs)]
    check_node(
        "ConvTranspose", operands, (1, 2), opset=22, group=group, output_padding=[output_padding] * rank, **attributes
    )


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[9, 9], [10, 8]])
def test_conv_transpose_with_a_given_output_shape(auto_pad, output_shape):
    operands = [floats(1, 2, 5, 5), floats(2, 3, 3, 3, seed=1)]
    check_node("ConvTranspose", operands, (1,), opset=11, strides=[2, 2], output_shape=output_shape, auto_pad=auto_pad)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_windows_that_would_start_in_the_padding_are_dropped(op_type):
    check_node(op_type, [floats(1, 1, 4)], opset=22, kernel_shape=[2], strides=[3], pads=[1, 1], ceil_mode=1)


@pytest.mark.parametrize("opset", [8, 10, 12])
def test_max_pool_at_older_opsets(opset):
    check_node("MaxPool", [floats(1, 2, 6, 7)], opset=opset, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])


def test_three_spatial_axes():
    check_node("Conv", [floats(1, 2, 4, 5, 6), floats(3, 2, 2, 3, 2)], (1,), strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 1])


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pools(op_type):
    check_node(op_type, [floats(2, 3, 4, 5)])


def test_lp_pool():
    check_node("LpPool", [floats(1, 2, 6, 6)], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], p=3)
