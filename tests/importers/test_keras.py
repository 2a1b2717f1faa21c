"""Keras models are explained as they are: each layer computes the same, keeps its name and layout, is left alone."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
import zipfile
from functools import partial

import h5py
import jax
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import ImportMismatchError, InputError, ModelError, SettingError, UnsupportedError
from backtrace_jax.importers import read
from backtrace_jax.importers.keras.exporting import write
from tests.importers.keras_zoo import CLASSICS, FAMILIES, L, as_keras_runs, classic, family, keras, ops

CLOSE, ROUNDING = 1e-5, 1e-5
IMAGES = np.random.default_rng(0).normal(size=(2, 6, 5, 2)).astype(np.float32)


def _called(model, inputs):
    with as_keras_runs():
        return jax.jit(partial(model, training=False))(inputs)


def _sequential(*layers):
    with as_keras_runs():
        return keras.Sequential([*layers])


def _images_model(*more):
    return _sequential(L.Input((6, 5, 2)), L.Conv2D(3, 2, activation="relu", name="seen"), *more,
                       L.Flatten(), L.Dense(2, name="answer"))  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_compute_the_same_and_their_books_close(name):
    found = family(name)
    expected = _called(found.model, found.inputs)
    explanation = explain(_unproven(read(found.model)), found.inputs, output="answer")
    wrong = {each: _apart(explanation.outputs[each], np.asarray(value)) for each, value in expected.items()}
    assert {each: apart for each, apart in wrong.items() if not apart <= CLOSE} == {}
    assert explanation.ledger.error.max() <= ROUNDING
    for each, relevance in explanation.relevance.items():
        assert np.isfinite(relevance).all()
        assert np.abs(relevance).max() > 0, each


def _apart(ours, theirs):
    return np.inf if ours.shape != theirs.shape else np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", CLASSICS)
def test_classic_models_are_explained(name):
    found = classic(name)
    _, task, third = CLASSICS[name]
    for mode in ("default", "contrastive", third):
        explanation = explain(found.model, found.inputs, mode=mode, task=task)
        books = [explanation.ledger, *(channel.ledger for channel in explanation.channels.values())]
        assert max(each.error.max() for each in books) <= ROUNDING
        assert all(np.isfinite(values).all() for values in explanation.relevance.values())
        assert all(np.abs(values).max() > 0 for values in explanation.relevance.values())
    expected = np.asarray(_called(found.model, found.inputs))
    assert _apart(explanation.outputs[explanation.output], expected) <= CLOSE
    assert explanation.fingerprint["framework"] == f"keras {keras.__version__}"


def test_padding_bears_no_relevance():
    found = classic("sentiment")
    (relevance,) = explain(found.model, found.inputs).relevance.values()
    assert (relevance[0, 4:] == 0).all()
    assert (relevance[1] != 0).all()


def test_ids_given_as_whole_floats_are_ids():
    found = classic("sentiment")
    (plain,) = explain(found.model, found.inputs).relevance.values()
    (floats,) = explain(found.model, found.inputs.astype(np.float32)).relevance.values()
    np.testing.assert_array_equal(plain, floats)
    with pytest.raises(InputError, match="whole numbers"):
        explain(found.model, found.inputs + 0.5)


def test_layers_keep_their_names_and_layout():
    model = _images_model(L.MaxPooling2D(2, name="pooled"))
    found = explain(model, IMAGES, layers=["seen", "pooled"]).layers
    assert {name: values.shape for name, values in found.items()} == {"seen": (2, 5, 4, 3), "pooled": (2, 2, 2, 3)}
    np.testing.assert_allclose(found["seen"].sum((1, 2, 3)), 1, rtol=0.5)


def test_channels_first():
    with as_keras_runs():
        image = L.Input((2, 6, 5))
        settings = {"data_format": "channels_first"}
        seen = L.Conv2D(3, 2, padding="same", activation="relu", name="seen", **settings)(image)
        pooled = L.AveragePooling2D(2, **settings)(seen)
        large = L.Conv2DTranspose(2, 3, **settings)(L.UpSampling2D(2, **settings)(pooled))
        own = L.SeparableConv2D(2, 2, **settings)(L.DepthwiseConv2D(2, **settings)(large))
        model = keras.Model(image, L.Dense(2)(L.Flatten(**settings)(own)))
    imported, inputs = read(model), IMAGES.transpose(0, 3, 1, 2).copy()
    expected = np.asarray(_channels_last_twin(model)(inputs))
    found = explain(_unproven(imported), inputs, layers="seen")  # Keras cannot run these on this device
    assert _apart(found.outputs[found.output], expected) <= CLOSE
    assert found.layers["seen"].shape == (2, 3, 6, 5)


def _unproven(imported):
    return imported.let_go()


def _channels_last_twin(model):
    """The same model with channels last, for inputs with channels first."""

    def last(layer):
        config = layer.get_config()
        if type(layer).__name__ == "Flatten":
            return L.Flatten()
        if "data_format" in config:
            config["data_format"] = "channels_last"
        return type(layer).from_config(config)

    with as_keras_runs():
        twin = keras.Sequential([L.Input((6, 5, 2)), *(last(each) for each in model.layers[1:])])
        twin.set_weights([np.asarray(each.value) for each in model.weights])
    return lambda inputs: _called(twin, inputs.transpose(0, 2, 3, 1))


def test_nested_and_shared_layers():
    with as_keras_runs():
        half = keras.Sequential([L.Input((4,)), L.Dense(3, activation="relu", name="inner")], name="half")
        shared, left, right = L.Dense(2, name="shared"), L.Input((4,), name="left"), L.Input((4,), name="right")
        both = L.Subtract(name="both")([shared(half(left)), shared(half(right))])
        model = keras.Model([left, right], {"difference": both, "first": L.Dense(1, name="one")(half(left))})
    inputs = [np.eye(3, 4, dtype=np.float32) + 0.5, np.ones((3, 4), np.float32)]
    found = explain(model, inputs, output="difference", layers=["half", "half/inner", "shared"])
    expected = _called(model, inputs)
    assert {name: values.shape for name, values in found.layers.items()} == {
        **dict.fromkeys(("half", "half:1", "half:2", "half/inner", "half:1/inner", "half:2/inner"), (3, 3)),
        "shared": (3, 2), "shared:1": (3, 2),
    }  # fmt: skip
    assert set(found.relevance) == {"left", "right"}
    for name, values in expected.items():
        np.testing.assert_allclose(found.outputs[name], values, rtol=1e-4, atol=1e-5)
    named = explain(model, dict(zip(("left", "right"), inputs, strict=True)), output="difference")
    np.testing.assert_array_equal(named.relevance["left"], found.relevance["left"])
    assert sum("kernel" in each.name for each in read(model).proto.graph.initializer) == 3


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files(suffix, tmp_path):
    model = _images_model()
    with as_keras_runs():
        model.save(tmp_path / f"model{suffix}")
    (expected,) = explain(model, IMAGES).relevance.values()
    for path in (tmp_path / f"model{suffix}", str(tmp_path / f"model{suffix}")):
        found = explain(path, IMAGES)
        (relevance,) = found.relevance.values()
        np.testing.assert_array_equal(relevance, expected)
    assert "repaired" not in found.fingerprint


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_files_are_model_errors(suffix, tmp_path):
    path = tmp_path / f"broken{suffix}"
    with pytest.raises(ModelError, match="no such file"):
        read(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=f"broken{suffix}"):
        read(path)


def _edited(path, edit):
    """Change the configuration in a file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            edit(config)
            file.attrs["model_config"] = json.dumps(config)
        return
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(entries["config.json"])
    edit(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**entries, "config.json": json.dumps(config)}.items():
            archive.writestr(name, data)


