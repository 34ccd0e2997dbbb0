"""PSNR and SSIM, per image: data range 1, images clipped to [0, 1], complex images by their magnitude, no mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

CONVENTIONS = (
    "model units clipped to [0, 1], data range 1, magnitude of complex images, no mask; PSNR and SSIM (Gaussian window, "
    "sigma 1.5) of each image, then mean ± standard deviation over images"
)


def magnitude(x: Tensor) -> Tensor:
    """(B, 1, …) as it is; (B, 2, …), real and imaginary part, to its magnitude (B, 1, …)."""
    return x if x.shape[1] == 1 else x.square().sum(1, keepdim=True).sqrt()


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB."""
    x, truth = magnitude(x).clamp(0, 1), magnitude(truth).clamp(0, 1)
    mse = (x.double() - truth.double()).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(1e-20).log10()


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """(B,) structural similarity (Wang et al., IEEE TIP 2004)."""
    x, truth = magnitude(x).clamp(0, 1).float(), magnitude(truth).clamp(0, 1).float()
    frames = [t.reshape(-1, 1, *t.shape[-2:]) for t in (x, truth)]  # a sequence: the mean over its frames
    out = structural_similarity_index_measure(*frames, data_range=1.0, reduction="none")
    assert isinstance(out, Tensor)
    return out.reshape(len(x), -1).mean(1)


def summary(values: Tensor | list[float]) -> tuple[float, float]:
    """Mean and standard deviation over images."""
    v = torch.as_tensor(values, dtype=torch.float64)
    return float(v.mean()), float(v.std(unbiased=False))
