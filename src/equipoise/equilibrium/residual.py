"""How far a state is from being a fixed point, sample by sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Residual(NamedTuple):
    """What one evaluation f(z) says of B samples."""

    change: Tensor  #: (B,) ‖f(z) − z‖, infinite where f(z) is not finite
    size: Tensor  #: (B,) ‖f(z)‖, infinite where it is not finite

    @property
    def finite(self) -> Tensor:
        """(B,) bool: f(z) is finite."""
        return self.size.isfinite()

    @property
    def relative(self) -> Tensor:
        """(B,) ‖f(z) − z‖ / ‖f(z)‖: zero where f(z) = z; infinite where f(z) alone is zero, or is
        not finite."""
        ratio = torch.where(self.change == 0, self.change, self.change / self.size)
        return torch.where(self.change.isfinite(), ratio, torch.inf)

    def within(self, rtol: Tensor | float, atol: Tensor | float) -> Tensor:
        """(B,) bool: ‖f(z) − z‖ ≤ rtol ‖f(z)‖ or ≤ atol."""
        return (self.relative <= rtol) | (self.change <= atol)


def measure(z: Tensor, fz: Tensor) -> Residual:
    """The residual of one evaluation, ``fz`` = f(z), (B, N) both."""
    change = torch.linalg.vector_norm(fz - z, dim=1)
    size = torch.linalg.vector_norm(fz, dim=1)
    info = torch.finfo(size.dtype)
    floor = info.tiny**0.5 / info.eps
    representable = torch.maximum(change, size) < info.max**0.5
    safe = (size > floor) & ((change > floor) | (change == 0)) & representable
    if bool(safe.all()):
        return Residual(change, size)
    # Squares of very small or large numbers are not representable: such rows are scaled to one.
    change = torch.where(safe, change, _scaled_norm(fz - z))
    return Residual(change, torch.where(safe, size, _scaled_norm(fz)))


def _scaled_norm(v: Tensor) -> Tensor:
    """(B, N) → (B,); infinite where v is not finite."""
    if not v.shape[1]:
        return v.new_zeros(len(v))
    largest = v.abs().amax(1, keepdim=True)
    finite = largest.isfinite()
    scale = torch.where(finite & (largest > 0), largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(v / scale, dim=1) * scale[:, 0]
    return torch.where(finite[:, 0], norm, torch.inf)
