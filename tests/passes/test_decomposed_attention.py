"""Attention with rotary embeddings and fewer keys than queries: two operators, or everything written out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from backtrace_jax import explain

LENGTH, WIDTH, SIZE = 5, 12, 4  # of each head; four heads of queries, two of keys and values
generator = np.random.default_rng(0)
ANGLES = np.arange(LENGTH)[:, None] * 0.3 ** np.arange(SIZE // 2)
ARRAYS = {
    **{name: generator.normal(size=(WIDTH, heads * SIZE)) / 3 for name, heads in {"Wq": 4, "Wk": 2, "Wv": 2}.items()},
    "Wo": generator.normal(size=(4 * SIZE, 3)) / 3,
    "cos": np.cos(ANGLES)[None],
    "sin": np.sin(ANGLES)[None],
    "wide_cos": np.cos(np.concatenate([ANGLES, ANGLES], 1))[None, None],
    "wide_sin": np.sin(np.concatenate([ANGLES, ANGLES], 1))[None, None],
    "mask": np.where(np.tri(LENGTH, dtype=bool), 0, -1e9),
    "root": np.sqrt(np.array(SIZE)),
}
SHAPES = {
    "four": (1, LENGTH, 4, SIZE),
    "two": (1, LENGTH, 2, SIZE),
    "apart": (1, 2, 1, LENGTH, SIZE),
    "copied": (1, 2, 2, LENGTH, SIZE),
    "together": (1, 4, LENGTH, SIZE),
    "merged": (1, LENGTH, 4 * SIZE),
    "heads": (0, 0, 1, 1),  # the head of keys that each head of queries reads
    "zero": (0,),
    "middle": (SIZE // 2,),
    "end": (SIZE,),
    "last": (3,),
    "second": (1,),
    "tiles": (1, 1, 2, 1, 1),
}
SPLIT = """
    {0}0 = MatMul(x, W{0})
    {0}1 = Reshape({0}0, {1})
    {0} = Transpose<perm=[0, 2, 1, 3]>({0}1)
"""
ROTATED = """
    {0}_cos = Mul({0}, wide_cos)
    {0}_low = Slice({0}, zero, middle, last)
    {0}_high = Slice({0}, middle, end, last)
    {0}_minus = Neg({0}_high)
    {0}_turned = Concat<axis=3>({0}_minus, {0}_low)
    {0}_sin = Mul({0}_turned, wide_sin)
    {0}r = Add({0}_cos, {0}_sin)
"""
COPIES = {
    "expand": """
    {0}_apart = Reshape({0}, apart)
    {0}_copied = Expand({0}_apart, copied)
    {0}4 = Reshape({0}_copied, together)
""",
    "gather": "    {0}4 = Gather<axis=1>({0}, heads)\n",
    "tile": """
    {0}_apart = Reshape({0}, apart)
    {0}_copied = Tile({0}_apart, tiles)
    {0}4 = Reshape({0}_copied, together)
""",
    "concat": """
    {0}_a, {0}_b = Split<axis=1, num_outputs=2>({0})
    {0}4 = Concat<axis=1>({0}_a, {0}_a, {0}_b, {0}_b)
""",
}
FUSED = """
    qr = RotaryEmbedding(q, cos, sin)
    kr = RotaryEmbedding(k, cos, sin)
    a = Attention<is_causal=1>(qr, kr, v)
"""
WEIGHTS = """
    keys = Transpose<perm=[0, 1, 3, 2]>(kr4)
    product = MatMul(qr, keys)
    scores = Div(product, root)
    masked = Add(scores, mask)
"""
SOFTMAX = {
    "softmax": "    weights = Softmax<axis=-1>(masked)\n",
    "written out": """
    largest = ReduceMax<keepdims=1>(masked, last)
    shifted = Sub(masked, largest)
    powers = Exp(shifted)
    total = ReduceSum<keepdims=1>(powers, last)
    weights = Div(powers, total)
""",
}
REST = """
    a1 = Transpose<perm=[0, 2, 1, 3]>(a)
    a2 = Reshape(a1, merged)
    y = MatMul(a2, Wo)
"""


def model(nodes: str) -> onnx.ModelProto:
    """The nodes between x and y, with the arrays they name."""
    heads = SPLIT.format("q", "four") + SPLIT.format("k", "two") + SPLIT.format("v", "two")
    text = f'<ir_version: 10, opset_import: ["" : 23]> g (float[1, {LENGTH}, {WIDTH}] x) => (float[1, {LENGTH}, 3] y)'
    made = parser.parse_model(f"{text} {{ {heads} {nodes} {REST} }}")
    floats = {name: array.astype(np.float32) for name, array in ARRAYS.items()}
    arrays: Mapping[str, np.ndarray] = {**floats, **{name: np.array(s, np.int64) for name, s in SHAPES.items()}}
    read = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read
    )
    return made


def written_out(copies: str, softmax: str) -> onnx.ModelProto:
    repeats = COPIES[copies].format("kr") + COPIES[copies].format("v")
    weighted = "    a = MatMul(weights, v4)\n"
    return model(ROTATED.format("q") + ROTATED.format("k") + repeats + WEIGHTS + SOFTMAX[softmax] + weighted)


@pytest.mark.parametrize(
    ("copies", "softmax"),
    [("expand", "written out"), ("gather", "softmax"), ("tile", "softmax"), ("concat", "softmax")],
)
def test_relevance_equals_that_of_the_operators(copies, softmax):
    x = np.random.default_rng(1).normal(size=(1, LENGTH, WIDTH)).astype(np.float32)
    start = np.random.default_rng(2).uniform(size=(1, LENGTH, 3)).astype(np.float32)
    whole, parts = (explain(each, x, start=start) for each in (model(FUSED), written_out(copies, softmax)))
    np.testing.assert_allclose(parts.outputs["y"], whole.outputs["y"], rtol=1e-4, atol=1e-5)
    size = np.abs(whole.relevance["x"]).max()
    np.testing.assert_allclose(parts.relevance["x"], whole.relevance["x"], rtol=1e-4, atol=1e-5 * size)
    for each in (whole, parts):
        assert each.ledger.error.max() <= 1e-5