def _set_keys(class_name, **keys):
    def edit(config):
        for each in config["config"]["layers"]:
            if each["class_name"] == class_name:
                each["config"].update(keys)

    return edit


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_of_keras_2_are_repaired_and_it_is_recorded(suffix, tmp_path):
    model = _images_model(L.DepthwiseConv2D(2, name="own"))
    path = tmp_path / f"old{suffix}"
    with as_keras_runs():
        model.save(path)
    _edited(path, _set_keys("DepthwiseConv2D", groups=1))
    found = explain(path, IMAGES)
    assert found.fingerprint["repaired"] == "groups of own"
    np.testing.assert_array_equal(*(next(iter(each.relevance.values())) for each in (found, explain(model, IMAGES))))
    _edited(path, _set_keys("DepthwiseConv2D", groups=2))
    with pytest.raises(UnsupportedError, match="groups=2"):
        read(path)


def test_recurrent_files_of_keras_2(tmp_path):
    found, path = classic("sentiment"), tmp_path / "old.keras"
    with as_keras_runs():
        found.model.save(path)
    _edited(path, _set_keys("LSTM", time_major=False))
    _edited(path, _set_keys("Embedding", batch_input_shape=[None, 6]))
    repaired = explain(path, found.inputs)
    assert sorted(repaired.fingerprint["repaired"].split(", ")) == sorted(
        [f"time_major of {found.model.layers[1].name}", f"batch_input_shape of {found.model.layers[0].name}"]
    )


