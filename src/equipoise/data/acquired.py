"""Real MRI acquisitions: mask, coil maps, noise and scale come from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import deepinv.physics as deepinv
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.mri import (
    Acquisition,
    acquisition,
    calibration_size,
    edge_samples,
    noise_covariance,
)
from ..imaging.settings import MRISettings
from .dataset import Dataset, notes_of
from .item import Frame, Item, KspaceHeader
from .kspace import check_kspace, looks_like_images
from .sampling import is_fully_sampled as _is_fully_sampled
from .sampling import planned_inside
from .scan import KspaceUnits, Scan
from .seeds import seed_of
from .sizes import framed_measurement, framed_truth, in_frames

#: Slices of which no file says which scan they are of belong to one, if their noise has no gap of
#: so many times.
ANOTHER_SCAN = 10.0
#: The root mean square of a noise scan is believed if it lies between these, relative to that of
#: the outermost samples of k-space: these are noise and some signal.
PLAUSIBLE = (1 / 100, 2.0)
#: Of a scan that is fully sampled, coil maps come from so many lines at most, where those that are
#: left in the centre are too few.
CALIBRATION = 24


@dataclass(frozen=True)
class Slice:
    """The k-space of a slice, what of it was measured, and what of that is used."""

    item: Item
    kspace: Tensor  #: (coils, rows, columns) complex
    measured: Tensor  #: (rows, columns) of 0 and 1
    used: Tensor  #: (rows, columns) of 0 and 1

    @property
    def is_undersampled_here(self) -> bool:
        """Whether more was measured than is used, so that there is something to compare with."""
        return bool((self.used < self.measured).any())


@dataclass(frozen=True)
class Prepared:
    """A slice in the units of the model."""

    item: Item
    found: Acquisition
    truth: Tensor | None  #: (2, rows, columns), of all that was measured
    covariance: Tensor  #: (coils, coils), of the noise
    scale: float

    @property
    def noise(self) -> float:
        """Of the real and of the imaginary part."""
        return 1 / (self.scale * 2**0.5)

    @property
    def y(self) -> Tensor:
        """(1, 2, (coils,) rows, columns)"""
        return self.found.y * (self.found.scale / self.scale)


def acquired(items: list[Item], scan: Scan, seed: int, said: Sequence[str] = ()) -> Dataset:
    """The data set of acquisitions, one item a slice, each at its own size.

    Those that are fully sampled are undersampled as ``physics.mask`` says; then what all lines
    give, combined over the coils, is the truth to compare with. One noise covariance and one scale
    serve all slices of a scan, so that they keep their brightness. ``said``: notes on all of them.

    Raises:
        UserError: nothing was measured, or coil maps cannot be found.
    """
    settings = scan.settings
    assert isinstance(settings, MRISettings)
    seeds = [seed] * len(items)
    if settings.masks == "each":
        seeds = [seed_of(seed, "mask", place) for place in range(len(items))]
    slices = [_slice(item, settings, own) for item, own in zip(items, seeds, strict=True)]
    notes = [*said, *notes_of(items)]
    prepared: list[Prepared] = []
    for group in _scans(slices, notes):
        made, remarks = _prepared(group)
        prepared += made
        notes += remarks
    notes += _notes(slices, prepared, settings)
    return _dataset(prepared, scan, notes)


# -------------------------------------------------------------------------------- each slice


def _slice(item: Item, settings: MRISettings, seed: int) -> Slice:
    kspace = torch.from_numpy(item.array().astype(np.complex64))
    kspace = kspace if kspace.ndim == 3 else kspace[None]
    check_kspace(item, kspace)
    measured = _measured(item, kspace)
    kspace = kspace * measured
    used = measured
    if _is_fully_sampled(measured):
        try:
            used = measured * planned_inside(settings, measured, seed)
        except UserError as error:
            lines = int(measured.any(0).sum())
            raise UserError(
                f"{item.file}, {item.name}: of {lines} measured line(s) none can be left out as "
                f"configured ({error}); leave this slice out (data.slices), or set "
                "physics.acceleration to what its lines allow"
            ) from error
    return Slice(item, kspace, measured, used)


def _measured(item: Item, kspace: Tensor) -> Tensor:
    """(rows, columns) of 0 and 1: by the header, or, where it does not say, by what is not zero.
    Rows of zeros are padding, or an echo that was not read whole, whatever lines were measured."""
    header, there = item.kspace, (kspace != 0).any(0)
    rows = there.any(1)[:, None]
    if header.sampled is not None:
        return (rows & (torch.from_numpy(np.ascontiguousarray(header.sampled)) > 0)).float()
    if header.lines is not None:
        return (rows & torch.from_numpy(header.lines) & there.any(0)).float()
    return there.float()


# ---------------------------------------------------------------------------------- each scan


def _scans(slices: Sequence[Slice], notes: list[str]) -> list[list[Slice]]:
    """The slices of each scan, which share noise and brightness: of a series; where files do not
    say, all that have as many coils and about as much noise, which is noted."""
    scans: dict[tuple[str, int], list[Slice]] = {}
    for one in slices:
        scans.setdefault((one.item.series, len(one.kspace)), []).append(one)
    found: list[list[Slice]] = []
    for (series, _), members in scans.items():
        groups = [members] if series else _alike(members)
        if len(groups) > 1:
            notes.append(
                "the files do not say which scan they are of, and their noise differs by more than "
                f"{ANOTHER_SCAN:g} times: taken as {len(groups)} scans, each with noise and units "
                "of its own"
            )
        found += groups
    return found


def _alike(slices: list[Slice]) -> list[list[Slice]]:
    """Those of files between whose outermost samples, in the order of their strength, there is no
    gap of ``ANOTHER_SCAN`` times. The slices of one file stay together."""
    if len({one.item.file for one in slices}) == 1:
        return [slices]
    files: dict[Path, list[float]] = {}
    for one in slices:
        edges = edge_samples(one.kspace, mask=one.measured)
        files.setdefault(one.item.file, []).append(float(edges.abs().square().mean().sqrt()))
    levels = {file: median(each) for file, each in files.items()}
    order = sorted(levels, key=levels.__getitem__)
    groups = [[order[0]]]
    for before, here in pairwise(order):
        if levels[here] > ANOTHER_SCAN * levels[before]:
            groups.append([])
        groups[-1].append(here)
    return [[one for one in slices if one.item.file in group] for group in groups]


def _prepared(slices: list[Slice]) -> tuple[list[Prepared], list[str]]:
    """The slices of one scan in the units of the model, and what is said of its noise."""
    covariance, notes = _covariance(slices)
    found = [_acquisition(one, covariance) for one in slices]
    scale = max(each.scale for each in found)
    prepared = []
    for one, each in zip(slices, found, strict=True):
        truth = _truth(one, each, covariance, scale) if one.is_undersampled_here else None
        said = one.item.kspace
        header = KspaceHeader(
            recon=said.recon,
            target=said.target or _own_target(one),
            peak=said.peak,
            weight=_weight(each, covariance, scale),
        )
        item = replace(one.item, kspace=header)
        prepared.append(Prepared(item, each, truth, covariance, scale))
    return prepared, notes


def _own_target(one: Slice) -> Callable[[], np.ndarray] | None:
    """What all lines give, (rows, columns): the root sum of squares of the coils in the file's
    units, cropped to the image that the header wants; none, where some were not measured."""
    if not one.is_undersampled_here:
        return None
    shape = (one.kspace.shape[-2], one.kspace.shape[-1])
    image = torch.fft.ifft2(torch.fft.ifftshift(one.kspace, (-2, -1)), norm="ortho")
    image = torch.fft.fftshift(image, (-2, -1))
    whole = torch.linalg.vector_norm(image, dim=0).numpy()
    recon = one.item.kspace.recon or shape
    rows, columns = (min(a, b) for a, b in zip(recon, shape, strict=True))
    return partial(Frame.in_the_middle(shape, rows, columns).cut, whole)


def _covariance(slices: list[Slice]) -> tuple[Tensor, list[str]]:
    """(coils, coils) of the noise: by a noise scan, if it is plausible, else by the outermost
    samples of k-space."""
    edges = torch.cat([edge_samples(one.kspace, mask=one.measured) for one in slices], 1)
    outermost = noise_covariance(edges)
    name, header = slices[0].item.file.name, slices[0].item.kspace
    notes = [f"{name}: {remark}" for remark in header.remarks]
    if header.noise is None:
        return outermost, notes
    covariance = torch.from_numpy(header.noise).to(outermost)
    there, wanted = (float(c.diagonal().real.mean()) ** 0.5 for c in (covariance, outermost))
    low, high = PLAUSIBLE
    if not low * wanted <= there <= high * wanted:
        notes.append(
            f"{name}: its noise scan is not used: {there:.3g} rms, where the edge of k-space has "
            f"{wanted:.3g}; the noise is taken from there"
        )
        return outermost, notes
    notes.append(
        f"{name}: whitened by its noise scan ({there:.3g} rms; the edge of k-space: {wanted:.3g})"
    )
    return covariance, notes


def _acquisition(one: Slice, covariance: Tensor) -> Acquisition:
    header = one.item.kspace
    calibration = None
    if header.calibration is not None:
        calibration = torch.from_numpy(header.calibration)
    elif one.is_undersampled_here and calibration_size(one.used) < CALIBRATION:
        calibration = _centre(one)
    try:
        return acquisition(
            one.kspace, mask=one.used, covariance=covariance, calibration=calibration
        )
    except UserError as error:
        raise UserError(f"{one.item.file}, {one.item.name}: {error}") from error


def _centre(one: Slice) -> Tensor:
    """The middle of a fully sampled k-space, as a calibration scan of its own would measure it."""
    rows, columns = one.measured.shape
    size = min(CALIBRATION, calibration_size(one.measured))
    top, left = rows // 2 - size // 2, columns // 2 - size // 2
    centre = torch.zeros_like(one.kspace)
    box = (..., slice(top, top + size), slice(left, left + size))
    centre[box] = one.kspace[box]
    return centre


def _truth(one: Slice, found: Acquisition, covariance: Tensor, scale: float) -> Tensor:
    """(2, rows, columns): what all that was measured gives, combined over the coils."""
    whole = acquisition_of_all(one, found, covariance)
    y = whole.y * (whole.scale / scale)
    truth: Tensor = whole.physics.A_adjoint(y)[0]
    return truth


def acquisition_of_all(one: Slice, found: Acquisition, covariance: Tensor) -> Acquisition:
    maps = getattr(found.physics, "coil_maps", None)
    maps = None if maps is None else maps[0]
    calibration = None
    if calibration_size(one.measured) < 8:
        calibration = _centre(one)
    return acquisition(
        one.kspace,
        coil_maps=maps,
        mask=one.measured,
        covariance=covariance,
        calibration=calibration,
    )


def _weight(found: Acquisition, covariance: Tensor, scale: float) -> np.ndarray:
    """(rows, columns): by it, the magnitude of the model is the root sum of squares of the coils,
    in the file's units: scale · ‖L s‖, with the coil maps s and the covariance L Lᴴ."""
    L = torch.linalg.cholesky(covariance)
    maps = getattr(found.physics, "coil_maps", None)
    if maps is None:
        size = found.physics.mask.shape[-2:]
        maps = torch.ones(1, 1, *size, dtype=covariance.dtype)
    mixed = torch.einsum("ij,jrc->irc", L, maps[0].to(L.dtype))
    weight: np.ndarray = (scale * torch.linalg.vector_norm(mixed, dim=0)).float().numpy()
    return weight


