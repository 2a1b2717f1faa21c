"""What people get wrong first: one error of at most 300 characters, before anything is compiled, with the way out."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from backtrace_jax import (
    BacktraceError,
    Explainer,
    Explanation,
    Rule,
    Selector,
    SettingError,
    check,
    composite,
    explain,
    mode,
    show,
)
from backtrace_jax.cli.main import main
from backtrace_jax.importers import read
from backtrace_jax.rules.catalogue import ALIASES, MODES
from backtrace_jax.rules.shared import identity
from tests import handmade
from tests.tiny import COUNT, TensorProto, convolutional, images, network, node, random

os.environ.setdefault("KERAS_BACKEND", "jax")


def says(words, call, *arguments, **settings):
    with pytest.raises(BacktraceError) as caught:
        call(*arguments, **settings)
    text = str(caught.value)
    assert not [word for word in words if word not in text], text
    assert len(text) <= 300, text
    return caught.value


class WithUnit(np.ndarray):
    """Numbers that mean nothing without their unit."""

    unit = "metre"

    def __new__(cls, numbers):
        return np.asarray(numbers).view(cls)


@pytest.fixture(scope="module")
def gray():
    """Pictures [n, 1, 8, 8]; nothing of it is ever compiled."""
    nodes = [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    call = Explainer(network(nodes, {"x": (TensorProto.FLOAT, ["batch", 1, 8, 8])}, w=random(64, 3)))
    yield call
    assert not call._stages.compiled.cache_info().misses


# inputs


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((8, 8), "x[None, None]"),
        ((1, 8, 8), "x[None]"),
        ((5, 8, 8), "x[:, None]"),
        ((5, 8, 8, 1), "x.transpose(0, 3, 1, 2)"),
        ((8, 8, 1), "x.transpose(2, 0, 1)[None]"),
        ((5, 3, 8, 8), "[?, 1, 8, 8]"),
    ],
)
def test_shapes_that_simple_things_mend(gray, shape, advice):
    text = str(says([advice, str(list(shape))], gray, np.zeros(shape, np.float32)))
    assert ";" in text or "?, 1" in advice


@pytest.mark.parametrize(
    ("dims", "shape", "advice"),
    [
        (("batch", 8, 8, 3), (2, 3, 8, 8), "x.transpose(0, 2, 3, 1)"),
        (("batch", 8, 8, 1), (8, 8), "x[None, ..., None]"),
        (("batch", 8, 8, 1), (2, 8, 8), "x[..., None]"),
        (("batch", 12, 3), (2, 3, 12), "x.transpose(0, 2, 1)"),
    ],
)
def test_the_advice_fits(dims, shape, advice):
    call = Explainer(network([node("Relu", ["x"], ["y"])], {"x": (TensorProto.FLOAT, dims)}))
    x = np.zeros(shape, np.float32)
    says([advice], call, x)
    mended = eval(advice, {"x": x})
    assert mended.shape[1:] == dims[1:]


def test_a_picture_of_pillow(gray):
    image = pytest.importorskip("PIL.Image").new("L", (8, 8))
    says(["[8, 8]", "x[None, None]"], gray, image)


def test_rows_of_unequal_length(gray):
    says(["'x'", "unequal length", "pad the rows", "mask"], gray, [[1.0, 2.0], [3.0]])


class Loader:
    def __iter__(self):
        raise AssertionError("nothing is read through")


class Dataset:
    def __getitem__(self, index):
        raise AssertionError("nothing is read through")

    def __len__(self):
        return 3


@pytest.mark.parametrize("inputs", [Loader(), Dataset(), (x for x in [1])])
def test_datasets_are_explained_in_a_loop(gray, inputs):
    says([type(inputs).__name__, "Explainer(model).stream(source)"], gray, inputs)
    says(["explain_dataset(model, source"], explain, convolutional(), inputs)


def test_an_id_outside_its_table():
    nodes = [
        node("Cast", ["ids"], ["whole"], to=TensorProto.INT32),
        node("Gather", ["table", "whole"], ["rows"]),
        node("ReduceMean", ["rows", "axes"], ["y"], keepdims=0),
    ]
    inputs = {"ids": (TensorProto.INT64, ["batch", 4])}
    call = Explainer(network(nodes, inputs, table=random(7, 3), axes=np.array([1])))
    says(["'ids'", "7 at index (1, 2)", "7 rows", "0 to 6"], call, np.array([[0, 1, 2, 3], [4, 5, 7, 6]]))
    says(["-8 at index (0, 3)"], call, np.array([[0, 1, 2, -8]]))
    assert not call._stages.compiled.cache_info().misses


# models


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pt", ["weights only", "build the module"]),
        ("net.pth", ["weights only", "pass the module"]),
        ("net.safetensors", ["weights only", "build the module"]),
        ("net.tflite", ["tf2onnx", "--tflite"]),
        ("frozen.pb", ["tf2onnx", "--graphdef"]),
        ("saved", ["tf2onnx", "--saved-model"]),
        ("https://example.com/model.onnx", ["nothing is downloaded", "pass the module"]),
        ("prajjwal1/bert-tiny", ["no such file", "nothing is downloaded", "pass the module"]),
        ("resnet50", ["no such file", "nothing is downloaded"]),
        ("missing.onnx", ["no such file: missing.onnx"]),
    ],
)
def test_files_and_names_that_are_no_model(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    for each in ("net.pt", "net.pth", "net.safetensors", "net.tflite", "frozen.pb"):
        (tmp_path / each).write_bytes(b"\x80\x04")
    says(words, explain, name, images())
    assert main(["check", name]) == 1


def test_a_state_dict():
    says(["dict", "weights only", "pass the module"], Explainer, {"fc.weight": np.ones(3)})


def test_estimators_are_converted():
    linear = pytest.importorskip("sklearn.linear_model")
    fitted = linear.LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    says(["LogisticRegression", "skl2onnx.to_onnx"], explain, fitted, np.ones((1, 1), np.float32))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_trees_are_converted(library):
    kind = type("Classifier", (), {"predict": None, "__module__": f"{library}.sklearn"})
    says(["Classifier", library, f"convert_{library}", "skl2onnx.to_onnx"], read, kind())


# names


@pytest.mark.parametrize("name", [*ALIASES, "LRP-Epsilon", "Integrated Gradients", "lrp_zplus", " attnLRP "])
def test_other_names_of_modes_are_taken(name):
    assert mode(name).name in MODES


def test_every_alias_is_one_of_a_mode_there_is():
    assert set(ALIASES.values()) <= set(MODES)
    assert not set(ALIASES) & set(MODES)
    assert [mode(name).name for name in ("ig", "saliency", "lrp")] == [
        "integrated-gradients",
        "gradient",
        "lrp-epsilon",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lrp-epsilom", ["'lrp-epsilom'", "did you mean lrp-epsilon?"]),
        ("integrated", ["did you mean integrated-gradient"]),
        ("poetry", ["'poetry'", "there are: default", "backtrace-jax modes"]),
    ],
)
def test_names_of_modes_that_are_wrong(name, words):
    says(words, Explainer, convolutional(), mode=name)


def test_arguments_that_do_not_exist(gray):
    x = np.zeros((1, 1, 8, 8), np.float32)
    says(["explain", "'targets'", "did you mean target=?"], explain, convolutional(), images(), targets=3)
    says(["Explainer", "'targets'", "did you mean target=?"], gray, x, targets=3)
    says(["Explainer", "'mod'", "did you mean mode=?"], Explainer, convolutional(), mod="default")


# explanations


@pytest.fixture
def series():
    generator = np.random.default_rng(0)
    return handmade.explanation(*generator.normal(size=(2, 2, 48, 6)).astype(np.float32))


@pytest.fixture
def picture():
    generator = np.random.default_rng(0)
    return handmade.explanation(*generator.uniform(size=(2, 2, 1, 8, 8)).astype(np.float32), name="image")


def test_names_that_are_not_there(picture):
    for part in ("relevance", "inputs", "outputs", "layers"):
        error = says(["'input'", "there is: "], getattr(picture, part).__getitem__, "input")
        assert isinstance(error, KeyError)
    says(["there is: image"], picture.relevance.__getitem__, "input")
    assert picture.relevance.get("input") is None
    assert "image" in picture.relevance


@pytest.mark.parametrize("example", [1.5, 2, -3, True, "0"])
def test_examples_that_are_not_there(picture, example):
    says([repr(example), "has 2"], picture.plot, example)


def test_examples_count_from_the_end(series):
    assert series.plot(-1).get_suptitle() == series.plot(1).get_suptitle() != series.plot(0).get_suptitle()


def test_an_image_takes_no_tokens(picture):
    says(["'image'", "is an image, it takes no tokens"], picture.plot, tokens=["a"])


def test_a_name_for_each_variable_of_a_series(series):
    names = [f"sensor {number}" for number in range(6)]
    axes = series.plot(feature_names=names).axes[0]
    shown = {text.get_text().partition(",")[0]: bar.get_width() for text, bar in zip(
        axes.get_yticklabels(), axes.patches, strict=True)}  # fmt: skip
    expected = dict(zip(names, series.relevance["x"][0].astype(np.float64).sum(axis=0), strict=True))
    assert shown == pytest.approx(expected)
    says(["feature_names needs 288 names", "5"], series.plot, feature_names=names[:5])


def test_suffixes_of_files(picture, tmp_path):
    says([".npz", "a.parquet"], picture.save, tmp_path / "a.parquet")
    says(["no suffix", ".png", ".pdf"], picture.plot, path=tmp_path / "picture")
    assert not list(tmp_path.iterdir())
    picture.save(tmp_path / "a.npz")
    assert isinstance(Explanation.load(tmp_path / "a.npz"), Explanation)


# the command line


def test_a_module_is_exported_with_inputs(monkeypatch, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    holder = ModuleType("holder")
    holder.net = torch.nn.Linear(2, 2)
    monkeypatch.setitem(sys.modules, "holder", holder)
    assert main(["export", "holder:net", str(tmp_path / "out.onnx")]) == 1
    assert "give INPUTS, an .npy" in capsys.readouterr().err


@pytest.fixture
def photo(tmp_path):
    """A picture of one colour, a model that gives its channels' sums, and what is passed to it."""
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (6, 4), (255, 51, 102)).save(tmp_path / "photo.png")
    nodes = [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    model = network(nodes, {"x": (TensorProto.FLOAT, ["batch", 3, "height", "width"])}, axes=np.array([2, 3]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    out = tmp_path / "e.npz"

    def run(*options):
        code = main(["explain", str(tmp_path / "m.onnx"), str(tmp_path / "photo.png"), "--out", str(out), *options])
        return SimpleNamespace(code=code, found=Explanation.load(out) if out.exists() else None)

    return run


def test_a_picture_is_prepared_as_the_model_was_trained(photo, capsys):
    given = photo("--size", "8x2", "--mean", "0.5,0.4,0.3", "--std", "0.5,0.2,0.1").found.inputs["x"]
    assert given.shape == (1, 3, 2, 8)
    np.testing.assert_allclose(given[0, :, 0, 0], [(1 - 0.5) / 0.5, (0.2 - 0.4) / 0.2, (0.4 - 0.3) / 0.1], rtol=1e-5)
    note = capsys.readouterr().err
    for words in (
        "resized from 6 x 4 to 8 x 2",
        "scaled to 0..1",
        "less mean 0.5,0.4,0.3",
        "divided by std 0.5,0.2,0.1",
    ):
        assert words in note


def test_a_picture_that_is_not_prepared_is_said_to_be(photo, capsys):
    given = photo().found.inputs["x"]
    np.testing.assert_allclose(given[0, :, 0, 0], [1, 0.2, 0.4], rtol=1e-6)
    assert "scaled to 0..1; what the model was trained with is given by --mean and --std" in capsys.readouterr().err


def test_numbers_for_another_count_of_channels(photo, capsys):
    assert photo("--mean", "0.5,0.4").code == 1
    assert "(--mean): pictures have 3 channels, found 2" in capsys.readouterr().err


def test_the_last_example_on_the_command_line(tmp_path, capsys):
    np.save(tmp_path / "x.npy", images())
    (tmp_path / "m.onnx").write_bytes(convolutional().SerializeToString())
    arguments = ["explain", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "--example"]
    assert main([*arguments, "-1"]) == 0
    assert f"example      {COUNT - 1}" in capsys.readouterr().out
    assert main([*arguments, "-4"]) == 1
    assert "no example -4" in capsys.readouterr().err


def test_a_class_counted_from_the_end():
    call = Explainer(convolutional())
    np.testing.assert_array_equal(call(images(), target=-1).relevance["x"], call(images(), target=4).relevance["x"])
    with pytest.raises(SettingError, match="target -6"):
        call(images(), target=-6)


# functions of the user's own, and calls that cannot be made


@pytest.fixture(scope="module")
def small():
    yield (call := Explainer(convolutional()))
    assert not call._stages.compiled.cache_info().misses, "mistakes are named before anything is compiled"


def only_one(done):
    """Takes too few arguments."""


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"progress": 3}, ["progress", "(examples done, examples in all)", "3"]),
        ({"progress": "bar"}, ["progress", "'bar'"]),
        ({"progress": only_one}, ["progress", "(examples done, examples in all)"]),
        ({"start": lambda: 1}, ["start must be a function of the outputs alone"]),
        ({"start": [[1, 2], [3]]}, ["start has rows of unequal length"]),
        ({"target": [[1], [2, 3]]}, ["target has rows of unequal length"]),
        ({"conditions": {1: [1]}}, ["conditions are named", "the key 1"]),
        ({"conditions": {"nope": [1]}}, ["'nope'", "hidden"]),
        ({"conditions": {"hidden": [9]}}, ["channels go from 0 to 3"]),
        ({"conditions": {"hidden": np.full((4, 3, 3), np.nan)}}, ["a mask of numbers from 0 to 1"]),
        ({"targets": 3}, ["did you mean target=?"]),
        ({"layers": "all"}, ["takes no layers= here", "Explainer(model, layers=...)"]),
    ],
    ids=lambda given: re.sub(r" at 0x\w+", "", str(given)),  # addresses differ between processes
)
def test_what_is_asked(small, asked, words):
    if "conditions" in asked and words[0] != "conditions are named":  # told from the plan, which is no compilation
        before = small._stages.compiled.cache_info().misses
        says(words, small, images(), **asked)
        assert small._stages.compiled.cache_info().misses == before
        return
    says(words, small, images(), **asked)


