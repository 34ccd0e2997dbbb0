"""Does moving the images show the operator anything that it cannot see otherwise?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...imaging.linear import least_squares
from .moves import Move, seed_for

#: A group that puts less than this share of what A sees where A is blind teaches nothing about it,
#: and an operator that is blind to less than this share of an image misses nothing.
LEAST_SHARE = 0.02
#: Moves that are tried: some elements of a group, such as the identity, show nothing new.
MOVES = 4
#: To which residual what A sees of an image is sought, and in how many iterations at most.
SEEN_TO = 1e-4
SEEN_IN = 100


class Blindness(NamedTuple):
    """What share (of the norm) A is blind to."""

    of_images: float  #: of random images
    of_visible: float  #: of what A sees: the error of the measurement of this share
    of_moved: float  #: of what A sees, moved

    @property
    def is_blind(self) -> bool:
        """A is blind to something, and moving the images does not show it."""
        has_null_space = self.of_images > max(LEAST_SHARE, 2 * self.of_visible)
        return has_null_space and self.of_moved < max(LEAST_SHARE, 2 * self.of_visible)


def blindness(physics: Any, group: Any, x: Tensor, seed: int = 0) -> Blindness:
    """Whether a group commutes with the operator of one image x (1, C, …, H, W).

    If T_g keeps the range of Aᵀ for all g, then a reconstruction knows about the null space of A
    what it is told by its prior, and the samples say nothing about the error there (Chen, Tachella
    and Davies, ICCV 2021, section 3).
    """

    def unseen_share(v: Tensor) -> float:
        seen = least_squares(physics.A, physics.A_adjoint, physics.A(v), SEEN_TO, SEEN_IN).value
        return float((v - seen).norm() / v.norm().clamp_min(torch.finfo(v.dtype).tiny))

    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        images = torch.randn((MOVES, *x.shape[1:]), generator=rng, dtype=torch.float64).to(x)
        visible = physics.A_adjoint(physics.A(images))
        of_images, of_visible = unseen_share(images), unseen_share(visible)
        moved = [Move(group, v, seed_for(seed, k))(v) for k, v in enumerate(visible.split(1))]
        return Blindness(of_images, of_visible, unseen_share(torch.cat(moved)))
