"""Modules that change their mind: by the values of their inputs, or because their owner edits them between calls."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

GLOBAL = [2.0]


def examples(rows: int = 3, features: int = 4) -> torch.Tensor:
    """Rows whose sum is positive; of the negated ones it is negative."""
    return torch.tensor(np.random.default_rng(0).normal(0.2, 1, (rows, features)).astype(np.float32))


class Two(nn.Module):
    """Two layers; what is done with them is decided elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Branch(Two):
    def forward(self, x):
        return self.first(x) if x.sum() > 0 else self.second(x).tanh()


class EarlyExit(Two):
    def forward(self, x):
        hidden = self.first(x)
        if bool(hidden.softmax(-1).max() > 0.5):
            return hidden
        return self.second(hidden.tanh())


class While(Two):
    def forward(self, x):
        while x.norm() < 10:
            x = 1.5 * x + self.first(x)
        return x


class Times(Two):
    def forward(self, x):
        for _ in range(int(x.abs().max())):
            x = x + self.first(x).tanh()
        return x


class RowByRow(Two):
    def forward(self, x):
        return torch.stack([self.first(row) if row[0] > 0 else self.second(row) for row in x])


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ways = nn.ModuleDict({"True": nn.Linear(4, 3), "False": nn.Sequential(nn.Linear(4, 3), nn.Tanh())})

    def forward(self, x):
        return self.ways[str((x.mean() > 0).item())](x)


class Cond(Two):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.first(x), lambda x: self.second(x).tanh(), (x,))


class Mixed(Two):
    """Takes the mean of the batch away, and then goes the way that a value says."""

    def forward(self, x):
        x = x - x.mean(0)
        return self.first(x) if x[0, 0].item() > 0 else self.second(x)


class Kept(nn.Module):
    """What it keeps of a row is a length that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Two().first

    def forward(self, x, lengths):
        parts = [row[:length].sum() * row for row, length in zip(x, lengths.tolist(), strict=True)]
        return self.first(torch.stack(parts))


class ThroughNumpy(Two):
    def forward(self, x):
        return self.first(x) if np.median(x.detach().numpy()) > 0 else self.second(x)


class Recursive(Two):
    def forward(self, x):
        return x if x.abs().sum() > 40 else self.forward(1.7 * x + 0.1 * self.first(x))


class Chosen(nn.Module):
    """One expert for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 3), each) for each in (nn.Tanh(), nn.Sigmoid(), nn.ReLU())
        )

    def forward(self, x):
        return self.experts[x.mean(0)[:3].argmax().item()](x)


class Caught(Two):
    """Its branches are exceptions."""

    def forward(self, x):
        try:
            assert x.sum() > 0
            return self.first(x)
        except AssertionError:
            return self.second(x).tanh()


class Sorted(Two):
    """Whether anything equals what it was."""

    def forward(self, x):
        return self.first(x) if torch.equal(x, x.abs()) else self.second(x).tanh()


BY_VALUES: dict[str, tuple[Callable[[], nn.Module], list[Any]]] = {
    "branch": (Branch, [examples(), -examples(), 2 * examples(2)]),
    "early exit": (EarlyExit, [examples(), 4 * examples()]),
    "while": (While, [examples(), 4 * examples()]),
    "number of steps": (Times, [examples(), 2.5 * examples()]),
    "row by row": (RowByRow, [examples(), examples().flip(0), -examples(1)]),
    "dictionary": (Dictionary, [examples(), -examples()]),
    "lengths": (Kept, [(examples(), torch.tensor([1, 2, 4])), (examples(), torch.tensor([3, 3, 1]))]),
    "numpy": (ThroughNumpy, [examples(), -examples()]),
    "recursion": (Recursive, [examples(), 9 * examples()]),
    "expert": (Chosen, [examples(), examples().flip(1)]),
    "exception": (Caught, [examples(), -examples()]),
    "equal": (Sorted, [examples().abs(), examples()]),
}
"""A module, and inputs that take it different ways."""


@dataclass
class Options:
    """Settings in an object."""

    power: float = 2.0