# -------------------------------------------------------------------------------- all of them


def _notes(slices: list[Slice], prepared: list[Prepared], settings: MRISettings) -> list[str]:
    """What is said of all slices."""
    share = sum(float(one.measured.mean()) for one in slices) / len(slices)
    scales = [each.scale for each in prepared]
    brightness = f"{min(scales):.3g}"
    if max(scales) > 1.001 * min(scales):
        brightness += f" to {max(scales):.3g}, of each scan"
    notes = [f"{share:.1%} of k-space is measured; 1 is {brightness} in the whitened data's units"]
    notes += _doubts(slices)
    full = [one for one in slices if one.is_undersampled_here]
    notes += _ignored(settings, is_thinned_out=bool(full))
    borrowed = [one for one in full if calibration_size(one.used) < CALIBRATION]
    if borrowed and len(borrowed[0].kspace) > 1:
        notes.append(
            f"coil maps are taken from the middle {CALIBRATION} lines of the whole scan, as from a "
            "calibration scan: raise physics.center to take them from the lines that are used"
        )
    if len(full) == len(slices):
        notes.append(
            "the images that all lines give, noise included, are what is compared with, as truth"
        )
    if full:
        what = (
            f"{len(full)} of {len(slices)} slices are" if len(full) < len(slices) else "k-space is"
        )
        notes.append(
            f"{what} fully sampled; undersampled {settings.acceleration:g}-fold by physics.mask"
        )
    return notes


