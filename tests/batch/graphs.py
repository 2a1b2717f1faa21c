"""Small graphs with a dynamic batch, in ONNX's own text: some treat each example alone, some mix them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

INPUTS = {  # what each kind of input is like, by its declaration; N is the batch
    "rows": ("float[N,4] x", (4,)),
    "series": ("float[N,5,4] x", (5, 4)),
    "images": ("float[N,2,4,4] x", (2, 4, 4)),
    "tokens": ("int64[N,5] x", (5,)),
}

ALONE = {  # name: (kind of input, graph)
    "layers": ("rows", "<float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3}> { h = MatMul(x, w) y = Relu(h) }"),
    "softmax": ("rows", "{ y = Softmax<axis=-1>(x) }"),
    "centred": ("rows", "{ m = ReduceMean<axes=[1]>(x) y = Sub(x, m) }"),
    "attention": (
        "series",
        "{ t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) a = Softmax<axis=2>(s) y = MatMul(a, x) }",
    ),
    "flattened tokens": (
        "series",
        """<int64[2] flat = {-1,4}, int64[3] back = {-1,5,4}, float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}>
        { r = Reshape(x, flat) h = MatMul(r, w) s = Softmax<axis=1>(h) y = Reshape(s, back) }""",
    ),
    "time first": ("series", "{ t = Transpose<perm=[1,0,2]>(x) y = Relu(t) }"),
    "time first and back": (
        "series",
        "<int64 zero = {0}> { t = Transpose<perm=[1,0,2]>(x) s = CumSum(t, zero) y = Transpose<perm=[1,0,2]>(s) }",
    ),
    "joined and split": (
        "rows",
        """{ two = Neg(x) both = Concat<axis=0>(x, two) e = Exp(both) a, b = Split<axis=0>(e) y = Sub(a, b) }""",
    ),
    "expanded by shape": (
        "rows",
        """<float[1,4] token = {1,2,3,4}, int64[1] four = {4}> { shape = Shape(x) t = Expand(token, shape)
        y = Concat<axis=1>(t, x) }""",
    ),
    "last position": (
        "series",
        """<int64 zero = {0}, int64 one = {1}, int64[1] column = {1}, int64[1] place = {-1}, int64 three = {3}>
        { shape = Shape(x) n = Gather(shape, zero) rows = Range(zero, n, one) at = Unsqueeze(rows, column)
        score = ReduceSum<keepdims=0>(x, place) last = ArgMax<axis=1, keepdims=1>(score)
        index = Concat<axis=1>(at, last) y = GatherND(x, index) }""",
    ),
    "last position of a flat table": (
        "series",
        """<int64 zero = {0}, int64 one = {1}, int64 five = {5}, int64[1] place = {-1}, int64[2] flat = {-1,4}>
        { shape = Shape(x) n = Gather(shape, zero) rows = Range(zero, n, one) first = Mul(rows, five)
        score = ReduceSum<keepdims=0>(x, place) last = ArgMax<axis=1, keepdims=0>(score) index = Add(first, last)
        table = Reshape(x, flat) y = Gather(table, index) }""",
    ),
    "top of each": ("rows", "<int64[1] k = {2}> { values, index = TopK<axis=1>(x, k) y = Exp(values) }"),
    "reversed features": (
        "rows",
        """<int64[1] first = {-1}, int64[1] last = {-9}, int64[1] axis = {1}, int64[1] step = {-1}>
        { y = Slice(x, first, last, axis, step) }""",
    ),
    "own kernels": (
        "images",
        """<int64[4] kernels = {-1,1,4,4}, int64[4] images = {-1,2,4,4}>
        { g = Reshape(x, kernels) k = Exp(g) m = Mul(g, k) y = Reshape(m, images) }""",
    ),
    "pooled": ("images", "{ p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = GlobalAveragePool(p) }"),
    "squeezed": ("rows", "<int64[2] axes = {1,2}> { u = Unsqueeze(x, axes) s = Squeeze(u, axes) y = Tanh(s) }"),
    "einsum": ("series", '{ y = Einsum<equation="bij,bkj->bik">(x, x) }'),
    "einsum of whatever leads": (
        "series",
        '<float[4,2] w = {1,2,3,4,5,6,7,8}> { y = Einsum<equation="...j,jk->...k">(x, w) }',
    ),
    "one of the largest, the other way round": (
        "rows",
        """<int64 four = {4}, float[2] values = {0,1}, float[4,2] w = {1,2,3,4,5,6,7,8}>
        { a = ArgMax<axis=1, keepdims=0>(x) o = OneHot<axis=0>(a, four, values) t = Transpose<perm=[1,0]>(o)
        e = MatMul(t, w) s = ReduceMax<axes=[1]>(x) y = Mul(e, s) }""",
    ),
    "looked up": (
        "tokens",
        "<float[6,2] table = {1,2,3,4,5,6,7,8,9,1,2,3}> { e = Gather(table, x) y = Exp(e) }",
    ),
    "written to features": (
        "rows",
        """{ a = ArgMax<axis=1, keepdims=1>(x) s = ReduceMax<axes=[1]>(x) z = Exp(s)
        y = ScatterElements<axis=1>(x, a, z) }""",
    ),
    "added to features": (
        "rows",
        """{ a = ArgMax<axis=1, keepdims=1>(x) s = ReduceMax<axes=[1]>(x)
        y = ScatterElements<axis=1, reduction="add">(x, a, s) }""",
    ),
    "written to a known feature": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, int64[1] column = {1}>
        { shape = Shape(x) n = Gather(shape, zero) rows = Range(zero, n, one) at = Unsqueeze(rows, column)
        none = Sub(at, at) second = Add(none, one) index = Concat<axis=1>(at, second)
        s = ReduceMax<axes=[1], keepdims=0>(x) y = ScatterND(x, index, s) }""",
    ),
    "written to the largest": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, int64[1] column = {1}>
        { shape = Shape(x) n = Gather(shape, zero) rows = Range(zero, n, one) at = Unsqueeze(rows, column)
        a = ArgMax<axis=1, keepdims=1>(x) index = Concat<axis=1>(at, a) s = ReduceMin<axes=[1], keepdims=0>(x)
        y = ScatterND(x, index, s) }""",
    ),
    "unpooled": (
        "images",
        """{ p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
        y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, i) }""",
    ),
    "scan over time": (
        "series",
        """<int64 at = {0}> { t = Transpose<perm=[1,0,2]>(x) first = Gather<axis=1>(x, at) z = Sub(first, first)
        last, y = Scan<num_scan_inputs=1, body = step (float[N,4] s, float[N,4] e) => (float[N,4] o, float[N,4] r)
        { o = Add(s, e) r = Tanh(o) }>(z, t) }""",
    ),
}

TIME_FIRST = {"time first", "scan over time"}  # the outputs of these hold the batch along their second axis

MIXED = {  # name: (kind of input, graph); the node called `bad`, or that which computes it, mixes the examples
    "mean": ("rows", "{ bad = ReduceMean<axes=[0]>(x) y = Sub(x, bad) }"),
    "maximum": ("rows", "{ bad = ReduceMax<axes=[0]>(x) y = Sub(x, bad) }"),
    "minimum over all": ("rows", "{ bad = ReduceMin(x) y = Sub(x, bad) }"),
    "sum of squares": ("rows", "{ bad = ReduceSumSquare<axes=[0]>(x) y = Div(x, bad) }"),
    "norm": ("rows", "{ bad = ReduceL2<axes=[0]>(x) y = Div(x, bad) }"),
    "softmax": ("rows", "{ bad = Softmax<axis=0>(x) y = Mul(x, bad) }"),
    "log softmax": ("rows", "{ y = LogSoftmax<axis=0>(x) }"),
    "hardmax": ("rows", "{ h = Hardmax<axis=0>(x) y = Mul(x, h) }"),
    "running sum": ("rows", "<int64 zero = {0}> { y = CumSum(x, zero) }"),
    "top": ("rows", "<int64[1] k = {2}> { v, i = TopK<axis=0>(x, k) m = ReduceSum(v) y = Add(x, m) }"),
    "winner": ("rows", "{ a = ArgMax<axis=0, keepdims=1>(x) f = Cast<to=1>(a) y = Add(x, f) }"),
    "products of rows": ("rows", "{ t = Transpose<perm=[1,0]>(x) g = MatMul(x, t) y = MatMul(g, x) }"),
    "einsum of rows": ("rows", '{ g = Einsum<equation="ac,bc->ab">(x, x) y = MatMul(g, x) }'),
    "differences of rows": (
        "rows",
        """<int64[1] zero = {0}, int64[1] one = {1}> { a = Unsqueeze(x, zero) b = Unsqueeze(x, one) d = Sub(a, b)
        y = ReduceMean<axes=[0], keepdims=0>(d) }""",
    ),
    "attention over rows": (
        "rows",
        """<int64[1] zero = {0}> { s = Unsqueeze(x, zero) t = Transpose<perm=[0,2,1]>(s) m = MatMul(s, t)
        a = Softmax<axis=2>(m) r = MatMul(a, s) y = Squeeze(r, zero) }""",
    ),
    "one row of all": (
        "rows",
        "<int64[2] flat = {1,-1}, int64[2] back = {-1,4}> { r = Reshape(x, flat) s = Softmax(r) y = Reshape(s, back) }",
    ),
    "thirds of rows": (
        "rows",
        "<int64[2] six = {-1,6}, int64[2] back = {-1,4}> { r = Reshape(x, six) s = Softmax(r) y = Reshape(s, back) }",
    ),
    "transposed by a reshape": (
        "series",
        """<int64 zero = {0}, int64[3] s = {5,-1,4}, int64[3] t = {-1,5,4}> { r = Reshape(x, s) c = CumSum(r, zero)
        y = Reshape(c, t) }""",
    ),
    "training batch norm": (
        "images",
        """<float[2] one = {1,1}, float[2] zero = {0,0}>
        { y = BatchNormalization<training_mode=1>(x, one, zero, zero, one) }""",
    ),
    "mean variance": ("images", "{ y = MeanVarianceNormalization(x) }"),
    "layer norm over all": (
        "rows",
        "<float[1] g = {1}> { y = LayerNormalization<axis=0>(x, g) }",
    ),
    "lp norm": ("rows", "{ y = LpNormalization<axis=0>(x) }"),
    "edges of the batch": (
        "rows",
        '<int64[4] pads = {1,0,0,0}> { q = Pad<mode="edge">(x, pads) y = Softmax<axis=1>(q) }',
    ),
    "resized over the batch": (
        "images",
        """<float[4] scales = {2,1,1,1}> { r = Resize<mode="linear">(x, , scales) y = ReduceMean<axes=[0]>(r) }""",
    ),
    "an order that the number of examples decides": (
        "rows",
        """<int64 zero = {0}, int64 two = {2}> { s = Shape(x) n = Gather(s, zero) c = Greater(n, two) e = Exp(x)
        y = Where(c, x, e) }""",
    ),
    "first row": ("rows", "<int64 zero = {0}> { f = Gather(x, zero) y = Sub(x, f) }"),
    "rows but one": (
        "rows",
        """<int64[1] one = {1}, int64[1] end = {99}, int64[1] axis = {0}> { s = Slice(x, one, end, axis)
        m = ReduceSum(s) y = Add(x, m) }""",
    ),
    "reversed": (
        "rows",
        """<int64[1] first = {-1}, int64[1] last = {-99}, int64[1] axis = {0}, int64[1] step = {-1}>
        { r = Slice(x, first, last, axis, step) y = Sub(x, r) }""",
    ),
    "rolled": (
        "rows",
        """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] end = {99}, int64[1] axis = {0}>
        { a = Slice(x, one, end, axis) b = Slice(x, zero, one, axis) r = Concat<axis=0>(a, b) y = Sub(x, r) }""",
    ),
    "a row more": (
        "rows",
        "<float[1,4] row = {1,2,3,4}> { c = Concat<axis=0>(x, row) m = ReduceMean<axes=[0]>(c) y = Sub(x, m) }",
    ),
    "padded": ("rows", "<int64[4] pads = {1,0,0,0}> { p = Pad(x, pads) y = Exp(p) }"),
    "a constant for each row": ("rows", "<float[3,4] c = {1,2,3,4,5,6,7,8,9,1,2,3}> { y = Add(x, c) }"),
    "times the batch size": (
        "rows",
        "<int64 zero = {0}> { s = Shape(x) n = Gather(s, zero) f = Cast<to=1>(n) y = Mul(x, f) }",
    ),
    "number of entries": ("rows", "{ s = Size(x) f = Cast<to=1>(s) y = Div(x, f) }"),
    "numbered": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, int64[1] column = {1}> { s = Shape(x) n = Gather(s, zero)
        r = Range(zero, n, one) f = Cast<to=1>(r) c = Unsqueeze(f, column) y = Add(x, c) }""",
    ),
    "looked up by number": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, float[5,4] table = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2}>
        { s = Shape(x) n = Gather(s, zero) r = Range(zero, n, one) t = Gather(table, r) y = Add(x, t) }""",
    ),
    "neighbours": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, int64[1] place = {1}> { s = Shape(x) n = Gather(s, zero)
        r = Range(zero, n, one) next = Add(r, one) other = Mod(next, n) y = Gather(x, other) }""",
    ),
    "looked up by each other": (
        "rows",
        """<int64 one = {1}> { a = ArgMax<axis=1, keepdims=0>(x) z = Sub(a, a) r = Gather(x, z) y = Sub(x, r) }""",
    ),
    "time is the batch": (
        "series",
        """<int64[3] a = {1,4,4}, int64[3] b = {1,4,1}> { w = ConstantOfShape<value = float[1] {0.3}>(a)
        r = ConstantOfShape<value = float[1] {0.5}>(b) y = LSTM<hidden_size=1>(x, w, r) }""",
    ),
    "batch as channels": (
        "images",
        """{ t = Transpose<perm=[1,0,2,3]>(x) p = GlobalAveragePool(t)
        y = Softmax<axis=1>(p) }""",
    ),
    "group norm over the batch": (
        "images",
        """<int64[3] s = {1,1,-1}, float[1] one = {1}, float[1] zero = {0}> { r = Reshape(x, s)
        n = InstanceNormalization(r, one, zero) shape = Shape(x) y = Reshape(n, shape) }""",
    ),
    "written to the first row": (
        "rows",
        """<int64[1,1] first = {0}> { s = ReduceMax<axes=[0]>(x) y = ScatterND(x, first, s) }""",
    ),
    "written to a row that is looked up": (
        "rows",
        """<int64 two = {2}> { a = ArgMax<axis=1, keepdims=1>(x) m = Mod(a, two) y = ScatterND(x, m, x) }""",
    ),
    "places in the whole batch": ("images", "{ p, y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"),
    "positions as values": (
        "rows",
        """<int64 zero = {0}, int64 one = {1}, float[9] table = {1,2,3,4,5,6,7,8,9}>
        { s = Shape(x) n = Gather(s, zero) r = Range(zero, n, one) a = ArgMax<axis=1, keepdims=0>(x)
        i = Add(r, a) y = Gather(table, i) }""",
    ),
    "identity matrix": (
        "rows",
        """<int64 zero = {0}> { t = Transpose<perm=[1,0]>(x) g = MatMul(x, t) e = EyeLike(g) y = MatMul(e, x) }""",
    ),
    "summed over the batch in an einsum": ("rows", '{ s = Einsum<equation="ab,ab->b">(x, x) y = Mul(x, s) }'),
    "log of a sum": ("rows", "{ s = ReduceLogSumExp<axes=[0]>(x) y = Sub(x, s) }"),
    "scan over the batch": (
        "rows",
        """<float[4] zero = {0,0,0,0}> { last, y = Scan<num_scan_inputs=1,
        body = step (float[4] s, float[4] e) => (float[4] o, float[4] r) { o = Add(s, e) r = Tanh(o) }>(zero, x) }""",
    ),
}


def model(kind: str, body: str, opset: int = 17) -> onnx.ModelProto:
    """A model of one of these graphs."""
    declared, _ = INPUTS[kind]
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph ({declared}) => (float[N] y) {body}'
    return _untyped(parser.parse_model(text))


def _untyped(parsed: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an output of any shape."""
    del parsed.graph.output[:]
    parsed.graph.output.append(onnx.helper.make_empty_tensor_value_info("y"))
    return parsed


def examples(kind: str, count: int) -> np.ndarray:
    """Inputs of a kind."""
    generator = np.random.default_rng(7)
    shape = (count, *INPUTS[kind][1])
    if kind == "tokens":
        return generator.integers(0, 6, shape)
    return generator.normal(size=shape).astype(np.float32)
