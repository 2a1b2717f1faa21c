"""Every operator that the installed onnxruntime can write is lowered, or refused with a reason and a way out.

The names are read from its package: from the schemas of its own domains, and from the sources of its quantisers and
transformer optimisers.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime

from backtrace_jax import check, explain
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.importers.onnx.operators import OPERATORS, find_operator
from backtrace_jax.importers.onnx.operators.exclusions import EXCLUDED, exclusion

from .nodes import node_model

PACKAGE = Path(find_spec("onnxruntime").origin).parent
SCHEMAS = {(each.domain, each.name) for each in onnxruntime.get_all_operator_schema()}
OWN = sorted((domain, name) for domain, name in SCHEMAS if domain.startswith("com.m"))
_LONGEST = 300


def written():
    """Names of operators in the sources of quantisers and optimisers, as they stand or as QLinear... of a name."""
    names = set()
    for folder in ("quantization", "transformers"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            found = (re.fullmatch(r"(?:com\.microsoft::)?([A-Z]\w+)", text) for text in texts if isinstance(text, str))
            names |= {match[1] for match in found if match}
    joined = {f"QLinear{name}" for name in names}
    known = {name for domain, name in SCHEMAS if domain == "com.microsoft"}
    return sorted((names | joined) & known)


WRITTEN = written()


def test_the_sources_were_read():
    usual = {"DynamicQuantizeLSTM", "QAttention", "QLinearAdd", "QLinearConcat", "QGemm", "MatMulNBits", "Attention",
             "SkipLayerNormalization", "EmbedLayerNormalization", "BiasGelu", "NhwcConv"}  # fmt: skip
    assert usual <= set(WRITTEN)
    assert len(WRITTEN) > 50


@pytest.mark.parametrize("names", [pytest.param(OWN, id="schemas"), pytest.param(WRITTEN, id="sources")])
def test_every_operator_is_lowered_or_refused_with_a_reason(names):
    listed = [name if isinstance(name, tuple) else ("com.microsoft", name) for name in names]
    missing = [name for name in listed if name not in OPERATORS and not exclusion(*name)]
    assert missing == []


def test_what_is_refused_exists_and_is_not_lowered():
    assert set(EXCLUDED) <= SCHEMAS
    assert not set(EXCLUDED) & set(OPERATORS)


def test_the_optimisers_own_operators_are_lowered():
    """Of all that the sources write, only searches, a serving engine's cache and two rare ones are refused."""
    refused = {name for name in WRITTEN if ("com.microsoft", name) not in OPERATORS}
    searches = {"BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"}
    assert refused == {*searches, "PagedAttention", "DynamicTimeWarping", "LongformerAttention"}


@pytest.mark.parametrize(
    ("domain", "name"), [*EXCLUDED, ("com.microsoft.nchwc", "Conv"), ("com.ms.internal.nhwc", "Conv")]
)
def test_reasons_name_the_operator_and_the_way_out(domain, name):
    with pytest.raises(UnsupportedError, match=f"operator {domain}.{name} ") as caught:
        find_operator(domain, name, 1)
    message = str(caught.value)
    assert ";" in message
    assert len(message) <= _LONGEST


def test_check_and_explain_show_the_reason():
    model = node_model("BeamSearch", [np.zeros((1, 4), np.int32)], domain="com.microsoft")
    (row,) = check(model).rows
    assert (row.operator, "explain the decoder inside it" in row.problem) == ("com.microsoft.BeamSearch", True)
    with pytest.raises(UnsupportedError, match="explain the decoder inside it"):
        explain(model, np.zeros((1, 4), np.int32))
