"""Files of arrays cost what they hold, whatever they claim."""

from __future__ import annotations

import io
import resource
import zipfile

import numpy as np
import pytest

from backtrace_jax import Explanation
from backtrace_jax.cli.input_files import load_arrays
from backtrace_jax.errors import InputError
from backtrace_jax.runtime.unpacking import ALWAYS, read_arrays


def header(shape, dtype="<f8"):
    """An .npy file without numbers, which says it has this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path, compression=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize("shape", [(2**40,), (2**62,), (2**40, 2**40), (10**30,), (2**20, 2**10)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_that_claim_more_than_there_is(tmp_path, shape, suffix):
    path, before = tmp_path / f"a{suffix}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if suffix == ".npy":
        path.write_bytes(header(shape) + bytes(80))
    else:
        archive(path, x=header(shape) + bytes(80), metadata=header((2,), "|u1") + b"{}")
    for load in (load_arrays, Explanation.load):
        with pytest.raises(InputError, match=path.name):
            load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "KiB: what is claimed is not made"


def test_archives_that_unpack_to_far_more(tmp_path):
    zeros = header((ALWAYS // 8,)) + bytes(ALWAYS)
    path = archive(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, x=zeros, metadata=header((2,), "|u1") + b"{}")
    for load in (load_arrays, Explanation.load):
        with pytest.raises(InputError, match=r"would unpack from 0\.2 to 256\.0 MiB; refused"):
            load(path)


def test_honest_archives_are_read(tmp_path):
    arrays = {"x": np.zeros((1000, 1000)), "y": np.arange(3)}  # zeros: 1000 times smaller on the disk
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert isinstance(found, dict)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.savez(tmp_path / "empty.npz")
    assert read_arrays(tmp_path / "empty.npz") == {}


def test_two_entries_of_one_name(tmp_path):
    archive(tmp_path / "a.npz", x=header((0,)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("x.npy", header((0,)))
    with pytest.raises(InputError, match="two of its entries have one name"):
        load_arrays(tmp_path / "a.npz")
