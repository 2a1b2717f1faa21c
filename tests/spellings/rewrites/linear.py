"""Linear maps: biases fused or apart, dense layers as products and convolutions, batch norm, groups, pooling."""

from __future__ import annotations

import math

import numpy as np

from ..writing import attributes_of
from .registry import named, rewriting


def column(bias, rank):
    """A bias as it is added to [N, C, *spatial]."""
    return bias.reshape(1, -1, *(1,) * (rank - 2))


def biased(sheet, node):
    """The bias of a convolution, if it has a known one."""
    has = node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 and sheet.known(node.input[2])
    return sheet.constants[node.input[2]] if has else None


def dense(sheet, node):
    """The weights [in, out] and bias of a dense layer on the last axis: Gemm, or MatMul."""
    if node.op_type == "MatMul" and sheet.known(node.input[1]) and sheet.constants[node.input[1]].ndim == 2:
        return sheet.constants[node.input[1]], None
    if node.op_type != "Gemm" or not sheet.known(node.input[1]):
        return None
    settings = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes_of(node)
    if settings["transA"]:
        return None
    K = sheet.constants[node.input[1]] * np.float32(settings["alpha"])
    bias = sheet.constants[node.input[2]] * np.float32(settings["beta"]) if len(node.input) > 2 else None
    return (K.T if settings["transB"] else K), bias


@rewriting
def bias_apart(sheet, node, new):
    if (bias := biased(sheet, node)) is not None:
        return new.Add(new.again(node, *node.input[:2]), column(bias, len(sheet.shapes[node.output[0]])))
    return None


@rewriting
def bias_behind_squeeze(sheet, node, new):
    """As tf2onnx writes 1-D convolutions: the bias is added once the axis put in is gone."""
    bias, shape = biased(sheet, node), sheet.shapes.get(node.output[0])
    if bias is None or shape is None:
        return None
    wide = new.Unsqueeze(new.again(node, *node.input[:2]), np.array([2]))
    return new.Add(new.Squeeze(wide, np.array([2])), column(bias, len(shape)))


@rewriting
def bias_behind_reshape(sheet, node, new):
    bias, shape = biased(sheet, node), sheet.shapes.get(node.output[0])
    if bias is None or shape is None or len(shape) < 4:
        return None
    flat = new.Reshape(new.again(node, *node.input[:2]), np.array([0, shape[1], -1]))
    return new.Reshape(new.Add(column(bias, 3), flat), np.array(shape))


@rewriting
def bias_behind_transpose(sheet, node, new):
    """Channels last, as TensorFlow has them."""
    bias, shape = biased(sheet, node), sheet.shapes.get(node.output[0])
    if bias is None or shape is None:
        return None
    rank = len(shape)
    last = new.Transpose(new.again(node, *node.input[:2]), perm=[0, *range(2, rank), 1])
    return new.Transpose(new.Add(last, bias), perm=[0, rank - 1, *range(1, rank - 1)])


@rewriting
def bias_behind_several_moves(sheet, node, new):
    bias, shape = biased(sheet, node), sheet.shapes.get(node.output[0])
    if bias is None or shape is None:
        return None
    rank = len(shape)
    last = new.Transpose(new.again(node, *node.input[:2]), perm=[0, *range(2, rank), 1])
    rows = new.Reshape(new.Cast(last, to=11), np.array([-1, shape[1]]))
    total = new.Add(rows, new.Cast(bias, to=11))
    whole = new.Reshape(new.Cast(total, to=1), np.array([shape[0], *shape[2:], shape[1]]))
    return new.Transpose(whole, perm=[0, rank - 1, *range(1, rank - 1)])


@rewriting
def bias_behind_split_axis(sheet, node, new):
    """A dense layer's bias is added once its units have been laid out as heads."""
    if node.op_type != "Add" or not sheet.known(node.input[1]) or sheet.constants[node.input[1]].ndim != 1:
        return None
    writer, bias = sheet.writers.get(node.input[0]), sheet.constants[node.input[1]]
    if writer is None or writer.op_type != "MatMul" or bias.size % 2:
        return None
    shape = sheet.shapes[node.output[0]]
    heads = new.Reshape(node.input[0], np.array([*shape[:-1], 2, -1]))
    return new.Reshape(new.Add(heads, bias.reshape(2, -1)), np.array(shape))


@rewriting
def gemm_as_matmul(sheet, node, new):
    if node.op_type != "Gemm" or (found := dense(sheet, node)) is None:
        return None
    product = new.MatMul(node.input[0], np.ascontiguousarray(found[0]))
    return product if found[1] is None else new.Add(product, found[1])


