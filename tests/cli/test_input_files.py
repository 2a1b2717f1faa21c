"""Input files of every kind, read to fit what the model declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backtrace_jax import demo
from backtrace_jax.cli.input_files import read_input_file
from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType

TUMOURS = demo.sample("breast_cancer")
IMAGE = InputType("image", (None, 1, 8, 8), np.dtype(np.float32))


def test_tables_keep_every_bit(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(",".join(repr(float(value)) for value in row) for row in TUMOURS.inputs))
    known = InputType("features", (None, 30), np.dtype(np.float32))
    np.testing.assert_array_equal(read_input_file(path, [known]).inputs.astype(np.float32), TUMOURS.inputs)


def test_token_ids_in_a_table_become_integers(tmp_path):
    (tmp_path / "ids.csv").write_text("101,2023,102\n101,7,102\n")
    read = read_input_file(tmp_path / "ids.csv", [InputType("input_ids", (None, None), np.dtype(np.int64))])
    assert read.inputs.dtype == np.int64
    np.testing.assert_array_equal(read.inputs, [[101, 2023, 102], [101, 7, 102]])


def draw(path: Path, mode: str, size: tuple[int, int], value: object) -> Path:
    Image.new(mode, size, value).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "value", "dims", "expected"),
    [
        ("L", 51, (None, 1, 4, 6), 0.2),
        ("L", 51, (None, 3, 4, 6), 0.2),
        ("RGB", (51, 51, 51), (None, 1, 4, 6), 0.2),
        ("RGB", (51, 51, 51), (None, 4, 6, 3), 0.2),
        ("RGBA", (0, 0, 0, 0), (None, 3, 4, 6), 1.0),
        ("I;16", 13107, (None, 1, 4, 6), 0.2),
        ("1", 1, (None, 1, None, None), 1.0),
        ("P", 0, (None, None, None, None), 0.0),
    ],
)
def test_pictures_fit_the_declared_layout(tmp_path, mode, value, dims, expected):
    path = draw(tmp_path / "x.png", mode, (6, 4), value)
    array = read_input_file(path, [InputType("image", dims, np.dtype(np.float32))]).inputs
    sizes = [3 if dims[1] is None else dims[1], dims[2] or 4, dims[3] or 6]
    assert array.dtype == np.float32
    assert array.shape == (1, *sizes)
    np.testing.assert_allclose(array, expected, atol=1e-3)


def test_channels_keep_their_order(tmp_path):
    path = draw(tmp_path / "x.png", "RGB", (8, 8), (255, 0, 51))
    array = read_input_file(path, [InputType("image", (None, 3, 8, 8), np.dtype(np.float32))]).inputs
    np.testing.assert_allclose(array[0, :, 0, 0], [1.0, 0.0, 0.2], atol=1e-6)


def test_pictures_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 270 degrees
    Image.new("L", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    known = InputType("image", (None, 1, 8, 4), np.dtype(np.float32))
    assert read_input_file(tmp_path / "x.jpg", [known]).inputs.shape == (1, 1, 8, 4)


def test_a_picture_needs_a_model_for_pictures(tmp_path):
    path = draw(tmp_path / "x.png", "L", (8, 8), 0)
    with pytest.raises(InputError, match=r"features.*\.npy"):
        read_input_file(path, [InputType("features", (None, 30), np.dtype(np.float32))])
    with pytest.raises(InputError, match=r"2 inputs.*\.npz"):
        read_input_file(path, [IMAGE, IMAGE])
    with pytest.raises(InputError, match=r"1 or 3 channels"):
        read_input_file(path, [InputType("image", (None, 12, 8, 8), np.dtype(np.float32))])
