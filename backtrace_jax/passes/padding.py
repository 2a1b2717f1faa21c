"""Makes a border of zeros part of the convolution behind it (RULES section 13).

Rules that ask what a unit is connected to, such as flat and z-box, would otherwise hand relevance to the border.
"""

from __future__ import annotations

from dataclasses import replace

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting, rewritten


def fuse_padding(program: Program) -> Program:
    """conv(pad(x)) with zeros along the spatial axes becomes a convolution that pads x itself."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op == "conv":
        return _fused(rewriting, eqn)
    leads = eqn.op in ("cast", "transpose") and any(
        each.op == "conv" for each in rewriting.readers[eqn.outvars[0].name]
    )
    return _in_front(rewriting, eqn) if leads else None


def _fused(rewriting: Rewriting, conv: Eqn) -> Replacement:
    border = _border(rewriting, conv.invars[0])
    if border is None or any(border.params["low"][:2] + border.params["high"][:2]):
        return None
    sides = zip(conv.params["padding"], border.params["low"][2:], border.params["high"][2:], strict=True)
    padding = tuple((before + low, after + high) for (before, after), low, high in sides)
    invars = (border.invars[0], *conv.invars[1:])
    fused = replace(conv, invars=invars, params={**conv.params, "padding": padding})
    return _fused(rewriting, fused) or (fused,)


def _in_front(rewriting: Rewriting, move: Eqn) -> Replacement:
    """The border behind a transposition or a cast, next to the convolution that reads it."""
    border = _border(rewriting, move.invars[0])
    if border is None:
        return None
    moved = rewriting.equation(move, move.op, border.invars[0], name=f"{border.outvars[0].name}.inside", **move.params)
    value, fill = moved.outvars[0], border.invars[1]
    if fill.dtype != value.dtype:
        fill = rewriting.param(f"{fill.name}.fill", rewriting.weights[fill.name].astype(value.dtype))
    order = move.params["perm"] if move.op == "transpose" else range(len(value.shape))
    low, high = (tuple(border.params[side][axis] for axis in order) for side in ("low", "high"))
    return moved, rewriting.equation(move, "pad", value, fill, low=low, high=high)


def _border(rewriting: Rewriting, var: Var) -> Eqn | None:
    """The equation that puts a border of zeros around a value; None where there is none, or it cuts off as well."""
    eqn = rewriting.producers.get(var.name)
    if eqn is None or eqn.op != "pad" or rewriting.number(eqn.invars[1]) != 0:
        return None
    return eqn if min(*eqn.params["low"], *eqn.params["high"]) >= 0 else None
