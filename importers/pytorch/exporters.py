"""Torch's two exporters, and in which order they are tried for a module.

The newer one (on `torch.export`) sees every operation and leaves the modules' names. The older one traces; it alone
writes `nn.RNN` as one node, and takes some modules that the newer one does not.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from backtrace_jax.errors import UnsupportedError

from ..proof import resized
from .answers import answers
from .calls import Call, as_tensor, device_of
from .names import PREFIX, Calls, rename
from .substitutions import exportable

_Axes = Mapping[str, int | None]

TRACED = 3
"""Examples that a dynamic batch is traced with: one would be taken for a constant."""

LARGEST = 2**31 - 2**20
"""Bytes of weights that a file is kept in memory with; a protobuf message holds no more than 2 GiB."""

PLAIN_OPSET = 20
LATER_OPSET = 23  # from here on RMSNormalization is one node, and convolutions, pools and recurrences take bfloat16
OLD_OPSET = 17


@dataclass(frozen=True)
class Attempt:
    """One way to export a module.

    Attributes:
        exporter: "dynamo" or "torchscript".
        opset: The opset asked for.
        rows: Size of the batch that the file fixes; None for any.
        alone: Whether it is traced with the very inputs it is for, and is for no others.
    """

    exporter: str
    opset: int
    rows: int | None
    alone: bool = False

    def __str__(self) -> str:
        """Format as `dynamo, opset 20, any batch`."""
        rows = "these inputs" if self.alone else "any batch" if self.rows is None else f"batch of {self.rows}"
        return f"{self.exporter}, opset {self.opset}, {rows}"


class Folder:
    """A temporary folder with one model in it; it goes when this object does, or with the process."""

    def __init__(self) -> None:
        """Make the folder."""
        self.path = Path(tempfile.mkdtemp(prefix="backtrace-jax-"))
        self.model = self.path / "model.onnx"
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class Export:
    """An exported file.

    Attributes:
        proto: The file; its weights are outside where there is a folder.
        folder: Where weights too large for one file lie, until they are read.
        calls: Which calls of modules each traced node belongs to, where the exporter tells.
    """

    proto: onnx.ModelProto
    folder: Folder | None = None
    calls: Calls = field(default_factory=dict)


class Adapter(torch.nn.Module):
    """The user's module as exporters want one: tensors in, a tuple of tensors out."""

    def __init__(self, module: torch.nn.Module, call: Call, outputs: Sequence[str]) -> None:
        """Wrap a module; it becomes the submodule `explained`."""
        super().__init__()
        self.add_module(PREFIX, module)
        self._call, self._outputs = call, tuple(outputs)
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs in order, from the inputs in order."""
        args, kwargs = self._call.filled(dict(zip(self._call.names, tensors, strict=True)))
        found = answers(self._modules[PREFIX](*args, **kwargs))  # type: ignore[misc]
        return tuple(found[name] for name in self._outputs)


def attempts(module: torch.nn.Module, rows: int, *, frozen: bool, batched: bool = True) -> list[Attempt]:
    """Ways to export a module, in the order in which they are tried: any batch, single examples, this batch.

    Args:
        module: The module.
        rows: Size of the batch.
        frozen: Whether a trace freezes what the module decides by values: then it is for the inputs it is made with.
        batched: Whether the inputs have a batch at all.
    """
    sizes = (1,) if not batched else (None, 1) if rows == 1 else (None, 1, rows)
    newer = [Attempt("dynamo", _opset(module), size) for size in sizes]
    if frozen:
        return [
            *newer,
            *(Attempt("torchscript", OLD_OPSET, size, alone=True) for size in sizes if size in (None, rows)),
        ]
    older = [Attempt("torchscript", OLD_OPSET, size) for size in sizes]
    return [*older[:1], *newer, *older[1:]] if _unrolls(module) else [*newer, *older]


def _opset(module: torch.nn.Module) -> int:
    """The opset at which every norm of the module is one node, and every layer takes its numbers."""
    short = any(weight.dtype == torch.bfloat16 for weight in (*module.parameters(), *module.buffers()))
    norms = any("RMSNorm" in type(part).__name__ for part in module.modules())
    return LATER_OPSET if short or norms else PLAIN_OPSET


def _unrolls(module: torch.nn.Module) -> bool:
    """Whether the newer exporter would write a step of a recurrence as many times as there are steps."""
    return any(isinstance(part, torch.nn.RNN) for part in module.modules())


def export(
    module: torch.nn.Module,
    call: Call,
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, int | None],
    attempt: Attempt,
) -> Export:
    """Export a module in one way; its outputs are those of these names, with the batch along these axes.

    Raises:
        UnsupportedError: When the file is not of the opset asked for.
        Exception: Whatever the exporter raises.
    """
    examples = feeds if attempt.alone else resized(feeds, attempt.rows or TRACED)
    own = {name: call.own(name, examples[name]) for name in call.names}
    tensors = tuple(as_tensor(array, device_of(module)) for array in own.values())
    with _quiet(), torch.no_grad(), exportable(module):
        modules = {name for name, _ in module.named_modules()}
        adapter = Adapter(module, call, tuple(outputs))
        axes = dict(zip(call.names, call.axes, strict=True))
        found = _EXPORTERS[attempt.exporter](adapter, tensors, axes, outputs, attempt)
    versions = [entry.version for entry in found.proto.opset_import if entry.domain in ("", "ai.onnx")]
    if versions != [attempt.opset]:
        raise UnsupportedError(f"opset {attempt.opset} was asked for, the file has {versions}")
    rename(found.proto, modules, found.calls)
    _declare(found.proto, call, own, attempt)
    found.proto.graph.name = type(module).__name__
    if found.folder is not None:
        found.folder.model.write_bytes(found.proto.SerializeToString())
    return found


def _declare(proto: onnx.ModelProto, call: Call, examples: Mapping[str, np.ndarray], attempt: Attempt) -> None:
    """Declare the inputs that an exporter dropped because nothing depends on them; they are passed all the same."""
    known = {value.name: value for value in proto.graph.input}
    for name, array in examples.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        shape = tuple(
            (attempt.rows or "batch") if axis == call.axis(name) else size for axis, size in enumerate(array.shape)
        )
        known.setdefault(name, onnx.helper.make_tensor_value_info(name, kind, shape))
    del proto.graph.input[:]
    proto.graph.input.extend(known[name] for name in examples)


def _dynamo(
    adapter: Adapter, tensors: Sequence[torch.Tensor], inputs: _Axes, outputs: _Axes, attempt: Attempt
) -> Export:
    batch = torch.export.Dim("batch")
    dynamic = tuple({} if axis is None else {axis: batch} for axis in inputs.values())
    program = torch.onnx.export(
        adapter,
        tuple(tensors),
        dynamo=True,
        opset_version=attempt.opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=None if attempt.rows else (dynamic,),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    weights: Any = program.model.graph.initializers
    if sum(tensor.const_value.nbytes for tensor in weights.values() if tensor.const_value is not None) <= LARGEST:
        return Export(program.model_proto, calls=_calls(program))
    folder = Folder()
    program.save(folder.model, external_data=True)
    return Export(onnx.load(folder.model, load_external_data=False), folder, _calls(program))


def _calls(program: Any) -> dict[str, list[str]]:
    """The modules around each traced node; its calls after a module's first one have a suffix, as in `block@1`."""
    stacks = {node.name: node.meta.get("nn_module_stack", {}) for node in program.exported_program.graph.nodes}
    return {name: [_numbered(key, path) for key, (path, _) in stack.items()] for name, stack in stacks.items()}


