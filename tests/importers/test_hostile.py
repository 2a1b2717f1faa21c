"""Models made to exhaust whoever reads them: each is refused with one clear error, at once and in little memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.importers import read
from backtrace_jax.importers.onnx import limits, load, lower, verify, wire
from benchmarks.fuzz.__main__ import fuzz, summarised
from benchmarks.fuzz.corpus import graph, model, node
from benchmarks.fuzz.mutations.wire import nested

ONE = np.array(1, np.float32)
CARRIED = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [1, 4])}


def sizes(*numbers):
    return np.array(numbers, np.int64)


def use(hostile, shape):
    """Everything that reads a model, at this shape of its inputs."""
    imported = read(hostile)
    imported.unsupported()
    imported.lower({each.name: shape for each in imported.inputs})


def refused(hostile, words, shape=(1, 4), error: type[BacktraceError] = ModelError, seconds=8):
    """The message with which a model is refused, which it must be soon."""
    begin = time.process_time()
    with pytest.raises(error, match=words) as caught:
        use(hostile, shape)
    assert time.process_time() - begin < seconds
    assert not isinstance(caught.value.__cause__, MemoryError | RecursionError)
    return str(caught.value)


def added(nodes, known):
    """Nodes that compute k out of known values, and the input plus k."""
    return model([*nodes, node("Add", ["x", "k"], ["y"])], known)


HUGE = 2**40
GROWING = {
    "constant_of_shape": added([node("ConstantOfShape", ["n"], ["k"])], {"n": sizes(HUGE, 4)}),
    "expand": added([node("Expand", ["o", "n"], ["k"])], {"n": sizes(HUGE, 4), "o": ONE}),
    "tile": added([node("Tile", ["o", "n"], ["k"])], {"n": sizes(HUGE, 4), "o": ONE.reshape(1, 1)}),
    "pad": added([node("Pad", ["o", "n"], ["k"])], {"n": sizes(0, 0, HUGE, 0), "o": ONE.reshape(1, 1)}),
    "range": added([node("Range", ["a", "n", "b"], ["k"])], {"a": ONE, "b": ONE, "n": np.array(1e12, np.float32)}),
    "one_hot": added(
        [node("OneHot", ["i", "n", "v"], ["k"])], {"i": sizes(1), "n": sizes(HUGE)[0], "v": ONE.repeat(2)}
    ),
    "eye": added([node("ConstantOfShape", ["n"], ["o"]), node("EyeLike", ["o"], ["k"])], {"n": sizes(HUGE, HUGE)}),
    "expand_input": model([node("Expand", ["x", "n"], ["y"])], {"n": sizes(HUGE, 4)}),
    "pad_input": model([node("Pad", ["x", "n"], ["y"], mode="reflect")], {"n": sizes(0, 0, HUGE, 0)}),
    "gather": model(
        [node("Expand", ["j", "n"], ["i"]), node("Gather", ["x", "i"], ["y"], axis=1)],
        {"j": sizes(0), "n": sizes(2**28)},
    ),
    "doubling": model(
        [node("Concat", [f"d{i}" if i else "x"] * 2, [f"d{i + 1}"], axis=0) for i in range(40)]
        + [node("Identity", ["d40"], ["y"])]
    ),
    "doubling constants": model(
        [node("Concat", [f"d{i}" if i else "k"] * 2, [f"d{i + 1}"], axis=0) for i in range(40)]
        + [node("Identity", ["d40"], ["y"])],
        {"k": np.ones((2**20, 4), np.float32)},
    ),
}


@pytest.mark.parametrize("hostile", GROWING.values(), ids=GROWING)
def test_values_that_no_machine_can_hold(hostile):
    assert "LARGEST_VALUE" in refused(hostile, "would take .* GiB, more than the .* GiB")


def test_sizes_that_an_old_opset_hides():
    """At opset 1 Tile takes numbers, not a vector; ONNX's shape inference does not know what comes of it."""
    known = {"o": ONE.reshape(1, 1), "n": np.array(2**31, np.float32), "a": np.array(0, np.float32)}
    hostile = added([node("Tile", ["o", "n", "a"], ["k"])], known)
    hostile.opset_import[0].version = 2
    refused(hostile, "Tile of this opset has no implementation", error=UnsupportedError)


def test_borders_of_absurd_width():
    known = {"n": sizes(HUGE, 0), "axes": sizes(1)}
    refused(model([node("Pad", ["x", "n", "", "axes"], ["y"], mode="edge")], known), "would take .* GiB")