def _doubts(slices: list[Slice]) -> list[str]:
    """What arrays that say nothing of themselves may be instead."""
    images = [one for one in slices if looks_like_images(one.kspace.numpy())]
    if not images:
        return []
    return [
        f"{images[0].item.file.name}: {len(images)} of {len(slices)} slices do not look like "
        "k-space, whose power lies in the middle, and their Fourier transforms do: if these are "
        "complex images, set data.kind=images"
    ]


def _ignored(settings: MRISettings, is_thinned_out: bool) -> list[str]:
    """Which settings of a simulated scan do not apply to a real one, in words."""
    names = ["noise", "photons", "coils"]
    if not is_thinned_out:
        names += ["mask", "masks", "acceleration", "center"]
    fields = type(settings).model_fields
    given = [
        f"physics.{name}={getattr(settings, name)}"
        for name in names
        if getattr(settings, name) != fields[name].default
    ]
    if not given:
        return []
    return [
        f"{', '.join(given)}: not used, since real k-space brings its own mask, coils and noise"
    ]


def _dataset(prepared: list[Prepared], scan: Scan, notes: list[str]) -> Dataset:
    """The data set, in frames where the sizes differ."""
    with_coils = any(len(each.covariance) > 1 for each in prepared)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, each in enumerate(prepared):
        size = tuple(each.found.physics.mask.shape[-2:])
        shapes.setdefault((len(each.covariance), *size), []).append(i)
    groups = [[prepared[i] for i in members] for members in shapes.values()]
    scans = [_scan(group, scan, with_coils) for group in groups]
    items = [each.item for each in prepared]
    ys = [
        each.y[0].reshape(2, -1, *each.y.shape[-2:]) if with_coils else each.y[0]
        for each in prepared
    ]
    truths = [each.truth for each in prepared]
    known = [truth for truth in truths if truth is not None]
    if len(scans) == 1:
        truth = torch.stack(known) if len(known) == len(items) else None
        return Dataset(items, scans[0], torch.stack(ys), truth, notes)
    part = [0] * len(items)
    for k, members in enumerate(shapes.values()):
        for i in members:
            part[i] = k
    whole = in_frames(scans, part, [each.image_shape for each in scans])
    noise = float(torch.tensor([each.noise for each in prepared]).square().mean().sqrt())
    whole = replace(whole, noise=noise)
    truth = framed_truth(whole, known) if len(known) == len(items) else None
    sizes = ", ".join("×".join(map(str, shape)) for shape in list(shapes)[:6])
    notes = [*notes, f"sizes (coils × rows × columns): {sizes}; each batch is of one of them"]
    y = torch.stack([framed_measurement(whole, y) for y in ys])
    return Dataset(items, whole, y, truth, notes)


