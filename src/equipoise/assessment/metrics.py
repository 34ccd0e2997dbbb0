"""PSNR and SSIM, per image: data range 1, images clipped to [0, 1], complex images by their magnitude, no mask."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

CONVENTIONS = (
    "model units clipped to [0, 1], data range 1, magnitude of complex images, no mask; PSNR and SSIM (Gaussian window, "
    "sigma 1.5) of each image, then their mean (± over the images, or over seeds where that is said)"
)


def magnitude(x: Tensor) -> Tensor:
    """(B, 1, …) as it is; (B, 2, …), real and imaginary part, to its magnitude (B, 1, …)."""
    return x if x.shape[1] == 1 else x.square().sum(1, keepdim=True).sqrt()


def misfit(x: Tensor, y: Tensor, physics: Any) -> Tensor:
    """‖A x − y‖ / ‖y‖ of each sample, (B,)."""
    with torch.no_grad():
        r = (physics.A(x) - y).flatten(1)
    size = torch.linalg.vector_norm(y.flatten(1), dim=1).clamp_min(torch.finfo(y.dtype).tiny)
    return torch.linalg.vector_norm(r, dim=1) / size


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


def bootstrap(difference: Tensor, groups: list[str], draws: int = 4000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, and the bounds of its interval, of paired differences (seeds, images).

    Seeds are drawn with replacement, and ``groups`` of images that belong together (those of a patient); where there is only
    one group, images are drawn. The seed of the draws is fixed. Few groups and seeds vary less in such draws than in truth: the
    interval is widened by what the variance of n lacks, (n − 1)/n, and by Student's factor, with the degrees of freedom of
    Satterthwaite (1946).
    """
    rng = torch.Generator().manual_seed(0)
    difference = difference.double()
    members = [[i for i, g in enumerate(groups) if g == who] for who in dict.fromkeys(groups)]
    members = members if len(members) > 1 else [[i] for i in range(len(groups))]
    sums = torch.stack([difference[:, m].sum(1) for m in members], 1)  # (seeds, groups)
    sizes = torch.tensor([len(m) for m in members], dtype=torch.float64)
    means = []
    for _ in range(draws):
        some = torch.randint(len(members), (len(members),), generator=rng)
        seeds = torch.randint(len(difference), (len(difference),), generator=rng)
        means.append(sums[seeds][:, some].sum(1).mean() / sizes[some].sum())
    outside, mean = (1 - level) / 2, float(difference.mean())
    low, high = torch.stack(means).quantile(torch.tensor([outside, 1 - outside], dtype=torch.float64)).tolist()
    of = [(len(v), float(v.var(unbiased=False)) / len(v)) for v in (sums.mean(0) / sizes.mean(), sums.sum(1) / sizes.sum())]
    parts = [(n, biased * n / (n - 1), biased) for n, biased in of if n > 1 and biased > 0]
    if not parts:
        return mean, low, high
    true, drawn = (sum(part[k] for part in parts) for k in (1, 2))
    freedom = true**2 / sum(v**2 / (n - 1) for n, v, _ in parts)
    wider = (true / drawn) ** 0.5 * float(student.ppf(1 - outside, freedom) / normal.ppf(1 - outside))
    return mean, mean + wider * (low - mean), mean + wider * (high - mean)


def summary(values: Tensor | list[float]) -> tuple[float, float]:
    """Mean and standard deviation over images."""
    v = torch.as_tensor(values, dtype=torch.float64)
    return float(v.mean()), float(v.std(unbiased=False))
