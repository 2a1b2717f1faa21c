"""Lowers a jaxpr to a graph by partial evaluation at the shapes that it was traced at.

Every value is either a known array or a typed variable of the graph. Each equation is handed to the function of its
primitive in the table; what that computes from known operands is computed at once, so that positions, masks and tables
never reach the graph. A primitive that has no function there is computed by JAX itself while all its operands are
known. Equations that no result is computed from are left out: a model traced for evaluation still splits its keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.ir import Source, Var
from backtrace_jax.passes.build import Builder, Value

from .scopes import Scope, joined

_TRANSFORM = re.compile(r"\w+\(([^()]*)\)")


class Lowering(Builder):
    """The graph under construction.

    Attributes:
        primitives: How each primitive is lowered, by its name; such a function takes the lowering, the operands, and
            the primitive's params as keywords, and gives one result or several.
        primitive: Name of the primitive that is being lowered.
        outputs: Types of its results.
    """

    def __init__(self, primitives: Mapping[str, Callable[..., Any]]) -> None:
        """Begin an empty graph."""
        super().__init__()
        self.primitives = primitives
        self.primitive = ""
        self.outputs: tuple[Any, ...] = ()
        self._within = Scope()
        self._calls: dict[str, dict[int, int]] = {}
        self._nodes: Counter[str] = Counter()

    def inline(self, jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
        """Lower a jaxpr, closed or not, where lowering is at, and give its results."""
        body, consts = (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())
        values: dict[Any, Any] = dict(zip(body.constvars, map(known, consts), strict=True))
        values.update(zip(body.invars, operands, strict=True))
        for eqn in live(body):
            results = self._lowered(eqn, [read(values, atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(values, atom) for atom in body.outvars]

    def _lowered(self, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        with self._at(eqn):
            try:
                results = self._results(eqn, operands)
            except BacktraceError as error:
                error.args = (f"{describe(eqn, self.scope)}: {error}",)
                raise
            except Exception as error:
                raise ModelError(f"{describe(eqn, self.scope)}: cannot be lowered: {error}") from error
        for result, outvar in zip(results, eqn.outvars, strict=True):
            _check_type(eqn, self.scope, result, outvar.aval)
        return results

    def _results(self, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        function = self.primitives.get(eqn.primitive.name)
        if function is None:
            if any(isinstance(operand, Var) for operand in operands):
                raise UnsupportedError("this primitive has no relevance rule here")
            return computed(eqn, operands)
        results: Any = function(self, *operands, **{name: plain(value) for name, value in eqn.params.items()})
        return results if isinstance(results, tuple | list) else (results,)

    @contextmanager
    def _at(self, eqn: Any) -> Iterator[None]:
        """Lower an equation: what it adds to the graph is said to come from it."""
        before = self._within, self.source, self.primitive, self.outputs
        self._within = self._within.inside(scopes_of(eqn))
        name = f"{self.scope.replace('.', '/')}/{eqn.primitive.name}".lstrip("/")
        self._nodes[name] += 1
        node = name if self._nodes[name] == 1 else f"{name}.{self._nodes[name] - 1}"
        self.source = Source(node, f"jax.{eqn.primitive.name}", self.scope, self._numbered())
        self.primitive, self.outputs = eqn.primitive.name, tuple(var.aval for var in eqn.outvars)
        try:
            yield
        finally:
            self._within, self.source, self.primitive, self.outputs = before

    @property
    def scope(self) -> str:
        """Path of the module, and of the user's own scopes inside it, that lowering is in."""
        return self._within.path

    def _numbered(self) -> tuple[str, ...]:
        """The calls around, numbered as they come: calls that nothing is computed from do not count."""
        names = []
        for path, call in self._within.calls:
            known = self._calls.setdefault(path, {})
            number = known.setdefault(call, len(known))
            names.append(f"{path}:{number}" if number else path)
        own = self._within.own if names else ()
        return (*names, *(joined(self._within.calls[-1][0], *own[: end + 1]) for end in range(len(own))))

    def part(self, value: Value, axis: int, low: int, high: int) -> Value:
        """The positions from `low` up to `high` along an axis."""
        if (low, high) == (0, value.shape[axis]):
            return value
        start = tuple(low if k == axis else 0 for k in range(len(value.shape)))
        limit = tuple(high if k == axis else size for k, size in enumerate(value.shape))
        return self.emit("slice", value, start=start, limit=limit, stride=(1,) * len(limit))


def plain(param: Any) -> Any:
    """A param whose whole numbers are Python's, where NumPy's got into it."""
    if isinstance(param, tuple) and type(param) is tuple:
        return tuple(map(plain, param))
    return int(param) if isinstance(param, np.integer) else param


def live(jaxpr: Any) -> list[Any]:
    """The equations that results are computed from, in order."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(eqn.outvars):
            continue
        found.append(eqn)
        needed.update(atom for atom in eqn.invars if not isinstance(atom, core.Literal))
    return found[::-1]


def read(values: Mapping[Any, Any], atom: Any) -> Any:
    """The value of a variable, or a literal itself."""
    kind: Any = atom.aval
    return np.asarray(atom.val, kind.dtype) if isinstance(atom, core.Literal) else values[atom]


def known(value: Any) -> Any:
    """A constant as an array; random keys stay what they are."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    return np.asarray(value)


def computed(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """What JAX itself computes of known operands, every type kept as it is."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
        found = eqn.primitive.bind(*operands, **eqn.params)
    return [known(each) for each in (found if eqn.primitive.multiple_results else (found,))]


def scopes_of(eqn: Any) -> list[str]:
    """Names of the scopes around an equation, inside the function that holds it, from the outside in.

    What JAX's transformations put around a name goes: `vmap(mlp)` is `mlp`.
    """
    text = str(eqn.source_info.name_stack)
    while (plainer := _TRANSFORM.sub(r"\1", text)) != text:
        text = plainer
    return [*filter(None, text.split("/"))]


def describe(eqn: Any, scope: str) -> str:
    """An equation as errors name it: primitive, module, and the line of the user's code that made it."""
    where = f" in {scope}" if scope else ""
    return f"{eqn.primitive.name}{where} (from {source_info_util.summarize(eqn.source_info)})"


def _check_type(eqn: Any, scope: str, result: Any, expected: Any) -> None:
    """What JAX says of a result is what was made of it: a wrong lowering does not get through."""
    if (tuple(result.shape), result.dtype) != (tuple(expected.shape), expected.dtype):
        raise ModelError(
            f"{describe(eqn, scope)}: lowered to {result.dtype}{list(result.shape)} instead of "
            f"{expected.dtype}{list(expected.shape)}; please report this"
        )