def _scan(prepared: list[Prepared], scan: Scan, with_coils: bool) -> Scan:
    """The scan of acquisitions of one size."""
    masks = torch.cat([each.found.physics.mask for each in prepared])
    coils, size = len(prepared[0].covariance), tuple(masks.shape[-2:])
    one_scan = len({each.item.series for each in prepared}) == 1
    levels = [each.noise for each in prepared]
    found = Scan(
        settings=scan.settings,
        physics=_operator([each.found for each in prepared], masks, with_coils),
        gain=1.0,
        image_shape=(2, *size),
        measurement_shape=(2, coils, *size) if with_coils else (2, *size),
        kspace=KspaceUnits(prepared[0].covariance, prepared[0].scale) if one_scan else None,
    )
    if max(levels) <= 1.001 * min(levels):
        return found.with_noise(levels[0])
    found = found.with_noise(float(torch.tensor(levels).square().mean().sqrt()))
    physics: Any = found.physics
    physics.noise_model = deepinv.GaussianNoise(torch.tensor(levels))
    return found


def _operator(parts: list[Acquisition], masks: Tensor, with_coils: bool) -> Any:
    """deepinv's MRI, with one mask where all samples share it."""
    is_shared = bool((masks == masks[:1]).all())
    mask = masks[:1] if is_shared else masks
    size = tuple(masks.shape[-2:])
    if not with_coils:
        return deepinv.MRI(mask=mask, img_size=size)
    alone = torch.ones(1, 1, *size, dtype=torch.complex64)
    maps = torch.cat([getattr(part.physics, "coil_maps", alone) for part in parts])
    return deepinv.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=size)
