"""Reading files: broken ones and hostile ones each give one clear error; external data come through unchanged."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explainer
from backtrace_jax.errors import ModelError, SettingError, UnsupportedError
from backtrace_jax.importers.onnx import input_types, load, lower, read
from backtrace_jax.onnx_backend import prepare

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def external(location="weights.bin", dims=(3, 4), dtype=TensorProto.FLOAT, **entries):
    """A tensor that lies in another file."""
    tensor = TensorProto(name="the_weights", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_with(tensor):
    """x @ weights."""
    node = helper.make_node("MatMul", ["x", tensor.name], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [tensor]), ir_version=10)


@pytest.fixture
def folder(tmp_path):
    """A folder for models, with weights in it and a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    inside = tmp_path / "models"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(b"\0" * 8 + WEIGHTS.tobytes())
    return inside


def saved(folder, tensor):
    path = folder / "model.onnx"
    path.write_bytes(model_with(tensor).SerializeToString())
    return path


def refusal(path):
    """The message with which lowering refuses a model."""
    with pytest.raises(ModelError) as caught:
        lower(load(path), {"x": (1, 3)})
    return str(caught.value)


def test_external_data_round_trip(folder):
    for entries in ({"offset": 8}, {"offset": 8, "length": 48}):
        path = saved(folder, external(**entries))
        program = lower(load(path), {"x": (1, 3)})
        assert np.array_equal(program.weights["the_weights"], WEIGHTS)
        assert program.weights["the_weights"].dtype == np.float32
    assert len(load(path).sha256) == 64


def test_the_hash_covers_external_data(folder):
    path = saved(folder, external(offset=8))
    before = load(path).sha256
    assert load(path).sha256 == before
    (folder / "weights.bin").write_bytes(b"\0" * 8 + (WEIGHTS + 1).tobytes())
    assert load(path).sha256 != before


def explained(explainer):
    """The output, relevance and hash of a call."""
    found = explainer(np.ones((1, 3), np.float32), target=0)
    return found.outputs["y"], found.relevance["x"], found.fingerprint["model_sha256"]


@pytest.mark.parametrize("change", ["overwritten", "truncated", "gone"])
@pytest.mark.parametrize("called_before", [False, True])
def test_weights_outside_the_file_are_those_that_were_hashed(folder, change, called_before):
    path = saved(folder, external(offset=8))
    expected = explained(Explainer(path))
    explainer, data = Explainer(path), folder / "weights.bin"
    if called_before:
        explained(explainer)
    if change == "overwritten":
        with data.open("r+b") as file:
            file.write(b"\0" * 8 + (5 * WEIGHTS).tobytes())
        assert explained(Explainer(path))[2] != expected[2]
    elif change == "truncated":
        os.truncate(data, 4)
    else:
        data.unlink()
    for found, right in zip(explained(explainer), expected, strict=True):
        np.testing.assert_array_equal(found, right)
    again = explainer(np.ones((2, 3), np.float32), target=0)  # another form of the call: lowered anew
    np.testing.assert_array_equal(again.outputs["y"][0], expected[0][0])


def test_a_model_in_memory_is_the_one_that_was_hashed():
    model = model_with(numpy_helper.from_array(WEIGHTS, "the_weights"))
    explainer = Explainer(model)
    expected = explained(Explainer(model))
    model.graph.initializer[0].raw_data = (5 * WEIGHTS).tobytes()
    for found, right in zip(explained(explainer), expected, strict=True):
        np.testing.assert_array_equal(found, right)
    assert explained(Explainer(model))[2] != expected[2]
    np.testing.assert_array_equal(explained(Explainer(model))[0], 5 * expected[0])


def test_external_data_cannot_be_written_to(folder):
    model = load(saved(folder, external(offset=8)))
    array = model.array(model.proto.graph.initializer[0])
    assert not array.flags.writeable
    assert array.flags.aligned


def test_a_folder_swapped_for_a_link_after_the_check_is_not_followed(folder, monkeypatch):
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.bin").write_bytes(WEIGHTS.tobytes())
    path = saved(folder, external("sub/secret.bin"))
    plain, swapped = os.path.realpath, []

    def swap(asked):
        found = plain(asked)
        if str(found).endswith("secret.bin") and not swapped:
            swapped.append((folder / "sub").rename(folder / "moved"))
            (folder / "sub").symlink_to(folder.parent)
        return found

    monkeypatch.setattr(os.path, "realpath", swap)
    assert "cannot be read" in refusal(path)
    assert swapped


def test_external_data_larger_than_the_memory_are_refused_before_they_are_read(folder):
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(2**43)  # holds no blocks on the disk
    assert "external data take 4096.0 GiB" in refusal(saved(folder, external(dims=(2**20, 2**20))))


def test_the_hash_covers_external_data_of_attributes(folder):
    node = helper.make_node("Constant", [], ["c"], value=external(offset=8))
    y = helper.make_tensor_value_info("c", TensorProto.FLOAT, [3, 4])
    path = folder / "constant.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [], [y])).SerializeToString())
    before = load(path).sha256
    assert np.array_equal(lower(load(path), {}).weights["c"], WEIGHTS)
    (folder / "weights.bin").write_bytes(b"\0" * 8 + (WEIGHTS + 1).tobytes())
    assert load(path).sha256 != before


