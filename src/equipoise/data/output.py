"""Where the images of a whole scan go, as they come: files of their own, a TIFF stack, or HDF5.

Each slice lies in its place from the start, so that what was written before an interruption stays,
and the rest, whenever it comes, makes the same files to the byte.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, need

#: What an HDF5 file needs beside its arrays, and each text beside its letters, in bytes, at most.
HEADERS, HEAP = 16384, 64


class Output(ABC):
    """N images (H, W), float32, in a folder."""

    def __init__(self, folder: Path, names: list[str], shape: tuple[int, int]):
        self.folder, self.names, self.shape = folder, names, shape

    @abstractmethod
    def write(self, first: int, images: np.ndarray) -> None:
        """Images (B, H, W) of the slices from ``first`` on; on the disk when it returns."""

    @abstractmethod
    def read(self, place: int) -> np.ndarray:
        """An image (H, W) that was written."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """What is written."""


def reserve(path: Path, size: int) -> None:
    """Takes room for a file of ``size`` bytes: a page that the disk has no room for later would end
    the process, in HDF5 too. Some systems can tell before; the file is made, if there is none.

    Raises:
        OSError: there is no room.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


class NpyFolder(Output):
    """One ``.npy`` a slice."""

    def write(self, first: int, images: np.ndarray) -> None:
        for place, image in enumerate(images, first):
            path = self._path(place)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, image.astype(np.float32))
            os.replace(part, path)  # never half a file

    def read(self, place: int) -> np.ndarray:
        image: np.ndarray = np.load(self._path(place))
        return image

    def _path(self, place: int) -> Path:
        return self.folder / f"{self.names[place]}.npy"

    @property
    def files(self) -> list[Path]:
        return [self._path(place) for place in range(len(self.names))]


class TiffStack(Output):
    """``images.tif``, a page a slice, in their order."""

    def __init__(self, folder: Path, names: list[str], shape: tuple[int, int]):
        super().__init__(folder, names, shape)
        self.path = folder / "images.tif"
        if not self.path.exists():
            part = self.path.with_suffix(".part")
            stack = (len(names), *shape)
            large = 4 * int(np.prod(stack)) > 2**31
            need("tifffile", "images").memmap(
                part, shape=stack, dtype=np.float32, bigtiff=large, photometric="minisblack"
            ).flush()
            reserve(part, part.stat().st_size)
            os.replace(part, self.path)

    def write(self, first: int, images: np.ndarray) -> None:
        pages = self._pages("r+")
        pages[first : first + len(images)] = images
        pages.flush()

    def read(self, place: int) -> np.ndarray:
        return np.array(self._pages("r")[place])

    def _pages(self, mode: str) -> Any:
        """(N, H, W), mapped for this moment: pages that are mapped for long count as memory."""
        pages = need("tifffile", "images").memmap(self.path, mode=mode)
        return pages.reshape(len(self.names), *self.shape)

    @property
    def files(self) -> list[Path]:
        return [self.path]


class Hdf5Dataset(Output):
    """``images.h5`` with ``images`` (slices × rows × columns) and ``names``."""

    def __init__(self, folder: Path, names: list[str], shape: tuple[int, int]):
        super().__init__(folder, names, shape)
        self.path = folder / "images.h5"
        self.h5py: Any = need("h5py", "hdf5")
        if not self.path.exists():
            part = self.path.with_suffix(".part")
            names_in_it = sum(len(name.encode()) + HEAP for name in names)
            reserve(part, HEADERS + names_in_it + 4 * len(names) * shape[0] * shape[1])
            with self.h5py.File(part, "w") as stored:
                stored["names"] = [name.encode() for name in names]
                properties = self.h5py.h5p.create(self.h5py.h5p.DATASET_CREATE)
                properties.set_alloc_time(self.h5py.h5d.ALLOC_TIME_EARLY)
                properties.set_obj_track_times(False)
                space = self.h5py.h5s.create_simple((len(names), *shape))
                kind = self.h5py.h5t.IEEE_F32LE
                self.h5py.h5d.create(stored.id, b"images", kind, space, dcpl=properties)
            reserve(part, part.stat().st_size)
            os.replace(part, self.path)

    def write(self, first: int, images: np.ndarray) -> None:
        with self.h5py.File(self.path, "r+") as stored:
            stored["images"][first : first + len(images)] = images.astype(np.float32)

    def read(self, place: int) -> np.ndarray:
        with self.h5py.File(self.path) as stored:
            image: np.ndarray = stored["images"][place]
        return image

    @property
    def files(self) -> list[Path]:
        return [self.path]


#: How a scan's images are written.
KINDS: dict[str, type[Output]] = {"npy": NpyFolder, "tiff": TiffStack, "hdf5": Hdf5Dataset}


def check_form(form: str) -> None:
    """
    Raises:
        UserError: images cannot be written so.
    """
    if form not in KINDS:
        raise UserError(f"--as {form}: unknown; images are written as {', '.join(KINDS)}")


def output(form: str, folder: Path, names: list[str], shape: tuple[int, int]) -> Output:
    """What writes images in ``form`` (see :data:`KINDS`) to an existing folder."""
    check_form(form)
    return KINDS[form](folder, names, shape)
