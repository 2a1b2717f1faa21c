"""What the values of attributes may be where their type does not tell: by the attribute's name, for every operator.

A name means the same wherever it is used; the exceptions are listed by operator. An attribute that holds several
values is held against the range one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx

from backtrace_jax.errors import ModelError

from .verify import MOST_AXES, shortened


@dataclass(frozen=True)
class AtLeast:
    """Whole numbers from a bound on."""

    least: int

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int) and value >= self.least

    def __str__(self) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...] | range

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        if isinstance(self.values, range):
            return f"from {self.values[0]} to {self.values[-1]}"
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class TypeCode:
    """The code of a type that tensors can have (before opset 6 its name), or 0 where that leaves it open."""

    open: bool = False

    def __contains__(self, value: Any) -> bool:
        known = onnx.TensorProto.DataType.items()
        codes = {code for name, code in known} if isinstance(value, int) else {name for name, code in known}
        return value in codes and (value != onnx.TensorProto.UNDEFINED or self.open)

    def __str__(self) -> str:
        return f"the code of a type, {0 if self.open else 1} to {max(onnx.TensorProto.DataType.values())}"


Range: TypeAlias = AtLeast | OneOf | TypeCode

FLAG = OneOf((0, 1))
_COUNTS = (
    *("group", "offset_group", "num_groups", "num_outputs", "num_scan_inputs", "sample_size", "size", "p"),
    *("kernel_shape", "strides", "dilations", "blocksize", "pooled_shape", "output_height", "output_width"),
    *("hidden_size", "q_num_heads", "kv_num_heads", "chunk_size"),
)
_AMOUNTS = ("pads", "output_padding", "block_size", "sampling_ratio", "num_heads", "rotary_embedding_dim", "batch_dims")
_FLAGS = (
    *("align_corners", "allowzero", "antialias", "broadcast", "ceil_mode", "center_point_box", "count_include_pad"),
    *("detect_negative", "detect_positive", "directions", "exclude_outside", "exclusive", "fmod", "input_forget"),
    *("interleaved", "inverse", "is_causal", "is_test", "keepdims", "largest", "layout", "linear_before_reset"),
    *("new_axis", "noop_with_empty_axes", "onesided", "output_sequence", "periodic", "reverse", "saturate"),
    *("scan_input_directions", "scan_output_directions", "select_last_index", "sorted", "spatial", "storage_order"),
    *("training_mode", "transA", "transB", "transBatchA", "transBatchB", "upper"),
)
_CODES = ("to", "dtype", "output_datatype", "stash_type")
_OPEN_CODES = ("output_dtype", "softmax_precision", "precision")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

RANGES: dict[str, Range] = {
    **dict.fromkeys(_COUNTS, AtLeast(1)),
    **dict.fromkeys(_AMOUNTS, AtLeast(0)),
    **dict.fromkeys(_FLAGS, FLAG),
    **dict.fromkeys(_CODES, TypeCode()),
    **dict.fromkeys(_OPEN_CODES, TypeCode(open=True)),
    "axis": OneOf(range(-MOST_AXES, MOST_AXES + 1)),  # onnx's inference ends the process on some that are larger
    "aggregate_function": OneOf(("AVERAGE", "SUM", "MIN", "MAX", 0, 1, 2, 3)),
    "approximate": OneOf(("none", "tanh")),
    "auto_pad": OneOf(("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")),
    "direction": OneOf(("forward", "reverse", "bidirectional")),
    "kernel_type": OneOf(("LINEAR", "POLY", "RBF", "SIGMOID")),
    "left_window_size": AtLeast(-1),
    "nearest_mode": OneOf(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")),
    "keep_aspect_ratio_policy": OneOf(("stretch", "not_larger", "not_smaller")),
    "norm": OneOf(("MAX", "L1", "L2")),
    "padding_mode": OneOf(("zeros", "border", "reflection")),
    "post_transform": OneOf(_TRANSFORMS),
    "qk_matmul_output_mode": OneOf((0, 1, 2, 3)),
    "right_window_size": AtLeast(-1),
    "round_mode": OneOf(("up", "down", "nearest")),
    "update_rule": OneOf(("linear", "gated", "delta", "gated_delta")),
}
"""Name of an attribute -> what it may be."""

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_PADDING = ("constant", "reflect", "edge", "wrap")
_LOSS, _UPDATE = OneOf(("none", "mean", "sum")), OneOf(("none", "add", "mul", "max", "min"))

EXCEPTIONS: dict[tuple[str, str], Range | None] = {
    ("BitShift", "direction"): OneOf(("LEFT", "RIGHT")),
    ("DepthToSpace", "mode"): OneOf(("DCR", "CRD")),
    ("GridSample", "mode"): OneOf(("linear", "bilinear", "nearest", "cubic", "bicubic")),
    ("NegativeLogLikelihoodLoss", "reduction"): _LOSS,
    ("Pad", "mode"): OneOf(_PADDING),
    ("Pad", "pads"): None,  # less than nothing takes away
    ("Resize", "coordinate_transformation_mode"): OneOf((*_COORDINATES, "tf_half_pixel_for_nn", "tf_crop_and_resize")),
    ("Resize", "mode"): OneOf(("nearest", "linear", "cubic")),
    ("RoiAlign", "coordinate_transformation_mode"): OneOf(("half_pixel", "output_half_pixel")),
    ("RoiAlign", "mode"): OneOf(("avg", "max")),
    ("ScatterElements", "reduction"): _UPDATE,
    ("ScatterND", "reduction"): _UPDATE,
    ("SoftmaxCrossEntropyLoss", "reduction"): _LOSS,
    ("SpaceToDepth", "mode"): OneOf(("DCR", "CRD")),
    ("TensorScatter", "mode"): OneOf(("linear", "circular")),
    ("TfIdfVectorizer", "mode"): OneOf(("TF", "IDF", "TFIDF")),
    ("TreeEnsemble", "post_transform"): OneOf((0, 1, 2, 3, 4)),
    ("Upsample", "mode"): OneOf(("nearest", "linear", "bilinear")),
}
"""Operator and attribute -> what it may be there; None: anything of its type."""


def check_values(node: onnx.NodeProto) -> None:
    """Refuse a node with an attribute out of its range.

    Raises:
        ModelError: Naming the attribute, what it may be, and what it is.
    """
    for attribute in node.attribute:
        allowed = EXCEPTIONS.get((node.op_type, attribute.name), RANGES.get(attribute.name))
        wrong = [value for value in _values(attribute) if value not in allowed] if allowed else []
        if wrong:
            raise ModelError(f"attribute {attribute.name!r} must be {allowed}, found {_shown(wrong[0])}")


def _values(attribute: onnx.AttributeProto) -> Sequence[Any]:
    """Whole numbers and texts of an attribute; nothing of those that hold something else."""
    kinds = onnx.AttributeProto
    if attribute.type in (kinds.INT, kinds.INTS):
        return [attribute.i] if attribute.type == kinds.INT else attribute.ints
    if attribute.type in (kinds.STRING, kinds.STRINGS):
        texts = [attribute.s] if attribute.type == kinds.STRING else attribute.strings
        return [text.decode(errors="replace") for text in texts]
    return ()


def _shown(value: Any) -> str:
    return repr(shortened(value)) if isinstance(value, str) else str(value)
