"""Gives every argument of every public function values of every type, and prints those not answered by name.

A program of its own: in the tests' process types are checked as functions are called. What a setting accepts is not
computed here, so that nothing is compiled.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

import backtrace_jax
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.explainer.questions import LISTS
from backtrace_jax.question.settings import Settings

LONGEST = 1000


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nested(levels: int) -> list:
    return [] if levels == 0 else [nested(levels - 1)]


def wrong_values(folder: Path) -> dict[str, Any]:
    return {
        **{repr(value): value for value in (None, True, -1, 0, 1.5, 2**40, "", [], {}, (), b"x", 1j, ..., int)},
        **{text: float(text) for text in ("nan", "inf", "1e-310")},
        "10**400": 10**400,
        "-10**5000": -(10**5000),
        "[10**400]": [10**400],
        "{'x': 10**400}": {"x": 10**400},
        "long": "x" * 10**6,
        "control": "\x1b[31m\n\0\u202e",
        "surrogate": "\ud800",
        "strings": ["\ud800"],
        "object": object(),
        "no repr": Unshowable(),
        "deep": nested(900),
        "[None]": [None],
        "keys": {None: None},
        "lambda": lambda: None,
        "set": {1, 2},
        "generator": (i for i in range(2)),
        "array": np.zeros(3),
        "scalar": np.zeros(()),
        "whole": np.array([0, 1]),
        "bool": np.bool_(True),
        "objects": np.array([{}, None], object),
        "texts": np.array(["a", "b"]),
        "masked": np.ma.masked_all(3),
        "folder": folder,
        "missing": folder / "missing.npz",
        "locked": folder / "locked",
    }


def model() -> Any:
    x, y = (helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 3), ("y", 4)))
    weights = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "W")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "small", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def calls(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Every argument, as what is done with a value of it."""
    small, inputs = model(), np.ones((2, 3), np.float32)
    explainer = backtrace_jax.Explainer(small)
    found = explainer(inputs)
    found_calls: dict[str, Callable[[Any], Any]] = {
        f"Explainer({each.name}=)": lambda v, name=each.name: backtrace_jax.Explainer(small, **{name: v})
        for each in fields(Settings)
    }
    found_calls |= {
        f"explainer({each.name}=)": lambda v, name=each.name: explainer(inputs, **{name: v})
        for each in fields(Asked)
        if each.name != "progress"  # its own errors are the user's
    }
    for name, entry in backtrace_jax.MODES.items():
        bounds = {"low": 0, "high": 1} if "low" in entry.defaults else {}
        found_calls |= {
            f"mode({name}, {option}=)": lambda v, n=name, o=option, b=bounds: backtrace_jax.mode(n, **{**b, o: v})
            for option in entry.defaults
        }
    plots = ("example", "input", "feature_names", "tokens", "path")
    found_calls |= {f"plot({name}=)": lambda v, name=name: found.plot(**{name: v}) for name in plots}
    return found_calls | {
        "explain": lambda v: backtrace_jax.explain(v, inputs),
        "inputs": explainer,
        "each": lambda v: explainer.each(inputs, v),
        **{f"each({name}=)": lambda v, name=name: explainer.each(inputs, **{name: v}) for name in LISTS},
        **{f"each([{name}])": lambda v, name=name: explainer.each(inputs, **{name: [v]}) for name in LISTS},
        "check": backtrace_jax.check,
        "check(inputs)": lambda v: backtrace_jax.check(small, v),
        "check(mode=)": lambda v: backtrace_jax.check(small, mode=v),
        "check(batch_axis=)": lambda v: backtrace_jax.check(small, batch_axis=v),
        "show": backtrace_jax.show,
        "show(inputs)": lambda v: backtrace_jax.show(small, v),
        "mode": backtrace_jax.mode,
        "composite(name)": lambda v: backtrace_jax.composite(v, []),
        "composite(rules)": lambda v: backtrace_jax.composite("mine", v),
        "composite(base=)": lambda v: backtrace_jax.composite("mine", [], base=v),
        "export": lambda v: backtrace_jax.export(v, folder / "exported.onnx"),
        "export(path)": lambda v: backtrace_jax.export(small, v),
        "save": found.save,
        "load": backtrace_jax.Explanation.load,
    }


def complaint(call: Callable[[Any], Any], value: Any) -> str:
    """What is wrong with how a value is answered; nothing where it is accepted or refused by name."""
    try:
        call(value)
    except backtrace_jax.BacktraceError as error:
        return f"{len(str(error))} characters" if len(str(error)) >= LONGEST else ""
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}"
    return ""


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    (folder / "locked").write_bytes(b"")
    (folder / "locked").chmod(0)
    count = 0
    for name, call in calls(folder).items():
        for described, value in wrong_values(folder).items():
            count += 1
            if found := complaint(call, value):
                print(f"{name} {described}: {found}")
    print(f"{count} values")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
