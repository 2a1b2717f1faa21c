"""Recurrent layers in JAX's libraries and by hand, with the weights of ONNX's own, and these."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax import lax

STEPS, BATCH, FEATURES, STATE = 4, 2, 3, 4
GATES = {"LSTM": "iofg", "GRU": "zrn", "RNN": ("",)}
"""ONNX's order of gates, by the names that Flax has for them."""

Model = Callable[[Any], Any]


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 2


x = 2 * drawn(0, BATCH, STEPS, FEATURES)


def head(directions: int = 1) -> np.ndarray:
    """What two outputs are made of the states of all steps with."""
    return drawn(9, STEPS * directions * STATE, 2)


@cache
def weights(kind: str, directions: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, R and B of ONNX's layer; sums of biases are exact."""
    width = len(GATES[kind]) * STATE
    W, R, B = drawn(1, directions, width, FEATURES), drawn(2, directions, width, STATE), drawn(3, directions, 2 * width)
    return W, R, np.round(B * 64) / 64


def onnx_model(kind: str, direction: str = "forward", lengths: int | None = None) -> onnx.ModelProto:
    """ONNX's own layer over axis 1, and the head."""
    directions = 2 if direction == "bidirectional" else 1
    reset = ", linear_before_reset=1" if kind == "GRU" else ""
    last, given = ", Yh, Yc" if kind == "LSTM" else ", Yh", ", lens" if lengths else ""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[{BATCH},{STEPS},{FEATURES}] x) => (float[{BATCH},2] out) {{
        xt = Transpose<perm = [1, 0, 2]>(x)
        Y{last} = {kind}<hidden_size = {STATE}, direction = "{direction}"{reset}>(xt, W, R, B{given})
        t = Transpose<perm = [2, 0, 1, 3]>(Y)
        flat = Reshape(t, shape)
        out = MatMul(flat, head) }}""")
    arrays = dict(zip("WRB", weights(kind, directions), strict=True), head=head(directions))
    arrays["shape"] = np.array([BATCH, STEPS * directions * STATE])
    if lengths:
        arrays["lens"] = np.full(BATCH, lengths, np.int32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def parts(kind: str, direction: int = 0, directions: int = 1) -> dict[str, list[np.ndarray]]:
    """Of each gate the weights and bias of the input, and those of the state."""
    W, R, B = (array[direction] for array in weights(kind, directions))
    arrays = (W, R, *np.split(B, 2))
    split = zip(*(np.split(array, len(GATES[kind])) for array in arrays), strict=True)
    return {gate: list(each) for gate, each in zip(GATES[kind], split, strict=True)}


def stacked(kind: str, order: str) -> list[np.ndarray]:
    """The same of all gates in an order."""
    found = parts(kind)
    return [np.concatenate(arrays) for arrays in zip(*(found[gate] for gate in order), strict=True)]


def linen(kind: str, direction: int = 0, directions: int = 1) -> dict[str, Any]:
    """The params of a Flax linen layer, whose cells have a bias on one side, or where a reset gate acts."""
    found: dict[str, Any] = {}
    for gate, (K, U, b, c) in parts(kind, direction, directions).items():
        found[f"i{gate}"], found[f"h{gate}"] = {"kernel": K.T}, {"kernel": U.T}
        if kind == "GRU" and gate == "n":
            found["in"]["bias"], found["hn"]["bias"] = b, c
        else:
            found[f"{'h' if kind == 'LSTM' else 'i'}{gate}"]["bias"] = b + c
    return {"cell": jax.tree.map(jnp.asarray, found)}


LINEN = {"LSTM": nn.OptimizedLSTMCell, "GRU": nn.GRUCell, "RNN": nn.SimpleCell}


def in_linen(kind: str, cell: Any = None, **settings: Any) -> Model:
    layer, params = nn.RNN((cell or LINEN[kind])(STATE), **settings), linen(kind)
    return headed(lambda x: layer.apply({"params": params}, x))


def bidirectional(kind: str) -> Model:
    layer = nn.Bidirectional(*(nn.RNN(LINEN[kind](STATE)) for _ in range(2)))
    params = {name: linen(kind, i, 2) for i, name in enumerate(("forward_rnn", "backward_rnn"))}
    return headed(lambda x: layer.apply({"params": params}, x), 2)


def of_length(kind: str, length: int, **settings: Any) -> Model:
    """Sequences that end earlier, with zeros behind them as ONNX has it."""
    layer, params = nn.RNN(LINEN[kind](STATE), **settings), linen(kind)
    beyond = np.arange(STEPS)[None, :, None] >= length

    def run(x: Any) -> Any:
        return jnp.where(beyond, 0.0, layer.apply({"params": params}, x, seq_lengths=jnp.full(x.shape[0], length)))

    return headed(run)


class Headed(nnx.Module):
    def __init__(self, cell: nnx.Module) -> None:
        self.rnn = nnx.RNN(cell, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.rnn(x).reshape(x.shape[0], -1) @ head()


def in_nnx(kind: str) -> nnx.Module:
    """A layer whose cell has one map of the input, and one of the state."""
    kinds, order = {"LSTM": (nnx.OptimizedLSTMCell, "ifgo"), "RNN": (nnx.SimpleCell, ("",))}[kind]
    made = kinds(FEATURES, STATE, rngs=nnx.Rngs(0))
    W, R, b, c = stacked(kind, order)
    made.dense_i.kernel.set_value(jnp.asarray(W.T))
    made.dense_h.kernel.set_value(jnp.asarray(R.T))
    (made.dense_h if kind == "LSTM" else made.dense_i).bias.set_value(jnp.asarray(b + c))
    return Headed(made)


class OverTime(eqx.Module):
    """A cell of Equinox over the steps of one example."""

    cell: eqx.Module

    def __call__(self, x: Any) -> Any:
        zeros = jnp.zeros(STATE)

        def step(state: Any, entry: Any) -> Any:
            state = self.cell(entry, state)
            return state, jax.tree.leaves(state)[0]

        first = (zeros, zeros) if isinstance(self.cell, eqx.nn.LSTMCell) else zeros
        return lax.scan(step, first, x)[1].reshape(-1) @ head()


def in_equinox(kind: str) -> eqx.Module:
    W, R, b, c = stacked(kind, {"LSTM": "ifgo", "GRU": "rzn"}[kind])
    if kind == "LSTM":
        made, own = eqx.nn.LSTMCell(FEATURES, STATE, key=jax.random.key(0)), (b + c,)
        names = ("weight_ih", "weight_hh", "bias")
    else:
        made, names = (
            eqx.nn.GRUCell(FEATURES, STATE, key=jax.random.key(0)),
            ("weight_ih", "weight_hh", "bias", "bias_n"),
        )
        own = (b + np.where(np.arange(3 * STATE) < 2 * STATE, c, 0).astype(np.float32), c[2 * STATE :])
    arrays = tuple(map(jnp.asarray, (W, R, *own)))
    return OverTime(eqx.tree_at(lambda cell: tuple(getattr(cell, name) for name in names), made, arrays))


def in_haiku() -> Model:
    """An LSTM with one map of [x, h], whose forget gate adds 1."""
    W, R, b, c = stacked("LSTM", "igfo")
    own = b + c - np.repeat(np.array([0, 0, 1, 0], np.float32), STATE)

    def run(x: Any) -> Any:
        core = hk.LSTM(STATE)
        return hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)[0]

    params = {"lstm/linear": {"w": jnp.asarray(np.concatenate([W.T, R.T])), "b": jnp.asarray(own)}}
    apply = hk.without_apply_rng(hk.transform(run)).apply
    return headed(lambda x: apply(params, x))


def by_hand(gates: Callable[..., Any], project: Callable[..., Any] = lambda x: x) -> Model:
    """An LSTM as one writes it, with a formula for what the gates sum up, and what is done before the loop."""

    def run(x: Any) -> Any:
        def step(state: Any, entry: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates(entry, h), 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[0], STATE))
        return jnp.swapaxes(lax.scan(step, (zeros, zeros), jnp.swapaxes(project(x), 0, 1))[1], 0, 1)

    return headed(run)


def spellings() -> dict[str, Model]:
    """Where a cell written by hand has its maps and its biases."""
    W, R, b, c = map(jnp.asarray, stacked("LSTM", "ifgo"))
    return {
        "each its own": by_hand(lambda x, h: (x @ W.T + b) + (h @ R.T + c)),
        "behind both": by_hand(lambda x, h: x @ W.T + h @ R.T + (b + c)),
        "the state's": by_hand(lambda x, h: x @ W.T + (h @ R.T + b + c)),
        "one map": by_hand(lambda x, h: jnp.concatenate([x, h], -1) @ jnp.concatenate([W.T, R.T]) + (b + c)),
        "one map of [h, x]": by_hand(lambda x, h: jnp.concatenate([h, x], -1) @ jnp.concatenate([R.T, W.T]) + (b + c)),
        "weights first": by_hand(lambda x, h: (W @ x.T + R @ h.T).T + b + c),
        "in front of the loop": by_hand(lambda x, h: x + h @ R.T + c, lambda x: x @ W.T + b),
        "in front without a bias": by_hand(lambda x, h: x + (h @ R.T + b + c), lambda x: x @ W.T),
    }


def headed(layer: Model, directions: int = 1) -> Model:
    K = head(directions)
    return lambda x: layer(x).reshape(x.shape[0], -1) @ K
