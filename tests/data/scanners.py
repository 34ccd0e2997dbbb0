"""Scans of a head, as vendors' converters and fastMRI write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.imaging.mri import birdcage
from equipoise.imaging.phantoms import phantoms

from .formats.make import transform


def head(coils: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """(coils, rows, columns): what each coil sees of a head, whose brightest part is about 1."""
    side = max(rows, columns)
    image = phantoms(1, side, seed, ("brain",))[0, 0]
    top, left = (side - rows) // 2, (side - columns) // 2
    image = image[top : top + rows, left : left + columns]
    maps = birdcage(coils, rows, columns) if coils > 1 else torch.ones(1, rows, columns)
    seen: np.ndarray = (maps * image).numpy().astype(np.complex128)
    return seen


def to_kspace(images: np.ndarray) -> np.ndarray:
    """The centred orthonormal transform of (…, rows, columns)."""
    return transform(transform(images, -1), -2)


def complex_noise(shape: tuple[int, ...], mixing: np.ndarray, seed: int) -> np.ndarray:
    """(coils, …): noise of covariance ``mixing`` · ``mixing``ᴴ between the coils."""
    rng = np.random.default_rng(seed)
    white = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)
    mixed: np.ndarray = np.tensordot(mixing, white, axes=1)
    return mixed


def root_sum_of_squares(images: np.ndarray, axis: int = 0) -> np.ndarray:
    squares: np.ndarray = np.sqrt((np.abs(images) ** 2).sum(axis))
    return squares


FASTMRI = (
    '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
    "<encodedSpace><matrixSize><x>{rows}</x><y>{columns}</y><z>1</z></matrixSize><fieldOfView_mm>"
    "<x>{rows}</x><y>{columns}</y><z>5</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize>"
    "<x>{recon}</x><y>{recon}</y><z>1</z></matrixSize><fieldOfView_mm><x>{recon}</x><y>{recon}</y>"
    "<z>5</z></fieldOfView_mm></reconSpace><encodingLimits><kspace_encoding_step_1><minimum>0"
    "</minimum><maximum>{maximum}</maximum><center>{center}</center></kspace_encoding_step_1>"
    "</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)


def make_fastmri(
    path: Path,
    coils: int = 4,
    rows: int = 64,
    columns: int = 44,
    slices: int = 2,
    recon: int = 32,
    padding: int = 2,
    mask: np.ndarray | None = None,
    target: bool = True,
    noise: float = 2e-3,
    **attributes: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """A file of fastMRI's: an oversampled readout along the rows, zero padding on both sides of
    the lines, ``reconstruction_rss`` (or ``_esc`` of one coil).

    Returns:
        k-space (slices, (coils,) rows, columns) as it is stored, and the target (slices, recon,
        recon) of all lines.
    """
    h5py = pytest.importorskip("h5py")
    images = np.stack([head(coils, rows, columns, seed) for seed in range(slices)])
    # The head fills the middle of the rows alone: the readout is over twice the field of view.
    images[..., : rows // 4, :] = 0
    images[..., -rows // 4 :, :] = 0
    images = 1e-4 * images
    k = to_kspace(images)
    k += 1e-4 * complex_noise(k.shape[1:], noise * np.eye(coils), 7)
    k[..., :padding] = 0
    k[..., columns - padding :] = 0
    back = np.fft.ifftshift(k, axes=(-2, -1))
    back = np.fft.fftshift(np.fft.ifft2(back, norm="ortho"), axes=(-2, -1))
    top, left = (rows - recon) // 2, (columns - recon) // 2
    rss = root_sum_of_squares(back, 1)[:, top : top + recon, left : left + recon]
    stored = k if coils > 1 else k[:, 0]
    header = FASTMRI.format(
        rows=rows,
        columns=columns,
        recon=recon,
        maximum=columns - 2 * padding - 1,
        center=columns // 2 - padding,
    )
    with h5py.File(path, "w") as file:
        kept = stored if mask is None else stored * mask
        file["kspace"] = kept.astype(np.complex64)
        file["ismrmrd_header"] = header.encode()
        if mask is not None:
            file["mask"] = mask.astype(np.float32)
        if target:
            name = "reconstruction_rss" if coils > 1 else "reconstruction_esc"
            file[name] = rss.astype(np.float32)
            attributes = {"max": rss.max(), "norm": np.linalg.norm(rss), **attributes}
        for key, value in {"patient_id": path.stem, **attributes}.items():
            file.attrs[key] = value
    return stored, rss
