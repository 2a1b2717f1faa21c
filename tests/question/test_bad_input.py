"""Every mistake gets one error of the library's own class that says what is wrong, where, and what to do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from backtrace_jax import (
    BacktraceError,
    Explainer,
    InputError,
    ModelError,
    NumericsError,
    SettingError,
    UnsupportedError,
    check,
    explain,
)
from tests.zoo import exported

IMAGES = np.zeros((2, 1, 28, 28), np.float32)


@pytest.fixture(scope="module")
def lenet():
    return Explainer(exported("lenet").model)


@pytest.fixture(scope="module")
def bert():
    return Explainer(exported("bert").model)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (IMAGES[0], ["'input'", "[1, 28, 28]", "batch axis is missing"]),
        (IMAGES[:0], ["'input'", "empty batch"]),
        (IMAGES[:, :, :20], ["'input'", "[2, 1, 20, 28]", "[?, 1, 28, 28]"]),
        (IMAGES.astype(np.uint8), ["uint8", "float32", "astype"]),
        (IMAGES > 0, ["bool", "float32"]),
        ({"image": IMAGES}, ["no input is called image", "input: float32 [?, 1, 28, 28]"]),
        ({}, ["input input is missing"]),
        ((IMAGES, IMAGES), ["takes 1 inputs", "found 2"]),
        (np.full_like(IMAGES, np.nan), ["'input'", "nan at index (0, 0, 0, 0)"]),
        (np.where(np.arange(28) == 3, np.inf, IMAGES).astype(np.float32), ["inf at index (0, 0, 0, 3)"]),
        ("picture.png", ["is the name of a file"]),
        ([[1.0, 2.0], [3.0]], ["'input'", "unequal length", "pad the rows"]),
        (1.0, ["single number", "batch"]),
        (None, ["is None"]),
    ],
)
def test_wrong_inputs(lenet, inputs, words):
    _fails(InputError, words, lenet, inputs)


def test_wrong_token_inputs(bert):
    inputs = dict(exported("bert").inputs)
    _fails(InputError, ["'input_ids'", "float64", "int64"], bert, {**inputs, "input_ids": inputs["input_ids"] * 1.5})
    fewer = {**inputs, "attention_mask": inputs["attention_mask"][:1]}
    _fails(InputError, ["batch size", "attention_mask"], bert, fewer)
    beyond = {**inputs, "input_ids": inputs["input_ids"] + 10**6}
    _fails(InputError, ["'input_ids'", "at index (0, 0)", "table has", "rows"], bert, beyond)


def test_unsigned_ids_that_do_not_fit_are_refused(bert):
    inputs = dict(exported("bert").inputs)
    huge = inputs["input_ids"].astype(np.uint64) + np.uint64(2**63)
    _fails(InputError, ["'input_ids'", "uint64"], bert, {**inputs, "input_ids": huge})


def test_a_model_that_produces_nan_names_the_node():
    model = _model([helper.make_node("Log", ["x"], ["y"], "logarithm")])
    _fails(NumericsError, ["'y'", "logarithm", "ai.onnx.Log"], explain, model, -np.ones((1, 4), np.float32))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"target": 10}, SettingError, ["target 10", "'output'", "from -10 to 9"]),
        ({"target": -11}, SettingError, ["target -11"]),
        ({"target": [0, 1, 2]}, SettingError, ["one integer per example (2)"]),
        ({"target": 1.5}, SettingError, ["integer"]),
        ({"target": (0, 3)}, SettingError, ["(0, 3)", "'output'"]),
        ({"target": 3, "against": 3}, SettingError, ["against=3", "target itself"]),
        ({"position": 3}, SettingError, ["position=", "no positions"]),
        ({"baseline": IMAGES[0]}, SettingError, ["'default'", "no baseline"]),
        ({"conditions": {"conv1": [0]}}, SettingError, ["'conv1'", "conv2d"]),
        ({"start": np.zeros((2, 9))}, SettingError, ["[2, 10]", "[2, 9]"]),
        ({"start": np.full((2, 10), np.nan)}, SettingError, ["finite"]),
        ({"start": lambda outputs: outputs[0]}, SettingError, ["[2, 10]"]),
    ],
)
def test_wrong_targets(lenet, call, error, words):
    _fails(error, words, lenet, IMAGES, **call)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"mode": "magic"}, SettingError, ["'magic'", "default"]),
        ({"task": "poetry"}, SettingError, ["'poetry'", "binary-classification"]),
        ({"task": "binary-segmentation"}, SettingError, ["'output' [batch, 10]", "is no mask"]),
        ({"task": "span-qa", "target": 10}, SettingError, ["'output' [batch, 10]", "is no span"]),
        ({"output": "logits"}, SettingError, ["'logits'", "output"]),
        ({"output": 3}, SettingError, ["output 3", "does not exist"]),
        ({"layers": "nowhere*"}, SettingError, ["'nowhere*'"]),
        ({"wrt": "label"}, SettingError, ["label", "input"]),
        ({"chunk": 3}, SettingError, ["chunk", "multiple of 8"]),
        ({"chunk": 0}, SettingError, ["chunk"]),
        ({"chunk": 8 * 10**8}, SettingError, ["chunk must be at most 65536"]),
        ({"dtype": "int8"}, SettingError, ["int8", "float32"]),
        ({"precision": "best"}, SettingError, ["best", "highest"]),
        ({"scaler": float("nan")}, SettingError, ["scaler"]),
    ],
)
def test_wrong_settings(settings, error, words):
    _fails(error, words, explain, exported("lenet").model, IMAGES, **settings)


WRONG_TYPES = {
    "batch_axis=[0]": "batch_axis must be a whole number, None, or a dict",
    "batch_axis={'x': 0.5}": "batch_axis must be a whole number",
    "layers=3": "layers must be a name or a list of names",
    "wrt=[3]": "wrt must be a name or a list of names",
    "output=['y']": "output must be a name or an index",
    "prepare='yes'": "prepare must be True or False",
}


def test_settings_of_the_wrong_type():
    """In a process of its own: in this one types are checked as the functions are called."""
    calls = "".join(
        f"try: backtrace_jax.explain('m.onnx', 0, {call})\nexcept Exception as e: told(e)\n" for call in WRONG_TYPES
    )
    code = f"import backtrace_jax\ndef told(e): print(type(e).__name__, e)\n{calls}"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    for line, words in zip(lines, WRONG_TYPES.values(), strict=True):
        assert line.startswith(f"SettingError {words}")


def test_values_of_any_type_are_answered_by_name(tmp_path):
    """Every argument of every public function with values of every type: accepted, or an error of the library's."""
    command = [sys.executable, "-m", "tests.wrong_values", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:-1] == []
    assert int(lines[-1].split()[0]) > 3000