class Setting(Two):
    """Reads what its owner may set, wherever that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.steps, self.table, self.options = 0.5, [0.1, 0.2], {"shift": 0.5}, Options()
        self.array, self.names, self.space = (
            np.ones(4, np.float32),
            {"tanh"},
            types.SimpleNamespace(deep={"factor": 1.0}),
        )
        self.register_buffer("mask", torch.ones(4))

    def forward(self, x):
        x = self.first(x * self.mask) * self.scale + self.table["shift"]
        for step in self.steps:
            x = x + step * x.sin()
        x = x.tanh() if "tanh" in self.names else x.sigmoid()
        return x * self.options.power * torch.from_numpy(self.array) * self.space.deep["factor"]


class Global(Two):
    def forward(self, x):
        return self.first(x) * GLOBAL[0]


class Shared:
    """Settings that any module may read."""

    power = 0.5


SHARED = Shared()
VARIABLE = "BACKTRACE_JAX_TEST_POWER"


class OfClass(Two):
    """A unit of it is so large that nothing shows of the others beside it."""

    def forward(self, x):
        return self.first(x).tanh() * torch.tensor([1e5, self.power(), 1.0, 1.0])

    def power(self):
        return Shared.power


class OfObject(OfClass):
    def power(self):
        return next(SHARED.power for _ in range(1))


class OfEnvironment(OfClass):
    def power(self):
        return float(os.environ.get(VARIABLE, "0.5"))


def _set_variable(_: Any) -> None:
    os.environ[VARIABLE] = "0.7"


class Closed(nn.Module):
    """Its function was made elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = [3.0]
        self.function = self._made(self.factor)

    def _made(self, factor):
        return lambda x: x.tanh() * factor[0]

    def forward(self, x):
        return self.function(x)


def _with_grad_off(edit: Callable[[Any], None]) -> Callable[[Any], None]:
    def edited(module: Any) -> None:
        with torch.no_grad():
            edit(module)

    return edited


def _patched_class(module: Any) -> None:
    type(module).forward = lambda self, x: self.first(x).sigmoid()


def _patched_instance(module: Any) -> None:
    module.forward = lambda x: module.first(x).sigmoid()


def _one_weight_unseen(module: Any) -> None:
    """Outputs on examples without the first feature stay the same; the gradient does not."""
    module.first.weight[:, 0] += 1.0


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


def _own(base: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: type(base.__name__, (base,), {})()


EDITS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "weights": (Two, _with_grad_off(lambda m: m.first.weight.mul_(2))),
    "weights by data": (Two, lambda m: m.first.weight.data.mul_(2)),
    "weight that is not seen": (Two, _with_grad_off(_one_weight_unseen)),
    "parameter": (Two, lambda m: setattr(m.second, "bias", nn.Parameter(torch.ones(4)))),
    "layer": (Two, lambda m: setattr(m, "second", nn.Sequential(nn.Linear(4, 3), nn.ReLU()))),
    "state": (Two, lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()})),
    "hook": (Two, lambda m: m.first.register_forward_hook(lambda part, given, found: found + 1)),
    "parametrization": (Two, lambda m: parametrize.register_parametrization(m.first, "weight", Doubling())),
    "instance": (Two, _patched_instance),
    "class": (_own(Two), _patched_class),
    "number": (Setting, lambda m: setattr(m, "scale", 0.7)),
    "list": (Setting, lambda m: m.steps.append(0.5)),
    "dictionary": (Setting, lambda m: m.table.update(shift=1.5)),
    "dataclass": (Setting, lambda m: setattr(m.options, "power", 3.0)),
    "array": (Setting, lambda m: m.array.__setitem__(0, 5.0)),
    "set": (Setting, lambda m: m.names.clear()),
    "namespace": (Setting, lambda m: m.space.deep.update(factor=2.0)),
    "buffer": (Setting, lambda m: m.mask.__setitem__(1, 0.0)),
    "global": (Global, lambda m: GLOBAL.__setitem__(0, GLOBAL[0] + 1)),
    "setting of a class": (OfClass, lambda m: setattr(Shared, "power", 0.6)),
    "setting of an object": (OfObject, lambda m: setattr(SHARED, "power", 0.7)),
    "environment": (OfEnvironment, _set_variable),
    "closure": (Closed, lambda m: m.factor.__setitem__(0, 4.0)),
    "function": (Closed, lambda m: setattr(m, "function", torch.sigmoid)),
}
"""A module, and what its owner does to it between two calls."""
