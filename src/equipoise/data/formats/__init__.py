"""The files that can be read and written: one registry of formats, and what uses it.

A format of your own is a subclass of :class:`Format`, and ``register(MyFormat())``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..choice import NOTHING_ASKED, Choice
from ..item import Item
from .arrays import Npy, Npz
from .bart import Bart
from .base import (
    Format,
    is_readable,
    know_content,
    know_suffixes,
    new_folder,
    readable_files,
    shown_path,
    write_npy,
)
from .dicom import Dicom
from .exchange import Exchange
from .hdf5 import Hdf5
from .ismrmrd import Ismrmrd
from .itk import MetaImage, Nrrd
from .matlab import Matlab
from .mrc import Mrc
from .nexus import NXtomo
from .nifti import Nifti
from .patients import with_patients
from .pictures import Png, Tiff
from .unread import unread_in

__all__ = [
    "FORMATS",
    "Format",
    "first_item",
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

#: So many files of a folder that cannot be read are looked at.
MOST_UNREAD = 100

#: By name, in the order in which a file's content is looked at.
FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Adds a format, or replaces that of the same name. One of your own is asked first."""
    others = {name: other for name, other in FORMATS.items() if name != format.name}
    FORMATS.clear()
    FORMATS[format.name] = format
    FORMATS.update(others)
    know_suffixes(format.suffixes)
    if format.any_suffix:
        know_content(format.sniff)


# The last is asked first: several families are HDF5 inside.
_HDF5 = (Hdf5(), NXtomo(), Exchange(), Ismrmrd())
_VOLUMES = (MetaImage(), Nrrd(), Mrc(), Matlab(), Nifti(), Dicom())
for _format in (Bart(), Png(), Tiff(), Npz(), Npy(), *_HDF5, *_VOLUMES):
    register(_format)
#: Those of this package, which read nothing that is known not to be read.
_OWN = tuple(FORMATS.values())


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


def open_path(
    path: str | Path,
    variable: str | None = None,
    choice: Choice = NOTHING_ASKED,
    strict: bool = True,
) -> list[Item]:
    """What a file, or a folder of files of one format, holds.

    Of a folder without any file that can be read, those of the folders in it are; then each of
    these is a patient, where the files do not say.

    Args:
        path: of a file or folder.
        variable: the name of the array in each file, where a format has several of them.
        choice: what of it is wanted.
        strict: whether a choice that the format does not know is refused.

    Raises:
        UserError: there is nothing, nothing that can be read, or there are several formats; or
            something is asked of a format that it does not know.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    format = _format_of_folder(path) if path.is_dir() else _format_of_file(path)
    format = format if variable is None else format.choosing(variable)
    unknown = [name for name in choice.asked if name not in format.chooses]
    if unknown and strict:
        name = unknown[0]
        others = [other.title for other in FORMATS.values() if name in other.chooses]
        raise UserError(
            f"{path}: is {format.title}, and data.{name} applies to {' and '.join(others)}; remove "
            "it"
        )
    items = _opened(format, path, choice, strict)
    if not items:
        raise UserError(f"{path}: holds no image and no measurement")
    return with_patients(items, path)


def _opened(format: Format, path: Path, choice: Choice, strict: bool) -> list[Item]:
    """What is wanted of it. Of data that the choice was not made for (not ``strict``), what cannot
    be cut across the axis is taken as it is."""
    if not choice.asked:
        return format.open(path)
    try:
        return format.open_chosen(path, choice)
    except UserError as error:
        if strict or choice.axis is None or "data.axis" not in str(error):
            raise
    return format.open_chosen(path, replace(choice, axis=None))


def first_item(path: str | Path, variable: str | None = None) -> Item | None:
    """The first item of a path: of a folder, that of its first file; None where there is none.
    ``variable`` as for :func:`open_path`.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(path)
    files = readable_files(path) if path.is_dir() else [path]
    for file in files:
        format = format_of(file)
        if format is not None and (path.is_file() or format.owns(file)):
            chosen = format if variable is None else format.choosing(variable)
            return next(iter(chosen.open(file)), None)
    return None


def _format_of_file(path: Path) -> Format:
    format = format_of(path)
    _refuse_unread([path], format)
    if format is None:
        raise UserError(f"{path}: unknown kind of file; known are {known_suffixes()}")
    return format


def _refuse_unread(files: Sequence[Path], format: Format | None) -> None:
    """
    Raises:
        UserError: no format of one's own reads them, and they are known not to be read here.
    """
    if format is not None and FORMATS[format.name] not in _OWN:
        return
    known = unread_in(files)
    if known is not None:
        raise UserError(f"{shown_path(known[0])}: {known[1]}")


def _format_of_folder(path: Path) -> Format:
    found: dict[str, Format] = {}
    first: dict[str, Path] = {}
    for file in readable_files(path):
        format = format_of(file)
        if format is not None and is_readable(file):
            found[format.name] = format
            first.setdefault(format.name, file)
    if not found:
        _refuse_unread(readable_files(path)[:MOST_UNREAD], None)
        raise UserError(
            f"{path}: no file in this folder can be read; expected some of {known_suffixes()}"
        )
    if len(found) == 1:
        _refuse_unread(list(first.values()), *found.values())
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


def write_images(
    items: Sequence[Item], images: np.ndarray | Sequence[np.ndarray], out: str | Path
) -> list[Path]:
    """Writes images (N, H, W), or sequences (N, T, H, W), in the units of their items, in the
    format that they were read from: sequences frame by frame, unless that is ``.npy``. Those of
    different sizes are a list.

    What was made of measurements is written as ``.npy``; of fastMRI's k-space, as its challenge
    wants it.

    Raises:
        UserError: ``out`` exists and is not empty; nothing is overwritten.
    """
    folder = new_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    format = FORMATS[items[0].format]
    written: Any = images
    if items[0].holds == "kspace" and format.writes_of_kspace:
        return format.write(items, written, folder)
    if items[0].holds != "image" or isinstance(format, (Npy, Npz)):
        return write_npy(items, written, folder)
    if images[0].ndim == 3:
        items = [frame for item in items for frame in item.frames]
        written = [image for sequence in images for image in sequence]
    return format.write(items, written, folder)


def write_beside(
    items: Sequence[Item],
    images: np.ndarray | Sequence[np.ndarray],
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
            if new.exists():
                raise UserError(
                    f"{new.name} is an image of its own, and what is written beside {path.name}; "
                    "rename one of them"
                )
            path.rename(new)
            paths.append(new)
    return paths


def _with_word(name: str, word: str) -> str:
    """The name of a file with a word before its suffix."""
    suffixes = [s for form in FORMATS.values() for s in form.suffixes if name.lower().endswith(s)]
    length = max((len(suffix) for suffix in suffixes), default=len(Path(name).suffix))
    stem = name[: len(name) - length]
    return f"{stem}_{word}{name[len(name) - length :]}"
