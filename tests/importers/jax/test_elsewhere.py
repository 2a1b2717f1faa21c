"""JAX models wherever a model is taken: streams, datasets, saved explainers, several questions, other devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax import Explainer, explain, explain_dataset, explain_each, show
from backtrace_jax.errors import InputError
from backtrace_jax.importers import read

from . import kinds

MANY = np.concatenate([kinds.X] * 3) + np.arange(6, dtype=np.float32)[:, None] / 8
PAIR = (kinds.Linen(), kinds.VARIABLES)


def test_streams_and_datasets_are_what_calls_are(tmp_path):
    explainer = Explainer(PAIR, example=MANY[:1], mode="lrp-epsilon")
    whole = explainer(MANY, target=1).relevance["x"]
    parts = [each.relevance["x"] for each in explainer.stream(MANY, batch=4, target=1)]
    assert np.array_equal(np.concatenate(parts), whole)
    run = explain_dataset(PAIR, MANY, tmp_path / "run", target=1, mode="lrp-epsilon")
    assert np.array_equal(np.concatenate([run[i].relevance["x"] for i in range(6)]), whole)
    several = explain_each(PAIR, MANY, targets=[0, 1], mode="lrp-epsilon")
    np.testing.assert_allclose(several[1].relevance["x"], whole, rtol=1e-5, atol=1e-6)


def test_a_saved_explainer_needs_no_model(tmp_path):
    explainer = Explainer(kinds.of_one_tree, example={"a": MANY, "b": MANY}, mode="gradient")
    explainer.export(tmp_path / "explainer", {"a": MANY, "b": MANY}, target=1)
    loaded = Explainer.load(tmp_path / "explainer")
    found = loaded({"batch.a": MANY, "batch.b": MANY}, target=1)
    expected = explainer({"a": MANY, "b": MANY}, target=1)
    for name, array in expected.relevance.items():
        assert np.array_equal(found.relevance[name], array)


def test_show_prints_paths():
    printed = show(PAIR, kinds.X)
    assert "first.kernel:f32[4,5]" in printed
    assert "# max" in printed
    with pytest.raises(InputError, match="traced for its inputs"):
        show(PAIR)


def test_weights_may_lie_on_other_devices():
    sharded = jax.sharding.NamedSharding(jax.make_mesh((2,), ("d",)), jax.sharding.PartitionSpec("d"))
    kernel = jax.device_put(np.concatenate([kinds.FIRST] * 2), sharded)
    doubled = np.concatenate([kinds.X, kinds.X], axis=1)
    found = explain(functools.partial(lambda w, x: x @ w, kernel), doubled, mode="gradient", target=0)
    np.testing.assert_allclose(found.outputs["output"], 2 * kinds.X @ kinds.FIRST, rtol=1e-5)
    elsewhere = jax.device_put(kinds.FIRST, jax.devices()[1])
    found = explain(lambda x: x @ elsewhere, kinds.X, mode="gradient", target=0)
    np.testing.assert_allclose(found.relevance["x"], np.tile(kinds.FIRST[:, 0], (2, 1)))


def test_rounding_is_measured_in_double_precision():
    source = read(PAIR, kinds.X, proven=False).source
    moved = source.rounding({"x": kinds.X})["output"]
    assert moved.shape == (1, 3)
    assert 0 < moved.max() < 1e-5
    assert not jax.config.jax_enable_x64


def test_half_precision_says_how_coarse_it_is():
    def coarse(x):
        return (x.astype(jnp.bfloat16) @ jnp.asarray(kinds.FIRST, jnp.bfloat16)).astype(jnp.float32)

    assert read(coarse, kinds.X, proven=False).rounding == 2**-7
    assert read(PAIR, kinds.X, proven=False).rounding == 0
    found = explain(coarse, kinds.X, mode="gradient", target=1)
    np.testing.assert_allclose(found.outputs["output"], kinds.X @ kinds.FIRST, rtol=0.1, atol=0.1)
