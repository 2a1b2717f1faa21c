"""Keras files that mean harm: nothing in them is run, nothing else is read, their cost is bounded by their size."""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import zipfile

import h5py
import numpy as np
import pytest

from backtrace_jax import explain
from backtrace_jax.errors import MissingDependencyError, ModelError, UnsupportedError
from backtrace_jax.importers import read
from backtrace_jax.runtime import unpacking
from tests.importers.keras_zoo import L, as_keras_runs, keras

ONES = np.ones((1, 3), np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Bytes of a small model's files, by suffix."""
    folder = tmp_path_factory.mktemp("plain")
    model = keras.Sequential([L.Input((3,), name="x"), L.Dense(2, name="middle"), L.Dense(1, name="last")])
    found = {}
    for suffix in (".keras", ".h5"):
        with as_keras_runs():
            model.save(folder / f"m{suffix}")
        found[suffix] = (folder / f"m{suffix}").read_bytes()
    return found


def changed(data, suffix, edit, path):
    """The file with an edited configuration."""
    if suffix == ".h5":
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            edit(config)
            file.attrs["model_config"] = json.dumps(config)
        return path
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            config = source.read(name)
            if name == "config.json":
                config = json.loads(config)
                edit(config)
                config = json.dumps(config)
            target.writestr(name, config)
    return path


def layer(config, name):
    return next(each for each in config["config"]["layers"] if each["config"]["name"] == name)


def code(text):
    """A Python function as Keras stores it."""
    return base64.b64encode(marshal.dumps(compile(text, "x", "exec"))).decode()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_no_code_is_run(suffix, plain, tmp_path):
    mark = tmp_path / "it ran"

    def with_lambda(config):
        entry, harm = layer(config, "middle"), code(f"open({str(mark)!r}, 'w')")
        inner = {"class_name": "__lambda__", "config": {"code": harm, "defaults": None, "closure": None}}
        function = inner if suffix == ".keras" else [harm, None, None]
        entry["class_name"] = "Lambda"
        entry["config"] = {"name": "middle", "function": function, "function_type": "lambda"}

    with pytest.raises(UnsupportedError, match="holds code, which is not run from a file"):
        read(changed(plain[suffix], suffix, with_lambda, tmp_path / f"m{suffix}"))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
def test_layers_that_wrap_other_programs_are_refused(kind, plain, tmp_path):
    edit = lambda config: layer(config, "middle").update(class_name=kind)  # noqa: E731
    with pytest.raises(UnsupportedError, match=f"'middle' .{kind}. holds code"):
        read(changed(plain[".keras"], ".keras", edit, tmp_path / "m.keras"))


@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [
        ("os", "function", "system"),
        ("keras.utils", "function", "get_file"),
        ("keras.src.utils.file_utils", "function", "get_file"),
        ("keras.config", "function", "enable_unsafe_deserialization"),
        ("keras", "function", "version"),
        ("keras.models", "function", "load_model"),
        ("subprocess", "Popen", None),
        ("keras_hub.models", "Backbone", None),
    ],
)
def test_only_parts_of_models_are_named(module, kind, name, plain, tmp_path):
    entry = {"module": module, "class_name": kind, "config": name or {"name": "it"}, "registered_name": name or kind}
    edit = lambda config: layer(config, "middle")["config"].update(activation=entry)  # noqa: E731
    with pytest.raises(UnsupportedError, match="nothing that Keras models are made of"):
        read(changed(plain[".keras"], ".keras", edit, tmp_path / "m.keras"))


def test_a_version_known_to_run_code_loads_no_file(plain, tmp_path, monkeypatch):
    (tmp_path / "m.h5").write_bytes(plain[".h5"])
    monkeypatch.setattr(keras, "__version__", "3.9.0")
    with pytest.raises(MissingDependencyError, match=r"Keras 3\.9\.0 may run code.*pip install 'keras>="):
        read(tmp_path / "m.h5")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_sizes_that_the_weights_do_not_have_cost_nothing(suffix, plain, tmp_path):
    edit = lambda config: layer(config, "middle")["config"].update(units=10**10)  # noqa: E731  a matrix of 112 GiB
    with pytest.raises(ModelError, match=f"m{suffix} cannot be loaded"):
        read(changed(plain[suffix], suffix, edit, tmp_path / f"m{suffix}"))


def test_an_archive_that_unpacks_to_far_more_is_refused(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS", 2**20)
    path = tmp_path / "m.keras"
    path.write_bytes(plain[".keras"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"\0" * 2**25)
    with pytest.raises(ModelError, match=r"would unpack from 0\.0 to 32\.\d MiB; refused"):
        read(path)


def test_two_parts_of_one_name_are_refused(plain, tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(plain[".keras"])
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match="two of its parts have one name"):
        read(path)


def _fill(file):
    file.create_dataset("fill", (2**30,), np.float32, chunks=(2**20,))  # 4 GiB of zeros that are not stored


def _link(file):
    file["link"] = h5py.ExternalLink("/etc/hostname", "/")


def _stored(file):
    file.create_dataset("outside", (4,), np.uint8, external=[("/etc/hostname", 0, 4)])


def _virtual(file):
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "data", (4,))
    file.create_virtual_dataset("virtual", layout)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("edit", "message"), [(_fill, r"to 4096\.\d MiB; refused"), (_link, "lies elsewhere"), (_stored, "lies elsewhere"),
                          (_virtual, "lies elsewhere")]
)  # fmt: skip
def test_weights_are_in_the_file(suffix, edit, message, plain, tmp_path):
    path, weights = tmp_path / f"m{suffix}", tmp_path / "weights.h5"
    path.write_bytes(plain[suffix])
    if suffix == ".h5":
        with h5py.File(path, "r+") as file:
            edit(file)
    else:
        with zipfile.ZipFile(io.BytesIO(plain[suffix])) as source, zipfile.ZipFile(path, "w") as target:
            weights.write_bytes(source.read("model.weights.h5"))
            with h5py.File(weights, "r+") as file:
                edit(file)
            for name in source.namelist():
                target.writestr(name, weights.read_bytes() if name == "model.weights.h5" else source.read(name))
    with pytest.raises(ModelError, match=message):
        read(path)


def test_a_file_is_known_by_its_content(tmp_path):
    path, outputs = tmp_path / "m.keras", []
    model = keras.Sequential([L.Input((3,), name="x"), L.Dense(1, name="last", kernel_initializer="ones")])
    for factor in (1, 5):
        model.set_weights([np.full((3, 1), factor, np.float32), np.zeros(1, np.float32)])
        with as_keras_runs():
            model.save(path)
        os.utime(path, ns=(10**18, 10**18))
        outputs.append(float(explain(path, ONES).outputs["last"][0, 0]))
    assert outputs == [3.0, 15.0]
