"""Keras models that have no form layer by layer: traced as a whole, under the same names."""

import warnings

import jax
import numpy as np
import pytest

import backtrace_jax
from backtrace_jax.importers.keras import exporting
from tests.importers.keras_zoo import L, as_keras_runs, keras, ops

generator = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _as_keras_runs():
    """Keras mixes types and ranks."""
    with as_keras_runs():
        yield


class Block(L.Layer):
    """A residual block with a call of its own."""

    def __init__(self, units, **settings):
        super().__init__(**settings)
        self.first, self.second = L.Dense(units, name="first"), L.Dense(units, name="second")

    def call(self, x):
        return x + self.second(keras.activations.gelu(self.first(x)))


class Encoder(L.Layer):
    """A transformer's block with pre-norm."""

    def __init__(self, heads, width, **settings):
        super().__init__(**settings)
        self.attention = L.MultiHeadAttention(heads, width // heads, name="attention")
        self.norms = [L.LayerNormalization(name=name) for name in ("before", "between")]
        self.mixing = Block(width, name="mixing")

    def call(self, x):
        x = self.norms[0](x)
        return self.mixing(self.norms[1](x + self.attention(x, x, use_causal_mask=True)))


class Classifier(keras.Model):
    """Images through strided convolutions with batch norm and a skip."""

    def __init__(self):
        super().__init__(name="classifier")
        self.stem = L.Conv2D(4, 3, strides=2, padding="same", name="stem")
        self.norm = L.BatchNormalization(name="norm")
        self.body = L.Conv2D(4, 3, padding="same", activation="relu", name="body")
        self.head = L.Dense(3, name="head")

    def call(self, image, training=False):
        x = keras.activations.relu(self.norm(self.stem(image), training=training))
        return {"scores": self.head(ops.mean(x + self.body(x), axis=(1, 2)))}


def _explained(model, x, **settings):
    """An explanation whose forward pass and books are right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = backtrace_jax.explain(model, x, **settings)
    expected = model(x)
    expected = expected["scores"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(found.outputs[found.output], np.asarray(expected), rtol=1e-5, atol=1e-6)
    assert np.max(found.ledger.error) <= 1e-5
    return found


LAYERS = {
    "a custom layer": (lambda x: Block(5, name="block")(x), (5,), "block/first"),
    "CenterCrop": (lambda x: L.CenterCrop(4, 4, name="crop")(x), (6, 6, 3), "crop"),
    "Resizing, cropped": (lambda x: L.Resizing(4, 4, crop_to_aspect_ratio=True, name="r")(x), (6, 8, 3), "r"),
    "Resizing, padded": (lambda x: L.Resizing(4, 4, pad_to_aspect_ratio=True, name="r")(x), (6, 8, 3), "r"),
    "Resizing, smoothed": (lambda x: L.Resizing(3, 4, antialias=True, name="r")(x), (6, 8, 3), "r"),
    "adaptive mean": (lambda x: L.AdaptiveAveragePooling2D(3, name="pool")(x), (7, 8, 3), "pool"),
    "adaptive maximum": (lambda x: L.AdaptiveMaxPooling2D(3, name="pool")(x), (7, 8, 3), "pool"),
    "stacked cells": (
        lambda x: L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(3)]), name="rnn")(x),
        (5, 3),
        "rnn",
    ),
    "ConvLSTM2D": (lambda x: L.ConvLSTM2D(3, 3, name="lstm")(x), (4, 6, 6, 2), "lstm"),
    "attention over two axes": (
        lambda x: L.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="attention")(x, x),
        (3, 4, 5),
        "attention/*",
    ),
    "sparsemax": (lambda x: L.Activation("sparsemax", name="share")(x), (5,), "share"),
    "ReversibleEmbedding": (lambda x: L.ReversibleEmbedding(5, 4, name="e")(x, reverse=True), (3, 4), "e"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_without_a_form_of_their_own(name):
    build, shape, pattern = LAYERS[name]
    keras.utils.set_random_seed(0)
    entry = keras.Input(shape)
    inner = build(entry)
    flat = L.Flatten()(inner) if len(inner.shape) > 2 else inner
    model = keras.Model(entry, L.Dense(3, name="head")(flat))
    found = _explained(model, generator.normal(size=(2, *shape)).astype(np.float32), layers=pattern)
    assert found.fingerprint["exporter"] == "jaxpr"
    assert found.layers


def test_a_model_with_a_call_of_its_own():
    keras.utils.set_random_seed(0)
    model, x = Classifier(), generator.normal(size=(3, 8, 8, 3)).astype(np.float32)
    model(x)
    before = [np.asarray(each) for each in model.weights]
    found = _explained(model, x, mode="lrp-epsilon-plus", layers=["stem", "body"])
    assert (found.output, [*found.relevance], [*found.layers]) == ("scores", ["image"], ["stem", "body"])
    assert all(np.array_equal(one, other) for one, other in zip(before, model.weights, strict=True))


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon-plus", "attnlrp"])
def test_custom_blocks_inside_a_functional_model(mode):
    keras.utils.set_random_seed(0)
    entry = keras.Input((4, 6))
    hidden = Encoder(2, 6, name="encoder.0")(Encoder(2, 6, name="encoder.1")(entry))
    model = keras.Model(entry, L.Dense(2, name="head")(L.GlobalAveragePooling1D()(hidden)))
    _explained(model, generator.normal(size=(2, 4, 6)).astype(np.float32), mode=mode)


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon-plus", "attnlrp"])
def test_both_roads_give_the_same_relevance(mode, monkeypatch):
    keras.utils.set_random_seed(0)
    entry = keras.Input((8, 8, 2))
    hidden = L.Conv2D(4, 3, activation="relu", name="conv")(entry)
    hidden = L.BatchNormalization(name="norm")(L.MaxPooling2D(2, name="pool")(hidden))
    model = keras.Model(entry, L.Dense(3, name="head")(L.Flatten()(hidden)))
    x = generator.normal(size=(2, 8, 8, 2)).astype(np.float32)
    written = _explained(model, x, mode=mode, target=1)
    assert written.fingerprint["exporter"] == "layer by layer"
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    monkeypatch.setattr(exporting, "write", lambda model, digest, loaded: exporting.trace(model, digest, loaded))
    traced = _explained(twin, x, mode=mode, target=1)
    assert traced.fingerprint["exporter"] == "jaxpr"
    (one,), (other,) = written.relevance.values(), traced.relevance.values()
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())


def test_a_call_of_its_own_needs_inputs():
    with pytest.raises(backtrace_jax.BacktraceError, match="runs a call of its own, which is traced for its inputs"):
        backtrace_jax.Explainer(Classifier())


class Stopping(keras.Model):
    """Tells JAX another gradient than that of what it computes, or none at all."""

    def __init__(self, stop):
        super().__init__()
        self.stop, self.head = stop, L.Dense(2, name="head")

    def call(self, x):
        gate = ops.sigmoid(x)
        return self.head(x * (ops.stop_gradient(gate) if self.stop else gate))


def test_gradients_of_a_call_of_its_own_are_compared():
    x = generator.normal(size=(2, 4)).astype(np.float32)
    for stop in (False, True):
        model = Stopping(stop)
        model(x)
        if stop:
            with pytest.raises(backtrace_jax.BacktraceError, match="stop_gradient"):
                backtrace_jax.explain(model, x, mode="gradient", target=0)
            continue
        found = backtrace_jax.explain(model, x, mode="gradient", target=0)
        expected = jax.grad(lambda x, model=model: model(x)[:, 0].sum())(jax.numpy.asarray(x))
        np.testing.assert_allclose(found.relevance["x"], expected, rtol=1e-5, atol=1e-6)


def test_trained_anew_is_read_anew():
    model, x = Classifier(), generator.normal(size=(2, 8, 8, 3)).astype(np.float32)
    model(x)
    _explained(model, x)
    model.head.set_weights([-2 * each for each in model.head.get_weights()])
    _explained(model, x)


def test_a_call_of_its_own_is_checked_exported_and_run_over_a_dataset(tmp_path):
    model, x = Classifier(), generator.normal(size=(5, 8, 8, 3)).astype(np.float32)
    model(x)
    assert backtrace_jax.check(model, x).ok
    with pytest.raises(backtrace_jax.BacktraceError, match="call of its own; explain the model itself"):
        backtrace_jax.export(model, tmp_path / "model.onnx", x)
    run = backtrace_jax.explain_dataset(model, x, tmp_path / "store")
    np.testing.assert_allclose(run[3].relevance["image"][0], _explained(model, x).relevance["image"][3], atol=1e-6)
