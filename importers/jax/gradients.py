"""JAX's own gradient of a model, where it may differ from the derivative of what the model computes.

A function can tell JAX another derivative than its own: `custom_jvp`, `custom_vjp`, `stop_gradient`. Where JAX itself
does so (`relu`, `softmax`, `logsumexp`) it is the derivative, written to be computed well; what anybody else wrote is
a doubt, and comparing the gradients settles it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.extend import core

from backtrace_jax.batch.layout import moved_first
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir.imported import Gradient

from .tracing import Tracing

_JAX = os.path.dirname(jax.__file__)
_STOPPING = tuple(os.path.join(_JAX, "_src", *each) for each in (("lax", "lax.py"), ("tree_util.py",)))
"""Where every stop_gradient is made."""


def gradient(tracing: Tracing, feeds: Mapping[str, np.ndarray], output: str, start: np.ndarray) -> Gradient | None:
    """JAX's own gradient of an output, weighed by a start, by the inputs; None where there is no doubt about it.

    Raises:
        UnsupportedError: When there is a doubt, and no input that has a gradient.
    """
    call, name = tracing.call, tracing.model.name[:30]
    arrays = {key: call.own(key, array) for key, array in feeds.items()}
    doubt = next(_doubts(tracing.at({key: array.shape for key, array in arrays.items()}).jaxpr.jaxpr), "")
    if not doubt:
        return None
    floats = {key: array for key, array in arrays.items() if jnp.issubdtype(array.dtype, np.floating)}
    if not floats:
        raise UnsupportedError(
            f"{name} has a derivative of its own ({doubt}), and no float input whose gradient could be compared with "
            "it. Other modes are not affected"
        )
    alone = all(axis is None for axis in call.axes)
    own = start[0] if alone else start

    def weighed(floats: Mapping[str, Any]) -> Any:
        return (tracing.run({**arrays, **floats})[output] * own).sum()

    with tracing.configuration.set():
        found = jax.grad(weighed)(floats)
    return Gradient(doubt, {key: moved_first(key, np.asarray(each), call.axis(key)) for key, each in found.items()})


def _doubts(jaxpr: Any) -> Iterator[str]:
    """What of a jaxpr tells JAX a derivative that is not JAX's own."""
    for eqn in _equations(jaxpr):
        kind = eqn.primitive.name
        if kind == "stop_gradient" and not _inside_jax(eqn):
            yield kind
        if kind.startswith(("custom_jvp_call", "custom_vjp_call")):
            body = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
            said = str(body.jaxpr.debug_info.func_src_info)
            if f" at {_JAX}" not in said:
                yield f"{kind.removesuffix('_call')} of {said.partition(' at ')[0]}"


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


def _inside_jax(eqn: Any) -> bool:
    """Whether JAX itself stopped a gradient."""
    trace = eqn.source_info.traceback
    files = [frame.file_name for frame in trace.frames] if trace is not None else []
    behind = next((i for i, file in enumerate(files) if file in _STOPPING), 0)
    caller = next((file for file in files[behind:] if file not in _STOPPING), "")
    return caller.startswith(_JAX)


def coarsest(jaxpr: Any) -> float:
    """Relative rounding of the coarsest floats that are computed; 0 where all are single precision or finer."""
    types = {np.dtype(var.aval.dtype) for eqn in _equations(jaxpr) for var in eqn.outvars if _is_float(var.aval)}
    return max((float(ml_dtypes.finfo(each).eps) for each in types if each.itemsize < 4), default=0.0)


def _is_float(aval: Any) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, np.floating)