@rewriting
def dense_as_gemm(sheet, node, new):
    """As onnxruntime fuses MatMul and Add: rows in two axes."""
    if node.op_type != "Add" or not sheet.known(node.input[1]):
        return None
    writer = sheet.writers.get(node.input[0])
    found = dense(sheet, writer) if writer is not None and writer.op_type == "MatMul" else None
    bias = sheet.constants[node.input[1]]
    if writer is None or found is None or bias.ndim != 1 or not sheet.alone(node.input[0]):
        return None
    shape = sheet.shapes[node.output[0]]
    rows = new.Reshape(writer.input[0], np.array([-1, found[0].shape[0]]))
    return new.Reshape(new.Gemm(rows, np.ascontiguousarray(found[0].T), bias, transB=1), np.array(shape))


@rewriting
def dense_as_einsum(sheet, node, new):
    if (found := dense(sheet, node)) is None or node.input[0] not in sheet.shapes:
        return None
    letters = "abc"[: len(sheet.shapes[node.input[0]]) - 1]
    product = new.Einsum(node.input[0], np.ascontiguousarray(found[0]), equation=f"{letters}i,io->{letters}o")
    return product if found[1] is None else new.Add(product, found[1])


@rewriting
def dense_turned(sheet, node, new):
    """(Wᵀ xᵀ)ᵀ + b."""
    if (found := dense(sheet, node)) is None or node.input[0] not in sheet.shapes:
        return None
    rank = len(sheet.shapes[node.input[0]])
    perm = [*range(rank - 2), rank - 1, rank - 2]
    product = new.Transpose(
        new.MatMul(np.ascontiguousarray(found[0].T), new.Transpose(node.input[0], perm=perm)), perm=perm
    )
    return product if found[1] is None else new.Add(product, found[1])


@rewriting
def dense_as_convolution(sheet, node, new):
    """1x1 convolution, its bias inside."""
    if (found := dense(sheet, node)) is None or node.input[0] not in sheet.shapes:
        return None
    shape, (K, bias) = sheet.shapes[node.input[0]], found
    if len(shape) > 3:
        return None
    kernel, rest = np.ascontiguousarray(K.T)[..., None], [] if bias is None else [bias]
    if len(shape) == 2:
        return new.Squeeze(new.Conv(new.Unsqueeze(node.input[0], np.array([2])), kernel, *rest), np.array([2]))
    return new.Transpose(new.Conv(new.Transpose(node.input[0], perm=[0, 2, 1]), kernel, *rest), perm=[0, 2, 1])


@rewriting
def convolution_as_dense(sheet, node, new):
    """A 1x1 convolution as a product with channels last, its bias behind it."""
    if node.op_type != "Conv" or not sheet.known(node.input[1]):
        return None
    K, settings = sheet.constants[node.input[1]], attributes_of(node)
    if K.size != K.shape[0] * K.shape[1] or {*settings.get("strides", [1]), settings.get("group", 1)} != {1}:
        return None
    rank = K.ndim
    last = new.Transpose(node.input[0], perm=[0, *range(2, rank), 1])
    product = new.MatMul(last, np.ascontiguousarray(K.reshape(K.shape[:2]).T))
    bias = biased(sheet, node)
    product = product if bias is None else new.Add(product, bias)
    return new.Transpose(product, perm=[0, rank - 1, *range(1, rank - 1)])


@rewriting
def convolution_of_higher_rank(sheet, node, new):
    """Conv1d as Conv2d, Conv2d as Conv3d."""
    if node.op_type != "Conv" or not sheet.known(node.input[1]):
        return None
    K, settings = sheet.constants[node.input[1]], attributes_of(node)
    count = K.ndim - 2
    pads = settings.pop("pads", [0] * 2 * count)
    for name in ("strides", "dilations", "kernel_shape"):
        settings[name] = [1, *settings.get(name, K.shape[2:] if name == "kernel_shape" else [1] * count)]
    settings["pads"] = [0, *pads[:count], 0, *pads[count:]]
    wide = new.Unsqueeze(node.input[0], np.array([2]))
    return new.Squeeze(new.Conv(wide, K[:, :, None], *node.input[2:], **settings), np.array([2]))


@rewriting
def convolution_as_tf2onnx(sheet, node, new):
    """Conv1d as Conv2d with the axis put in last, and the bias added once it is gone."""
    if node.op_type != "Conv" or (bias := biased(sheet, node)) is None or sheet.constants[node.input[1]].ndim != 3:
        return None
    K, settings = sheet.constants[node.input[1]], attributes_of(node)
    low, high = settings.get("pads", [0, 0])
    settings |= {"pads": [low, 0, high, 0], "kernel_shape": [K.shape[2], 1]}
    settings |= {name: [*settings[name], 1] for name in ("strides", "dilations") if name in settings}
    wide = new.Unsqueeze(node.input[0], np.array([3]))
    result = new.Squeeze(new.Conv(wide, K[..., None], **settings), np.array([3]))
    return new.Transpose(new.Add(new.Transpose(result, perm=[0, 2, 1]), bias), perm=[0, 2, 1])


