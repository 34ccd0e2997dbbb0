"""From the section ``data`` of a configuration, and a scan, to a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.phantoms import phantoms, smooth_phase
from .acquired import acquired
from .choice import Choice, with_chosen_slices
from .dataset import Dataset, Streamed, notes_of, repeated
from .formats import holds_images as look_like_images
from .formats import may_hold_either, open_path
from .item import Item
from .pick import acquisitions_of, fits, images_of, measurements_of, sequences_of
from .scan import Scan
from .seeds import seed_of
from .sizes import framed_measurement, framed_truth, in_frames, noise_of
from .settings import (
    AutoSettings,
    Data,
    FileSettings,
    ImageSettings,
    MeasurementSettings,
    PhantomSettings,
)
from .units import settled

#: None of the phantoms that the shipped denoiser was trained on.
PHANTOM_SEED = 77_000
#: How many of a streamed data set tell the noise level, evenly spread over it.
NOISE_SAMPLES = 32


def load_dataset(
    data: Data,
    scan: Scan,
    seed: int = 0,
    path: Path | None = None,
    stream: bool = False,
    whole: bool = False,
) -> Dataset:
    """Reads what ``data`` names, or makes phantoms, and measures what are images.

    Args:
        scan: what measures. A real MRI acquisition brings its own operator instead.
        seed: of phantoms, noise and the synthetic phase of complex images.
        path: data to read instead of those that ``data`` names.
        stream: leave the data in their files until they are asked for.
        whole: all slices, whatever ``data.slices`` says.

    Raises:
        UserError: there is no such file, it cannot be read, or it does not fit the scan.
    """
    is_elsewhere = path is not None
    if isinstance(data, PhantomSettings) and not is_elsewhere:
        return _measured(phantom_items(data.count, data.size, seed, scan), scan, seed, stream)
    if path is None:
        assert isinstance(data, FileSettings)
        path = data.path
    choice = data.choice if isinstance(data, FileSettings) else Choice()
    slices = None if whole else getattr(data, "slices", None)
    items = open_path(path, choice, strict=not is_elsewhere)
    holds_images = _are_images(data, items, scan, is_elsewhere)
    if isinstance(data, AutoSettings) and not is_elsewhere:
        _refuse_ignored_options(data, holds_images)
    if holds_images:
        images = images_of(items, data.size, getattr(data, "fit", "pad"))
        images, notes = with_chosen_slices(images, slices)
        images = settled(images, data.units, override=not is_elsewhere)
        is_native = data.size == "native"
        return with_notes(_measured(images, scan, seed, stream, is_native), notes)
    if scan.settings.kind == "mri" and all(item.complex for item in items):
        slices_of, notes = with_chosen_slices(acquisitions_of(items), slices)
        return with_notes(acquired(slices_of, scan, seed), notes)
    peak = getattr(data, "peak", 1.0)
    measurements = measurements_of(items, tuple(scan.measurement_shape), peak)
    measurements, notes = with_chosen_slices(measurements, slices)
    return with_notes(_read(measurements, scan, stream), notes)


def with_notes(dataset: Dataset, notes: list[str]) -> Dataset:
    """The data set with notes of the choice of its slices before those of its readers."""
    return replace(dataset, notes=[*notes, *dataset.notes])


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
    """Whether arrays have the shape of a measurement, where that is not the shape of an image."""
    if scan.measurement_shape[-2:] == scan.image_shape[-2:]:
        return False
    return all(fits(item, scan.measurement_shape) for item in items)


def _refuse_ignored_options(data: AutoSettings, holds_images: bool) -> None:
    """
    Raises:
        UserError: an option was set that these files have no use for.
    """
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


def phantom_items(count: int, size: int, seed: int, scan: Scan) -> list[Item]:
    """Anatomical phantoms of the kind that the scan looks at."""
    kinds = ("brain",) if scan.image_shape[0] == 2 else ("thorax", "abdomen", "head")
    values = phantoms(count, size, PHANTOM_SEED + seed, kinds)[:, 0].numpy()
    return [
        Item(
            name=f"phantom_{i:03d}",
            file=Path("phantoms"),
            shape=(size, size),
            read=partial(values.__getitem__, i),
            patient=f"phantom_{i:03d}",
        )
        for i in range(count)
    ]


def _read(items: list[Item], scan: Scan, stream: bool) -> Dataset:
    """Measurements as they are in their files."""
    notes = notes_of(items)
    if stream:
        some = torch.stack([scan.to_model(items[i]) for i in _noise_samples(len(items))])
        y = Streamed(len(items), lambda i: scan.to_model(items[i]))
        return Dataset(items, scan.with_noise(scan.noise_level(some)), y, notes=notes)
    values = torch.stack([scan.to_model(item) for item in items])
    notes += repeated(items, values)
    return Dataset(items, scan.with_noise(scan.noise_level(values)), values, notes=notes)


def _measured(
    images: list[Item], scan: Scan, seed: int, stream: bool, native: bool = False
) -> Dataset:
    """Images, and what the scan measures of them; ``native``: of each at its own size."""
    notes = notes_of(images)
    if scan.settings.frames is not None:
        images, left_out = sequences_of(images, scan.settings.frames)
        notes += left_out
    _check_all_complex_or_none(images)
    if native:
        shapes = list(dict.fromkeys(item.shape[-2:] for item in images))
        notes.append(f"sizes: {', '.join('×'.join(map(str, s)) for s in shapes[:9])} (native)")
        scans = {shape: scan.for_shape(shape, seed) for shape in shapes}
        if len(shapes) > 1:
            return _measured_in_frames(images, scans, seed, stream, notes)
        scan = scans[shapes[0]]
    if stream:
        return _measured_one_by_one(images, scan, seed, notes)
    values = torch.stack([scan.to_model(item) for item in images])
    notes += repeated(images, values)
    truth = _as_the_scan_sees(values, scan, seed)
    y, noise = scan.measure(truth, seed)
    return Dataset(images, scan.with_noise(noise), y, truth, notes)


def _measured_in_frames(
    images: list[Item],
    scans: dict[tuple[int, ...], Scan],
    seed: int,
    stream: bool,
    notes: list[str],
) -> Dataset:
    """Images of different sizes, and what the scan of each size measures of them."""
    own = [scans[item.shape[-2:]] for item in images]
    shapes = list(scans)
    part = [shapes.index(item.shape[-2:]) for item in images]
    scan = in_frames(list(scans.values()), part, [each.image_shape for each in scans.values()])

    def image(i: int) -> Tensor:
        return _as_the_scan_sees(own[i].to_model(images[i])[None], own[i], seed, first=i)

    def measured(i: int) -> Tensor:
        y = own[i].measure(image(i), seed, noise, first=i)[0][0]
        return framed_measurement(scan, y)

    every = range(len(images))
    known = _noise_samples(len(images)) if stream else every
    noise = noise_of(scan, lambda i: own[i].measure_clean(image(i)), known)
    scan = scan.with_noise(noise)
    if stream:
        return Dataset(images, scan, Streamed(len(images), measured), notes=notes)
    notes += repeated(images, [own[i].to_model(images[i]) for i in every])
    truth = framed_truth(scan, [image(i)[0] for i in every])
    return Dataset(images, scan, torch.stack([measured(i) for i in every]), truth, notes)


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
    count, size = len(images), (images.shape[-2], images.shape[-1])
    seeds = [seed_of(seed, "phase", first + i) for i in range(count)]
    phase = torch.cat([smooth_phase(1, size, own) for own in seeds])
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
