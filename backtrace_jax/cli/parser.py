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
    ledger,
    natural,
    numbers,
    option,
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


def _add_settings(group: Any, torch: bool = False) -> None:
    _add_mode(group, "rules that share relevance out")
    group.add_argument("--task", default="auto", help="kind of answer: classification, regression, ... (%(default)s)")
    group.add_argument("--target", type=target, help="class: 3, one per example: 3,1,4, or index: '(5, 1023)'")
    if torch:
        text = "torch: also compare with the file run by PyTorch; or a class, as explain takes it; may be given twice"
        group.add_argument("--against", metavar="torch|CLASS", type=rival, action="append", default=[], help=text)
    else:
        group.add_argument("--against", type=per_example, help="class that the target is contrasted with: 5, or 5,3,1")
    group.add_argument("--position", type=per_example, help="position in a sequence: 7, -1 for the last, or 7,9,4")
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
    group.add_argument("--resize", action="store_true", help="resize a picture to the size that the model takes")
    group.add_argument("--size", type=picture_size, help="resize a picture to 224, or to 320x240")
    group.add_argument("--mean", type=numbers, default=(0.0,), help="taken from a picture: 0.485,0.456,0.406 (0)")
    group.add_argument("--std", type=numbers, default=(1.0,), help="that it is divided by: 0.229,0.224,0.225 (1)")
