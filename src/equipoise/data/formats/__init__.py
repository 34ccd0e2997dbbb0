"""The files that can be read and written: one registry of formats, and what uses it.

A format of your own is a subclass of :class:`Format`, and ``register(MyFormat())``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..item import Item
from .arrays import Npy, Npz
from .bart import Bart
from .base import Format, has_known_suffix, know_suffixes, new_folder, visible_files, write_npy
from .dicom import Dicom
from .hdf5 import Hdf5
from .ismrmrd import Ismrmrd
from .nifti import Nifti
from .pictures import Png, Tiff

__all__ = [
    "FORMATS",
    "Format",
    "format_of",
    "holds_images",
    "known_suffixes",
    "may_hold_either",
    "new_folder",
    "open_path",
    "register",
    "write_beside",
    "write_images",
]

#: By name, in the order in which a file's content is looked at.
FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Adds a format, or replaces that of the same name. One of your own is asked first."""
    others = {name: other for name, other in FORMATS.items() if name != format.name}
    FORMATS.clear()
    FORMATS[format.name] = format
    FORMATS.update(others)
    know_suffixes(format.suffixes)


# The last is asked first: ISMRMRD's files are HDF5 too.
for _format in (Bart(), Png(), Tiff(), Npz(), Npy(), Hdf5(), Ismrmrd(), Nifti(), Dicom()):
    register(_format)


def known_suffixes() -> str:
    """All of them, as they stand in messages."""
    return ", ".join(suffix for format in FORMATS.values() for suffix in format.suffixes)


def format_of(file: Path) -> Format | None:
    """The format of a file, by its content or else by its suffix."""
    for format in FORMATS.values():
        if format.sniff(file):
            return format
    for format in FORMATS.values():
        if file.name.lower().endswith(format.suffixes):
            return format
    return None


def open_path(path: str | Path) -> list[Item]:
    """What a file, or a folder of files of one format, holds.

    Raises:
        UserError: there is nothing, nothing that can be read, or there are several formats.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    items = (_format_of_folder(path) if path.is_dir() else _format_of_file(path)).open(path)
    if not items:
        raise UserError(f"{path}: holds no image and no measurement")
    return items


def _format_of_file(path: Path) -> Format:
    format = format_of(path)
    if format is None:
        raise UserError(f"{path}: unknown kind of file; known are {known_suffixes()}")
    return format


def _format_of_folder(path: Path) -> Format:
    found: dict[str, Format] = {}
    for file in visible_files(path):
        format = format_of(file)
        if format is not None and (format.any_suffix or has_known_suffix(file)):
            found[format.name] = format
    if not found:
        raise UserError(
            f"{path}: no file in this folder can be read; expected some of {known_suffixes()}"
        )
    if len(found) > 1:
        names = ", ".join(name for name in FORMATS if name in found)
        raise UserError(
            f"{path}: holds several kinds of files ({names}); put each kind in a folder of its own"
        )
    return next(iter(found.values()))


def holds_images(items: Sequence[Item]) -> bool:
    """Whether the files say that they hold images."""
    return all(item.holds == "image" for item in items)


def may_hold_either(items: Sequence[Item]) -> bool:
    """Whether the files could be images as well as measurements."""
    return all(FORMATS[item.format].may_hold_either for item in items)


def write_images(items: Sequence[Item], images: np.ndarray, out: str | Path) -> list[Path]:
    """Writes images (N, H, W), or sequences (N, T, H, W), in the units of their items, in the
    format that they were read from: sequences frame by frame, unless that is ``.npy``.

    What was made of measurements is written as ``.npy``.

    Raises:
        UserError: ``out`` exists and is not empty; nothing is overwritten.
    """
    folder = new_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    format = FORMATS[items[0].format]
    if items[0].holds != "image" or isinstance(format, (Npy, Npz)):
        return write_npy(items, images, folder)
    if images.ndim == 4:
        items = [frame for item in items for frame in item.frames]
        images = images.reshape(-1, *images.shape[2:])
    return format.write(items, images, folder)


def write_beside(
    items: Sequence[Item],
    images: np.ndarray,
    out: str | Path,
    word: str,
    meaning: str,
    is_difference: bool = False,
) -> list[Path]:
    """Writes what belongs to images that :func:`write_images` wrote to ``out``, beside them and in
    the same format, under their names with ``_word``: scan.dcm, scan_std.dcm.

    Args:
        items: of the images.
        images: (N, …, H, W), in the units of their items.
        out: the folder, which exists.
        word: that is added to the names.
        meaning: what a file says of itself, in formats that can, in a few words.
        is_difference: the values are deviations, to which the units' offset does not apply.
    """
    out = Path(out)
    shown = [item.showing(meaning, is_difference) for item in items]
    paths = []
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for path in write_images(shown, images, folder):
            new = out / _with_word(path.name, word)
            path.rename(new)
            paths.append(new)
    return paths


def _with_word(name: str, word: str) -> str:
    """The name of a file with a word before its suffix."""
    suffixes = [s for form in FORMATS.values() for s in form.suffixes if name.lower().endswith(s)]
    length = max((len(suffix) for suffix in suffixes), default=len(Path(name).suffix))
    stem = name[: len(name) - length]
    return f"{stem}_{word}{name[len(name) - length :]}"
