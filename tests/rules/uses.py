"""Every specimen in every role: which of its operands bear relevance, and whether an activation saturates behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Plan
from backtrace_jax.ops import LINEAR, OPS, POINTWISE, PRODUCT, QUOTIENT
from backtrace_jax.rules import MODES, Mode, find_mode, mode
from tests.ops.specimens import SPECIMENS, Specimen, of_kind
from tests.rules.cases import entries, nonzero
from tests.rules.running import DOUBLE, Walked, walk_back


@dataclass(frozen=True)
class Use:
    """A specimen with some of its inputs bearing relevance, and an activation behind it."""

    name: str
    specimen: Specimen
    wrt: tuple[str, ...]
    activation: str | None = None

    def walk(
        self,
        inputs: Mapping[str, np.ndarray],
        R: np.ndarray,
        mode: str | Mode = "default",
        reference: Mapping[str, np.ndarray] | None = None,
    ) -> Walked:
        """Relevance of the inputs, in the float type of R."""
        program = self.specimen.program(R.dtype, activation=self.activation)
        return walk_back(program, inputs, R, wrt=self.wrt, mode=mode, reference=reference)

    def plan(self, mode: str | Mode = "default") -> Plan:
        """The walk, planned but not run."""
        graph = self.specimen.program(DOUBLE, activation=self.activation).graph
        return plan_walk(graph, find_mode(mode), graph.outputs[0], self.wrt)

    def draw(self, generator: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs with zeros among them, save in denominators, and relevance of both signs."""
        inputs = {key: entries(generator, shape) for key, shape in self.specimen.inputs.items()}
        if OPS[self.specimen.op].kind == QUOTIENT:
            inputs["x1"] = nonzero(generator, inputs["x1"].shape)
        return inputs, generator.normal(size=self.specimen.program(DOUBLE).graph.outputs[0].shape)

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, *self.wrt, self.activation)))


def uses_of(name: str) -> list[Use]:
    """All operands bear relevance; only one of them does; only the first, and an activation saturates."""
    specimen, op = SPECIMENS[name], OPS[SPECIMENS[name].op]
    carried = tuple(key for key in specimen.inputs if op.carries(int(key[1:])))
    alone = [Use(name, specimen, (key,)) for key in carried]
    gated = [Use(name, specimen, carried[:1], "tanh")] if op.kind in (LINEAR, PRODUCT) else []
    if "bias" in name:
        return [*alone[:1], *gated]
    together = [Use(name, specimen, carried)] if len(carried) > 1 and op.kind != QUOTIENT else []
    return [*together, *alone, *gated]


_ALIKE = {*of_kind(POINTWISE)} - {"relu", "prelu"}
USES = [use for name in SPECIMENS if name not in _ALIKE for use in uses_of(name)]
"""Without most of the pointwise operations, which all have one and the same rule."""


def conserving_modes() -> list[Mode]:
    """Every mode of the catalogue that keeps books; input bounds are narrower than the inputs drawn."""
    made = [mode(name, **({"low": -0.5, "high": 0.5} if "low" in MODES[name].defaults else {})) for name in MODES]
    return [each for each in made if each.conserving]


def told_apart(uses: Sequence[Use], modes: Sequence[Mode]) -> list[tuple[Use, Mode]]:
    """Each use with one mode for every way in which these modes treat it."""
    found = {
        (str(use), mode.paired, *(step.rule for step in use.plan(mode).steps)): (use, mode)
        for use in uses
        for mode in reversed(modes)
    }
    return list(found.values())
