"""PSNR and SSIM of each image: data range 1, images clipped to [0, 1], complex images by their
magnitude, no mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CONVENTIONS = (
    "model units clipped to [0, 1], data range 1, magnitude of complex images, no mask; PSNR and "
    "SSIM (Gaussian window, sigma 1.5) of each image, then their mean (± over the images, or over "
    "seeds where that is said)"
)
#: Below this mean squared error two images are equal: PSNR ends at 200 dB.
SMALLEST_ERROR = 1e-20


def magnitude(x: Tensor) -> Tensor:
    """(B, 1, …) as it is; (B, 2, …), real and imaginary part, to its magnitude (B, 1, …)."""
    return x if x.shape[1] == 1 else x.square().sum(1, keepdim=True).sqrt()


def misfit(x: Tensor, y: Tensor, physics: Any) -> Tensor:
    """‖A x − y‖ / ‖y‖ of each sample, (B,); NaN where nothing was measured, y = 0."""
    with torch.no_grad():
        residual = (physics.A(x) - y).flatten(1)
    size = torch.linalg.vector_norm(y.flatten(1), dim=1)
    share = torch.linalg.vector_norm(residual, dim=1) / size
    return torch.where(size > 0, share, torch.nan)


def is_measured(y: Tensor) -> Tensor:
    """(B,) whether anything in a measurement is not zero, so that it has a :func:`misfit`."""
    return (y != 0).flatten(1).any(1)


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB; where the truth is NaN, there is none, and nothing
    counts."""
    true = _as_scored(truth).double()
    unknown = true.isnan()
    squares = (_as_scored(x).double() - true).square().masked_fill(unknown, 0.0)
    error = squares.flatten(1).sum(1) / (~unknown).flatten(1).sum(1)
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """(B,) structural similarity (Wang et al., IEEE TIP 2004); of a sequence, the mean over its
    frames; of what lies in a frame of NaN, that of what is inside."""
    # It loads torchvision and torch's compiler: two seconds, which commands without it save.
    from torchmetrics.functional.image import structural_similarity_index_measure

    if bool(truth.isnan().any()):
        each = [ssim(*_inside(x[i : i + 1], truth[i : i + 1])) for i in range(len(x))]
        return torch.cat(each)
    images = _as_scored(x).float().reshape(-1, 1, *x.shape[-2:])
    true = _as_scored(truth).float().reshape(-1, 1, *truth.shape[-2:])
    each = structural_similarity_index_measure(images, true, data_range=1.0, reduction="none")
    assert isinstance(each, Tensor)
    return each.reshape(len(x), -1).mean(1)


def _inside(x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the frame in which the truth is NaN."""
    known = ~truth.isnan().flatten(0, -3).all(0)
    if not bool(known.any()):
        return x, truth.nan_to_num(0)
    rows, columns = (torch.nonzero(known.any(dim))[:, 0] for dim in (1, 0))
    box = (
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )
    return x[(..., *box)], truth[(..., *box)].nan_to_num(0)


def _as_scored(x: Tensor) -> Tensor:
    return magnitude(x).clamp(0, 1)
