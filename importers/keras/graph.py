"""Walks a model's graph of layers in the order in which Keras runs it, and writes every call.

Masks travel as in Keras: attached to the very tensor, read before a layer is called, taken off by attention, set on
the results. So tensors are handed on by identity, and a layer that returns its input hands on the same tensor.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, UnsupportedError

from .exclusions import EXCLUDED, NoRoadError
from .registry import LAYERS, MASKS, OPERATIONS
from .tensor import Tensor, as_array
from .writer import Writer

_OWN = "keras.src."
_HALF = ("float16", "bfloat16")
_WAY_OUT = "build the model from Keras' own layers and keras.ops, or export it to ONNX yourself and pass that file"


def tree() -> Any:
    """Keras' own functions over nested structures, so that everything is flattened in its order."""
    return importlib.import_module("keras").tree


def is_network(layer: Any) -> bool:
    """Whether it is a sequential or functional model that runs as Keras runs it."""
    return hasattr(layer, "_nodes_by_depth") or hasattr(layer, "_functional")


def runs_a_graph(model: Any) -> bool:
    """Whether it computes what its graph of layers says, rather than a `call` of the user's own."""
    return is_network(model) and type(model).call.__module__.startswith(_OWN) and "call" not in vars(model)


def network(model: Any) -> Any:
    """The functional model that a sequential or functional model is.

    Raises:
        UnsupportedError: When its computation is the user's own Python, or it is not built yet.
    """
    where = describe(model)
    if not runs_a_graph(model):
        raise UnsupportedError(f"{where} runs a call of its own, whose graph cannot be read; {_WAY_OUT}")
    if hasattr(model, "_nodes_by_depth"):
        return model
    if model._functional is None:
        raise NoRoadError(
            f"{where} has no graph yet; give it an Input as its first layer, or call it once on an example"
        )
    return model._functional


def describe(layer: Any) -> str:
    """How messages name a layer."""
    return f"layer {layer.name!r} ({type(layer).__name__})"


def walk(writer: Writer, model: Any, inputs: Sequence[Tensor]) -> Any:
    """Write a functional model for these inputs; returns its outputs in their structure."""
    found = {id(symbol): tensor for symbol, tensor in zip(model._inputs, inputs, strict=True)}
    symbolic = importlib.import_module("keras").KerasTensor

    def fill(value: Any) -> Any:
        return found.get(id(value)) if isinstance(value, symbolic) else value

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input or any(id(each) not in found for each in node.input_tensors):
                continue
            args, kwargs = node.arguments.convert(fill)
            known = [Tensor("", tuple(each.shape), each.dtype) for each in node.outputs]
            results = call(writer, node.operation, args, kwargs, known)
            for symbol, tensor in zip(node.outputs, tree().flatten(results), strict=True):
                found[id(symbol)] = tensor
    return tree().map_structure(lambda symbol: found[id(symbol)], model._outputs_struct)


def call(
    writer: Writer, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], known: list[Tensor] | None = None
) -> Any:
    """Write one call of a layer or operation.

    Args:
        writer: The graph.
        layer: The layer, model or operation.
        args: Its positional arguments, tensors where the model computes.
        kwargs: Its other arguments.
        known: Shapes and types of its results, where the model's graph knows them.

    Returns:
        Its results as tensors, in the structure that Keras returns.

    Raises:
        UnsupportedError: Naming the layer and its class.
    """
    try:
        with writer.inside(layer.name):
            since = len(writer.nodes)
            results = _called(writer, layer, tuple(args), dict(kwargs), known)
            if isinstance(results, Tensor):
                writer.rename(results, writer.scope, since)
            return results
    except BacktraceError as error:
        if not str(error).startswith("layer "):
            error.args = (f"{describe(layer)}: {error}",)
        raise


def _called(
    writer: Writer, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Tensor] | None
) -> Any:
    if not hasattr(layer, "compute_mask"):
        emitter = _found(OPERATIONS, layer)
        bound = inspect.signature(layer.call).bind(*args, **kwargs)
        return _as_tensors(emitter(writer, layer, *bound.args, **bound.kwargs), known)
    emitter = _emitter(layer)
    check_layer(layer)
    args, kwargs = tree().map_structure(lambda value: _converted(writer, layer, value), (args, kwargs))
    arguments = _bound(layer, args, kwargs)
    previous = _populate_masks(layer, arguments)
    first = next(iter(arguments.values()))
    expected = known or (None if is_network(layer) else _expected(layer, arguments))
    given = {name: value for name, value in arguments.items() if not _is_empty(value)}
    results = _as_tensors(emitter(writer, layer, **_accepted(emitter, given)), expected)
    _set_masks(writer, layer, first, results, previous)
    return results


def _emitter(layer: Any) -> Any:
    return _network_emitter if is_network(layer) else _found(LAYERS, layer)


def _found(table: Mapping[str, Any], layer: Any) -> Any:
    kind = type(layer)
    if kind.__module__.startswith(_OWN) and kind.__name__ in table:
        return table[kind.__name__]
    if kind.__name__ == "Lambda" and kind.__module__.startswith(_OWN):
        raise UnsupportedError(f"a Lambda runs Python of the user's own, which has no ONNX form; {_WAY_OUT}")
    if kind.__module__.startswith(_OWN) and kind.__name__ in EXCLUDED and table is OPERATIONS:
        raise UnsupportedError(EXCLUDED[kind.__name__])
    if kind.__module__.startswith(_OWN):
        raise UnsupportedError(f"has no ONNX form here; {_WAY_OUT}")
    raise UnsupportedError(f"is a class of the user's own ({kind.__module__}), which has no ONNX form; {_WAY_OUT}")