def test_resizing_to_absurd_sizes():
    refused(model([node("Resize", ["x", "", "", "n"], ["y"])], {"n": sizes(1, 2**31)}), "would take .* GiB")
    known = {"o": ONE.reshape(1, 1), "n": sizes(1, 2**31)}
    refused(added([node("Resize", ["o", "", "", "n"], ["k"])], known), "would take .* GiB")


def test_pools_of_absurd_windows():
    hostile = model([node("AveragePool", ["x"], ["y"], kernel_shape=[HUGE], pads=[HUGE, HUGE])], shape=(1, 1, 4))
    refused(hostile, "would take", shape=(1, 1, 4))
    wide = model([node("AveragePool", ["x"], ["y"], kernel_shape=[2**20], pads=[2**20, 2**20])], shape=(1, 1, 4))
    assert lower(load(wide), {"x": (1, 1, 4)}).graph.outputs[0].shape == (1, 1, 2**20 + 5)


def test_the_limit_can_be_raised(monkeypatch):
    large = model([node("Expand", ["x", "n"], ["y"])], {"n": sizes(2**27, 4)})
    refused(large, "would take 2 GiB, more than the 1 GiB")
    monkeypatch.setattr(limits, "LARGEST_VALUE", 2**31)
    assert lower(load(large), {"x": (1, 4)}).graph.outputs[0].shape == (2**27, 4)


def test_sizes_below_zero():
    refused(model([node("Expand", ["x", "n"], ["y"])], {"n": sizes(-5, 4)}), "Expand")
    declared = model([node("Relu", ["x"], ["y"])], shape=(1, -4))
    refused(declared, "'x' has a size of -4; sizes cannot be negative")


def test_too_many_axes():
    refused(model([node("Unsqueeze", ["x", "a"], ["y"])], {"a": np.arange(40)}), "at most 32")
    refused(model([node("Relu", ["x"], ["y"])], shape=(1,) * 100), "'x' has 100 axes; at most 32")


def test_arithmetic_on_constants_is_bounded():
    square = {"n": sizes(4096, 4096)}
    product = [node("ConstantOfShape", ["n"], ["a"]), node("MatMul", ["a", "a"], ["k"])]
    refused(added(product, square), "constants alone takes too much arithmetic")
    thin = [node("ConstantOfShape", ["n"], ["a"]), node("Transpose", ["a"], ["t"])]
    products = [node("MatMul", ["a", "t"], [f"k{i or ''}"]) for i in range(2000)]
    refused(added([*thin, *products], {"n": sizes(64, 2**14)}), "constants alone takes too much arithmetic")


def test_different_computations_on_constants_are_counted(monkeypatch):
    monkeypatch.setattr(limits, "_COMPILED", 3)
    made = [node("ConstantOfShape", [f"n{i}"], [f"a{i}"]) for i in range(6)]
    nodes = [*made, *(node("Tanh", [f"a{i}"], [f"b{i}"]) for i in range(6))]
    known = {f"n{i}": sizes(i + 1) for i in range(6)}
    refused(added([*nodes, node("Identity", ["b0"], ["k"])], known), "too many different computations from constants")


def test_repeated_computations_on_constants_are_counted(monkeypatch):
    monkeypatch.setattr(limits, "_EVALUATIONS", -100)
    nodes = [node("Tanh", ["o"], [f"a{i}"]) for i in range(30)]
    monkeypatch.setattr(limits, "_EVALUATIONS", -40)
    refused(added([*nodes, node("Identity", ["a0"], ["k"])], {"o": ONE}), "compute too many values from constants")


@pytest.mark.parametrize(("operands", "results"), [(20_000, 1), (1, 20_000)])
def test_one_node_of_very_many_operands_or_results(operands, results):
    wide = node("Sum" if results == 1 else "Split", ["x"] * operands, [f"y{i}" for i in range(results)])
    refused(model([wide]), "'y0' \\(\\w+\\) has 20000 operands or results, more than the 8192", seconds=5)


def test_one_chain_of_very_many_nodes():
    count = verify.MOST_NODES + 1
    nodes = [node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(count)]
    refused(model(nodes), "has more than 50000 nodes; refused", seconds=15)
    last = node("Relu", ["v5000"], ["y"])
    assert len(lower(load(model([*nodes[:5000], last])), {"x": (1, 4)}).graph.eqns) == 5001


def test_loops_of_absurdly_many_steps():
    body = graph([node("Identity", ["c"], ["d"]), node("Tanh", ["s"], ["u"])], CARRIED, ["d", "u"])
    loop = [node("Loop", ["m", "t", "x"], ["y"], body=body)]
    known = {"m": np.array(2**62), "t": np.array(True)}
    refused(model(loop, known), "a loop of 4611686018427387904 steps is longer than the 1048576")


