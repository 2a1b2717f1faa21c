"""Functions as StableHLO that a file can hold, and compiled again from there.

`jax.export` writes them in a form that later versions of JAX read as well. What is read back is untrusted: a function
that calls anything outside of itself is refused, for such calls may hold addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
from jax import export

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.runtime.numerics import Device, compiled, exact_types
from backtrace_jax.runtime.summing import with_short_sums

from .compile import Made, Request, Result, given_types
from .pieces import Pieces

_CALLS = re.compile(r"custom_call\S*\s*@?\"?([\w.$-]*)")
_HARMLESS = frozenset({"Sharding", "mhlo.topk", "stablehlo.dynamic_top_k", "mhlo.erf", "chlo.top_k"})
"""What a function may call outside of itself: operations that XLA writes in this way, and computes itself."""


@dataclass(frozen=True)
class Function:
    """A function of pytrees.

    Attributes:
        code: What `jax.export` writes of it, as one of flat lists.
        tree: Structure of its result.
    """

    code: bytes
    tree: Any

    def compile(self, *types: Any, device: Device, precision: str) -> Any:
        """Compile it for arguments of these types.

        Raises:
            InputError: When it cannot be read, calls something outside of itself, or is for another kind of device.
        """
        found = _read(self.code)
        if device.platform not in found.platforms:
            kinds = f"{shown(found.platforms[0])}, and this is {device.platform!r}"
            raise InputError(f"this explainer was exported for {kinds}: export it where it is to run")
        return compiled(
            partial(_call, found, self.tree), *(types or found.in_avals), device=device, precision=precision
        )


def _call(function: export.Exported, tree: Any, *arguments: Any) -> Any:
    return jax.tree.unflatten(tree, function.call(*jax.tree.leaves(arguments)))


def _read(code: bytes) -> export.Exported:
    try:
        found = export.deserialize(bytearray(code))
        text = found.mlir_module()
    except Exception as error:  # whatever flatbuffers and MLIR raise on bytes that are not as they should be
        reason = f"cannot be read by this version of JAX: {error!s:.100}"
        raise InputError(f"a function of this explainer {reason}; export it with this one") from error
    calls = set(_CALLS.findall(text)) - _HARMLESS
    if calls or len(_CALLS.findall(text)) != text.count("custom_call"):
        raise InputError(
            f"a function of this explainer calls {shown(next(iter(calls), ''))}, which is outside of it; refused"
        )
    return found


def export_function(function: Callable[..., Any], *types: Any, device: Device, precision: str = "highest") -> Function:
    """A function as StableHLO, in place of compiling it.

    Raises:
        SettingError: When it calls something that only this process knows.
    """
    leaves, tree = jax.tree.flatten(types)
    trees: list[Any] = []

    def flat(*arguments: Any) -> list[Any]:
        found, result = jax.tree.flatten(function(*jax.tree.unflatten(tree, arguments)))
        trees.append(result)
        return found

    given = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in leaves]
    with exact_types(precision), jax.default_device(device):
        try:
            code = bytes(export.export(jax.jit(with_short_sums(flat)), platforms=[device.platform])(*given).serialize())
            _read(code)
        except (ValueError, NotImplementedError, InputError) as error:
            raise SettingError(f"this cannot be exported: {error!s:.200}") from error
    return Function(code, trees[-1])


def restored(
    stored: Made, request: Request, weights: Any, constant: Any, examples: Any, device: Device, *, chunks: int
) -> Made:
    """What was exported, compiled for these arguments.

    Raises:
        InputError: When it is not for them.
    """
    where = {"device": device, "precision": request.precision}
    try:
        tree = stored.answers.tree
        assert isinstance(jax.tree.unflatten(tree, range(tree.num_leaves)), Result)
        given = given_types(weights, stored.derived, constant, examples, chunks)
        derive = _compiled(stored.derive, weights, **where)
        return stored._replace(derive=derive, run=_compiled(stored.run, *given, **where))
    except (AssertionError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"the functions of this explainer do not fit its graph ({error!s:.100}); export it again"
        ) from error


def _compiled(routine: Any, *types: Any, **where: Any) -> Any:
    """A routine of functions as one of executables; equal functions are compiled once."""
    if not isinstance(routine, Pieces):
        return routine.compile(*types, **where)
    once = cache(lambda function: function.compile(**where))
    return replace(routine, pieces=tuple(replace(piece, run=once(piece.run)) for piece in routine.pieces))
