"""Reading the command line's input files: .npy, .npz, .csv, .tsv and pictures, fitted to what the model declares."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backtrace_jax.errors import InputError, MissingDependencyError
from backtrace_jax.errors.arguments import check_plain_file
from backtrace_jax.ir.imported import InputType
from backtrace_jax.runtime.unpacking import read_arrays

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class InputFile:
    """What an input file holds.

    Attributes:
        inputs: One array, a tuple in the model's order, or arrays by input name; batch first.
        feature_names: Names of the columns of a table with a header row.
        ignored: Names of arrays in the file that are no inputs of the model.
        note: What was done to a picture.
    """

    inputs: Any
    feature_names: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture before a model sees it.

    Attributes:
        resize: Whether it is resized to the size the model takes.
        size: (width, height) it is resized to; None: as the model takes it.
        mean: Taken away from the values 0..1, one number or one for each channel.
        std: What they are divided by then.
    """

    resize: bool = False
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def read_input_file(path: Path, declared: Sequence[InputType], prepared: Preparation = Preparation()) -> InputFile:
    """Read a file by its suffix.

    Args:
        path: The file.
        declared: The model's inputs.
        prepared: What is done to a picture.

    Raises:
        InputError: When the file is missing, broken, of an unknown kind, or does not fit the model.
        MissingDependencyError: When a picture is to be read and Pillow is not installed.
    """
    suffix = path.suffix.lower()
    check_plain_file(path, InputError)
    if suffix == ".npy":
        return InputFile(load_arrays(path))
    if suffix == ".npz":
        return _archive(path, declared)
    if suffix in TABLES:
        return _table(path, declared, TABLES[suffix])
    if suffix in PICTURES:
        return _picture(path, _one_input(path, declared), prepared)
    kinds = ", ".join([".npy", ".npz", *TABLES, *PICTURES])
    raise InputError(f"'{path}': inputs are read from {kinds}; save them in one of these")


def load_arrays(path: Path) -> Any:
    """One array (.npy), or arrays by name (.npz).

    Raises:
        InputError: When the file cannot be read as such.
    """
    try:
        return read_arrays(path)
    except (InputError, OSError) as error:
        advice = "write it with numpy.save or numpy.savez, from arrays of numbers"
        raise InputError(f"'{path}' cannot be read as {path.suffix}: {error}; {advice}") from error


def _archive(path: Path, declared: Sequence[InputType]) -> InputFile:
    arrays = load_arrays(path)
    if not isinstance(arrays, dict):
        return InputFile(arrays)  # an .npy file under another name
    names = [known.name for known in declared]
    positional = [f"arr_{number}" for number in range(len(names))]
    if list(arrays) == positional and not set(names) & set(arrays):
        return InputFile(tuple(arrays.values()))  # numpy.savez without names: the model's order
    extra = tuple(name for name in arrays if name not in names)
    if missing := [name for name in names if name not in arrays]:
        held = ", ".join(arrays) or "nothing"
        raise InputError(f"'{path}' holds {held}, but not the input {', '.join(missing)}; name arrays like inputs")
    return InputFile({name: arrays[name] for name in names}, ignored=extra)


def _table(path: Path, declared: Sequence[InputType], delimiter: str) -> InputFile:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter, strict=True) if row]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"'{path}' cannot be read as a table: {error}; save it as UTF-8 {path.suffix}") from error
    header = tuple(cell.strip() for cell in rows[0]) if rows and not any(map(_is_number, rows[0])) else None
    first = 1 if header else 0
    if len(rows) == first:
        raise InputError(f"'{path}' holds no rows of numbers")
    width = len(rows[0])
    numbers = [_numbers(path, line, row, width) for line, row in enumerate(rows[first:], first + 1)]
    return InputFile(_integers_where_due(np.array(numbers), declared), header)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path: Path, line: int, row: list[str], width: int) -> list[float]:
    if len(row) != width:
        raise InputError(f"'{path}', row {line}: {len(row)} cells where the first row has {width}")
    for column, cell in enumerate(row, 1):
        if not _is_number(cell):
            found = repr(cell) if cell.strip() else "an empty cell"
            advice = "cells are numbers with a decimal point, and only the first row may hold names"
            raise InputError(f"'{path}', row {line}, column {column}: {found} is not a number; {advice}")
    return [float(cell) for cell in row]