def _numbered(key: str, path: str) -> str:
    number = key.partition("@")[2]
    return f"{path.partition('@')[0]}:{number}" if number else path


def _torchscript(
    adapter: Adapter, tensors: Sequence[torch.Tensor], inputs: _Axes, outputs: _Axes, attempt: Attempt
) -> Export:
    folder = Folder()
    dynamic = {name: {axis: "batch"} for name, axis in (*inputs.items(), *outputs.items()) if axis is not None}
    torch.onnx.export(
        adapter,
        tuple(tensors),
        folder.model,
        dynamo=False,
        opset_version=attempt.opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=None if attempt.rows else dynamic,
    )
    if len(list(folder.path.iterdir())) > 1:  # weights too large for one file
        return Export(onnx.load(folder.model, load_external_data=False), folder)
    found = onnx.load(folder.model)
    folder.remove()
    return Export(found)


_EXPORTERS = {"dynamo": _dynamo, "torchscript": _torchscript}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' own warnings and messages to themselves; what matters of them is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), _unheard():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _unheard() -> Iterator[None]:
    """The same for what is written past Python: torch's C++ prints graphs and warnings by itself."""
    with ExitStack() as stack, tempfile.TemporaryFile() as nowhere:
        for stream in (1, 2):
            try:
                kept = os.dup(stream)
            except OSError:  # a process without a terminal
                continue
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, stream)
            os.dup2(nowhere.fileno(), stream)
        stack.callback(_flush)
        yield


def _flush() -> None:
    """Write out what C has buffered."""
    with suppress(OSError, TypeError):  # where the process itself is no library
        ctypes.CDLL(None).fflush(None)
