"""The shipped models and examples, and what the demo makes of them."""

from __future__ import annotations

import os
import re

import matplotlib as mpl
import numpy as np
import onnx
import pytest
from PIL import Image

from backtrace_jax import demo, explain
from backtrace_jax.demo import drawing
from backtrace_jax.errors import SettingError

pytestmark = pytest.mark.optimised
NAMES = ("digits", "breast_cancer")
SHAPES = {"digits": ("image", (1, 8, 8), 10), "breast_cancer": ("features", (30,), 2)}


@pytest.mark.parametrize("name", NAMES)
def test_models_are_small_valid_and_named(name):
    known = demo.sample(name)
    assert known.model.stat().st_size < 200_000
    model = onnx.load(known.model)
    onnx.checker.check_model(model, full_check=True)
    input_name, shape, classes = SHAPES[name]
    assert [value.name for value in model.graph.input] == [input_name]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert tuple(dim.dim_value for dim in dims[1:]) == shape
    assert len(known.class_names) == classes


@pytest.mark.parametrize("name", NAMES)
def test_models_carry_no_trace_of_the_machine_that_made_them(name):
    known = demo.sample(name)
    for path in (known.model, known.model.with_suffix(".npz")):
        contents = path.read_bytes()
        for mark in (b"stack_trace", b'File "', b".py", b"/home", b"/root", b"/opt", b"/work", b"site-packages"):
            assert mark not in contents, mark


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_held_out_rows_that_the_model_mostly_gets_right(name, onnxruntime_outputs):
    known = demo.sample(name)
    input_name, shape, classes = SHAPES[name]
    assert known.inputs.dtype == np.float32
    assert known.inputs.shape == (16, *shape)
    assert set(known.labels) <= set(range(classes))
    (logits,) = onnxruntime_outputs(onnx.load(known.model), {input_name: known.inputs})
    assert (logits.argmax(axis=1) == known.labels).sum() >= 15


@pytest.mark.parametrize("name", NAMES)
def test_explanations_agree_with_the_model_and_close(name, onnxruntime_outputs):
    known = demo.sample(name)
    explanation = explain(known.model, known.inputs)
    (logits,) = onnxruntime_outputs(onnx.load(known.model), {SHAPES[name][0]: known.inputs})
    np.testing.assert_allclose(explanation.outputs["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(explanation.target, logits.argmax(axis=1))
    assert (explanation.ledger.error < 1e-5).all()


def test_run_reports_and_draws(tmp_path, capsys):
    demo.run(tmp_path / "out")
    text = capsys.readouterr().out
    assert text.count("prediction   class") == 2
    assert text.count("stabiliser") == 2
    assert re.search(r"label        class \d \((benign|malignant)\)", text)
    assert sorted(os.listdir(tmp_path / "out")) == ["breast_cancer.png", "digits.png"]
    for name in NAMES:
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.width > 1000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_digits_stand_above_their_relevance():
    known = demo.sample("digits")
    explanation = explain(known.model, known.inputs)
    figure = drawing.digits(explanation, known)
    assert len(figure.axes) == 2 * drawing.COLUMNS
    above, below = figure.axes[0], figure.axes[drawing.COLUMNS]
    np.testing.assert_array_equal(above.images[0].get_array(), known.inputs[0, 0])
    np.testing.assert_array_equal(below.images[1].get_array(), explanation.relevance["image"][0, 0])
    assert above.get_title(loc="left") == f"says {known.labels[0]}"


def test_tumours_show_one_of_each_class():
    known = demo.sample("breast_cancer")
    figure = drawing.tumours(explain(known.model, known.inputs), known)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split("; ")[1] for title in titles] == ["it is malignant", "it is benign"]
    assert all(len(axes.patches) == 10 for axes in figure.axes)
    figure.draw_without_rendering()
    assert all(text.get_fontsize() >= 7 for text in figure.findobj(mpl.text.Text) if text.get_text())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="cannot make the folder"):
        demo.run(tmp_path / "file" / "folder")