TEXT = {"standardize": "lower_and_strip_punctuation", "split": "whitespace", "ngrams": None}
FRONTS = {
    "TextVectorization": (
        {**TEXT, "output_sequence_length": 4, "vocabulary": ["", "[UNK]", "good", "film"]},
        ("string", [None, 1]),
        ["A good, GOOD film", "what film"],
    ),
    "StringLookup": (
        {"mask_token": "", "num_oov_indices": 1, "oov_token": "[UNK]", "vocabulary": ["good", "film"]},
        ("string", [None, 4]),
        [["a", "good", "good", "film"], ["what", "film", "", ""]],
    ),
    "IntegerLookup": (
        {"mask_token": 0, "num_oov_indices": 1, "oov_token": -1, "vocabulary": [50, 70]},
        ("int64", [None, 4]),
        [[10, 50, 50, 70], [20, 70, 0, 0]],
    ),
}


@pytest.mark.parametrize("kind", FRONTS)
def test_what_makes_ids_in_front_of_a_model(kind, tmp_path):
    """It runs before the model, and relevance comes back per token."""
    settings, (dtype, shape), given = FRONTS[kind]
    layers = [L.Input((4,), name="text", dtype="int64"), L.Identity(name="ids", dtype="int64")]
    model = _sequential(*layers, L.Embedding(6, 3), L.GlobalAveragePooling1D(), L.Dense(2))
    path, plain = tmp_path / "text.keras", tmp_path / "plain.keras"
    with as_keras_runs():
        model.save(path)
        model.save(plain)
    _edited(path, _set_keys("InputLayer", batch_shape=shape, dtype=dtype))
    _edited(path, partial(_put_in_front, kind, {"name": "ids", "output_mode": "int", **settings}))
    found = explain(path, given)
    ids = np.array([[1, 2, 2, 3], [1, 3, 0, 0]])
    np.testing.assert_array_equal(found.inputs["text"], ids)
    np.testing.assert_array_equal(found.relevance["text"], explain(plain, ids).relevance["text"])


def _put_in_front(kind, settings, config):
    for each in config["config"]["layers"]:
        if each["class_name"] == "Identity":
            each.update(class_name=kind, config=settings)


class Doubled(L.Layer):
    def call(self, inputs):
        return inputs * 2


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def _lambda():
    return _sequential(L.Input((4,)), L.Lambda(lambda x: x + 1, name="mine"))


