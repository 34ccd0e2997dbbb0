"""From the section ``data`` of a configuration, and a scan, to a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.fine import TIMES, coarser
from ..imaging.phantoms import phantoms, smooth_phase
from ..imaging.sizes import Size, image_size
from ..imaging.tomography.settings import RaysSettings
from .acquired import acquired
from .axis import with_axis_found
from .choice import Choice, with_chosen_slices
from .counts import refuse_options
from .counts.losses import MASKED
from .dataset import Dataset, Streamed, notes_of, repeated
from .formats import holds_images as look_like_images
from .formats import may_hold_either, open_path
from .item import Item
from .memory import GIB, physical_memory
from .pick import acquisitions_of, fits, images_of, measurements_of, sequences_of
from .sampling import with_masks_found
from .scan import Scan
from .seeds import seed_of
from .settings import (
    AutoSettings,
    Data,
    FileSettings,
    ImageSettings,
    MeasurementSettings,
    PhantomSettings,
    SinogramSettings,
)
from .sinograms import Sinograms, cut_off_words, sinograms_of
from .sizes import framed_measurement, framed_truth, in_frames, noise_of
from .units import settled
from .unusual import far_from_one, oblong, unusual

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
        assert not isinstance(data.size, str)
        size = data.size
        if data.simulate == "fine":
            rows, columns = image_size(size)
            size = (TIMES * rows, TIMES * columns)
        phantom = phantom_items(data.count, size, seed, scan)
        return _measured(phantom, scan, seed, stream, is_fine=data.simulate == "fine")
    if path is None:
        assert isinstance(data, FileSettings)
        path = data.path
    choice = data.choice if isinstance(data, FileSettings) else Choice()
    slices = None if whole else getattr(data, "slices", None)
    variable = getattr(data, "variable", None)
    items = open_path(path, variable, choice, strict=not is_elsewhere)
    holds_images = _are_images(data, items, scan, is_elsewhere)
    if isinstance(data, AutoSettings) and not is_elsewhere:
        _refuse_ignored_options(data, holds_images)
    if holds_images:
        images = images_of(items, data.size, getattr(data, "fit", "pad"))
        images, notes = with_chosen_slices(images, slices)
        images = settled(images, data.units, override=not is_elsewhere)
        images, said = _sampled(images, data, None if is_elsewhere else seed)
        is_native = data.size == "native"
        is_fine = getattr(data, "simulate", "same") == "fine"
        return _measured(images, scan, seed, stream, [*notes, *said], is_native, is_fine)
    own_seed = None if is_elsewhere else seed
    if scan.settings.kind == "mri" and all(item.complex for item in items):
        if isinstance(data, SinogramSettings):
            refuse_options(data, "physics.kind is mri")
        kspace, notes = with_chosen_slices(acquisitions_of(items), slices)
        kspace, said = _sampled(kspace, data, own_seed)
        return acquired(kspace, scan, seed, [*notes, *said])
    return _measurements(items, data, scan, stream, own_seed, slices)


def _measurements(
    items: list[Item], data: Data, scan: Scan, stream: bool, seed: int | None, slices: Any
) -> Dataset:
    """What a scanner measured; of a tomograph, in line integrals, whatever its files hold.

    Without a seed these are other data than those that are trained on, and all of them.
    """
    peak, water = getattr(data, "peak", 1.0), getattr(data, "water", None)
    options = data if isinstance(data, SinogramSettings) else SinogramSettings()
    known_noise = scan.noise
    if isinstance(scan.settings, RaysSettings):
        if seed is None:
            options = options.model_copy(update={"rows": None})
        found = sinograms_of(items, scan, peak, water, options)
        measurements, notes = with_chosen_slices(found.items, slices)
        measurements, said = _sampled(measurements, data, seed)
        scan, on_axis = with_axis_found(measurements, found.scan, anew=seed is None)
        notes = [*found.notes, *notes, *said, *on_axis]
        return _read(measurements, scan, stream, notes, known_noise, found)
    refuse_options(options, f"physics.kind is {scan.settings.kind}")
    shape = tuple(scan.measurement_shape)
    measurements = measurements_of(items, shape, peak, of_rays=False)
    measurements, notes = with_chosen_slices(measurements, slices)
    measurements, said = _sampled(measurements, data, seed)
    return _read(measurements, scan, stream, [*notes, *said], known_noise)


def _sampled(items: list[Item], data: Data, seed: int | None) -> tuple[list[Item], list[str]]:
    """As many as ``data.sample`` says, drawn by the seed, in their order; all, without a seed."""
    count = data.sample if isinstance(data, FileSettings) else None
    if count is None or seed is None or count >= len(items):
        return items, []
    rng = torch.Generator().manual_seed(seed_of(seed, "sample", 0))
    places = sorted(torch.randperm(len(items), generator=rng)[:count].tolist())
    note = f"data.sample={count} of {len(items)}, drawn by the seed {seed}; the others are not read"
    return [items[i] for i in places], [note]


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
    if holds_images:
        refuse_options(data, f"{data.path.name} holds images")
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
    if not holds_images and data.simulate != "same":
        raise UserError(
            f"{data.path}: holds measurements, and data.simulate={data.simulate} says how images "
            "are measured; leave it out"
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


def _read(
    items: list[Item],
    scan: Scan,
    stream: bool,
    said: Sequence[str] = (),
    known_noise: float = 0.0,
    found: Sinograms | None = None,
) -> Dataset:
    """Measurements as they are in their files.

    Args:
        said: what was noticed about all of them.
        known_noise: what a run knows its scanner to have; 0: as configured, for measurements like
            these.
        found: of a tomograph, what becomes known as they are read.
    """
    notes = [*notes_of(items), *said, *scan.unused_noise()]
    if not stream:
        _check_memory(items, scan)
    places = _noise_samples(len(items)) if stream else range(len(items))
    values = torch.stack([scan.to_model(items[i]) for i in places])
    mask = None
    if found is not None:
        scan = replace(scan, peak=items[0].units.counts_as_one)
        if found.tally.done == MASKED:  # the operator lacks what any of them lacks
            for i in sorted(set(range(len(items))) - set(places)):
                items[i].array()
        notes += found.tally.notes(len(items))
        mask = found.measured
    if mask is not None:
        scan = scan.masked(mask)
        values = values * mask
    if scan.has_own_masks:
        scan, said_of_masks = with_masks_found(items, scan, None if stream else values)
        notes.append(said_of_masks)
    scan = scan.with_noise(known_noise or scan.noise_level(values))
    if stream:
        y = Streamed(len(items), partial(_one, items, scan, mask))
        return Dataset(items, scan, y, notes=notes)
    words = cut_off_words(values, scan) if found is not None else []
    strange = unusual(values, scan, [item.name for item in items])
    words += [f"{one.what}: {one.remedy}" for one in strange]
    words += [] if strange else far_from_one(values, scan)
    notes += [*words, *repeated(items, values)]
    return Dataset(items, scan, values, notes=notes)


def _check_memory(items: Sequence[Item], scan: Scan) -> None:
    """
    Raises:
        UserError: so many measurements do not fit.
    """
    needed = 8 * len(items) * math.prod(scan.measurement_shape)  # once read, once corrected
    there = physical_memory()
    if there is not None and needed > there:
        raise UserError(
            f"{items[0].file}: {len(items)} measurements take {needed / GIB:.0f} GiB, and this "
            f"machine has {there / GIB:.0f}; train on a sample (data.sample=64), on some rows "
            "(data.rows), or leave them in their files (data.stream=true)"
        )


def _one(items: list[Item], scan: Scan, mask: Tensor | None, i: int) -> Tensor:
    measured = scan.to_model(items[i])
    return measured if mask is None else measured * mask


def _measured(
    images: list[Item],
    scan: Scan,
    seed: int,
    stream: bool,
    said: Sequence[str] = (),
    native: bool = False,
    is_fine: bool = False,
) -> Dataset:
    """Images, and what the scan measures of them.

    Args:
        native: measure each at its own size.
        is_fine: measure them on a finer grid than that of the scan.
    """
    notes = [*said, *notes_of(images), *oblong(images), *scan.unused_noise()]
    if is_fine:
        notes.append("measured on a grid twice as fine as the reconstruction's (data.simulate)")
    if scan.settings.frames is not None:
        images, left_out = sequences_of(images, scan.settings.frames)
        notes += left_out
    _check_all_complex_or_none(images)
    if native:
        shapes = list(dict.fromkeys(item.shape[-2:] for item in images))
        notes.append(f"sizes: {', '.join('×'.join(map(str, s)) for s in shapes[:9])} (native)")
        scans = {shape: scan.for_shape(shape, seed) for shape in shapes}
        if len(shapes) > 1:
            return _measured_in_frames(images, scans, seed, stream, notes, is_fine)
        scan = scans[shapes[0]]
    scan = scan.of_images(range(len(images)), seed)
    measuring = scan.on_finer_grid() if is_fine else scan
    if stream:
        return _measured_one_by_one(images, scan, measuring, seed, notes)
    values = torch.stack([measuring.to_model(item) for item in images])
    notes += repeated(images, values)
    seen = _as_the_scan_sees(values, measuring, seed)
    y, noise = measuring.measure(seen, seed)
    truth = coarser(seen) if is_fine else seen
    return Dataset(images, scan.with_noise(noise), y, truth, notes)


def _measured_in_frames(
    images: list[Item],
    scans: dict[tuple[int, ...], Scan],
    seed: int,
    stream: bool,
    notes: list[str],
    is_fine: bool,
) -> Dataset:
    """Images of different sizes, and what the scan of each size measures of them."""
    shapes = list(scans)
    part = [shapes.index(item.shape[-2:]) for item in images]
    own: dict[int, Scan] = {}
    for k, shape in enumerate(shapes):
        places = [i for i, other in enumerate(part) if other == k]
        scans[shape] = scans[shape].of_images(places, seed)
        measuring = scans[shape].on_finer_grid() if is_fine else scans[shape]
        for number, place in enumerate(places):
            own[place] = measuring.alone(number)
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
    truth = framed_truth(scan, [coarser(image(i))[0] if is_fine else image(i)[0] for i in every])
    return Dataset(images, scan, torch.stack([measured(i) for i in every]), truth, notes)


def _measured_one_by_one(
    images: list[Item], scan: Scan, measuring: Scan, seed: int, notes: list[str]
) -> Dataset:
    """The same as in memory, to the bit, where the noise level is: it is that of some images."""

    def image(i: int) -> Tensor:
        return _as_the_scan_sees(measuring.to_model(images[i])[None], measuring, seed, first=i)

    def measured(i: int) -> Tensor:
        return measuring.alone(i).measure(image(i), seed, noise, first=i)[0][0]

    places = _noise_samples(len(images))
    clean = [measuring.alone(i).measure_clean(image(i)) for i in places]
    noise = scan.noise_level(torch.cat(clean))
    return Dataset(images, scan.with_noise(noise), Streamed(len(images), measured), notes=notes)


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
    phase = torch.cat([smooth_phase(1, (h, w), own) for own in seeds])
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
