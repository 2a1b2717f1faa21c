"""Pictures as inputs: read, laid upright, sized and scaled as the caller says and the model declares."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, MissingDependencyError, SettingError
from backtrace_jax.errors.arguments import check_plain_file, shown_path
from backtrace_jax.ir.imported import InputType

from .protocol import Typed
from .reading import LAYOUTS, Reading
from .rows import Rows
from .values import Made, Maker

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture before a model sees it.

    Attributes:
        channels: 1 (grey) or 3.
        size: Width and height that the model takes; None where it takes any.
        last: Whether channels are last.
        resize: Whether a picture of another size is resized.
        mean: Taken away from the values 0..1, one number or one for each channel.
        std: What they are divided by then.
    """

    channels: int
    size: tuple[int | None, int | None]
    last: bool
    resize: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, known: InputType, reading: Reading) -> Preparation:
        """What the caller asks for, and the model takes.

        Raises:
            InputError: When the model does not take pictures, or not of that size.
        """
        if known.dims is not None and len(known.dims) != 4:
            raise InputError(
                f"pictures have 4 axes with the batch, the model takes {known}; pass arrays of that shape (.npy)"
            )
        _, *sizes = known.dims or (None, None, None, None)
        last = sizes[0] not in (1, 3, None) and sizes[2] in (1, 3)
        if reading.layout is not None and not (sizes[0] is None and sizes[2] is None):
            raise SettingError(f"layout={reading.layout!r}: the model says itself where its channels are, {known}")
        last = last if reading.layout is None else reading.layout == LAYOUTS[1]
        channels, height, width = (sizes[2], *sizes[:2]) if last else sizes
        if channels not in (1, 3, None):
            raise InputError(f"a picture has 1 or 3 channels, the model takes {known}; pass arrays of that shape")
        asked = reading.picture_size
        if asked and asked != (width or asked[0], height or asked[1]):
            raise InputError(f"size {asked[0]} x {asked[1]}: the model takes {known}; ask for resize instead")
        size = (width or (asked and asked[0]), height or (asked and asked[1]))
        prepared = cls(channels or 3, size, last, reading.resize or bool(asked), *map(reading.numbers, ("mean", "std")))
        prepared._check_numbers()
        return prepared

    def _check_numbers(self) -> None:
        if not all(self.std):
            raise InputError("std= (--std) holds 0, and nothing is divided by 0")
        for setting, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.channels):
                raise InputError(
                    f"{setting}= (--{setting}): pictures have {self.channels} channels, found {len(numbers)} numbers"
                )

    @property
    def described(self) -> str:
        """Words for what is done to the values 0..1."""
        if (self.mean, self.std) == ((0.0,), (1.0,)):
            return "; what the model was trained with is given by --mean and --std"
        words = (",".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        return ", less mean {}, divided by std {}".format(*words)

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """The shape of a picture as the model takes it."""
        return (height, width, self.channels) if self.last else (self.channels, height, width)

    def array(self, image: Image) -> np.ndarray:
        """A picture as float32, as the model takes it.

        Raises:
            InputError: When it is of another size, and is not to be resized.
        """
        sized = self._sized(_plain(image, "L" if self.channels == 1 else "RGB"))
        values = np.asarray(sized, np.float32) / (65535 if _is_deep(sized) else 255)
        if values.ndim == 2:
            values = np.repeat(values[..., None], self.channels, axis=-1)
        if (self.mean, self.std) != ((0.0,), (1.0,)):
            values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return values if self.last else np.moveaxis(values, -1, 0)

    def _sized(self, image: Image) -> Image:
        size = (self.size[0] or image.width, self.size[1] or image.height)
        if image.size == size:
            return image
        if not self.resize:
            raise InputError(
                f"is {image.width} x {image.height} pixels, the model takes {size[0]} x {size[1]}; ask for resize "
                "(resize=True, --resize)"
            )
        from PIL.Image import Resampling

        return image.resize(size, Resampling.BILINEAR)


def opened(given: Any) -> Image:
    """A picture, upright, with its pixels read.

    Args:
        given: A path, the bytes of a file, a record of `bytes` and `path`, or a picture of Pillow.

    Raises:
        InputError: When it is no picture, or damaged.
        MissingDependencyError: When Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError(
            'reading pictures needs Pillow, which is not installed: pip install "backtrace-jax[viz]"'
        ) from error
    if isinstance(given, Mapping):
        given = Path(given["path"]) if given.get("bytes") is None else given["bytes"]
    try:
        if isinstance(given, Image.Image):
            return ImageOps.exif_transpose(given)
        if isinstance(given, Path):
            check_plain_file(given, InputError)
        with Image.open(given if isinstance(given, Path) else io.BytesIO(given)) as image:
            return ImageOps.exif_transpose(image)  # upright, as every viewer shows it; also reads the pixels
    except BacktraceError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("is not a picture in a known format, or it is damaged") from error
    except Exception as error:  # of Pillow's decoders: about anything, where bytes are not as they should be
        raise InputError(f"cannot be read as a picture: {error!s:.200}") from error


def called(given: Any) -> str:
    """What to call a picture in messages."""
    return f"'{shown_path(given)}'" if isinstance(given, Path) else "its picture"


def is_picture(value: Any) -> bool:
    """Whether a value of a column is a picture: its file, the bytes of one, or one of Pillow's."""
    if isinstance(value, Mapping):
        return set(value) == {"bytes", "path"}
    if isinstance(value, Path):
        return value.suffix.lower() in PICTURES
    return isinstance(value, bytes) or type(value).__module__.partition(".")[0] == "PIL"


def _is_deep(image: Image) -> bool:
    """Whether a picture is grey, of 16 bits."""
    return image.mode.startswith("I;16")


def _plain(image: Image, mode: str) -> Image:
    """A picture in grey or colours, which can be resized; 16-bit grey stays, transparency is laid on white.

    Raises:
        InputError: When its numbers have no known scale.
    """
    if _is_deep(image):
        return image
    if image.mode in ("I", "F"):
        raise InputError(f"holds 32-bit numbers (mode {image.mode}), whose scale it does not say; pass arrays instead")
    if image.has_transparency_data:
        from PIL import Image

        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert(mode)


@dataclass(frozen=True)
class Pictures(Maker):
    """An input that is a column of pictures.

    Attributes:
        input: Its name.
        column: The column.
        prepared: What is done to each; its size is settled.
    """

    input: str
    column: str
    prepared: Preparation

    def needs(self) -> tuple[str, ...]:
        """As `Maker.needs`."""
        return (self.column,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one."""
        width, height = self.prepared.size
        assert width is not None
        assert height is not None
        return self.prepared.shape(width, height)

    @property
    def inputs(self) -> Mapping[str, Typed]:
        """As `Maker.inputs`."""
        return {self.input: (self.shape, "float32")}

    @property
    def identity(self) -> Mapping[str, Any]:
        """What is done to them."""
        done = self.prepared
        return {
            "columns": {self.input: [self.column]},
            "pictures": {
                "size": [*done.size],
                "resized": done.resize,
                "mean": [*done.mean],
                "std": [*done.std],
                "layout": LAYOUTS[done.last],
                "channels": done.channels,
            },
        }

    def make(self, rows: Rows) -> Made:
        """As `Maker.make`."""
        array, failed = np.zeros((rows.count, *self.shape), np.float32), {}
        for place in (n for n in range(rows.count) if n not in rows.failed):
            given = rows.columns[self.column][place]
            try:
                array[place] = self.prepared.array(opened(given))
            except InputError as error:
                failed[place] = f"{called(given)} {error}"
        return Made({self.input: array}, failed)
