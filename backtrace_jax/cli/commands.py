"""The commands: each takes the parsed arguments and returns an exit code."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backtrace_jax
from backtrace_jax.errors import BacktraceError, RelevanceWarning, SettingError
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.question.constants import ZERO
from backtrace_jax.question.settings import Settings
from backtrace_jax.sources import Reading
from backtrace_jax.sources.reading import REST

from .streams import long_progress, progress, say, tell
from .values import TORCH

if TYPE_CHECKING:
    from backtrace_jax.ir.imported import Imported
    from backtrace_jax.rules import Mode

    from .input_files import InputFile


SOME_FAILED = 3
"""Exit code of a run that is finished, where examples could not be explained."""

_FAILED_SHOWN = 5


def explain(arguments: argparse.Namespace) -> int:
    """Explain a batch; print one example, write files for all."""
    from backtrace_jax.batch.layout import axes_of, inputs_first
    from backtrace_jax.importers import read

    _check_writable(arguments)
    model = read(arguments.model)
    file = _read_file(arguments.inputs, model, arguments)
    axes = axes_of(model, arguments.batch_axis)
    _check_example(inputs_first(file.inputs, [known.name for known in model.inputs], axes), arguments.example)
    asked = _settings(arguments) | {"baseline": _baseline(arguments, model)}
    with progress() as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)
        explanation = backtrace_jax.explain(model, file.inputs, **asked, progress=advance)
    for line in explanation.warnings:
        tell(f"warning: {line}")
    say(_report(explanation, arguments, file.feature_names))
    _write(explanation, arguments, file.feature_names)
    return 0


def _read_file(path: Path, model: Imported, arguments: argparse.Namespace) -> InputFile:
    from backtrace_jax.sources.reading import Reading

    from .input_files import read_input_file

    asked = Reading(resize=arguments.resize, size=arguments.size, mean=arguments.mean, std=arguments.std)
    file = read_input_file(path, model.inputs, asked)
    if file.note:
        tell(f"note: {file.note}")
    if file.ignored:
        tell(f"note: ignored in '{path}': {', '.join(file.ignored)}")
    return file


def _baseline(arguments: argparse.Namespace, model: Imported) -> Any:
    """The reference input: `zero`, or what a file holds."""
    if arguments.baseline in (None, ZERO):
        return arguments.baseline
    inputs = _read_file(Path(arguments.baseline), model, arguments).inputs
    names = (known.name for known in model.inputs)
    return dict(zip(names, inputs, strict=True)) if isinstance(inputs, tuple) else inputs


def _report(explanation: Any, arguments: argparse.Namespace, feature_names: Sequence[str] | None) -> str:
    from backtrace_jax.explanation import terminal

    summary = terminal.summary(explanation, arguments.example, count=arguments.top, feature_names=feature_names)
    parts = [terminal.batch(explanation), summary]
    if explanation.layers:
        parts.append(terminal.layers(explanation, arguments.example))
    return "\n\n".join(parts)


def check(arguments: argparse.Namespace) -> int:
    """Say whether everything in a model can be explained."""
    inputs, mode = _example_inputs(arguments), _mode(arguments)
    report = backtrace_jax.check(arguments.model, inputs, mode=mode, batch_axis=arguments.batch_axis)
    say(str(report))
    return 0 if report.ok else 1


def show(arguments: argparse.Namespace) -> int:
    """Print the graph that is explained."""
    say(backtrace_jax.show(arguments.model, _example_inputs(arguments), batch_axis=arguments.batch_axis))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write an ONNX file."""
    from backtrace_jax.explainer.exporting import export, named

    from .input_files import load_arrays

    model = named(arguments.model) if ":" in arguments.model else Path(arguments.model)
    inputs = None if arguments.inputs is None else load_arrays(arguments.inputs)
    imported = export(model, arguments.file, inputs)
    say("\n".join([f"written  {arguments.file}", *(f"{name}  {value}" for name, value in imported.origin.items())]))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Explain a whole dataset into a folder."""
    asked = _settings(arguments) | _reading(arguments)
    if arguments.baseline not in (None, ZERO):
        from backtrace_jax.importers import read

        asked["baseline"] = _baseline(arguments, read(arguments.model))
    asked |= {name: getattr(arguments, name) for name in ("carry", "reduce", "store_dtype", "on_error", "cluster")}
    with long_progress(_stored(arguments.out)) as advance:
        found = backtrace_jax.explain_dataset(
            arguments.model, arguments.source, arguments.out, **asked, progress=advance
        )
    failed = found.failed
    lines = [f"store        {arguments.out}", f"failed       {len(failed)} of {len(found)}"]
    lines += [f"  example {index}: {why}" for index, why in [*failed.items()][:_FAILED_SHOWN]]
    say("\n".join([*lines, "", str(found.summary())]))
    return SOME_FAILED if failed else 0


def _stored(path: Path) -> int:
    """Examples that a store holds already."""
    try:
        return int((backtrace_jax.Run(path).status > 0).sum())
    except BacktraceError:
        return 0  # there is none yet; what is wrong with it is said by the call


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the source is read, from the options of the same names."""
    found = {field.name: getattr(arguments, field.name) for field in fields(Reading)}
    given = dict(found["columns"] or ())
    if len(given) != len(found["columns"] or ()) or (None in given and len(given) > 1):
        raise SettingError("--columns: give one list, or name the input of each: x=age,income mask=valid")
    ignore = REST if [*found["ignore"]] == [REST] else found["ignore"]
    return found | {"columns": given.get(None, given or None), "ignore": ignore}