def test_wrong_files(tmp_path):
    whole = exported("mlp").model.SerializeToString()
    for name, content, words in [
        ("text.onnx", b"hello, I am no model", ["text.onnx", "not an ONNX file"]),
        ("cut.onnx", whole[: len(whole) // 2], ["cut.onnx", "truncated"]),
        ("empty.onnx", b"", ["empty.onnx", "no graph"]),
    ]:
        (tmp_path / name).write_bytes(content)
        _fails(ModelError, words, explain, tmp_path / name, IMAGES)
    _fails(ModelError, ["no such file", "missing.onnx"], explain, tmp_path / "missing.onnx", IMAGES)
    _fails(ModelError, ["not a plain file"], explain, tmp_path, IMAGES)
    _fails(SettingError, ["path", "int"], explain, 7, IMAGES)


def test_unknown_operator_and_domain_are_all_named_before_running():
    strange = _model(
        [
            helper.make_node("Frobnicate", ["x"], ["a"], "first"),
            helper.make_node("FusedThing", ["a"], ["y"], "second", domain="com.example"),
        ],
        helper.make_opsetid("com.example", 1),
    )
    report = check(strange)
    assert not report.ok
    for word in ("Frobnicate", "'first'", "com.example.FusedThing", "'second'"):
        assert word in str(report)
    _fails(
        UnsupportedError, ["'first'", "ai.onnx.Frobnicate", "opset 20"], explain, strange, np.ones((1, 4), np.float32)
    )


def test_an_output_that_no_input_reaches():
    nodes = [
        helper.make_node("ArgMax", ["x"], ["z"], axis=1),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    integer = _model(nodes, dtype=TensorProto.INT64)
    _fails(SettingError, ["'y'", "x (int64)", "floats"], explain, integer, np.ones((1, 4), np.int64))
    labels = _model([helper.make_node("ArgMax", ["x"], ["y"], axis=1)], result=TensorProto.INT64)
    _fails(SettingError, ["'y'", "int64", "float output"], explain, labels, np.ones((1, 4), np.float32))


def _model(nodes, *domains, dtype=TensorProto.FLOAT, result=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, ["batch", 4])],
        [helper.make_tensor_value_info("y", result, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), *domains])


def _fails(error, words, call, *arguments, **settings):
    with pytest.raises(error) as caught:
        call(*arguments, **settings)
    assert isinstance(caught.value, BacktraceError)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
