"""Files and folders of files, told by their suffixes; a folder holds one kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import check_plain_file, shown_path

from .arrow import IPC, PARQUET, files_of
from .cells import CELLS, cells_in
from .lines import RECORDS, TEXTS, records_in_lines, texts_in_lines
from .pictures import PICTURES
from .rows import AtRandom, Reader, Rows

_Opener = Callable[[Sequence[Path], str], Reader]


def kind_of(path: Path) -> str:
    """The kind of a file, by its suffix; empty where it is none of those known."""
    return _KINDS.get(path.suffix.lower(), "")


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and those below it, by their names; hidden ones do not count.

    Raises:
        InputError: When they are of several kinds, or of none.
    """
    found = sorted(
        (path for path in folder.rglob("*") if _counts(path.relative_to(folder)) and path.is_file()), key=_order
    )
    kinds = sorted({kind_of(path) for path in found} - {""})
    if len(kinds) != 1:
        held = " and ".join(kinds) or "no files"
        known = ", ".join(dict.fromkeys(_KINDS.values()))
        raise InputError(f"folder '{shown_path(folder)}' holds {held}; it is to hold one of {known}, or list the files")
    return [path for path in found if kind_of(path) == kinds[0]]


def _counts(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _order(path: Path) -> tuple[str, ...]:
    return path.parts


def open_files(paths: Sequence[Path], called: str, folder: Path | None = None) -> Reader:
    """Files of one kind as a reader.

    Args:
        paths: The files.
        called: What to call them.
        folder: The folder that they lie in, whose own folders are classes of pictures.

    Raises:
        InputError: When one is missing, of another kind, or cannot be read.
    """
    for path in paths:
        check_plain_file(path, InputError)
    kinds = {kind_of(path): path for path in paths}
    if len(kinds) > 1 or "" in kinds:
        other = next(iter(kinds.values()))
        known = ", ".join(_KINDS)
        raise InputError(f"'{shown_path(other)}': a source is files of one kind: .npy, .npz, .zarr, {known}")
    (kind,) = kinds
    return pictures_in(paths, called, folder) if kind == "pictures" else _OPENERS[kind](paths, called)


_OPENERS: dict[str, _Opener] = {
    "Parquet": files_of,
    "Arrow": files_of,
    "CSV": cells_in,
    "TSV": cells_in,
    "texts": texts_in_lines,
    "JSON lines": records_in_lines,
}
_KINDS = {
    **dict.fromkeys(PARQUET, "Parquet"),
    **dict.fromkeys(IPC, "Arrow"),
    **{suffix: suffix[1:].upper() for suffix in CELLS},
    **dict.fromkeys(TEXTS, "texts"),
    **dict.fromkeys(RECORDS, "JSON lines"),
    **dict.fromkeys(PICTURES, "pictures"),
}


@dataclass(frozen=True, eq=False)
class PictureFiles(AtRandom):
    """Files of pictures: columns `picture`, `path` and, where they lie in folders by class, `label`.

    Attributes:
        paths: The files.
        names: Their paths in the folder.
        labels: The number of each one's class.
    """

    paths: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    labels: np.ndarray | None = None

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        every: dict[str, Any] = {"picture": self.paths, "path": self.names, "label": self.labels}
        return Rows(last - first, {name: every[name][first:last] for name in columns})


def pictures_in(paths: Sequence[Path], called: str, folder: Path | None) -> PictureFiles:
    """Files of pictures as a reader; the folders in `folder` are classes, numbered from 0 in order of their names."""
    inside = [path.relative_to(folder) if folder else Path(path.name) for path in paths]
    classes = sorted({path.parts[0] for path in inside if len(path.parts) > 1})
    labelled = bool(classes) and all(len(path.parts) > 1 for path in inside)
    labels = np.array([classes.index(path.parts[0]) for path in inside], np.int64) if labelled else None
    offered = ("path", "label") if labelled else ("path",)
    return PictureFiles(
        "pictures",
        called,
        ("picture", *offered),
        len(paths),
        offered=frozenset(offered),
        said={"classes": classes} if labelled else {},
        paths=tuple(paths),
        names=tuple(path.as_posix() for path in inside),
        labels=labels,
    )
