"""Pictures: grey TIFF and PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ..item import Item, Units, UnitsFrom
from .base import Format, check_promised_size, first_bytes


class _Pictures(Format):
    """What both have in common: the largest number of an unsigned type counts as 1.

    Sixteen bits often hold twelve, and signed or floating numbers say nothing at all: there, the
    units are settled by the values (units.py).
    """

    def item(self, name: str, file: Path, shape: tuple[int, ...], dtype: np.dtype) -> Item:
        """An item that has no ``read`` of its own yet."""
        if dtype.kind not in "buifc":
            raise self.error(file, f"holds {dtype}, not numbers")
        is_complex = dtype.kind == "c"
        said: UnitsFrom = "file" if dtype.kind in "bu" and dtype.itemsize == 1 else "nothing"
        return Item(
            name=name,
            file=file,
            shape=shape,
            read=partial(np.empty, shape, dtype),
            holds="kspace" if is_complex else "image",
            complex=is_complex,
            patient=file.stem,
            units=Units(scale=largest(dtype)),
            units_from=said,
            format=self.name,
        )


def largest(dtype: np.dtype) -> float:
    """The largest number of an unsigned type; 1 for all others."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


class Png(_Pictures):
    """One grey picture a file."""

    name = "png"
    suffixes = (".png",)
    needs = "A PNG file holds one picture of grey values, in 1 to 16 bits."

    def sniff(self, path: Path) -> bool:
        return first_bytes(path, 8) == b"\x89PNG\r\n\x1a\n"

    def open(self, path: Path) -> list[Item]:
        return [self._item(file) for file in self.files(path)]

    def _item(self, file: Path) -> Item:
        from PIL import Image

        with self.reading(file), Image.open(file, formats=["PNG"]) as image:
            mode, (columns, rows) = image.mode, image.size
            check_promised_size(file, rows * columns // 8, compressed=True)
        if mode not in ("1", "L", "I", "I;16"):
            raise self.error(
                file,
                f"a picture of mode {mode}, not grey values; convert it to greyscale, with Pillow: "
                "Image.open(name).convert('L').save('grey.png')",
            )
        dtype = np.dtype({"1": bool, "L": np.uint8}.get(mode, np.uint16))
        item = self.item(file.stem, file, (rows, columns), dtype)
        return replace(item, read=partial(self._read, file, dtype))

    def _read(self, file: Path, dtype: np.dtype) -> np.ndarray:
        from PIL import Image

        with self.reading(file), Image.open(file, formats=["PNG"]) as image:
            return np.array(image).astype(dtype)

    def remedy(self, error: Exception) -> str:
        # Pillow has no class of its own for a broken file: it raises SyntaxError and OSError.
        if isinstance(error, SyntaxError):
            return "the file is damaged: copy or export it again, or leave it out"
        return super().remedy(error)

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """In 16 bits: the item's own numbers, where 8 bits would not hold them, so that twelve bits
        in sixteen stay what they were; else the largest is what counts as 1."""
        from PIL import Image

        paths = []
        for item, image in zip(items, images, strict=True):
            numbers = image
            if item.units.scale <= 255 or item.units.offset:
                numbers = 65535 * np.clip(item.units.to_model(image), 0, 1)
            pixels = np.rint(np.clip(numbers, 0, 65535)).astype(np.uint16)
            paths.append(folder / f"{item.name}.png")
            Image.fromarray(pixels).save(paths[-1])
        return paths


#: Where white is zero, an image has something this dark at least; twelve bits in a type of sixteen
#: reach 1/16.
LEAST_BLACK = 1 / 8


class Tiff(_Pictures):
    """Grey pictures, one a page."""

    name = "tiff"
    suffixes = (".tif", ".tiff")
    needs = "A TIFF file holds pages of grey values, of any type of number."
    may_hold_either = True

    def sniff(self, path: Path) -> bool:
        return first_bytes(path, 4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def open(self, path: Path) -> list[Item]:
        tifffile = need("tifffile", "images")
        items = []
        for file in self.files(path):
            with self.reading(file), tifffile.TiffFile(file) as tiff:
                if len(tiff.pages) == 1 and tiff.series[0].size > tiff.pages[0].size:
                    found = self._after_one_page(file, tiff)
                else:
                    found = self._pages(file, list(tiff.pages))
                items += _with_channels_said(found, file, tiff.series)
        return items

    def _after_one_page(self, file: Path, tiff: Any) -> list[Item]:
        """Those of a stack of which the first page alone is described, and the rest follows it: as
        ImageJ writes more than four gigabytes."""
        page, series = tiff.pages[0], tiff.series[0]
        self._check_page(file, page)
        count = series.size // page.size
        first = self._item(file.stem, file, 0, page)
        if first.holds != "image" or series.dataoffset is None or page.photometric == 0:
            raise self.error(
                file,
                f"describes one of {count} pictures; save it anew, each with a page of its own",
            )
        check_promised_size(file, page.nbytes * count, compressed=False)
        return [
            replace(
                first,
                name=f"{file.stem}_{k:03d}",
                index=k,
                read=partial(self._read_behind, file, k, page.shape),
            )
            for k in range(count)
        ]

    def _read_behind(self, file: Path, number: int, shape: tuple[int, ...]) -> np.ndarray:
        tifffile = need("tifffile", "images")
        with self.reading(file):
            stack = tifffile.memmap(file, mode="r")
            return np.array(stack.reshape(-1, *shape)[number])

    def _pages(self, file: Path, pages: list[Any]) -> list[Item]:
        """The pages that are pictures of their own: no thumbnails, and no masks."""
        pictures = [k for k, page in enumerate(pages) if not (page.is_reduced or page.is_mask)]
        items = []
        for k in pictures:
            self._check_page(file, pages[k])
            name = file.stem if len(pictures) == 1 else f"{file.stem}_{k:03d}"
            items.append(self._item(name, file, k, pages[k]))
        if len(pictures) < len(pages) and items:
            note = f"{file.name}: {len(pages) - len(pictures)} thumbnails or masks are left out"
            items[0] = replace(items[0], notes=(note,))
        return items

    def _check_page(self, file: Path, page: Any) -> None:
        tifffile = need("tifffile", "images")
        if page.compression not in tifffile.TIFF.DECOMPRESSORS:
            name = getattr(page.compression, "name", page.compression)
            raise self.error(
                file,
                f"is compressed with {name}, whose codec is not installed (pip install "
                "imagecodecs); or save it uncompressed",
            )
        photometric = page.photometric
        grey = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
        if photometric not in grey or len(page.shape) != 2:
            name = getattr(photometric, "name", photometric)
            raise self.error(
                file,
                f"a picture of kind {name} and shape {page.shape}, not grey values: expected grey "
                "two-dimensional images; save each channel as an image of its own: a = "
                f"tifffile.imread(name){_channels_first(page.shape)}; "
                "tifffile.imwrite('channel0.tif', a[0])",
            )
        rows, columns = page.shape
        promised = rows * -(-columns * page.bitspersample // 8)  # some bits are packed
        check_promised_size(file, promised, compressed=page.compression != 1)

    def _item(self, name: str, file: Path, page_number: int, page: Any) -> Item:
        dtype = np.dtype(page.dtype)
        item = self.item(name, file, page.shape, dtype)
        white = _said_white(page)
        if white is not None:
            item = replace(item, units=Units(scale=white), units_from="file")
        inverted = None
        if page.photometric == 0:  # white is zero
            if dtype.kind not in "ub":
                raise self.error(
                    file,
                    f"says that white is zero, of numbers of type {dtype}, which have no largest; "
                    "save it with black as zero",
                )
            inverted = item.units.scale
        read = partial(self._read, file, page_number, inverted)
        return replace(item, read=read, index=page_number)

    def _read(self, file: Path, page_number: int, white: float | None) -> np.ndarray:
        tifffile = need("tifffile", "images")
        with self.reading(file):
            pixels: np.ndarray = tifffile.imread(file, key=page_number)
        if white is None:
            return pixels
        if pixels.dtype == bool:
            return ~pixels
        largest = float(pixels.max(initial=0))
        if 0 < largest < LEAST_BLACK * white:
            raise self.error(
                file,
                f"says that white is zero, and its darkest value is {largest:g} of {white:g}: it "
                "may use fewer bits than there are, and which number is black is not known; save "
                "it with black as zero",
            )
        return np.maximum(white - pixels.astype(np.float64), 0)

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """In float32, with black as zero."""
        tifffile = need("tifffile", "images")
        paths = [folder / f"{item.name}.tif" for item in items]
        for path, image in zip(paths, images, strict=True):
            tifffile.imwrite(path, image.astype(np.float32))
        return paths


def _with_channels_said(items: list[Item], file: Path, series: Sequence[Any]) -> list[Item]:
    """Pages that ImageJ or OME calls channels of one picture are images here, which is said."""
    if len(series) != 1 or not items:
        return items
    axes, shape = series[0].axes, series[0].shape
    place = axes.find("C")
    channels = shape[place] if place >= 0 else 1
    if channels < 2 or len(items) != math.prod(shape[:-2]):
        return items
    apart = math.prod(shape[place + 1 : -2])
    first = f"0:{len(items)}:{channels}" if apart == 1 else f"0:{apart}"
    is_a_range = apart == 1 or math.prod(shape[:place]) == 1
    words = f"data.slices={first}, for the first" if is_a_range else "save it by itself"
    note = (
        f"{file.name}: holds {channels} channels, and each becomes an image of its own; to learn "
        f"from one of them alone: {words}"
    )
    return [replace(items[0], notes=(*items[0].notes, note)), *items[1:]]


def _channels_first(shape: tuple[int, ...]) -> str:
    """What brings the channels of a page to the front, in NumPy's words."""
    return ".transpose(2, 0, 1)" if len(shape) == 3 and shape[-1] < min(shape[:-1]) else ""


def _said_white(page: Any) -> float | None:
    """The value of white, where the file says it: by a number of bits that is not a type's, or by
    MaxSampleValue, which some programs fill with the largest value that occurs: there it is none of
    2ⁿ − 1, and says nothing."""
    if np.dtype(page.dtype).kind != "u":
        return None
    bits = page.bitspersample
    if bits not in (16, 32, 64):
        return float(2**bits - 1)
    tag = page.tags.get("MaxSampleValue")
    value = tag.value if tag is not None else None
    if isinstance(value, int) and value > 0 and (value + 1) & value == 0:
        return float(value)
    return None