def _integers_where_due(values: np.ndarray, declared: Sequence[InputType]) -> np.ndarray:
    """Token ids come out of a table as floats; hand them on as integers where that loses nothing."""
    due = len(declared) == 1 and declared[0].dtype.kind in "iu"
    whole = due and bool((values == np.round(values)).all()) and bool(np.isfinite(values).all())
    return values.astype(np.int64) if whole else values


def _one_input(path: Path, declared: Sequence[InputType]) -> InputType:
    if len(declared) != 1:
        names = ", ".join(map(str, declared))
        raise InputError(
            f"'{path}' is one picture, the model takes {len(declared)} inputs ({names}); pass an .npz file"
        )
    if declared[0].dims is not None and len(declared[0].dims) != 4:
        raise InputError(f"'{path}' is a picture, but the model takes {declared[0]}; pass an .npy file of that shape")
    return declared[0]


def _picture(path: Path, known: InputType, prepared: Preparation) -> InputFile:
    """One picture as float32, [1, channels, height, width], or channels last where the model declares that."""
    _, *sizes = known.dims or (None, None, None, None)
    last = sizes[0] not in (1, 3, None) and sizes[2] in (1, 3)
    channels, height, width = (sizes[2], *sizes[:2]) if last else sizes
    if channels not in (1, 3, None):
        raise InputError(f"'{path}': a picture has 1 or 3 channels, the model takes {known}; pass an .npy file")
    found = _open(path)
    asked = prepared.size or (found.width, found.height)
    if prepared.size and prepared.size != (width or asked[0], height or asked[1]):
        raise InputError(f"--size {asked[0]}x{asked[1]}: the model takes {known}; leave it out and add --resize")
    image = _sized(path, found, (width or asked[0], height or asked[1]), resize=prepared.resize or bool(prepared.size))
    values, done = _normalised(path, _pixels(image, channels or 3), prepared)
    resized = "" if image.size == found.size else f"resized from {_size(found)} to {_size(image)}, "
    array = (values if last else np.moveaxis(values, -1, 0))[None]
    return InputFile(array, note=f"'{path}' was {resized}scaled to 0..1{done}")


def _normalised(path: Path, values: np.ndarray, prepared: Preparation) -> tuple[np.ndarray, str]:
    """Values less the mean, by the deviation, and words for it."""
    if not all(map(np.isfinite, (*prepared.mean, *prepared.std))) or not all(prepared.std):
        raise InputError("--mean and --std are finite numbers, and nothing is divided by 0")
    if (prepared.mean, prepared.std) == ((0.0,), (1.0,)):
        return values, "; what the model was trained with is given by --mean and --std"
    for option, numbers in (("--mean", prepared.mean), ("--std", prepared.std)):
        if len(numbers) not in (1, values.shape[-1]):
            raise InputError(f"{option}: '{path}' has {values.shape[-1]} channels, found {len(numbers)} numbers")
    mean, std = (np.array(numbers, np.float32) for numbers in (prepared.mean, prepared.std))
    words = (",".join(f"{number:g}" for number in numbers) for numbers in (prepared.mean, prepared.std))
    return (values - mean) / std, ", less mean {}, divided by std {}".format(*words)


def _size(image: Image) -> str:
    return f"{image.width} x {image.height}"


def _open(path: Path) -> Image:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        advice = 'pip install "backtrace-jax[viz]"'
        raise MissingDependencyError(f"reading '{path}' needs Pillow, which is not installed: {advice}") from error
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)  # upright, as every viewer shows it; also reads the pixels
    except UnidentifiedImageError as error:
        raise InputError(f"'{path}' is not a picture in a known format, or it is damaged") from error
    except Exception as error:  # of Pillow's decoders: about anything, where bytes are not as they should be
        raise InputError(f"'{path}' cannot be read as a picture: {error!s:.200}") from error


def _sized(path: Path, image: Image, size: tuple[int, int], *, resize: bool) -> Image:
    if image.size == size:
        return image
    if not resize:
        found, wanted = f"{image.width} x {image.height}", f"{size[0]} x {size[1]}"
        raise InputError(f"'{path}' is {found} pixels, the model takes {wanted}; add --resize to resize it")
    from PIL.Image import Resampling

    return image.resize(size, Resampling.BILINEAR)


def _pixels(image: Image, channels: int) -> np.ndarray:
    """Values 0..1, [height, width, channels]; 16-bit grey keeps its precision, transparency is laid on white."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, np.float32)[..., None] / 65535
        return np.repeat(grey, channels, axis=-1)
    if image.has_transparency_data:
        from PIL import Image

        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32) / 255
    return values.reshape(image.height, image.width, channels)