def verify(arguments: argparse.Namespace) -> int:
    """Explain once more in every way that must not matter, and compare."""
    from backtrace_jax.importers import read

    model, given = read(arguments.model), arguments.against
    rivals = [each for each in given if each != TORCH]
    if len(rivals) > 1:
        raise SettingError("--against names the contrasted class more than once")
    asked = _settings(arguments) | {"baseline": _baseline(arguments, model), "against": rivals[0] if rivals else None}
    inputs = _read_file(arguments.inputs, model, arguments).inputs
    compare_with = TORCH if TORCH in given else None
    found = backtrace_jax.verify(
        arguments.model, inputs, compare_with=compare_with, told=lambda each: say(str(each)), **asked
    )
    say(found.conclusion)
    return 0 if found.ok else 1


def modes(arguments: argparse.Namespace) -> int:
    """List the modes."""
    from .catalogue import catalogue

    say(f"{catalogue()}\n\nexplain and check take --mode NAME, and --option NAME=VALUE for each option to change")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from backtrace_jax.demo import run

    run(arguments.out)
    return 0


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `explain` is asked, from the options of the same names."""
    names = {field.name for kind in (Settings, Asked) for field in fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names} | {"mode": _mode(arguments)}


def _mode(arguments: argparse.Namespace) -> Mode:
    return backtrace_jax.mode(arguments.mode, **dict(arguments.option))


def _example_inputs(arguments: argparse.Namespace) -> Any:
    if arguments.inputs is None:
        return None
    from backtrace_jax.importers import read

    from .input_files import read_input_file

    return read_input_file(arguments.inputs, read(arguments.model).inputs).inputs


def _check_writable(arguments: argparse.Namespace) -> None:
    """Find out that a result could not be written before it is computed, not after."""
    for path in (arguments.out, arguments.plot):
        if path is not None and not path.parent.is_dir():
            raise SettingError(f"cannot write '{path}': there is no folder '{path.parent}'; create it first")
    if arguments.plot is not None:
        from backtrace_jax.explanation.pictures import picture_format

        picture_format(arguments.plot)


def _check_example(inputs: Any, example: int) -> None:
    """Find out that the example to report does not exist before the whole batch is explained for it."""
    arrays = list(inputs.values()) if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else [inputs]
    counts = [len(array) for array in arrays if array.ndim]
    if counts and counts[0] and not -counts[0] <= example < counts[0]:
        raise SettingError(f"there is no example {example}: the inputs hold {counts[0]}, numbered from 0")


def _write(explanation: Any, arguments: argparse.Namespace, feature_names: Sequence[str] | None) -> None:
    if arguments.out or arguments.plot:
        say("")
    if arguments.out is not None:
        explanation.save(arguments.out)
        say(f"explanation  {arguments.out}")
    if arguments.plot is not None:
        explanation.plot(arguments.example, feature_names=feature_names, path=arguments.plot)
        say(f"picture      {arguments.plot}")
