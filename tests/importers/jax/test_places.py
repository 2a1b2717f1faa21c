"""Entries read at places, windows, transposed convolutions, borders and orders compute what JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from .lowered import check_forward

X = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
TABLE = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


def _ids(x):
    """Whole numbers from -2 to 2 that depend on x."""
    return jnp.clip(jnp.round(x[:, :, 0, 0] * 2), -2, 2).astype(jnp.int32)


def _windows(x, sizes, mode=None):
    """One window of x for each row of whole numbers, at two indices."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(1, 3), collapsed_slice_dims=(0, 3), start_index_map=(2, 0))
    starts = jnp.stack([_ids(x), jnp.abs(_ids(x)) % 2], -1)
    return lax.gather(x, starts, numbers, sizes, mode=mode)


READ = {
    "rows of a table": lambda x: jnp.asarray(TABLE)[_ids(x)],
    "take": lambda x: jnp.take(jnp.asarray(TABLE), _ids(x), axis=0),
    "take clipped": lambda x: jnp.take(jnp.asarray(TABLE), _ids(x) * 4, axis=0, mode="clip"),
    "take wrapped": lambda x: jnp.take(jnp.asarray(TABLE), _ids(x) * 4, axis=0, mode="wrap"),
    "take columns": lambda x: jnp.take(jnp.asarray(TABLE), _ids(x), axis=1),
    "known along an axis": lambda x: x[:, np.array([0, 2, -1])],
    "known, two axes": lambda x: x[:, np.array([0, 2]), np.array([1, -1])],
    "axes apart": lambda x: x[:, np.array([0, 2]), :, np.array([1, -1])],
    "last of each": lambda x: x[jnp.arange(2), jnp.array([1, -1])],
    "rows of each": lambda x: x[jnp.arange(2)[:, None], _ids(x)],
    "along an axis": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=2), axis=2),
    "one for each row": lambda x: jnp.take_along_axis(x[:, :, 0], _ids(x)[:, :, None], axis=2),
    "mapped": lambda x: jax.vmap(lambda a, i: a[i])(x, _ids(x)),
    "mapped slices": lambda x: jax.vmap(lambda a, i: lax.dynamic_slice_in_dim(a, i, 3))(x, _ids(x)[:, 0] + 2),
    "slice at a place": lambda x: lax.dynamic_slice(x, (0, _ids(x)[0, 0], 1, 0), (len(x), 3, 4, 2)),
    "slice moved inside": lambda x: lax.dynamic_slice(x, (0, 5, 1, -3), (len(x), 3, 4, 2)),
    "windows": lambda x: _windows(x, (1, 6, 2, 1), "clip"),
    "update": lambda x: lax.dynamic_update_slice(x, 2 * x[:, 1:3, :2], (0, 3, 1, 0)),
    "set": lambda x: lax.dynamic_update_slice(x, x * 2, (0, 0, 0, 0)),
}
POOLS = {
    "largest": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 1, 1), "SAME"),
    "smallest": lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 3, 1), (1, 1, 2, 1), "VALID"),
    "sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 3, 1), (1, 2, 1, 1), "SAME"),
    "dilated": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", None, (1, 2, 3, 1)),
    "one axis": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 1, 1), (1, 1, 1, 1), "SAME"),
    "channels": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2), (1, 2, 2, 2), "VALID"),
}
BORDERS = {
    "border": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=3.0),
    "between": lambda x: lax.pad(x, 1.0, ((0, 0, 0), (1, -1, 2), (-1, 0, 1), (0, 0, 0))),
    "cut off": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, -2, 0), (0, 0, 0), (0, 0, 0))),
    "edge": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), mode="reflect"),
}
ORDERS = {
    "best": lambda x: lax.top_k(x, 2)[0],
    "best along an axis": lambda x: lax.top_k(x, 3, axis=1)[0],
    "places": lambda x: lax.top_k(x, 2)[1].astype(jnp.float32) * x[..., :2],
    "sorted": lambda x: jnp.sort(x, axis=1),
    "descending": lambda x: jnp.sort(x, axis=2, descending=True),
    "by another": lambda x: lax.sort((x, 2 * x), dimension=2)[1],
}
POINTWISE = {
    "erfc": lax.erfc, "log1p": lambda x: jnp.log1p(x * x), "expm1": jnp.expm1, "softplus": jax.nn.softplus,
    "exp2": jnp.exp2,
}  # fmt: skip
OTHERS = {
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
    "unstack": lambda x: jnp.unstack(x, axis=2)[1],
    "all and any": lambda x: jnp.where(jnp.all(x > 0, 2) | jnp.any(x > 1, (2,)), x[:, :, 0], -x[:, :, 1]),
}
ALL = {**OTHERS, **READ, **POOLS, **BORDERS, **ORDERS, **POINTWISE}


@pytest.mark.parametrize("name", ALL)
def test_entries_are_what_jax_reads(name):
    check_forward(ALL[name], X)


KERNEL = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 2, 6)).astype(np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"lhs_dilation": (2, 2), "padding": ((2, 2), (1, 1))},
        {"lhs_dilation": (2, 3), "padding": ((1, 2), (0, 3)), "rhs_dilation": (2, 1)},
        {"lhs_dilation": (2, 1), "padding": ((2, 2), (1, 1)), "window_strides": (1, 2)},
        {"lhs_dilation": (1, 1), "padding": "SAME", "window_strides": (2, 2)},
    ],
)
def test_transposed_convolutions(settings):
    settings = {"window_strides": (1, 1), **settings}
    numbers = ("NHWC", "HWIO", "NHWC")
    check_forward(
        lambda x: lax.conv_general_dilated(x, KERNEL, dimension_numbers=numbers, feature_group_count=2, **settings), X
    )


def test_an_index_out_of_range_reads_nan():
    values = np.asarray([[-9.0, 8.0, 3.0]], np.float32)
    found = check_forward(lambda x: jnp.take(jnp.asarray(TABLE), x.astype(jnp.int32), axis=0), values)
    assert [eqn.op for eqn in found.graph.eqns if eqn.op != "reshape"].count("gather") == 1


def test_a_lookup_is_a_gather_by_the_ids_themselves():
    found = check_forward(lambda x: jnp.take(jnp.asarray(TABLE), _ids(x), axis=0), X)
    (read,) = (eqn for eqn in found.graph.eqns if eqn.op == "gather")
    made = {var.name: eqn.op for eqn in found.graph.eqns for var in eqn.outvars}
    assert made[read.invars[1].name] in ("cast", "reshape")
