"""The parser of the command line: every command and option, with its help."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import commands
from .values import (
    batch_axis,
    columns,
    devices,
    ledger,
    lengths,
    natural,
    numbers,
    option,
    or_column,
    per_example,
    picture_size,
    rival,
    scaler,
    target,
    whole,
)


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


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = _Parser(
        prog="backtrace-jax",
        description="Why did the network answer that? Relevance of every input, for any ONNX model.",
    )
    parser.add_argument("--version", action="version", version=f"backtrace-jax {_version()}")
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_explain(added)
    check = _add_model_command(added, "check", commands.check, "say whether everything in a model can be explained")
    _add_mode(check, "the mode to look for rules in")
    modes = added.add_parser("modes", help="list the modes: what each does, where it is published, its options")
    modes.set_defaults(command=commands.modes)
    _add_model_command(added, "show", commands.show, "print the graph that is explained")
    _add_export(added)
    _add_run(added)
    _add_verify(added)
    demo = added.add_parser("demo", help="explain two small models that are shipped, and draw pictures")
    demo.set_defaults(command=commands.demo)
    demo.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("backtrace-jax-demo"), help="folder (%(default)s)"
    )
    return parser


def _add_model_command(group: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    added = group.add_parser(name, help=text, description=text)
    added.set_defaults(command=command)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("inputs", metavar="INPUTS", type=Path, nargs="?", help="example inputs, for sizes left open")
    _add_batch_axis(added)
    return added


def _add_batch_axis(group: Any) -> None:
    group.add_argument(
        "--batch-axis",
        metavar="AXIS",
        type=batch_axis,
        default=0,
        help="axis of the batch in the inputs, or none; by input: h=1,s=none, where none is shared by all (0)",
    )


def _add_export(group: Any) -> None:
    text = "write the ONNX file of a PyTorch module or a Keras model, proven to compute the same"
    added = group.add_parser("export", help=text, description=text)
    added.set_defaults(command=commands.export)
    added.add_argument("model", metavar="MODEL", help="Keras file, or package.module:name of a model or its maker")
    added.add_argument("file", metavar="FILE.onnx", type=Path, help="file to write")
    added.add_argument("inputs", metavar="INPUTS", type=Path, nargs="?", help=".npy or .npz (by name), to prove it on")


def _add_explain(group: Any) -> None:
    text = "explain a model's answers: prediction, most relevant inputs and ledger of one example, files for all"
    added = group.add_parser("explain", help="explain a model's answers", description=text)
    added.set_defaults(command=commands.explain)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("inputs", metavar="INPUTS", type=Path, help=".npy, .npz (by input name), .csv, .tsv or picture")
    _add_settings(added.add_argument_group("what is explained, and how"))
    report = added.add_argument_group("what comes out")
    report.add_argument("--example", type=whole, default=0, help="example to print and draw (%(default)s)")
    report.add_argument("--top", type=natural, default=10, help="input values to list (%(default)s)")
    report.add_argument("--out", metavar="FILE.npz", type=Path, help="save the explanation of all examples")
    report.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the example; also .pdf, .svg, ...")


def _add_run(group: Any) -> None:
    text = "explain a whole dataset into a folder; the same command goes on where it was stopped"
    codes = (
        "exit codes: 0 every example was explained; 1 a mistake, what is stored already stays; 2 a wrong command line; "
        f"{commands.SOME_FAILED} finished, but some examples could not be explained; 130 interrupted"
    )
    added = group.add_parser("run", help=text, description=text, epilog=codes)
    added.set_defaults(command=commands.run)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("source", metavar="SOURCE", type=Path, help="file or folder of examples (docs/sources.md)")
    stored = added.add_argument_group("what is stored")
    stored.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="the store, as relevance.zarr")
    stored.add_argument("--carry", metavar="COLUMN", nargs="+", default=[], help="columns stored beside, as labels")
    stored.add_argument("--reduce", metavar="channels", help="channels: relevance is summed over them")
    stored.add_argument("--store-dtype", metavar="TYPE", help="float16 or float32: what relevance is stored in")
    stored.add_argument("--on-error", default="record", help="record examples that fail, or raise (%(default)s)")
    stored.add_argument("--cluster", metavar="ray", help="ray: on the Ray cluster that this machine belongs to")
    reading = added.add_argument_group("how the source is read")
    reading.add_argument("--columns", metavar="[INPUT=]A,B", type=columns, nargs="+", help="columns of the inputs")
    reading.add_argument("--ignore", metavar="COLUMN", nargs="+", default=(), help="columns left out, or rest")
    reading.add_argument("--limit", type=natural, help="examples taken from the front")
    reading.add_argument("--tokenizer", metavar="FILE", type=Path, help="tokenizer.json, for texts")
    reading.add_argument("--text", metavar="COLUMN", nargs="+", help="column of the texts, or two of pairs")
    reading.add_argument("--lengths", type=lengths, help="tokens that texts are padded to: 32,64,128, or exact")
    reading.add_argument("--layout", help="of pictures: 'channels first' or 'channels last'")
    _add_settings(added.add_argument_group("what is explained, and how"), by_column=True)
    added.set_defaults(ledger="total", devices="all", mean=0.0, std=1.0)  # as explain_dataset has them


def _add_verify(group: Any) -> None:
    text = "prove that explanations have the same bytes on this machine, in any batch, position and process"
    codes = "exit codes: 0 the same, 1 not the same, or a mistake; 2 a wrong command line"
    added = group.add_parser("verify", help=text, description=text, epilog=codes)
    added.set_defaults(command=commands.verify)
    added.add_argument("model", metavar="MODEL", type=Path, help="ONNX or Keras file")
    added.add_argument("inputs", metavar="INPUTS", type=Path, help="a few examples: .npy, .npz, .csv, .tsv or picture")
    _add_settings(added.add_argument_group("what is explained, and how"), torch=True)


def _add_mode(group: Any, text: str) -> None:
    group.add_argument("--mode", default="default", help=f"{text} (%(default)s); 'backtrace-jax modes' lists them")
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        type=option,
        action="append",
        default=[],
        help="an option of the mode: gamma=0.1, bias=ignore, low=-1,-1,-1; may be given several times",
    )


def _add_settings(group: Any, *, torch: bool = False, by_column: bool = False) -> None:
    """The settings and questions of `explain`.

    Args:
        group: Where they are listed.
        torch: Whether a comparison with PyTorch can be asked for.
        by_column: Whether a question can be asked by a column of a dataset.
    """
    each, more = (or_column, "; or a column's name") if by_column else ((lambda read: read), "")
    _add_mode(group, "rules that share relevance out")
    group.add_argument("--task", default="auto", help="kind of answer: classification, regression, ... (%(default)s)")
    group.add_argument(
        "--target", type=each(target), help=f"class: 3, one per example: 3,1,4, or index: '(5, 1023)'{more}"
    )
    if torch:
        text = "torch: also compare with the file run by PyTorch; or a class, as explain takes it; may be given twice"
        group.add_argument("--against", metavar="torch|CLASS", type=rival, action="append", default=[], help=text)
    else:
        text = f"class that the target is contrasted with: 5, or 5,3,1{more}"
        group.add_argument("--against", type=each(per_example), help=text)
    group.add_argument(
        "--position", type=each(per_example), help=f"position in a sequence: 7, -1 for the last, or 7,9,4{more}"
    )
    group.add_argument("--output", metavar="NAME", help="output to explain (the first)")
    group.add_argument(
        "--scaler", type=scaler, default=1.0, help="total relevance, or none: the output's own value (1)"
    )
    group.add_argument("--thresholding", type=float, default=0.5, help="threshold of segmentation masks (%(default)s)")
    group.add_argument("--class-axis", type=whole, help="axis of the classes where the graph does not tell: 1, or -1")
    group.add_argument(
        "--baseline", metavar="FILE|zero", help="reference input: one example, or examples whose mean it is (zero)"
    )
    group.add_argument("--layers", metavar="NAME", nargs="+", help="also keep relevance of these values or modules")
    group.add_argument("--wrt", metavar="NAME", nargs="+", help="only these inputs bear relevance")
    _add_batch_axis(group)
    group.add_argument("--chunk", type=natural, help="examples explained at a time")
    group.add_argument("--dtype", default="float32", help="float32, or float64 for audits (%(default)s)")
    group.add_argument("--precision", default="highest", help="of contractions (%(default)s)")
    group.add_argument(
        "--prepare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep what rules make of the weights: faster, more memory (%(default)s)",
    )
    group.add_argument("--prove", default="every", help="when a Keras model is run beside: every call, or first")
    group.add_argument("--ledger", type=ledger, default="nodes", help="books: nodes, total or none (%(default)s)")
    group.add_argument("--memory", default="high", help="high, or low: computes most values anew (%(default)s)")
    group.add_argument("--devices", type=devices, default=1, help="that share the examples: 4, or all (%(default)s)")
    group.add_argument("--resize", action="store_true", help="resize a picture to the size that the model takes")
    group.add_argument("--size", type=picture_size, help="resize a picture to 224, or to 320x240")
    group.add_argument("--mean", type=numbers, default=(0.0,), help="taken from a picture: 0.485,0.456,0.406 (0)")
    group.add_argument("--std", type=numbers, default=(1.0,), help="that it is divided by: 0.229,0.224,0.225 (1)")