def test_loops_without_a_bound(monkeypatch):
    monkeypatch.setattr(limits, "MOST_UNFOLDED", 2000)
    for nodes in ([node("Tanh", ["s"], ["u"])], [node("Concat", ["s", "s"], ["u"], axis=0)], []):
        body = graph(nodes, CARRIED, ["c", "u" if nodes else "s"])
        endless = model([node("Loop", ["", "t", "x"], ["y"], body=body)], {"t": np.array(True)})
        refused(endless, "unfold to more than 2000 nodes|would take", error=BacktraceError)


def functions(depth, cyclic):
    """Functions that call the next one twice."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for level in range(depth):
        last = level + 1 == depth
        name = ("f0" if cyclic else "Relu") if last else f"f{level + 1}"
        domain = "" if last and not cyclic else "f"
        calls = [node(name, [a], [b], domain=domain) for a, b in (("a", "m"), ("m", "b"))]
        yield helper.make_function("f", f"f{level}", ["a"], ["b"], calls, opsets)


@pytest.mark.parametrize(("depth", "cyclic"), [(1, True), (3, True), (30, False), (500, False)])
def test_functions_that_unfold_without_end(depth, cyclic, monkeypatch):
    monkeypatch.setattr(limits, "MOST_UNFOLDED", 2000)
    hostile = model([node("f0", ["x"], ["y"], domain="f")], functions=list(functions(depth, cyclic)))
    hostile.opset_import.append(helper.make_opsetid("f", 1))
    refused(hostile, "unfold to more than 2000 nodes; refused|nested more than 32 deep", error=BacktraceError)


@pytest.mark.parametrize("seed", range(12))
def test_sub_graphs_inside_one_another(seed, tmp_path):
    whole = model([node("Relu", ["x"], ["y"])]).SerializeToString()
    path = tmp_path / "nested.onnx"
    path.write_bytes(nested(whole, np.random.default_rng(seed)))
    with contextlib.suppress(BacktraceError):
        use(path, (1, 4))


def test_sub_graphs_made_in_memory_may_be_deeper():
    inner = node("Relu", ["x"], ["t"])
    hostile = model([node("If", ["c"], ["y"])], {"c": np.array(True)})
    attribute = hostile.graph.node[0].attribute.add(name="then_branch", type=AttributeProto.GRAPH)
    for _ in range(60):
        inside = attribute.g.node.add(op_type="If", input=["c"], output=["t"])
        attribute = inside.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
    attribute.g.node.append(inner)
    with pytest.raises(ModelError, match="nested more than 32 deep"):
        load(hostile)


def renamed(old, new):
    """The bytes of a model in which a name is another one of the same length."""
    whole = model([node("Relu", ["x"], ["name"]), node("Relu", ["name"], ["y"])]).SerializeToString()
    return whole.replace(old, new)


@pytest.mark.parametrize("name", [b"\xff\xfe\xfd\xfc", b"\0add"])
def test_names_that_are_no_text(name, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(renamed(b"name", name))
    with pytest.raises(ModelError, match=r"model\.onnx: name .* is no text; the file is damaged"):
        load(path)


def test_long_names_and_control_characters_do_not_flood_the_terminal():
    hostile = model([node("Nothing", ["x"], ["y"], name="\x1b[2J" + "a" * 1_000_000)])
    message = refused(hostile, "has no implementation", error=UnsupportedError)
    assert len(message) < 1000
    assert "\x1b" not in message
    assert "\\x1b[2J" in message


def test_attributes_of_two_types():
    confused = node("Softmax", ["x"], ["y"], axis=1)
    confused.attribute[0].f = 1.5
    message = refused(model([confused]), "attribute 'axis' of node '' .Softmax. is said to be of type 2")
    assert message.endswith("holds f, i")
    confused.attribute[0].ClearField("type")
    refused(model([confused]), "is said to be of type 0 and holds f, i")
    doubled = node("Softmax", ["x"], ["y"], axis=1)
    doubled.attribute.append(doubled.attribute[0])
    refused(model([doubled]), "has two attributes of one name")


def test_nodes_without_results_are_surveyed():
    assert read(model([node("Nothing", ["x"], []), node("Relu", ["x"], ["y"])])).unsupported()[0][0] == "?"


def test_the_survey_looks_into_sub_graphs_and_functions():
    branch = graph([node("Nothing", ["x"], ["t"], name="inner")], {}, ["t"])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    calls = [node("g", ["a"], ["m"], domain="local"), node("Nowhere", ["m"], ["b"], name="within")]
    local = helper.make_function("local", "g", ["a"], ["b"], calls, opsets)
    nodes = [
        node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
        node("g", ["x"], ["w"], domain="local"),
        node("Add", ["w", "z"], ["y"]),
    ]
    found = read(model(nodes, {"c": np.array(True)}, functions=[local])).unsupported()
    assert {each[0] for each in found} == {"inner", "within"}


@pytest.mark.parametrize("field", [1, 5, 11, 2])
def test_files_of_empty_parts(field, tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "_MOST_MESSAGES", 1000)
    monkeypatch.setattr(wire, "_MOST_TEXTS", 1000)
    monkeypatch.setattr(wire, "SMALL", 0)
    path = tmp_path / "crowded.onnx"
    path.write_bytes(b"\x3a\xd2\x0f" + bytes([field << 3 | 2, 0]) * 1001)  # a graph of 2002 bytes
    with pytest.raises(ModelError, match="more nodes, attributes and names than any network"):
        load(path)


def test_counting_parts_steps_over_data(monkeypatch):
    monkeypatch.setattr(wire, "SMALL", 0)
    weights = numpy_helper.from_array(np.zeros(2**22, np.float32), "w")
    numbers = helper.make_tensor("v", TensorProto.DOUBLE, [3], [0.5, 1.5, -2.5])
    scaled = node("LeakyRelu", ["x"], ["y"], alpha=0.5, padding=list(range(-500, 500)), more=[0.25] * 500)
    whole = model([scaled] * 1000)
    whole.graph.initializer.extend([weights, numbers])
    begin = time.process_time()
    wire.check_parts(whole.SerializeToString())
    assert time.process_time() - begin < 1
    for end in range(0, 3000, 7):
        wire.check_parts(model([scaled]).SerializeToString()[:end])


def test_scopes_that_would_make_a_parser_recurse():
    for scopes in ("(" * 5000, "-" * 9000 + "1", "[" * 90 + "]" * 90, "[1," * 10**6):
        relu = node("Relu", ["x"], ["y"])
        relu.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
        assert lower(load(model([relu])), {"x": (1, 4)}).graph.eqns[0].source.module == ""


def test_external_data_of_an_attribute_are_never_read_by_onnx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(b"\0" * 64)
    outside = TensorProto(data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret.bin")
    sparse = onnx.SparseTensorProto(values=outside, indices=numpy_helper.from_array(sizes(0, 1, 2, 3)), dims=[4])
    for stored in ({"value": outside}, {"sparse_value": sparse}):
        hostile = added([helper.make_node("Constant", [], ["k"], None, None, None, None, **stored)], {})
        refused(hostile, "Constant|was given in memory", error=BacktraceError)


def test_overlapping_external_data_are_hashed_once(tmp_path):
    size = 2**22
    (tmp_path / "w").write_bytes(bytes(size))
    hostile = model([node("Relu", ["x"], ["y"])])
    for number in range(3000):
        tensor = hostile.graph.initializer.add(name=f"w{number}", data_type=TensorProto.UINT8, dims=[size - number])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w"), ("offset", str(number))):
            tensor.external_data.add(key=key, value=value)
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.SerializeToString())
    begin = time.process_time()
    assert len(load(path).sha256) == 64  # twelve gigabytes, were they hashed one by one
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("kind", ["a" * 5000, "loop/loop", "\udc80".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_locations_that_are_no_file_names(kind, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    hostile = model([node("MatMul", ["x", "w"], ["y"])])
    tensor = hostile.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=kind)
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.SerializeToString())
    with pytest.raises(ModelError, match=r"is no file's name|is missing|leaves the model's folder"):
        read(path)


@pytest.mark.parametrize("op", ["Sum", "Max", "Mean", "Concat"])
def test_very_many_known_operands(op):
    """One compiled computation of thousands of operands takes minutes; taken some at a time they take none."""
    settings = {"axis": 0} if op == "Concat" else {}
    values = np.arange(1, 5, dtype=np.float32)
    wide = [node(op, ["k"] * 3000, ["w"], **settings), node("Reshape", ["w", "s"], ["r"])]
    begin = time.process_time()
    known = {"k": values, "s": sizes(-1, 4)}
    program = lower(load(model([*wide, node("Add", ["x", "r"], ["y"])], known)), {"x": (1, 4)})
    assert time.process_time() - begin < 5
    (found,) = program.weights.values()
    count = {"Sum": 3000}.get(op, 1)
    np.testing.assert_array_equal(found, np.tile(count * values, (3000 if op == "Concat" else 1, 1)))


def test_some_hundred_mutated_files():
    """What `python -m benchmarks.fuzz` does with thousands."""
    summary = summarised(fuzz(7, range(200), workers=1, every=100, full=False))
    assert summary["files"] == 200
    assert summary["findings"] == []
    assert summary["outcomes"]["lowered"] > 20
