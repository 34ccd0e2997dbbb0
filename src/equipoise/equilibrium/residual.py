"""How far a state is from being a fixed point, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor


def change_and_size(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """‖f(z) − z‖ and ‖f(z)‖, (B,) each; infinite where f(z) is not finite."""
    change = torch.linalg.vector_norm(fz - z, dim=1)
    size = torch.linalg.vector_norm(fz, dim=1)
    info = torch.finfo(size.dtype)
    representable = torch.maximum(change, size) < info.max**0.5
    safe = (size > info.tiny**0.5 / info.eps) & representable
    if bool(safe.all()):
        return change, size
    # Squares of very small or large numbers are not representable: such rows are scaled to one.
    largest = fz.abs().amax(1, keepdim=True) if fz.shape[1] else fz.new_ones(len(fz), 1)
    finite = largest.isfinite()
    scale = torch.where(finite, largest.clamp_min(info.tiny), torch.ones_like(largest))
    norms = torch.linalg.vector_norm(torch.stack([fz - z, fz]) / scale, dim=2) * scale[:, 0]
    norms = torch.where(finite[:, 0], norms, torch.inf)
    return torch.where(safe, change, norms[0]), torch.where(safe, size, norms[1])


def relative_residual(change: Tensor, size: Tensor, largest: Tensor) -> Tensor:
    """‖f(z) − z‖ / ‖f(z)‖; zero where both are zero.

    A solution that is zero has no relative residual: what is below the rounding of ``largest``,
    the largest ‖f(z)‖ met, is counted against that.
    """
    size = torch.maximum(size, torch.finfo(size.dtype).eps * largest)
    ratio = torch.where(change == 0, change, change / size)
    return torch.where(change.isfinite(), ratio, torch.inf)
