"""What k-space cannot be taken as it is: coils that add nothing, and zeros in the wrong places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .formats.base import listed
from .item import Item

#: The power in the corner over that in the middle, from which on k-space was not shifted.
IN_THE_CORNER = 10.0
#: Where the zero frequency is, where it was not shifted along these axes.
UNSHIFTED = {
    (-2, -1): "in the corner",
    (-2,): "at the ends of the columns (the first axis of the image)",
    (-1,): "at the ends of the rows (the last axis)",
}
#: The share of what was measured that may be zero in some coils, by chance, and not in others.
BY_SOME_COILS = 0.1
#: This share of the power of k-space lies within an eighth of its rows and columns.
CONCENTRATED = 0.5
#: Numbers whose squares, and those of their noise, single precision can represent.
SMALLEST, LARGEST = 1e-20, 1e18


def check_kspace(item: Item, kspace: Tensor) -> None:
    """
    Args:
        kspace: of the item, (coils, rows, columns), complex.

    Raises:
        UserError: the numbers are too small or too large; the axes are in another order; a coil
            measured nothing, or two the same; the zero frequency is not in the middle, or was not
            measured; coils measured different lines, and no header says which count.
    """
    _check_size(item, kspace)
    _check_axes(item, kspace)
    _check_coils(item, kspace)
    _check_centre(item, kspace)
    if item.kspace.sampled is None:
        _check_one_mask(item, kspace)


def is_concentrated(values: np.ndarray) -> bool:
    """Whether most of the power of an array (…, rows, columns) lies about the middle, or, as a
    Fourier transform leaves it, about the corners: so does k-space, and hardly an image."""
    power = np.square(np.abs(values), dtype=np.float64).sum(tuple(range(values.ndim - 2)))
    middle = max(_in_the_middle(power), _in_the_middle(np.fft.fftshift(power)))
    return middle > CONCENTRATED * float(power.sum())


def looks_like_images(kspace: np.ndarray) -> bool:
    """Whether an array (coils, rows, columns) is none of k-space, and its Fourier transform is."""
    return not is_concentrated(kspace) and is_concentrated(np.fft.fft2(kspace))


def _middle(sides: tuple[int, ...]) -> tuple[slice, ...]:
    """An eighth of the rows and columns, three at least."""
    reach = [max(side // 16, 1) for side in sides]
    return tuple(slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(sides, reach, strict=True))


def _in_the_middle(power: np.ndarray) -> float:
    return float(power[_middle(power.shape)].sum())


def _check_size(item: Item, kspace: Tensor) -> None:
    """
    Raises:
        UserError: squares of the numbers cannot be represented.
    """
    largest = float(torch.view_as_real(kspace).abs().max())
    if largest > 0 and not SMALLEST <= largest <= LARGEST:
        raise UserError(
            f"{item.file}, {item.name}: the largest number of its k-space is {largest:.1e}, and "
            f"single precision computes with {SMALLEST:g} to {LARGEST:g}: multiply the k-space by "
            "a power of ten (images keep their proportions)"
        )


def _check_axes(item: Item, kspace: Tensor) -> None:
    """
    Raises:
        UserError: there are more coils than rows or columns, so that an axis of the image was
            taken for that of the coils.
    """
    coils, rows, columns = kspace.shape
    if coils > min(rows, columns):
        raise UserError(
            f"{item.file}, {item.name}: k-space of {coils} × {rows} × {columns} is read as coils × "
            f"rows × columns, and {coils} coils are more than an image has rows or columns; bring "
            "the axis of the coils to the front: numpy.moveaxis(kspace, -1, -3) if it is the last"
        )


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


def _check_centre(item: Item, kspace: Tensor) -> None:
    """
    Raises:
        UserError: the zero frequency is not in the middle, or nothing was measured there.
    """
    power = kspace.abs().square().sum(0).numpy()
    rows, columns = _middle(power.shape)
    if not (power[rows, columns] > 0).any():
        raise UserError(
            f"{item.file}, {item.name}: nothing was measured in the middle of k-space (rows "
            f"{rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}, "
            "counted from 0), where the brightness of the image is: if the zero frequency lies "
            "elsewhere, shift it there (numpy.fft.fftshift(kspace, axes=(-2, -1))); if it was not "
            "measured, this slice cannot be used"
        )
    found = {axes: _in_the_middle(np.fft.fftshift(power, axes)) for axes in UNSHIFTED}
    axes = max(found, key=lambda each: found[each])
    if found[axes] > IN_THE_CORNER * _in_the_middle(power):
        raise UserError(
            f"{item.file}, {item.name}: the zero frequency of k-space is {UNSHIFTED[axes]}, as a "
            "Fourier transform leaves it, and is expected in the middle: "
            f"numpy.fft.fftshift(kspace, axes={axes})"
        )


def _check_one_mask(item: Item, kspace: Tensor) -> None:
    """
    Raises:
        UserError: much of what some coils measured is zero in others.
    """
    measured = kspace != 0
    by_any = measured.any(0)
    by_some = by_any & ~measured.all(0)
    share = float(by_some.sum()) / float(by_any.sum())
    if share > BY_SOME_COILS:
        raise UserError(
            f"{item.file}, {item.name}: {share:.0%} of what was measured is zero in some coils and "
            "not in others, and one mask serves all coils here; fill in or leave out what some of "
            "them lack"
        )