def test_data_may_lie_in_a_subfolder_and_behind_an_inner_link(folder):
    (folder / "data").mkdir()
    (folder / "data" / "w").write_bytes(WEIGHTS.tobytes())
    (folder / "link").symlink_to(folder / "data" / "w")
    for location in ("data/w", "link", "./data/../link"):
        program = lower(load(saved(folder, external(location))), {"x": (1, 3)})
        assert np.array_equal(program.weights["the_weights"], WEIGHTS)


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "folder link", "empty", "nul"])
def test_data_outside_the_folder_are_refused(folder, kind):
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "up").symlink_to(folder.parent)
    location = {
        "parent": "../secret.bin",
        "absolute": str(folder.parent / "secret.bin"),
        "link": "link.bin",
        "folder link": "up/secret.bin",
        "empty": "",
        "nul": "weights.bin\0",
    }[kind]
    message = refusal(saved(folder, external(location)))
    assert "'the_weights'" in message
    assert "leaves the model's folder; refused" in message


def test_missing_data(folder):
    message = refusal(saved(folder, external("gone.bin")))
    assert "'the_weights'" in message
    assert "'gone.bin' is missing; put it beside the model" in message


def test_data_in_a_folder_or_a_pipe_are_refused(folder):
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    for location in ("pipe", "sub", "."):
        message = refusal(saved(folder, external(location)))
        assert "'the_weights'" in message
        assert "is not a plain file; refused" in message


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 9}, r"ends before byte 57; is the file complete\?"),
        ({"offset": 10**30}, "ends before byte"),
        ({"dims": (3, 2**40)}, "ends before byte"),
        ({"dims": (3, 2**62)}, "ends before byte"),
        ({"length": 40}, r"length 40 does not fit shape \(3, 4\) of float32"),
        ({"length": "many"}, "'many' is not a size"),
        ({"offset": -8}, "'-8' is not a size"),
        ({"offset": "1_6"}, "'1_6' is not a size"),
        ({"offset": " 16"}, "' 16' is not a size"),
        ({"offset": "\u0663"}, "is not a size"),
        ({"length": -1}, "'-1' is not a size"),
        ({"offset": "9" * 5000}, "is not a size"),
        ({"dtype": TensorProto.INT4}, "type INT4 cannot be read from a file"),
        ({"dtype": TensorProto.STRING}, "type STRING cannot be read from a file"),
        ({"dtype": 999}, "type UNDEFINED cannot be read from a file"),
    ],
)
def test_sizes_that_do_not_fit(folder, entries, message):
    with pytest.raises(ModelError, match=rf"model\.onnx: external data of tensor 'the_weights': .*{message}"):
        lower(load(saved(folder, external(**entries))), {"x": (1, 3)})


def test_sizes_below_zero(folder):
    assert "value 'the_weights' has a size of -4; sizes cannot be negative" in refusal(
        saved(folder, external(dims=(3, -4)))
    )


def test_a_model_in_memory_has_no_folder():
    with pytest.raises(ModelError, match=r"'the_weights': the model was given in memory; pass its path"):
        prepare(model_with(external())).run([np.zeros((1, 3), np.float32)])


def test_broken_tensor_inside_the_model(folder):
    tensor = numpy_helper.from_array(WEIGHTS, "the_weights")
    tensor.raw_data = tensor.raw_data[:-3]
    assert "tensor 'the_weights' is broken" in refusal(saved(folder, tensor))


def test_not_a_model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"PK\x03\x04 this is something else")
    with pytest.raises(ModelError, match="is not an ONNX file, or it is truncated"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.onnx holds no graph; is it a complete ONNX model\?"):
        load(path)


def test_truncated_anywhere(tmp_path):
    path, whole = tmp_path / "model.onnx", model_with(numpy_helper.from_array(WEIGHTS, "w")).SerializeToString()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            lower(load(path), {"x": (1, 3)})


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="is not a plain file"):
        load(tmp_path)


def test_models_are_paths_or_protos(tmp_path):
    with pytest.raises(
        SettingError, match=r"a path, an onnx\.ModelProto, .* a keras\.Model or a JAX function or module, found dict"
    ):
        load({})


def test_incomplete_models():
    model = model_with(numpy_helper.from_array(WEIGHTS, "w"))
    del model.opset_import[:]
    with pytest.raises(ModelError, match="names no operator set"):
        load(model)
    model = model_with(numpy_helper.from_array(WEIGHTS, "w"))
    del model.graph.output[:]
    with pytest.raises(ModelError, match="has no outputs"):
        load(model)


def test_sparse_tensors_are_refused():
    model = model_with(numpy_helper.from_array(WEIGHTS, "w"))
    model.graph.sparse_initializer.add()
    with pytest.raises(UnsupportedError, match="sparse tensors; store them as dense ones"):
        lower(load(model), {"x": (1, 3)})


def declared(info):
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info], [info]))
    read(model)
    return str(input_types(load(model))[0])


def test_declared_inputs():
    assert declared(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None])) == "x: float32 [?, 3, ?]"
    assert declared(helper.make_tensor_value_info("x", TensorProto.INT64, None)) == "x: int64 any shape"
    assert declared(helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [])) == "x: bfloat16 []"


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (helper.make_tensor_value_info("x", TensorProto.STRING, [1]), "input 'x' does not hold numbers"),
        (helper.make_tensor_value_info("x", 999, [1]), "input 'x' does not hold numbers"),
        (
            helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]),
            "input x: sequence of float32 .*is no tensor",
        ),
    ],
)
def test_inputs_that_are_no_numbers(info, message):
    with pytest.raises(UnsupportedError, match=message):
        declared(info)


def test_initialised_inputs_need_not_be_passed():
    model = model_with(numpy_helper.from_array(WEIGHTS, "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert [entry.name for entry in input_types(load(model))] == ["x"]
    assert onnx.checker.check_model(model) is None
