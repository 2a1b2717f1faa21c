"""Compiles functions, each traced once: whole where they are short, else in pieces that are compiled one by one.

XLA takes more than twice as long, and more than twice the memory, for a function of twice the length, and cannot be
interrupted. Pieces bound both. A deep network repeats its layers, and so do its pieces where they are cut at the same
place of every layer: equal pieces are compiled once. Between two pieces Python hears Ctrl-C.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from backtrace_jax.runtime.interrupting import stop_if_interrupted
from backtrace_jax.runtime.numerics import Device, compiled, exact_types

from .forms import Forms
from .keeping import MANY, keep_wide, type_of

WHOLE = 2**13
"""Equations of a traced function up to which it is compiled as one.

Small values, mode "default", two cores: first explanation in s of processor time, then a call in ms, as a whole -> in
pieces. Chain of 100 (2,890 equations): 2.2 -> 2.8, 3.4 -> 4.7; concatenation of 60 (2,913): 2.8 -> 3.6, 2.7 -> 4.8; sum
of 150 (8,191): 6.1 -> 5.4, 5.2 -> 14.4; chain of 300 (8,648): 5.8 -> 3.4, 6.1 -> 9.3; chain of 1,000 (28,679):
20.6 -> 5.1, 19.7 -> 27.9. At 2,900 equations pieces lose on both counts, and everywhere at the calls.
"""

SHORTEST, LONGEST = 100, 400
"""Equations of a piece: short enough for XLA, long enough that calls cost little beside what they compute."""

_WINDOW = 4  # equations that a place to cut is known by

Flat: TypeAlias = Callable[[Sequence[Any]], list[Any]]
"""A function of flat arguments."""


Routine: TypeAlias = Any
"""A compiled function: `Pieces`, of flat lists; or else one of pytrees, as what compiles gives it."""


@dataclass(frozen=True)
class Piece:
    """A run of equations as a function; values are known by their numbers.

    Attributes:
        run: The compiled function.
        reads: What it reads.
        gives: What later pieces, or the caller, read of what it computes.
        last: What it reads, and nothing after it does.
    """

    run: Routine
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """A function in pieces, from a flat list of arguments to one of results.

    Attributes:
        pieces: In the order in which they run.
        constants: What the pieces read besides the arguments.
        given: The number of each argument.
        results: The number of each result, or the result itself.
    """

    pieces: tuple[Piece, ...]
    constants: Mapping[int, Any]
    given: tuple[int, ...]
    results: tuple[Any, ...]

    def __call__(self, arguments: Sequence[Any]) -> list[Any]:
        """Run them one after the other."""
        values = {**self.constants, **dict(zip(self.given, arguments, strict=True))}
        for piece in self.pieces:
            stop_if_interrupted()
            found = piece.run(*(values[place] for place in piece.reads))
            values.update(zip(piece.gives, found, strict=True))
            for place in piece.last:
                del values[place]
        return [values[each] if isinstance(each, int) else each for each in self.results]

    @property
    def temp_bytes(self) -> int:
        """The most memory that they take at a time beside arguments: what lies between them, and that of one piece."""
        most, held = 0, dict[int, int]()
        for piece in self.pieces:
            held.update(zip(piece.gives, (each.size * each.dtype.itemsize for each in piece.run.out_info), strict=True))
            most = max(most, sum(held.values()) + piece.run.memory_analysis().temp_size_in_bytes)
            for place in piece.last:
                held.pop(place, None)
        return most


def runs(routine: Routine, call: Callable[..., Any]) -> Any:
    """A compiled function as one of pytrees, given what is done with it where it is in pieces."""
    return partial(call, routine) if isinstance(routine, Pieces) else routine


def lengths() -> tuple[int, ...]:
    """What decides how functions are cut."""
    return WHOLE, SHORTEST, LONGEST, _WINDOW, MANY


def compile_function(function: Callable[..., Any], *types: Any, device: Device, precision: str = "highest") -> Any:
    """Compile a function, which is traced once, for arguments of these types (or arrays of them).

    Args:
        function: Takes and gives pytrees of arrays.
        types: Of its arguments.
        device: Where it runs.
        precision: Of contractions.
    """
    with exact_types(precision):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*types)
    tree = jax.tree.structure(shape)

    def call(run: Flat, *arguments: Any) -> Any:
        return jax.tree.unflatten(tree, run(jax.tree.leaves(arguments)))

    return runs(compile_traced(keep_wide(closed), call, *types, device=device, precision=precision), call)


def compile_traced(
    closed: ClosedJaxpr,
    call: Callable[..., Any],
    *types: Any,
    device: Device,
    precision: str = "highest",
    by: Callable[..., Any] = compiled,
) -> Routine:
    """Compile what is done with a traced function: as one with it, or in pieces where that is too long.

    Args:
        closed: The traced function.
        call: What is done with it: takes it, as a function of flat lists, and further arguments.
        types: Of these arguments.
        device: Where it runs.
        precision: Of contractions.
        by: What compiles.

    Returns:
        `call` of these arguments, or the function that is to be handed to it (see `runs`).
    """
    if len(closed.jaxpr.eqns) > WHOLE:
        return compile_pieces(closed, device=device, precision=precision, by=by)
    function = jaxpr_as_fun(closed)
    return by(partial(call, lambda arguments: function(*arguments)), *types, device=device, precision=precision)


def first_ones(function: Callable[[Any], Any], arrays: Any, count: Any, types: Any) -> Any:
    """A function of each of the first entries of arrays, as many as `count` says when it runs; the others are zeros.

    Args:
        function: Takes and gives pytrees of arrays.
        arrays: Pytree of arrays, whose first axis is that of the entries.
        count: How many to take.
        types: Of what the function gives.
    """
    leaves = jax.tree.leaves(arrays)
    traced = isinstance(count, Tracer)
    blank = jax.tree.map(lambda each: (jnp if traced else np).zeros((len(leaves[0]), *each.shape), each.dtype), types)

    def step(i: Any, found: Any) -> Any:
        one = function(jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, i, keepdims=False), arrays))
        return jax.tree.map(lambda whole, part: lax.dynamic_update_index_in_dim(whole, part, i, 0), found, one)

    if traced:
        return lax.fori_loop(0, count, step, blank)
    for i in range(int(count)):
        one = function(jax.tree.map(lambda array, i=i: np.asarray(array)[i], arrays))
        jax.tree.map(lambda whole, part, i=i: np.copyto(whole[i, ...], part), blank, one)
    return blank


def compile_pieces(
    closed: ClosedJaxpr, *, device: Device, precision: str = "highest", by: Callable[..., Any] = compiled
) -> Pieces:
    """Compile a traced function piece by piece.

    Args:
        closed: The traced function.
        device: Where it runs.
        precision: Of contractions.
        by: What compiles.
    """
    jaxpr, places = closed.jaxpr, _Places()
    pieces = tuple(_pieces(jaxpr, partial(by, device=device, precision=precision), places))
    return Pieces(
        pieces,
        dict(zip(places.of(jaxpr.constvars), map(np.asarray, closed.consts), strict=True)),
        places.of(jaxpr.invars),
        tuple(_settled(each) if isinstance(each, Literal) else places[each] for each in jaxpr.outvars),
    )


class _Places(dict[Any, int]):
    """A number for each variable."""

    def __missing__(self, var: Any) -> int:
        return self.setdefault(var, len(self))

    def of(self, variables: Iterable[Any]) -> tuple[int, ...]:
        return tuple(self[var] for var in variables)


def _settled(literal: Any) -> np.ndarray:
    return np.asarray(literal.val, type_of(literal).dtype)


def _pieces(jaxpr: Jaxpr, compile_: Callable[..., Any], places: _Places) -> Iterator[Piece]:
    readers = _last_readers(jaxpr)
    done: dict[Any, Any] = {}
    forms = Forms()
    for start, end in _spans(jaxpr.eqns):
        eqns = jaxpr.eqns[start:end]
        made = dict.fromkeys(var for eqn in eqns for var in eqn.outvars)
        reads = tuple(dict.fromkeys(var for var in _variables(eqns) if var not in made))
        gives = tuple(var for var in made if readers.get(var, -1) >= end)
        part = jaxpr.replace(constvars=[], invars=list(reads), eqns=eqns, outvars=list(gives))
        form = forms.of(part)
        if form not in done:
            types = [jax.ShapeDtypeStruct(type_of(var).shape, type_of(var).dtype) for var in reads]
            done[form] = compile_(jaxpr_as_fun(ClosedJaxpr(part, [])), *types)
        last = (var for var in reads if readers[var] < end)
        yield Piece(done[form], places.of(reads), places.of(gives), places.of(last))


def _variables(eqns: Sequence[JaxprEqn]) -> Iterator[Var]:
    return (var for eqn in eqns for var in eqn.invars if isinstance(var, Var))


def _last_readers(jaxpr: Jaxpr) -> dict[Var, int]:
    """The last equation that reads each value, by its place; the caller comes after all of them."""
    found = {var: place for place, eqn in enumerate(jaxpr.eqns) for var in _variables([eqn])}
    return {**found, **{var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, Var)}}


def _spans(eqns: Sequence[JaxprEqn]) -> Iterator[tuple[int, int]]:
    """Where pieces start and end.

    Of the places where a piece may end, the one is chosen whose equations have the smallest hash: in what repeats, the
    same one every time.
    """
    hashes, start = _hashes(eqns), 0
    while len(eqns) - start > LONGEST:
        end = min(range(start + SHORTEST, start + LONGEST + 1), key=lambda place: hashes[place - 1])
        yield start, end
        start = end
    yield start, len(eqns)


def _hashes(eqns: Sequence[JaxprEqn]) -> list[bytes]:
    """A hash of each equation and of those right before it: of their primitives and the types of their results."""
    told = [f"{eqn.primitive.name} {[str(var.aval) for var in eqn.outvars]}" for eqn in eqns]
    parts = ("\n".join(told[max(0, place - _WINDOW) : place]) for place in range(1, len(told) + 1))
    return [hashlib.blake2b(part.encode(), digest_size=8).digest() for part in parts]
