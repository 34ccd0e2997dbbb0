"""Real MRI acquisitions: mask, coil maps, noise and scale come from the data."""

from __future__ import annotations

from typing import Any

import deepinv.physics as deepinv
import torch
from torch import Tensor

from ..errors import UserError
from ..imaging.mri import Acquisition, acquisition, edge_samples, noise_covariance
from ..imaging.settings import MRISettings
from .dataset import Dataset
from .formats.base import listed
from .item import Item
from .scan import KspaceUnits, Scan


def acquired(items: list[Item], scan: Scan, seed: int) -> Dataset:
    """The data set of acquisitions of one size, one item a slice.

    Those that are fully sampled are undersampled as ``physics.mask`` says. One noise covariance
    and one scale serve all slices, so that they keep their brightness.

    Raises:
        UserError: nothing was measured, or coil maps cannot be found.
    """
    kspaces = [_samples(item) for item in items]
    for item, kspace in zip(items, kspaces, strict=True):
        _check_coils(item, kspace)
    noise = torch.cat([edge_samples(kspace) for kspace in kspaces], 1)
    parts = [_acquisition(item, kspace, noise) for item, kspace in zip(items, kspaces, strict=True)]
    scale = max(part.scale for part in parts)
    masks = torch.cat([part.physics.mask for part in parts])
    plane = masks.flatten(0, 1).amax(0)
    notes = [note for item in items for note in item.notes]
    notes.append(
        f"{float(plane.mean()):.1%} of k-space is measured; 1 is {scale:.3g} in the whitened "
        "data's units"
    )
    if _is_fully_sampled(plane):
        settings = scan.settings
        assert isinstance(settings, MRISettings)
        masks = masks * _planned_mask(settings, masks, seed)
        notes.append(
            f"k-space is fully sampled; undersampled {settings.acceleration:g}-fold by physics.mask"
        )
    coils, *size = kspaces[0].shape
    found = Scan(
        settings=scan.settings,
        physics=_operator(parts, masks),
        gain=1.0,
        image_shape=(2, *size),
        measurement_shape=(2, *size) if coils == 1 else (2, coils, *size),
        kspace=KspaceUnits(noise_covariance(noise), scale),
    )
    y = torch.stack([found.to_model(item) for item in items])
    y = y * (masks if coils == 1 else masks[:, :, None])
    return Dataset(items, found.with_noise(1 / (scale * 2**0.5)), y, notes=notes)


def _samples(item: Item) -> Tensor:
    """(coils, rows, columns) complex."""
    samples = torch.from_numpy(item.array()).to(torch.complex64)
    return samples if samples.ndim == 3 else samples[None]


def _acquisition(item: Item, kspace: Tensor, noise: Tensor) -> Acquisition:
    try:
        return acquisition(kspace, noise=noise)
    except UserError as error:
        raise UserError(f"{item.file}, {item.name}: {error}") from error


def _check_coils(item: Item, kspace: Tensor) -> None:
    """Names coils that add nothing: they would make the noise covariance singular.

    Raises:
        UserError: a coil measured nothing, or two the same.
    """
    coils = kspace.flatten(1).to(torch.complex128)
    norms = torch.linalg.vector_norm(coils, dim=1)
    dead = [int(i) for i in torch.nonzero(norms == 0)]
    where = f"{item.file}, {item.name}"
    if len(dead) == len(coils):
        raise UserError(f"{where}: k-space is zero everywhere: nothing was measured; leave it out")
    if dead:
        raise UserError(
            f"{where}: of {len(coils)} coils, number {listed(dead)} (counted from 0) measured "
            "nothing; leave out such coils (numpy.delete along the axis of the coils)"
        )
    unit = coils / norms[:, None]
    alike = torch.nonzero(torch.triu((unit @ unit.mH).abs(), 1) > 1 - 1e-6)
    if len(alike):
        first, second = (int(i) for i in alike[0])
        raise UserError(
            f"{where}: coils {first} and {second} (counted from 0) measured the same; leave one "
            "out (numpy.delete along the axis of the coils)"
        )


#: Zeros on both sides of k-space are padding if they differ by less than this share of its size:
#: a partial Fourier scan leaves out an eighth of one side at least.
PADDING_DIFFERENCE = 0.05


def _is_fully_sampled(plane: Tensor) -> bool:
    """Whether a mask (rows, columns) has no gap, save the zeros that k-space is padded with.

    Padding is what no line was measured in on both sides alike. What lies between measured lines
    is a gap, and so is a side that is left out.
    """
    rows, columns = plane.any(1), plane.any(0)
    if not (_is_padded_evenly(rows) and _is_padded_evenly(columns)):
        return False
    inside = plane[_between(rows)][:, _between(columns)]
    no_line_is_missing = min(inside.mean(0).min(), inside.mean(1).min()) > 0.5
    return bool(no_line_is_missing) and float(inside.mean()) > 0.95


def _between(measured: Tensor) -> slice:
    """From the first to the last that was measured."""
    places = torch.nonzero(measured).flatten()
    return slice(int(places[0]), int(places[-1]) + 1)


def _is_padded_evenly(measured: Tensor) -> bool:
    size, inside = len(measured), _between(measured)
    # Frequency zero is at size // 2: of an even size, one place more lies before it than after.
    before = size // 2 - inside.start
    after = inside.stop - 1 - size // 2
    return abs(before - after) <= max(1, PADDING_DIFFERENCE * size)


def _planned_mask(settings: MRISettings, masks: Tensor, seed: int) -> Tensor:
    rows, columns = masks.shape[-2:]
    try:
        return settings.sampling_mask(rows, columns, seed)
    except ValueError as error:
        raise UserError(f"physics: {error}") from error


def _operator(parts: list[Acquisition], masks: Tensor) -> Any:
    """deepinv's MRI, with one mask where all samples share it."""
    is_shared = bool((masks == masks[:1]).all())
    mask = masks[:1] if is_shared else masks
    size = tuple(masks.shape[-2:])
    if isinstance(parts[0].physics, deepinv.MRI):
        return deepinv.MRI(mask=mask, img_size=size)
    maps = torch.cat([part.physics.coil_maps for part in parts])
    return deepinv.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=size)