def _network_emitter(writer: Writer, layer: Any, inputs: Any) -> Any:
    """A nested model is written in place, its layers named `outer/inner`."""
    inner = network(layer)
    if isinstance(inputs, dict) and not isinstance(inner._inputs_struct, dict):
        inputs = [inputs[symbol.name] for symbol in inner._inputs]
    flat = tree().flatten(inputs)
    tensors = [_declared(writer, *each) for each in zip(flat, inner._inputs, strict=True)]
    results = walk(writer, inner, tensors)
    return results[0] if isinstance(results, list | tuple) and len(results) == 1 else results


def _declared(writer: Writer, tensor: Tensor, symbol: Any) -> Tensor:
    """The input of a nested model, in the type it declares."""
    if tensor.rank != len(symbol.shape):
        raise UnsupportedError(f"is called with {tensor.rank} axes where it declares {len(symbol.shape)}")
    if tensor.dtype == symbol.dtype:
        return tensor
    return Tensor(str(writer.cast(tensor, symbol.dtype)), tensor.shape, symbol.dtype, tensor.mask)


def check_layer(layer: Any) -> None:
    """Refuse what a layer does on no road: arithmetic of few bits, and answers that hang on the batches before.

    Raises:
        UnsupportedError: Naming what it is.
    """
    if getattr(layer, "quantization_mode", None):
        raise NoRoadError(f"is quantised ({layer.quantization_mode}); load the model before its quantisation")
    if layer.compute_dtype in _HALF:
        raise NoRoadError(
            f"computes in {layer.compute_dtype}; set the dtype policy 'float32', load the model again and explain that"
        )
    if getattr(layer, "stateful", False):
        raise NoRoadError("is stateful: what it answers depends on the batches before; load it with stateful=False")


def _converted(writer: Writer, layer: Any, value: Any) -> Any:
    """Arrays as constants, floats in the type that the layer computes in."""
    if isinstance(value, Tensor):
        if np.dtype(value.dtype).kind != "f" or not layer.autocast or value.dtype == layer.compute_dtype:
            return value
        return Tensor(str(writer.cast(value, layer.compute_dtype)), value.shape, layer.compute_dtype, value.mask)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        array = as_array(value)
        return Tensor(writer.constant(array), array.shape, array.dtype.name)
    return value


def _bound(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, `training` aside."""
    arguments = dict(inspect.signature(layer.call).bind(*args, **kwargs).arguments)
    if arguments.pop("training", None) and "preprocessing" not in type(layer).__module__:
        raise NoRoadError("is called with training=True, so that its answers are drawn at random; call it without")
    return {name: value for name, value in arguments.items() if name not in ("args", "kwargs")}


def _populate_masks(layer: Any, arguments: dict[str, Any]) -> Any:
    """Hand the layer the masks of its operands, as Keras does; returns the mask that its results may take over."""
    names = inspect.signature(layer.call).parameters
    computed = {name: value for name, value in arguments.items() if _holds_tensors(value)}
    if len(computed) == 1 and "mask" in names and arguments.get("mask") is None:
        arguments["mask"] = _masks(next(iter(computed.values())))
    elif len(computed) > 1:
        for name, value in computed.items():
            if f"{name}_mask" in names and arguments.get(f"{name}_mask") is None:
                arguments[f"{name}_mask"] = _masks(value)
    if arguments.get("mask") is not None:
        return arguments["mask"]
    return _masks(next(iter(arguments.values())))


def _masks(value: Any) -> Any:
    return tree().map_structure(lambda each: each.mask if isinstance(each, Tensor) else None, value)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(each, Tensor) for each in tree().flatten(value))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(each is None for each in value))


def _accepted(emitter: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, unless the layer is called with one that is not understood; masks may always be passed over."""
    names = inspect.signature(emitter).parameters
    first, *_ = (name for name in names if name not in ("writer", "layer"))
    renamed = {(first if position == 0 else name): value for position, (name, value) in enumerate(given.items())}
    unknown = [name for name, value in renamed.items() if name not in names and name != "mask" and value is not False]
    if unknown:
        raise UnsupportedError(f"is called with {', '.join(unknown)}, which has no ONNX form here")
    return {name: value for name, value in renamed.items() if name in names}


def _expected(layer: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Shapes and types of a layer's results, where no graph knows them."""
    symbolic = importlib.import_module("keras").KerasTensor

    def symbol(value: Any) -> Any:
        return symbolic(value.shape, value.dtype) if isinstance(value, Tensor) else value

    names = {name: value for name, value in arguments.items() if not name.endswith("mask")}
    spec = layer.compute_output_spec(**tree().map_structure(symbol, names))
    return [Tensor("", tuple(each.shape), each.dtype) for each in tree().flatten(spec)]


def _as_tensors(results: Any, expected: list[Tensor] | None) -> Any:
    """The results of an emitter as tensors: names take the shapes expected, tensors are left as they are."""
    if expected is None:
        return results
    if isinstance(results, list) and len(results) == 1 and len(expected) == 1:
        (results,) = results
    shapes = iter(expected)

    def tensor(value: Any) -> Tensor:
        like = next(shapes)
        return value if isinstance(value, Tensor) else Tensor(value, like.shape, like.dtype)

    return tree().map_structure(tensor, results)


def _set_masks(writer: Writer, layer: Any, first: Any, results: Any, previous: Any) -> None:
    flat = tree().flatten(results)
    if not layer.supports_masking or all(each.mask is not None for each in flat):
        return
    rule = MASKS.get(type(layer).__name__)
    masks = previous if rule is None else rule(writer, layer, first, previous)
    if masks is None:
        return
    for tensor, own in zip(flat, tree().flatten(masks), strict=False):
        tensor.mask = own if tensor.mask is None else tensor.mask