def test_a_start_that_fails():
    def failing(outputs):
        raise RuntimeError("boom")

    call = Explainer(convolutional())
    says(["start= fails on outputs float32 [3, 5], an array", "RuntimeError: boom"], call, images(), start=failing)
    says(["shaped like output 'y', [3, 5]"], call, images(), start=lambda outputs: outputs[0])
    says(["shaped like output 'y', [3, 5]"], call, images(), start=lambda outputs: None)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, ["'x' is None", "dict by input name"]),
        ("a.npy", ["'x' is the name of a file, 'a.npy'", "np.load"]),
        (Path("pictures/a.png"), ["'x' is the name of a file", "load it first"]),
        (np.ma.masked_array(images(), mask=images() > 0), ["masked array", "x.filled(...)"]),
        ([np.ma.masked_array(each, mask=each > 0) for each in images()], ["masked array", "x.filled(...)"]),
        (images()[0, 0].view(np.matrix), ["np.matrix", "np.asarray(x)"]),
        (images().view([("a", np.float32)]), ["records of a", "array of numbers"]),
        (images().astype(object), ["holds object, not numbers"]),
        (images().astype(np.complex64), ["is complex, the model is real; pass x.real"]),
        (WithUnit(images()), ["WithUnit with a unit", "pass its numbers"]),
        ([images(), images()], ["'x' has shape"]),
    ],
    ids=str,
)
def test_inputs_of_another_kind(small, inputs, words):
    says(words, small, inputs)
    says(words, explain, convolutional(), inputs)
    for ask in (check, show) if inputs is not None else ():  # without inputs they take sizes that are nominal
        says(words, ask, convolutional(), inputs)


