"""Primitives that no rule can follow, and what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

from backtrace_jax.errors import UnsupportedError

from .registry import primitive


def _refused(reason: str, names: str) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError(reason)

    primitive(*names.split())(refuse)


_refused(
    "a callback to Python, which relevance cannot be followed through; compute it outside and pass the result",
    "pure_callback io_callback ffi_call",
)
_refused(
    "a kernel of its own, which relevance cannot be followed through; give explain the plain formula",
    "pallas_call core_map",
)
_refused(
    "reads memory that is written in place; return new arrays instead: x.at[i].set(y), or lax.scan with a carry",
    "get swap addupdate new_ref empty_ref freeze run_state run_scoped",
)
_refused(
    "shares values among devices or along a named axis; explain the function of one device",
    "psum psum_invariant pmax pmin ppermute pbroadcast pvary pgather axis_index all_gather all_gather_invariant "
    "all_to_all ragged_all_to_all reduce_scatter shard_map xla_pmap",
)
_refused(
    "is solved for, not computed by a formula; explain a function that writes the solution out",
    "custom_lin linear_call custom_transpose_call",
)
