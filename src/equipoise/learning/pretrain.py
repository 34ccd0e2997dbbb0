"""How the shipped denoiser was made: trained on synthetic images alone, from a seed."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..imaging.phantoms import KINDS, dead_leaves, phantoms
from ..reconstruction.denoisers import make_denoiser, save_denoiser


def synthetic(count: int, size: int, seed: int) -> Tensor:
    """Half dead leaves, half phantoms of every look: (count, 1, size, size) in [0, 1]."""
    half = count // 2
    return torch.cat([dead_leaves(half, size, seed), phantoms(count - half, size, seed, KINDS)])


def _augment(x: Tensor, rng: torch.Generator) -> Tensor:
    """A random quarter turn and flip of the batch, and a random contrast for each image."""
    turns = torch.randint(0, 4, (), generator=rng)
    flip = torch.randint(0, 2, (), generator=rng)
    x = torch.rot90(x, int(turns), (-2, -1))
    x = x.flip(-1) if flip else x
    largest = torch.tensor([0.2, 0.5])[:, None, None, None, None]
    low, high = torch.rand(2, len(x), 1, 1, 1, generator=rng) * largest
    unchanged = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
    return torch.where(unchanged, x, low + (1 - low - high) * x)


def _mean_psnr(model: nn.Module, images: Tensor, sigma: float) -> float:
    """Of images (N, 1, H, W), denoised of noise that is always the same."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        error = (model(images + sigma * noise, sigma) - images).square().flatten(1).mean(1)
    return float(-10 * error.log10().mean())


def _loss(model: nn.Module, x: Tensor, max_sigma: float, rng: torch.Generator) -> Tensor:
    """The squared error of images of which each has its own noise level, divided by σ + 0.02, so
    that small levels count too."""
    sigma = torch.rand(len(x), generator=rng) * max_sigma
    noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=rng)
    error = (model(noisy, sigma) - x).square().flatten(1).mean(1)
    return (error / (sigma + 0.02)).mean()


def pretrain(
    out: str | Path,
    steps: int = 4000,
    batch: int = 16,
    size: int = 64,
    images: int = 3000,
    max_sigma: float = 0.15,
    lr: float = 2e-3,
    architecture: str = "conv",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains a denoiser on synthetic images with noise σ ~ U(0, ``max_sigma``), and writes
    safetensors to ``out``.

    Args:
        architecture: "conv", "unet" or "proximal".

    Returns:
        The PSNR at three noise levels, on images of another seed.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    data = synthetic(images, size, seed)
    held_out = synthetic(64, size, seed + 1)
    model = make_denoiser({"architecture": architecture})
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1, (k + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * k / steps))
    )
    running = 0.0
    for k in range(steps):
        x = _augment(data[torch.randint(0, len(data), (batch,), generator=rng)], rng)
        loss = _loss(model, x, max_sigma, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        running = value if k == 0 else 0.99 * running + 0.01 * value
        if (k + 1) % 200 == 0 or k + 1 == steps:
            score = _mean_psnr(model, held_out, 0.05)
            say(f"step {k + 1}/{steps}  loss {running:.5f}  PSNR at sigma 0.05: {score:.2f} dB")
    scores = {
        f"psnr_sigma_{s}": round(_mean_psnr(model, held_out, s), 2) for s in (0.02, 0.05, 0.1)
    }
    command = f"equipoise pretrain --architecture {architecture} --steps {steps} --seed {seed}"
    about = {
        "command": command,
        "data": "synthetic: dead leaves and anatomical phantoms (equipoise.imaging.phantoms)",
        "scores": str(scores),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_denoiser(model, out, about)
    return scores
