"""Relevance of the LRP family and of the gradient modes equals what zennit computes, on three small networks.

`zennit.npz` holds the networks as ONNX files and zennit's relevance (`record_zennit.py` says how it is made). Where
zennit is installed, what was recorded is compared with what it says now.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

import backtrace_jax

RECORDED = dict(np.load(Path(__file__).with_name("zennit.npz")))
COMPARED = [tuple(key.split("/relevance/")) for key in RECORDED if "/relevance/" in key]
NETWORKS = sorted({name for name, _ in COMPARED})
MODES = sorted({mode for _, mode in COMPARED})
STABILISER = 1e-6  # zennit's, where the label names no other
TOLERANCE = 1e-6  # of the largest relevance of an example
APART = 1e-5  # how much two modes must differ somewhere, so that one cannot pass for the other

# excitation backpropagation assumes activations that are not negative (Zhang et al. 2016)
OUT_OF_SCOPE = {("signed", "excitation-backprop")}

every_comparison = pytest.mark.parametrize(
    ("name", "label"), [pair for pair in COMPARED if pair not in OUT_OF_SCOPE], ids=str
)


@every_comparison
def test_relevance_equals_zennit(name, label):
    explanation = _explained(name, mode=_mode(label))
    assert _error(explanation.relevance["input"], _recorded(name, label)) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_both_sides_explain_the_same_function(name):
    explanation = _explained(name, mode="gradient")
    np.testing.assert_allclose(explanation.outputs["output"], RECORDED[f"{name}/outputs"], rtol=1e-9, atol=1e-9)


def test_the_networks_tell_modes_apart():
    alike = {f"{one} = {other}" for one, other in itertools.combinations(MODES, 2) if _alike(one, other)}
    assert alike == {
        "lrp-alpha1-beta0 = lrp-zplus",
        "excitation-backprop = lrp-alpha1-beta0",  # as long as activations are not negative
        "excitation-backprop = lrp-zplus",
    }


@pytest.mark.skipif(importlib.util.find_spec("zennit") is None, reason="zennit is not installed")
def test_zennit_says_what_was_recorded():
    from tests.peers.zennit_reference import PEERS

    assert {(name, str(peer)) for name in NETWORKS for peer in PEERS} == set(COMPARED)
    for name, peer in itertools.product(NETWORKS, PEERS):
        found = peer.relevance(name, RECORDED[f"{name}/inputs"], RECORDED[f"{name}/start"])
        assert _error(found, _recorded(name, str(peer))) < TOLERANCE, (name, str(peer))


def _explained(name: str, mode) -> backtrace_jax.Explanation:
    """A recorded network, explained in double precision."""
    model = onnx.load_model_from_string(RECORDED[f"{name}/model"].tobytes())
    inputs, start = RECORDED[f"{name}/inputs"], RECORDED[f"{name}/start"]
    return backtrace_jax.explain(model, inputs, mode=mode, dtype="float64", start=start)


def _mode(label: str):
    """The mode of a label such as "lrp-gamma gamma=2.0"."""
    name, *settings = label.split()
    known = {"epsilon": STABILISER} if "epsilon" in backtrace_jax.MODES[name].defaults else {}
    given = {key: float(value) for key, value in (setting.split("=") for setting in settings)}
    return backtrace_jax.mode(name, **{**known, **given})


def _recorded(name: str, label: str) -> np.ndarray:
    """zennit's relevance of the inputs."""
    return RECORDED[f"{name}/relevance/{label}"]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference within an example, relative to the example's largest relevance."""
    pixels = (1, 2, 3)
    return float((np.abs(found - expected).max(pixels) / np.abs(expected).max(pixels)).max())


def _alike(one: str, other: str) -> bool:
    """Whether no network could tell two modes apart."""
    names = [name for name in NETWORKS if not {(name, one), (name, other)} & OUT_OF_SCOPE]
    return all(_error(_recorded(name, one), _recorded(name, other)) < APART for name in names)
