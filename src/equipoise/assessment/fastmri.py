"""fastMRI's measures: of whole volumes, on the middle of the image, by the volume's own maximum.

As its evaluation has them (Zbontar et al. 2018, sections 5.1 and 7; ``fastmri.evaluate``): NMSE and
PSNR over all voxels of a volume, SSIM of each slice with a uniform window of 7 × 7 pixels and then
their mean; the data range is the largest value of the volume to compare with. Then their means
over the volumes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: The side of SSIM's window, and its constants.
WINDOW, K1, K2 = 7, 0.01, 0.03

CONVENTION = (
    "fastMRI's convention: root sum of squares, cropped to the image to compare with; NMSE and "
    "PSNR of each volume, SSIM of each slice (uniform window of 7 × 7), data range the volume's "
    "maximum; mean ± deviation over volumes"
)


@dataclass(frozen=True)
class VolumeScores:
    """Of one volume."""

    nmse: float
    psnr: float  #: dB
    ssim: float


def center_crop(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The middle (…, *shape) of images (…, H, W); zero where they are smaller."""
    rows, columns = shape
    around = []
    for there, wanted in ((image.shape[-1], columns), (image.shape[-2], rows)):
        before = max(0, wanted - there) // 2
        around += [before, max(0, wanted - there) - before]
    padded = torch.nn.functional.pad(image, around)
    top, left = (padded.shape[-2] - rows) // 2, (padded.shape[-1] - columns) // 2
    return padded[..., top : top + rows, left : left + columns]


def volume_scores(images: Tensor, target: Tensor, peak: float | None = None) -> VolumeScores:
    """The scores of a volume.

    Args:
        images: (slices, H, W) magnitudes, in the units of the target.
        target: (slices, rows, columns); the images are cropped to its size.
        peak: the data range; none: the target's maximum.
    """
    target = target.double()
    images = center_crop(images.double(), (target.shape[-2], target.shape[-1]))
    peak = float(target.max()) if peak is None else peak
    error = (images - target).square()
    nmse = float(error.sum() / target.square().sum())
    psnr = float(10 * torch.log10(peak**2 / error.mean().clamp_min(1e-30 * peak**2)))
    return VolumeScores(nmse, psnr, float(uniform_ssim(images, target, peak).mean()))


def uniform_ssim(images: Tensor, target: Tensor, peak: float) -> Tensor:
    """(slices,) structural similarity with a uniform window and sample covariances, where the
    window is whole (as scikit-image's, by default)."""
    a, b = images[:, None], target[:, None]

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, WINDOW, stride=1)

    count = WINDOW**2
    sample = count / (count - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a = sample * (mean(a * a) - mean_a**2)
    var_b = sample * (mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.flatten(1).mean(1)
