"""The command line: `backtrace-jax explain | check | modes | show | export | demo`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 a mistake that the library can name, in one
line, or a model that `check` finds something missing in; 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .constants import ZERO
from .errors import BacktraceError, RelevanceWarning, SettingError
from .texts import printable

if TYPE_CHECKING:
    from .importers import Imported
    from .input_files import InputFile
    from .rules import Mode

LARGEST_SIDE = 2**14  # pixels, of a picture that is resized
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Raises:
        SystemExit: For a wrong command line (2), and after --help and --version (0).
    """
    with _open_streams():
        try:
            try:
                return _run(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader (`| head`) has seen enough
            _drop_output()
            return 0
        except OSError as error:
            _drop_output()
            _tell(f"error: cannot write the output: {error.strerror or error}")
            return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except BacktraceError as error:
        _tell(f"error: {' '.join(str(error).split())}")
        return 1
    except MemoryError:
        fewer = "smaller examples" if getattr(arguments, "chunk", None) == 1 else "fewer examples at a time: --chunk 1"
        _tell(f"error: there is not enough memory; explain {fewer}")
        return 1
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED


@contextmanager
def _open_streams() -> Iterator[None]:
    """Let streams that the caller has closed (`>&-`) lead nowhere; the first file opened would take their place."""
    with ExitStack() as stack:
        for name, redirect in (("stdout", redirect_stdout), ("stderr", redirect_stderr)):
            if getattr(sys, name) is None:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
        yield


def _drop_output() -> None:
    """Send what is still to be written nowhere: Python would complain once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(line: str) -> None:
    """A line on stderr, if there is anybody to read it."""
    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


def _explain(arguments: argparse.Namespace) -> int:
    from . import explain
    from .importers import read
    from .layout import axes_of, inputs_first

    _check_writable(arguments)
    model = read(arguments.model)
    file = _read_file(arguments.inputs, model, arguments)
    axes = axes_of(model, arguments.batch_axis)
    _check_example(inputs_first(file.inputs, [known.name for known in model.inputs], axes), arguments.example)
    baseline = _baseline(arguments, model)
    with _progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)
        explanation = explain(model, file.inputs, **_settings(arguments), baseline=baseline, progress=progress)
    for line in explanation.warnings:
        _tell(f"warning: {line}")
    _say(_report(explanation, arguments, file.feature_names))
    _write(explanation, arguments, file.feature_names)
    return 0


def _read_file(path: Path, model: Imported, arguments: argparse.Namespace) -> InputFile:
    from .input_files import Preparation, read_input_file

    prepared = Preparation(arguments.resize, arguments.size, arguments.mean, arguments.std)
    file = read_input_file(path, model.inputs, prepared)
    if file.note:
        _tell(f"note: {file.note}")
    if file.ignored:
        _tell(f"note: ignored in '{path}': {', '.join(file.ignored)}")
    return file


def _baseline(arguments: argparse.Namespace, model: Imported) -> Any:
    """The reference input: `zero`, or what a file holds."""
    if arguments.baseline in (None, ZERO):
        return arguments.baseline
    inputs = _read_file(Path(arguments.baseline), model, arguments).inputs
    names = (known.name for known in model.inputs)
    return dict(zip(names, inputs, strict=True)) if isinstance(inputs, tuple) else inputs


def _report(explanation: Any, arguments: argparse.Namespace, feature_names: Sequence[str] | None) -> str:
    from .report import terminal

    summary = terminal.summary(explanation, arguments.example, count=arguments.top, feature_names=feature_names)
    parts = [terminal.batch(explanation), summary]
    if explanation.layers:
        parts.append(terminal.layers(explanation, arguments.example))
    return "\n\n".join(parts)


def _check(arguments: argparse.Namespace) -> int:
    from . import check

    report = check(arguments.model, _example_inputs(arguments), mode=_mode(arguments), batch_axis=arguments.batch_axis)
    _say(str(report))
    return 0 if report.ok else 1


def _show(arguments: argparse.Namespace) -> int:
    from . import show

    _say(show(arguments.model, _example_inputs(arguments), batch_axis=arguments.batch_axis))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from .exporting import export, named
    from .input_files import load_arrays

    model = named(arguments.model) if ":" in arguments.model else Path(arguments.model)
    inputs = None if arguments.inputs is None else load_arrays(arguments.inputs)
    imported = export(model, arguments.file, inputs)
    _say("\n".join([f"written  {arguments.file}", *(f"{name}  {value}" for name, value in imported.origin.items())]))
    return 0


def _modes(arguments: argparse.Namespace) -> int:
    from .report.catalogue import catalogue

    _say(f"{catalogue()}\n\nexplain and check take --mode NAME, and --option NAME=VALUE for each option to change")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    run(arguments.out)
    return 0


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "task",
        "target",
        "against",
        "position",
        "output",
        "scaler",
        "thresholding",
        "class_axis",
        "layers",
        "wrt",
        "chunk",
        "batch_axis",
        "dtype",
        "precision",
        "prepare",
        "prove",
    )
    return {"mode": _mode(arguments), **{name: getattr(arguments, name) for name in names}}


def _mode(arguments: argparse.Namespace) -> Mode:
    from . import mode

    return mode(arguments.mode, **dict(arguments.option))


def _example_inputs(arguments: argparse.Namespace) -> Any:
    if arguments.inputs is None:
        return None
    from .importers import read
    from .input_files import read_input_file

    return read_input_file(arguments.inputs, read(arguments.model).inputs).inputs


def _check_writable(arguments: argparse.Namespace) -> None:
    """Find out that a result could not be written before it is computed, not after."""
    for path in (arguments.out, arguments.plot):
        if path is not None and not path.parent.is_dir():
            raise SettingError(f"cannot write '{path}': there is no folder '{path.parent}'; create it first")
    if arguments.plot is not None:
        from .report.pictures import picture_format

        picture_format(arguments.plot)


def _check_example(inputs: Any, example: int) -> None:
    """Find out that the example to report does not exist before the whole batch is explained for it."""
    arrays = list(inputs.values()) if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else [inputs]
    counts = [len(array) for array in arrays if array.ndim]
    if counts and counts[0] and not -counts[0] <= example < counts[0]:
        raise SettingError(f"there is no example {example}: the inputs hold {counts[0]}, numbered from 0")


def _write(explanation: Any, arguments: argparse.Namespace, feature_names: Sequence[str] | None) -> None:
    if arguments.out or arguments.plot:
        _say("")
    if arguments.out is not None:
        explanation.save(arguments.out)
        _say(f"explanation  {arguments.out}")
    if arguments.plot is not None:
        explanation.plot(arguments.example, feature_names=feature_names, path=arguments.plot)
        _say(f"picture      {arguments.plot}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, when tqdm is installed, for batches that take more than a second."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc="explaining", unit=" examples", delay=1.0, leave=False, disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    shown = "\n".join(map(printable, text.split("\n")))
    print(shown.encode(encoding, "backslashreplace").decode(encoding))


def _target(text: str) -> int | list[int] | tuple[int, ...]:
    """Read `3` (for all examples), `3,1,4` (one per example) or `(5, 1023)` (an index into the output's axes)."""
    text = text.strip()
    if text.startswith("("):
        return tuple(_whole_numbers(text.removeprefix("(").removesuffix(")")))
    return _per_example(text)


def _per_example(text: str) -> int | list[int]:
    """Read `3` (for all examples) or `3,1,4` (one per example)."""
    numbers = _whole_numbers(text)
    return numbers if "," in text else numbers[0]


def _whole_numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number (3) nor several (3,1,4)")
    return numbers


def _option(text: str) -> tuple[str, Any]:
    """Read `gamma=0.25`, `low=-1,-1,-1` or `bias=keep`."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as gamma=0.25")
    try:
        numbers = tuple(map(_number, value.split(",")))
    except ValueError:
        return name.strip(), value.strip()
    return name.strip(), numbers if "," in value else numbers[0]


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _scaler(text: str) -> float | None:
    try:
        return None if text.lower() == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def _whole(text: str) -> int:
    return -_natural(text[1:]) if text.startswith("-") else _natural(text)


def _picture_size(text: str) -> tuple[int, int]:
    """Read `224`, or `320x240` (width, height)."""
    width, _, height = text.lower().partition("x")
    size = _natural(width), _natural(height or width)
    if 0 in size or max(size) > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a picture from 1 to {LARGEST_SIDE}")
    return size


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or several: 0.485,0.456,0.406") from None


def _batch_axis(text: str) -> Any:
    """Read `1` (for all inputs), `none` (no batch) or `h=1,s=none` (by input; the others have it first)."""
    if "=" not in text:
        return _axis(text)
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(name.strip() for name, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AXIS, such as h=1,s=none")
    return {name.strip(): _axis(axis) for name, _, axis in pairs}


def _axis(text: str) -> int | None:
    try:
        return None if text.strip().lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an axis (1) nor 'none'; by input: h=1,s=none") from None


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _version() -> str:
    try:
        return version("backtrace-jax")
    except PackageNotFoundError:
        return "unknown (not installed)"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a line of its own, and where all options are listed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """As inherited, which would hide that nothing could be written."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message}; usage: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="backtrace-jax",
        description="Why did the network answer that? Relevance of every input, for any ONNX model.",
    )
    parser.add_argument("--version", action="version", version=f"backtrace-jax {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_explain(commands)
    check = _add_model_command(commands, "check", _check, "say whether everything in a model can be explained")
    _add_mode(check, "the mode to look for rules in")
    modes = commands.add_parser("modes", help="list the modes: what each does, where it is published, its options")
    modes.set_defaults(command=_modes)
    _add_model_command(commands, "show", _show, "print the graph that is explained")
    _add_export(commands)
    demo = commands.add_parser("demo", help="explain two small models that are shipped, and draw pictures")
    demo.set_defaults(command=_demo)
    demo.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("backtrace-jax-demo"), help="folder (%(default)s)"
    )
    return parser


def _add_model_command(commands: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(command=command)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("inputs", metavar="INPUTS", type=Path, nargs="?", help="example inputs, for sizes left open")
    _add_batch_axis(added)
    return added


def _add_batch_axis(group: Any) -> None:
    group.add_argument(
        "--batch-axis",
        metavar="AXIS",
        type=_batch_axis,
        default=0,
        help="axis of the batch in the inputs, or none; by input: h=1,s=none, where none is shared by all (0)",
    )


def _add_export(commands: Any) -> None:
    text = "write the ONNX file of a PyTorch module or a Keras model, proven to compute the same"
    added = commands.add_parser("export", help=text, description=text)
    added.set_defaults(command=_export)
    added.add_argument("model", metavar="MODEL", help="Keras file, or package.module:name of a model or its maker")
    added.add_argument("file", metavar="FILE.onnx", type=Path, help="file to write")
    added.add_argument("inputs", metavar="INPUTS", type=Path, nargs="?", help=".npy or .npz (by name), to prove it on")


def _add_explain(commands: Any) -> None:
    text = "explain a model's answers: prediction, most relevant inputs and ledger of one example, files for all"
    added = commands.add_parser("explain", help="explain a model's answers", description=text)
    added.set_defaults(command=_explain)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("inputs", metavar="INPUTS", type=Path, help=".npy, .npz (by input name), .csv, .tsv or picture")
    _add_settings(added.add_argument_group("what is explained, and how"))
    report = added.add_argument_group("what comes out")
    report.add_argument("--example", type=_whole, default=0, help="example to print and draw (%(default)s)")
    report.add_argument("--top", type=_natural, default=10, help="input values to list (%(default)s)")
    report.add_argument("--out", metavar="FILE.npz", type=Path, help="save the explanation of all examples")
    report.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the example; also .pdf, .svg, ...")


def _add_mode(group: Any, text: str) -> None:
    group.add_argument("--mode", default="default", help=f"{text} (%(default)s); 'backtrace-jax modes' lists them")
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        type=_option,
        action="append",
        default=[],
        help="an option of the mode: gamma=0.1, bias=ignore, low=-1,-1,-1; may be given several times",
    )


def _add_settings(group: Any) -> None:
    _add_mode(group, "rules that share relevance out")
    group.add_argument("--task", default="auto", help="kind of answer: classification, regression, ... (%(default)s)")
    group.add_argument("--target", type=_target, help="class: 3, one per example: 3,1,4, or index: '(5, 1023)'")
    group.add_argument("--against", type=_per_example, help="class that the target is contrasted with: 5, or 5,3,1")
    group.add_argument("--position", type=_per_example, help="position in a sequence: 7, -1 for the last, or 7,9,4")
    group.add_argument("--output", metavar="NAME", help="output to explain (the first)")
    group.add_argument(
        "--scaler", type=_scaler, default=1.0, help="total relevance, or none: the output's own value (1)"
    )
    group.add_argument("--thresholding", type=float, default=0.5, help="threshold of segmentation masks (%(default)s)")
    group.add_argument("--class-axis", type=_whole, help="axis of the classes where the graph does not tell: 1, or -1")
    group.add_argument(
        "--baseline", metavar="FILE|zero", help="reference input: one example, or examples whose mean it is (zero)"
    )
    group.add_argument("--layers", metavar="NAME", nargs="+", help="also keep relevance of these values or modules")
    group.add_argument("--wrt", metavar="NAME", nargs="+", help="only these inputs bear relevance")
    _add_batch_axis(group)
    group.add_argument("--chunk", type=_natural, help="examples per compiled call")
    group.add_argument("--dtype", default="float32", help="float32, or float64 for audits (%(default)s)")
    group.add_argument("--precision", default="highest", help="of contractions (%(default)s)")
    group.add_argument(
        "--prepare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep what rules make of the weights: faster, more memory (%(default)s)",
    )
    group.add_argument("--prove", default="every", help="when a Keras model is run beside: every call, or first")
    group.add_argument("--resize", action="store_true", help="resize a picture to the size that the model takes")
    group.add_argument("--size", type=_picture_size, help="resize a picture to 224, or to 320x240")
    group.add_argument("--mean", type=_numbers, default=(0.0,), help="taken from a picture: 0.485,0.456,0.406 (0)")
    group.add_argument("--std", type=_numbers, default=(1.0,), help="that it is divided by: 0.229,0.224,0.225 (1)")


if __name__ == "__main__":
    sys.exit(main())
