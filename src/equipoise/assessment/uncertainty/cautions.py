"""Why an estimate of the error may not be trusted, in words."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ...equilibrium import EquilibriumError, EquilibriumWarning
from ...imaging.selection import select
from .blindness import blindness
from .moves import MOVE, Move, seed_for
from .noise import is_noiseless
from .record import Uncertainty, UncertaintyWarning, unfinished_in_words
from .statistics import rms

#: Of y, without noise: above, something is unexplained.
MISFIT = 1e-2
#: More of the predicted error than this from moving alone is worth a word, unless it is tiny.
MUCH_OF_IT, TINY = 0.3, 1e-5


def cautions(u: Uncertainty, y: Any, physics: Any, group: Any, x: Tensor, seed: int) -> list[str]:
    """Why not to trust it."""
    notes = [
        _on_blindness(u, physics, group, x, y, seed),
        _on_noise(physics, y, x),
        _on_interpolation(u, group, x, seed),
    ]
    return [note for note in notes if note]


def _on_blindness(u: Uncertainty, physics: Any, group: Any, x: Tensor, y: Any, seed: int) -> str:
    if not hasattr(physics, "A_adjoint"):
        return ""
    alike = len(x) == 1 or select(physics, torch.zeros(1).long(), len(x), y) is physics
    shares = []
    for b in range(1 if alike else len(x)):
        one = physics if len(x) == 1 else select(physics, torch.tensor([b]), len(x), y)
        shares.append(blindness(one, group, x[b : b + 1], seed))
    u.blind[:] = torch.tensor([share.is_blind for share in shares])
    if not bool(u.blind.any()):
        return ""
    worst = max(shares, key=lambda share: share.of_images)
    name = "no group" if group is None else f"the group {type(group).__name__}"
    return (
        f"blind to the null space: A sees nothing of {worst.of_images:.0%} of a random image, and "
        f"{name} moves only {worst.of_moved:.1%} of what A sees there (it commutes with the "
        "operator), so the spread says nothing about the error in that part; take another group"
    )


def _on_noise(physics: Any, y: Any, x: Tensor) -> str:
    """Whether y has noise that the samples lack."""
    if not (isinstance(y, Tensor) and is_noiseless(physics)):
        return ""
    size = torch.linalg.vector_norm(y).clamp_min(torch.finfo(y.dtype).tiny)
    left = float(torch.linalg.vector_norm(physics.A(x) - y) / size)
    if not left > MISFIT:
        return ""
    return (
        f"noise: the physics says that there is none, but A x̂ leaves {left:.1%} of y unexplained; "
        "if y is noisy, say how much: noise=σ"
    )


def _on_interpolation(u: Uncertainty, group: Any, x: Tensor, seed: int) -> str:
    """Whether moving back and forth alone makes much of the spread."""
    if group is None or u.value.shape != x.shape:
        return ""
    there_and_back = []
    for b in range(len(x)):
        one = x[b : b + 1]
        move = Move(group, one, seed_for(seed, 0, 0, MOVE))
        there_and_back.append(rms(move.undo(move(one)) - one))
    lost = torch.cat(there_and_back) / u.rmse.double().clamp_min(1e-30)
    if not bool((lost > MUCH_OF_IT).any()) or float(torch.cat(there_and_back).max()) < TINY:
        return ""
    return (
        f"moving x̂ and back changes it by {float(lost.max()):.0%} of the predicted error: this is "
        "the group's own interpolation; equipoise.Rotations and Shifts have none"
    )


def tell(u: Uncertainty, on_failure: str) -> None:
    for note in u.notes:
        warnings.warn(note, UncertaintyWarning, stacklevel=4)
    unfinished = unfinished_in_words(u)
    if not unfinished or on_failure == "ignore":
        return
    if on_failure == "raise":
        raise EquilibriumError(unfinished)
    warnings.warn(unfinished, EquilibriumWarning, stacklevel=4)