@rewriting
def groups_apart(sheet, node, new):
    """A grouped convolution as a split, one convolution for each group, and a concatenation."""
    groups = attributes_of(node).get("group", 1)
    if node.op_type != "Conv" or groups == 1 or not sheet.known(node.input[1]):
        return None
    parts = new.Split(node.input[0], axis=1, num_outputs=groups, results=groups)
    kernels = np.split(sheet.constants[node.input[1]], groups)
    bias = biased(sheet, node)
    biases = [()] * groups if bias is None else [(each,) for each in np.split(bias, groups)]
    found = [new.again(node, x, K, *b, group=1) for x, K, b in zip(parts, kernels, biases, strict=True)]
    return new.Concat(*found, axis=1)


@rewriting
def batch_norm_apart(sheet, node, new):
    """A convolution's output by a batch norm whose scale was folded into it, and its shift."""
    if node.op_type != "Conv" or not sheet.known(node.input[1]):
        return None
    K, count = sheet.constants[node.input[1]], sheet.constants[node.input[1]].shape[0]
    gamma = np.linspace(0.5, 2, count).astype(np.float32)
    variance, mean = np.linspace(1, 3, count).astype(np.float32), np.linspace(-1, 1, count).astype(np.float32)
    factor = gamma / np.sqrt(variance)
    bias = biased(sheet, node)
    beta = (np.zeros(count) if bias is None else bias) + mean * factor
    result = new.again(node, node.input[0], K / factor.reshape(-1, *(1,) * (K.ndim - 1)))
    return new.BatchNormalization(result, gamma, beta, mean, variance, epsilon=0.0)


def _moments(sheet, node):
    gamma, beta, mean, var = (sheet.constants[name].astype(np.float64) for name in node.input[1:5])
    factor = gamma / np.sqrt(var + attributes_of(node).get("epsilon", 1e-5))
    rank = len(sheet.shapes[node.output[0]])
    return (column(array.astype(np.float32), rank) for array in (factor, beta, mean))


@rewriting
def batch_norm_as_products(sheet, node, new):
    if node.op_type != "BatchNormalization":
        return None
    factor, beta, mean = _moments(sheet, node)
    return new.Add(new.Mul(new.Sub(node.input[0], mean), factor), beta)


@rewriting
def batch_norm_as_scale_and_shift(sheet, node, new):
    if node.op_type != "BatchNormalization":
        return None
    factor, beta, mean = _moments(sheet, node)
    return new.Sub(new.Mul(factor, node.input[0]), mean * factor - beta)


@rewriting
def scale_behind(sheet, node, new):
    """A dense layer or convolution of a third of its size, times three."""
    at = {"Conv": 1, "MatMul": 1, "Gemm": 1}.get(node.op_type)
    if at is None or not sheet.known(node.input[at]):
        return None
    bias = [sheet.constants[name] / 3 for name in node.input[2:]]
    return new.Mul(new.again(node, node.input[0], sheet.constants[node.input[1]] / 3, *bias), np.float32(3))


@rewriting
def scale_ahead(sheet, node, new):
    """The operand of a dense layer or convolution divided by four, its weights times four."""
    if node.op_type not in ("Conv", "MatMul", "Gemm") or not sheet.known(node.input[1]):
        return None
    small = new.Div(node.input[0], np.float32(4))
    return new.again(node, small, sheet.constants[node.input[1]] * 4, *node.input[2:])


def _pooled(sheet, node):
    return node.op_type == "GlobalAveragePool" and node.input[0] in sheet.shapes


@rewriting
def global_pool_as_mean(sheet, node, new):
    if not _pooled(sheet, node):
        return None
    shape = sheet.shapes[node.input[0]]
    mean = new.ReduceMean(node.input[0], np.arange(2, len(shape)), keepdims=0)
    return new.Reshape(mean, np.array([*shape[:2], *(1,) * (len(shape) - 2)]))


@rewriting
def global_pool_as_average_pool(sheet, node, new):
    return (
        new.AveragePool(node.input[0], kernel_shape=sheet.shapes[node.input[0]][2:]) if _pooled(sheet, node) else None
    )


@rewriting
def global_pool_as_sum(sheet, node, new):
    if not _pooled(sheet, node):
        return None
    shape = sheet.shapes[node.input[0]]
    total = new.ReduceSum(node.input[0], np.arange(2, len(shape)), keepdims=1)
    return new.Mul(total, np.float32(1 / math.prod(shape[2:])))


@named("mean_as_pool")
def _(sheet, node, new):
    """The mean of tokens [1, T, C] as a pool of their transpose."""
    if node.op_type != "ReduceMean" or len(sheet.shapes[node.input[0]]) != 3:
        return None
    if sheet.constants[node.input[1]].tolist() != [1] or attributes_of(node).get("keepdims", 1):
        return None
    return new.Squeeze(new.GlobalAveragePool(new.Transpose(node.input[0], perm=[0, 2, 1])), np.array([2]))
