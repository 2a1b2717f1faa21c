"""Lowers a jaxpr to a graph by partial evaluation at the shapes that it was traced at.

Every value is either a known array or a typed variable of the graph. Each equation is handed to the function of its
primitive in the table; what that computes from known operands is computed at once, so that positions, masks and tables
never reach the graph. A primitive that has no function there is computed by JAX itself while all its operands are
known. Equations that no result is computed from are left out: a model traced for evaluation still splits its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.extend import core

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.passes.build import Builder, Value

from .keys import Held, Key, Origins, draws, handles_keys, is_key, is_random, refusal
from .places import Places


class Lowering(Builder):
    """The graph under construction.

    Attributes:
        primitives: How each primitive is lowered, by its name; such a function takes the lowering, the operands, and
            the primitive's params as keywords, and gives one result or several.
        primitive: Name of the primitive that is being lowered.
        outputs: Types of its results.
        places: Where lowering is.
        origins: Where random keys come from.
    """

    def __init__(self, primitives: Mapping[str, Callable[..., Any]]) -> None:
        """Begin an empty graph."""
        super().__init__()
        self.primitives = primitives
        self.primitive = ""
        self.outputs: tuple[Any, ...] = ()
        self.places = Places()
        self.origins = Origins(self.label_of)
        self._behind: dict[str, tuple[Lowering, Sequence[Held]]] = {}
        self._squeezed: dict[str, tuple[Value, tuple[int, ...]]] = {}

    def inline(self, jaxpr: Any, operands: Sequence[Held]) -> list[Held]:
        """Lower a jaxpr, closed or not, where lowering is at, and give its results."""
        body, consts = (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())
        values: dict[Any, Any] = dict(zip(body.constvars, map(known, consts), strict=True))
        values.update(zip(body.invars, operands, strict=True))
        for eqn in live(body):
            results = self._lowered(eqn, [read(values, atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(values, atom) for atom in body.outvars]

    def body(self, jaxpr: Any, operands: Sequence[Held], outside: Sequence[Sequence[Held]]) -> Program:
        """Lower a jaxpr as a graph of its own.

        Args:
            jaxpr: The jaxpr.
            operands: Arrays and keys that are known in it, or variables that its inputs are like.
            outside: The values of the graph around that each operand is computed from.
        """
        inner = Lowering(self.primitives)
        inner.places, inner.origins, inner._labels = self.places, self.origins, self._labels
        given = zip(operands, outside, strict=True)
        operands = [inner._taken_in(each, self, around) if isinstance(each, Var) else each for each, around in given]
        return inner.finish({str(i): result for i, result in enumerate(inner.inline(jaxpr, operands))})

    def _taken_in(self, like: Var, around: Lowering, outside: Sequence[Held]) -> Var:
        var = self.input(like.name, like.shape, like.dtype)
        self._behind[var.name] = around, outside
        self.origins.follow((var,), around.origins.of(outside))
        return var

    def inputs_of(self, value: Held) -> frozenset[str]:
        """Names of the model's inputs that a value is computed from."""
        found: set[str] = set()
        for name in super().inputs_of(value):
            around, outside = self._behind.get(name, (None, ()))
            found.update(around.inputs_behind(outside) if around else {name})
        return frozenset(found)

    def inputs_behind(self, values: Iterable[Held]) -> frozenset[str]:
        """Names of the model's inputs that any of these values is computed from."""
        return frozenset[str]().union(*(self.inputs_of(value) for value in values if isinstance(value, Var)))

    def name(self, value: Held, name: str) -> None:
        """Give a weight, or a key, its name in the model."""
        if is_key(value):
            self.origins.follow((value,), f"the key {name!r}")
        else:
            self.label(value, name)

    def _lowered(self, eqn: Any, operands: Sequence[Held]) -> Sequence[Held]:
        with self._at(eqn):
            try:
                results = self._results(eqn, operands)
            except BacktraceError as error:
                if "place" not in vars(error):  # what fails is named, not all that it is called by
                    vars(error)["place"] = self.place
                    error.args = (f"{self.place}: {error}",)
                raise
            except Exception as error:
                raise ModelError(f"{self.place}: cannot be lowered: {error}") from error
            for result, outvar in zip(results, eqn.outvars, strict=True):
                self._check_type(result, outvar.aval)
        return results

    def _results(self, eqn: Any, operands: Sequence[Held]) -> Sequence[Held]:
        origin = self._origin(eqn, operands)
        if handles_keys(eqn, operands):
            if draws(eqn) or not _all_known(operands):
                raise refusal(origin)
            results = computed(eqn, operands)
        else:
            results = self._by_table(eqn, operands)
        self.origins.follow(results, origin)
        return results

    def _origin(self, eqn: Any, operands: Sequence[Held]) -> str:
        """Where keys among the operands, or made of them, come from."""
        found = self.origins.of(operands)
        if found or not is_random(eqn):
            return found
        inputs = self.inputs_behind(operands)
        return f"the input {', '.join(sorted(inputs))!r}" if inputs else f"a key made at {self.places.line}"

    def _by_table(self, eqn: Any, operands: Sequence[Held]) -> Sequence[Held]:
        function = self.primitives.get(eqn.primitive.name)
        if function is None:
            if not _all_known(operands):
                raise UnsupportedError("this primitive has no relevance rule here")
            return computed(eqn, operands)
        results: Any = function(self, *operands, **{name: plain(value) for name, value in eqn.params.items()})
        return results if isinstance(results, tuple | list) else (results,)

    @contextmanager
    def _at(self, eqn: Any) -> Iterator[None]:
        """Lower an equation: what it adds to the graph is said to come from it."""
        before = self.source, self.primitive, self.outputs
        self.primitive, self.outputs = eqn.primitive.name, tuple(var.aval for var in eqn.outvars)
        try:
            with self.places.at(eqn) as self.source:
                yield
        finally:
            self.source, self.primitive, self.outputs = before

    @property
    def place(self) -> str:
        """Where lowering is, as errors name it: primitive, module, and the line of the user's code."""
        where = f" in {self.places.scope}" if self.places.scope else ""
        return f"{self.primitive}{where} (from {self.places.line})"

    def _check_type(self, result: Held, expected: Any) -> None:
        """What JAX says of a result is what was made of it: a wrong lowering does not get through."""
        if (tuple(result.shape), result.dtype) != (tuple(expected.shape), expected.dtype):
            raise ModelError(
                f"{self.place}: lowered to {result.dtype}{list(result.shape)} instead of "
                f"{expected.dtype}{list(expected.shape)}; please report this"
            )

    def maker(self, value: Value) -> Eqn | None:
        """The equation that a variable is the result of."""
        return (
            next((eqn for eqn in reversed(self._eqns) if value in eqn.outvars), None)
            if isinstance(value, Var)
            else None
        )

    def held(self, var: Var) -> Value:
        """An operand of an equation as it was given: a known array, or a variable."""
        return next((array for param, array in self._params.values() if param is var), var)

    def squeeze(self, value: Value, axes: tuple[int, ...]) -> Value:
        """A value without some axes of size 1."""
        found = self.reshape(value, [size for axis, size in enumerate(value.shape) if axis not in axes])
        if isinstance(found, Var) and axes:
            self._squeezed[found.name] = value, axes
        return found

    def unsqueezed(self, value: Value) -> tuple[Value, tuple[int, ...]]:
        """A value before axes of size 1 were taken out, and these axes; itself and none where none were."""
        return self._squeezed.get(value.name, (value, ())) if isinstance(value, Var) else (value, ())


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


def _all_known(operands: Sequence[Held]) -> bool:
    return not any(isinstance(operand, Var | Key) for operand in operands)


def known(value: Any) -> Any:
    """A constant as an array; random keys stay what they are."""
    return value if isinstance(value, jax.Array) and is_key(value) else np.asarray(value)


def computed(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """What JAX itself computes of known operands, every type kept as it is."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
        found = eqn.primitive.bind(*operands, **eqn.params)
    return [known(each) for each in (found if eqn.primitive.multiple_results else (found,))]