def _with_activation():
    return _sequential(L.Input((4,)), L.Dense(2, activation=lambda x: x, name="mine"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _sequential(L.Input((4,)), Doubled(name="twice")), "'twice' .Doubled.*class of the user's own"),
        (_lambda, "'mine' .Lambda.*Python of the user's own"),
        (_with_activation, "'mine' .Dense.*activation"),
        (
            lambda: _sequential(L.Input((3, 4, 2)), L.ConvLSTM1D(2, 1, name="cells")),
            "'cells' .ConvLSTM1D.*no ONNX form",
        ),
        (lambda: _sequential(L.Input((4,)), L.Dense(2, dtype="mixed_float16", name="half")), "'half' .Dense.*float16"),
        (lambda: _sequential(L.Dense(2)), "no graph yet"),
    ],
)
def test_what_has_no_onnx_form_is_named(build, message):
    with pytest.raises(UnsupportedError, match=message):
        write(build(), "", None)


def test_a_call_of_the_users_own_has_no_onnx_form():
    with as_keras_runs():
        model = Own()
        model(np.zeros((1, 4), np.float32))
    with pytest.raises(UnsupportedError, match="a call of its own"):
        write(model, "", None)


def test_the_model_is_left_as_it_is():
    model = _sequential(
        L.Input((6,)), L.Embedding(9, 4), L.LSTM(3, dropout=0.5, name="cell"), L.Dropout(0.5), L.Dense(2)
    )
    model.layers[0].trainable = False
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    before = [np.asarray(each.value).copy() for each in model.variables]
    flags, nodes = [each.trainable for each in model.layers], [len(each._inbound_nodes) for each in model.layers]
    explain(model, tokens)
    assert all(np.array_equal(one, each.value) for one, each in zip(before, model.variables, strict=True))
    assert flags == [each.trainable for each in model.layers]
    assert nodes == [len(each._inbound_nodes) for each in model.layers]


def test_a_second_call_imports_nothing_unless_the_weights_changed():
    model = _sequential(L.Input((4,)), L.Dense(2))
    assert read(model).proto is read(model).proto
    first = read(model)
    with as_keras_runs():
        model.layers[0].bias.assign([1.0, 2.0])
    assert read(model).sha256 != first.sha256


def test_a_model_is_let_go():
    model = _sequential(L.Input((4,)), L.Dense(2))
    read(model)
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


def test_an_import_that_computes_something_else_is_refused(monkeypatch):
    from backtrace_jax.importers.keras.registry import LAYERS

    monkeypatch.setitem(
        LAYERS, "Dense", lambda writer, layer, inputs: writer.emit("MatMul", inputs, writer.weight(layer, "kernel"))
    )
    model = _sequential(L.Input((4,)), L.Dense(2, bias_initializer="ones"))
    with pytest.raises(ImportMismatchError, match="before"):
        explain(model, np.ones((1, 4), np.float32))


def _assert_own(found, model, inputs):
    """Outputs and gradient are those of the model as it is now."""
    with as_keras_runs():
        back = jax.vjp(lambda x: model(x, training=False)[:, 0], inputs)[1]
        (gradient,) = back(np.ones(len(inputs), np.float32))
        answer = np.asarray(model(inputs, training=False))
    (outputs,), (relevance,) = found.outputs.values(), found.relevance.values()
    assert _apart(outputs, answer) <= CLOSE
    np.testing.assert_allclose(relevance, gradient, rtol=CLOSE, atol=CLOSE)


def _weights(model):
    model.set_weights([2 * each for each in model.get_weights()])


def _activation(model):
    model.layers[0].activation = keras.activations.sigmoid


def _layer(model):
    model.pop()
    model.add(L.Dense(2, activation="tanh"))


@pytest.mark.parametrize("edit", [_weights, _activation, _layer])
def test_a_model_that_is_edited_between_calls_is_explained_as_it_is(edit):
    model, inputs = (
        _sequential(L.Input((4,)), L.Dense(3, activation="relu"), L.Dense(2)),
        np.eye(3, 4, dtype=np.float32),
    )
    explainer = Explainer(model, mode="gradient")
    _assert_own(explainer(inputs, target=0), model, inputs)
    with as_keras_runs():
        edit(model)
    _assert_own(explainer(inputs, target=0), model, inputs)
    _assert_own(explain(model, inputs, mode="gradient", target=0), model, inputs)


