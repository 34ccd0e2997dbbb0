"""From the section ``data`` of a configuration, and a scan, to a data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.phantoms import phantoms, smooth_phase
from ..imaging.sizes import Size, image_size
from ..imaging.tomography.settings import RaysSettings
from .acquired import acquired
from .dataset import Dataset, Streamed, repeated
from .formats import holds_images as look_like_images
from .formats import may_hold_either, open_path
from .item import Item
from .pick import acquisitions_of, fits, images_of, measurements_of, sequences_of
from .scan import Scan
from .seeds import seed_of
from .settings import (
    AutoSettings,
    Data,
    FileSettings,
    ImageSettings,
    MeasurementSettings,
    PhantomSettings,
)
from .sinograms import cut_off_words, sinograms_of
from .units import settled

#: None of the phantoms that the shipped denoiser was trained on.
PHANTOM_SEED = 77_000
#: How many of a streamed data set tell the noise level, evenly spread over it.
NOISE_SAMPLES = 32


def load_dataset(
    data: Data, scan: Scan, seed: int = 0, path: Path | None = None, stream: bool = False
) -> Dataset:
    """Reads what ``data`` names, or makes phantoms, and measures what are images.

    Args:
        scan: what measures. A real MRI acquisition brings its own operator instead.
        seed: of phantoms, noise and the synthetic phase of complex images.
        path: data to read instead of those that ``data`` names.
        stream: leave the data in their files until they are asked for.

    Raises:
        UserError: there is no such file, it cannot be read, or it does not fit the scan.
    """
    is_elsewhere = path is not None
    if isinstance(data, PhantomSettings) and not is_elsewhere:
        return _measured(phantom_items(data.count, data.size, seed, scan), scan, seed, stream)
    if path is None:
        assert isinstance(data, FileSettings)
        path = data.path
    items = open_path(path, getattr(data, "variable", None))
    holds_images = _are_images(data, items, scan, is_elsewhere)
    if isinstance(data, AutoSettings) and not is_elsewhere:
        _refuse_ignored_options(data, holds_images)
    if holds_images:
        images = images_of(items, data.size)
        images = settled(images, data.units, override=not is_elsewhere)
        return _measured(images, scan, seed, stream)
    if scan.settings.kind == "mri" and all(item.complex for item in items):
        return acquired(acquisitions_of(items), scan, seed)
    peak, water = getattr(data, "peak", 1.0), getattr(data, "water", None)
    if isinstance(scan.settings, RaysSettings):
        measurements, scan, said = sinograms_of(items, scan, peak, water)
        return _read(measurements, scan, stream, said)
    measurements = measurements_of(items, tuple(scan.measurement_shape), peak)
    return _read(measurements, scan, stream)


def _are_images(data: Data, items: Sequence[Item], scan: Scan, is_elsewhere: bool) -> bool:
    """What ``data.kind`` says is about ``data.path``. Other files are what they look like; those
    that could be either are measurements if they fit the scan, and else what ``data.kind`` says."""
    if is_elsewhere and not may_hold_either(items):
        return look_like_images(items)
    if isinstance(data, ImageSettings):
        return not is_elsewhere or not _are_surely_measurements(items, scan)
    if isinstance(data, MeasurementSettings):
        return False
    return look_like_images(items)


def _are_surely_measurements(items: Sequence[Item], scan: Scan) -> bool:
    """Whether files say where their rays ran, or arrays have the shape of a measurement, where that
    is not the shape of an image."""
    if all(item.geometry is not None for item in items):
        return True
    if scan.measurement_shape[-2:] == scan.image_shape[-2:]:
        return False
    return all(fits(item, scan.measurement_shape) for item in items)


def _refuse_ignored_options(data: AutoSettings, holds_images: bool) -> None:
    """
    Raises:
        UserError: an option was set that these files have no use for.
    """
    if holds_images and data.water is not None:
        raise UserError(
            f"{data.path}: holds images, and data.water={data.water:g} applies to measurements; "
            "leave it out, and set data.units=hounsfield if that is what the images are in"
        )
    if holds_images and data.peak != 1:
        raise UserError(
            f"{data.path}: holds images, and data.peak={data.peak:g} applies to measurements; set "
            f"data.units={data.peak:g} if that value of their pixels counts as 1"
        )
    if not holds_images and data.units != "auto" and data.validation is None:
        raise UserError(
            f"{data.path}: holds measurements, and data.units={data.units} applies to images; set "
            "data.peak to the value of x that counts as 1, or data.kind=images"
        )


def phantom_items(count: int, size: Size, seed: int, scan: Scan) -> list[Item]:
    """Anatomical phantoms of the kind that the scan looks at; square ones in the middle of images
    that are not square."""
    kinds = ("brain",) if scan.image_shape[0] == 2 else ("thorax", "abdomen", "head")
    h, w = image_size(size)
    values = phantoms(count, min(h, w), PHANTOM_SEED + seed, kinds)[:, 0].numpy()
    top, left = (h - min(h, w)) // 2, (w - min(h, w)) // 2
    sides = (top, h - min(h, w) - top), (left, w - min(h, w) - left)
    values = np.pad(values, ((0, 0), *sides))
    return [
        Item(
            name=f"phantom_{i:03d}",
            file=Path("phantoms"),
            shape=(h, w),
            read=partial(values.__getitem__, i),
            patient=f"phantom_{i:03d}",
        )
        for i in range(count)
    ]


def _read(items: list[Item], scan: Scan, stream: bool, said: Sequence[str] = ()) -> Dataset:
    """Measurements as they are in their files; ``said``: what was noticed about all of them."""
    notes = [*notes_of(items), *said]
    if stream:
        some = torch.stack([scan.to_model(items[i]) for i in _noise_samples(len(items))])
        y = Streamed(len(items), lambda i: scan.to_model(items[i]))
        return Dataset(items, scan.with_noise(scan.noise_level(some)), y, notes=notes)
    values = torch.stack([scan.to_model(item) for item in items])
    notes += [*cut_off_words(values, scan), *repeated(items, values)]
    return Dataset(items, scan.with_noise(scan.noise_level(values)), values, notes=notes)


def _measured(images: list[Item], scan: Scan, seed: int, stream: bool) -> Dataset:
    """Images, and what the scan measures of them."""
    notes = notes_of(images)
    if scan.settings.frames is not None:
        images, left_out = sequences_of(images, scan.settings.frames)
        notes += left_out
    _check_all_complex_or_none(images)
    if stream:
        return _measured_one_by_one(images, scan, seed, notes)
    values = torch.stack([scan.to_model(item) for item in images])
    notes += repeated(images, values)
    truth = _as_the_scan_sees(values, scan, seed)
    y, noise = scan.measure(truth, seed)
    return Dataset(images, scan.with_noise(noise), y, truth, notes)


def _measured_one_by_one(images: list[Item], scan: Scan, seed: int, notes: list[str]) -> Dataset:
    """The same as in memory, to the bit, where the noise level is: it is that of some images."""

    def image(i: int) -> Tensor:
        return _as_the_scan_sees(scan.to_model(images[i])[None], scan, seed, first=i)

    some = torch.cat([image(i) for i in _noise_samples(len(images))])
    noise = scan.noise_level(scan.measure_clean(some))
    y = Streamed(len(images), lambda i: scan.measure(image(i), seed, noise, first=i)[0][0])
    return Dataset(images, scan.with_noise(noise), y, notes=notes)


def _noise_samples(count: int) -> list[int]:
    last = count - 1
    return [int(i) for i in torch.linspace(0, last, min(count, NOISE_SAMPLES)).round()]


def _as_the_scan_sees(images: Tensor, scan: Scan, seed: int, first: int = 0) -> Tensor:
    """Magnitudes (N, 1, …, H, W); for MRI with a smooth synthetic phase, (N, 2, …, H, W).

    What is complex already stays as it is. The first image is at ``first`` in its data set.
    """
    if scan.image_shape[0] != 2 or images.shape[1] == 2:
        return images
    count, (h, w) = len(images), images.shape[-2:]
    seeds = [seed_of(seed, "phase", first + i) for i in range(count)]
    phase = torch.cat([smooth_phase(1, max(h, w), own)[:, :h, :w] for own in seeds])
    phase = phase.reshape(count, *[1] * (images.ndim - 3), *images.shape[-2:])
    return torch.cat([images * phase.cos(), images * phase.sin()], 1)


def _check_all_complex_or_none(images: Sequence[Item]) -> None:
    """Raises:
    UserError: some are complex, others are not.
    """
    first = {item.complex: item for item in reversed(images)}
    if len(first) > 1:
        raise UserError(
            f"{first[True].file}: holds complex images, and {first[False].file.name} real ones; "
            "put each kind in a folder of its own"
        )


def notes_of(items: Sequence[Item]) -> list[str]:
    """What the readers of these items noticed, each remark once."""
    return list(dict.fromkeys(note for item in items for note in item.notes))