def test_tensors_that_keep_gradients(small):
    torch = pytest.importorskip("torch")
    says(["'x' is no array", "detach()"], small, torch.tensor(images(), requires_grad=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wrt": []}, ["wrt=[] names no input"]),
        ({"scaler": 0}, ["scaler must be a finite number other than 0"]),
        ({"layers": {"hidden": 1}}, ["layers must be a name or a list of names"]),
        ({"mode": 3}, ["mode must be a name"]),
        ({"batch_axis": "0"}, ["batch_axis must be a whole number"]),
        ({"moed": "default"}, ["did you mean mode=?"]),
    ],
    ids=str,
)
def test_settings(settings, words):
    says(words, Explainer, convolutional(), **settings)
    says(words, explain, convolutional(), images(), **settings)


def test_a_threshold_without_a_mask(small):
    says(["thresholding=", "task 'classification' has none"], Explainer(convolutional(), thresholding=2), images())


def test_an_axis_of_numpy_is_taken():
    assert Explainer(convolutional(), batch_axis=np.int64(0)).settings.batch_axis == 0


def test_sets_of_names_are_put_in_order():
    assert Explainer(convolutional(), layers={"y", "hidden"}).settings.layers == ("hidden", "y")


RULE = Rule("r", identity)


def of_relu(function):
    """Explains with a rule of one's own for the rectifier."""
    own = composite("own", [(Selector(op="relu"), Rule("mine", function))])
    return explain(convolutional(), images(), mode=own)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mode(), ["mode needs name"]),
        (lambda: mode(None), ["a mode's name must be text", "None"]),
        (lambda: mode("lrp-gamma", 0.1), ["takes name by position", "name the others"]),
        (lambda: composite("a", [("linear", "rule")]), ["(Selector, Rule) pairs", "'linear'"]),
        (lambda: composite("a", None), ["(Selector, Rule) pairs", "None"]),
        (lambda: composite("a", (Selector(kind="sum"), RULE)), ["(Selector, Rule) pairs"]),
        (lambda: composite(3, []), ["name must be text", "3"]),
        (lambda: Selector(op=3), ["a selector's op must be str", "3"]),
        (lambda: Rule("r", "f"), ["rule 'r': function must be callable as (site, R)", "'f'"]),
        (lambda: Rule("r", print, slopes="s"), ["rule 'r': slopes must be callable as (eqn)", "'s'"]),
        (lambda: of_relu(lambda site, R: {0: R}), ["rule 'mine' should return two dicts", "found dict"]),
        (lambda: of_relu(lambda site, R: None), ["rule 'mine' should return two dicts", "found NoneType"]),
        (lambda: of_relu(lambda site, R: 1 / 0), ["rule 'mine' fails: division by zero"]),
        (lambda: of_relu(lambda site, R: ({0: R}, {"gone": R})), ["keeps 'gone'", "bias, constant, stabiliser, dead"]),
        (lambda: explain(convolutional()), ["explain needs inputs: explain(model, inputs, ...)"]),
        (lambda: explain(convolutional(), images(), 3), ["explain takes model, inputs by position", "target=..."]),
        (lambda: explain(convolutional(), images(), mode="lrp-gamma", gamma=1), ["mode=mode('lrp-gamma', gamma=...)"]),
        (lambda: explain(convolutional(), images(), target=np.eye(3, 5, dtype=int)), ["[3, 5]", ".argmax(1)"]),
        (lambda: Explainer(convolutional(), example=images()), ["example=", "leave it out"]),
        (lambda: Explainer(convolutional(), target=3), ["explainer(inputs, target=...)"]),
        (lambda: Selector(op="convv"), ["'convv' does not exist", "did you mean 'conv'?"]),
        (lambda: explain(type("Net", (), {}), images()), ["model is the class Net", "Net(...)"]),
        (lambda: explain(lambda x: np.sin(x), images()), ["cannot be traced", "jax.numpy"]),
        (lambda: check(convolutional(), modes="a"), ["check has no argument 'modes'", "mode=?"]),
        (lambda: show(convolutional(), mode="default"), ["show has no argument 'mode'"]),
        (lambda: Explanation.load(None), ["path must be the path of a file", "None"]),
        (lambda: explain("", images()), ["model"]),
    ],
)
def test_calls_that_cannot_be_made(call, words):
    says(words, call)


def test_a_baseline_of_the_number_zero_is_zero():
    named, number = (explain(convolutional(), images(), mode="deeplift", baseline=zero) for zero in ("zero", 0))
    np.testing.assert_array_equal(named.relevance["x"], number.relevance["x"])


def test_what_an_explanation_says_of_itself(picture):
    assert (picture.mode, picture.task) == ("default", "unknown")
    says(["there is no example 'a.png'", "a file to write is path="], picture.plot, "a.png")
    says(["pass layers=[...]"], picture.layers.__getitem__, "hidden")


def test_paths_and_names_of_an_explanation(picture):
    for path in (None, 3):
        says(["path must be the path of a file", str(path)], picture.save, path)
    says(["path must be the path of a file"], picture.plot, path=3)
    says(["did you mean example=?"], picture.plot, exampel=0)


def test_targets_that_are_no_list(small):
    for targets in (3, None, "abc"):
        says(["targets must be a list"], small.each, images(), targets)
