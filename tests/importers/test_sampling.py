"""Resizing, and reading between entries, against onnxruntime; and that what is read gets all of the relevance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import helper

from tests.importers.explaining import check_explained, network
from tests.importers.nodes import check_node, floats, ints

X = floats(1, 2, 5, 6)
SIZES = {"up": ints(1, 2, 8, 9), "down": ints(1, 2, 3, 4)}
TRANSFORMATIONS = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")


@pytest.mark.parametrize(("mode", "sizes"), [*itertools.product(("linear", "cubic", "nearest"), SIZES)])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_resize(mode, sizes, transformation):
    settings = {"mode": mode, "coordinate_transformation_mode": transformation, "opset": 18}
    check_node("Resize", [X, None, None, SIZES[sizes]], known=[3], atol=1e-4, **settings)


@pytest.mark.parametrize("nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_entries(nearest_mode):
    scales = np.array([1, 1, 1.5, 0.75], np.float32)
    settings = {"mode": "nearest", "nearest_mode": nearest_mode, "opset": 13}
    check_node("Resize", [X, None, scales], known=[2], coordinate_transformation_mode="asymmetric", **settings)


def test_resizing_of_old_opsets():
    scales = np.array([1, 1, 2, 3], np.float32)
    for mode in ("nearest", "linear"):
        check_node("Resize", [X, scales], known=[1], opset=10, mode=mode)
        check_node("Upsample", [X, scales], known=[1], opset=9, mode=mode)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_what_is_shrunk_without_aliasing(mode):
    check_node(
        "Resize", [X, None, None, ints(3, 4)], known=[3], mode=mode, antialias=1, axes=[2, 3], opset=18, atol=1e-4
    )


GRID = np.random.default_rng(1).uniform(-1.4, 1.4, (1, 3, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_grid_sample(mode, padding, aligned):
    check_node("GridSample", [X, GRID], mode=mode, padding_mode=padding, align_corners=aligned, opset=20, atol=1e-4)


def test_grids_of_three_axes():
    grid = np.random.default_rng(2).uniform(-1.2, 1.2, (1, 2, 3, 2, 3)).astype(np.float32)
    check_node("GridSample", [floats(1, 2, 3, 4, 5), grid], mode="linear", opset=20, atol=1e-4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_regions(mode, ratio):
    regions = np.array([[0.2, 0.4, 5.1, 3.3], [1.0, 1.0, 2.5, 4.9], [-2.0, 0.5, 9.0, 4.0]], np.float32)
    settings = {"mode": mode, "sampling_ratio": ratio, "output_height": 2, "output_width": 3, "opset": 16}
    check_node("RoiAlign", [floats(2, 3, 5, 6), regions, ints(0, 1, 1)], known=[1, 2], atol=1e-4, **settings)


POINTS = np.random.default_rng(3).uniform(-0.9, 0.9, (1, 3, 4, 2)).astype(np.float32)
EXPLAINED = {
    "Resize linear": ("Resize", ["x", "", "", "k"], SIZES["up"], {"mode": "linear"}),
    "Resize cubic": ("Resize", ["x", "", "", "k"], SIZES["down"], {"mode": "cubic"}),
    "Resize nearest": ("Resize", ["x", "", "", "k"], SIZES["up"], {"mode": "nearest"}),
    "GridSample": ("GridSample", ["x", "k"], POINTS, {"mode": "linear"}),
    "GridSample cubic": ("GridSample", ["x", "k"], POINTS, {"mode": "cubic"}),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_relevance(name):
    op_type, operands, known, settings = EXPLAINED[name]
    nodes = [helper.make_node(op_type, operands, ["read"], **settings), helper.make_node("Flatten", ["read"], ["y"])]
    check_explained(network(nodes, {"x": X}, k=known), {"x": X})