def test_a_layer_whose_call_was_replaced_is_refused():
    model, inputs = _sequential(L.Input((4,)), L.Dense(2)), np.eye(3, 4, dtype=np.float32)
    explainer = Explainer(model)
    explainer(inputs)
    own = model.layers[0].call
    model.layers[0].call = lambda x, training=None: 2 * own(x)
    with pytest.raises(ImportMismatchError, match=r"after the import, .* before"):
        explainer(inputs)


def test_what_explain_keeps_lets_the_model_go():
    model = _sequential(L.Input((4,)), L.Dense(2))
    explain(model, np.ones((1, 4), np.float32))
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


def test_a_trained_convolutional_net_is_explained_as_in_pytorch():
    """Digits; batch normalisation joins the convolution before it in either layout."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    model = _sequential(L.Input((8, 8, 1)), L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(),
                        L.Conv2D(12, 2, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(10))  # fmt: skip
    with as_keras_runs():
        model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, digits.target, epochs=8, verbose=0)
    assert (np.argmax(_called(model, images), 1) == digits.target).mean() > 0.8
    body = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 2), nn.ReLU()]
    twin = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)).eval()
    weights = [torch.tensor(_as_torch(np.asarray(each.value))) for each in model.weights]
    own = [name for name in twin.state_dict() if "batches" not in name]
    twin.load_state_dict(dict(zip(own, weights, strict=True)), strict=False)
    (ours,) = explain(model, images[:3]).relevance.values()
    (theirs,) = explain(twin, torch.tensor(images[:3].transpose(0, 3, 1, 2))).relevance.values()
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def _as_torch(kernel):
    """A kernel [height, width, in, out] or [in, out] in torch's order."""
    return np.ascontiguousarray(kernel.T if kernel.ndim < 4 else kernel.transpose(3, 2, 0, 1))


def test_operations_without_an_onnx_form_are_named():
    with as_keras_runs():
        value = L.Input((4,))
        model = keras.Model(value, ops.erfinv(value))
    with pytest.raises(UnsupportedError, match="Erfinv"):
        write(model, "", None)


def test_importing_the_package_imports_no_keras():
    code = "import sys, backtrace_jax, backtrace_jax.importers.keras; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("nested", [False, True])
def test_a_gradient_that_keras_stops_is_refused(nested):
    x = L.Input((3,), name="x")
    model = keras.Model(x, ops.multiply(x, ops.stop_gradient(ops.sigmoid(x))))
    model = keras.Sequential([L.Input((3,)), model]) if nested else model
    rows = np.ones((2, 3), np.float32)
    with pytest.raises(UnsupportedError, match=r"\(StopGradient\) tells Keras another gradient.*export"):
        explain(model, rows, task="regression", mode="gradient")
    assert np.abs([*explain(model, rows, task="regression").relevance.values()]).max() > 0


def test_examples_of_a_batch_as_one_example():
    with as_keras_runs():
        x = L.Input((3,), name="x")
        model = keras.Model(x, ops.subtract(x, ops.mean(x, axis=0, keepdims=True)))
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    with pytest.raises(UnsupportedError, match=r"mixes the examples along axis 0 of 'x'.* batch_axis=None"):
        explain(model, rows, task="regression")
    found = explain(model, rows, task="regression", batch_axis=None, mode="gradient", target=(1, 2))
    np.testing.assert_allclose(found.outputs[found.output][0], rows - rows.mean(0), atol=1e-6)
    expected = np.zeros((4, 3))
    expected[:, 2] = [-0.25, 0.75, -0.25, -0.25]
    np.testing.assert_allclose(found.relevance["x"][0], expected, atol=1e-6)
    with pytest.raises(SettingError, match="a Keras model has its batch first in every input"):
        explain(model, rows, batch_axis=1)
