"""How the shipped denoiser was made: trained on synthetic images alone, from a seed."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from ..imaging.phantoms import KINDS, dead_leaves, phantoms
from ..reconstruction.denoisers import make_denoiser, save_denoiser


def synthetic(count: int, size: int, seed: int) -> torch.Tensor:
    """Half dead leaves, half anatomical phantoms of every look: (count, 1, size, size) in [0, 1]."""
    half = count // 2
    return torch.cat([dead_leaves(half, size, seed), phantoms(count - half, size, seed, KINDS)])


def _augment(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random quarter turn and flip of the batch, and a random contrast for each image."""
    turns, flip = torch.randint(0, 4, (), generator=rng), torch.randint(0, 2, (), generator=rng)
    x = torch.rot90(x, int(turns), (-2, -1))
    x = x.flip(-1) if flip else x
    low, high = torch.rand(2, len(x), 1, 1, 1, generator=rng) * torch.tensor([0.2, 0.5])[:, None, None, None, None]
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5, x, low + (1 - low - high) * x)


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
    """Trains a denoiser ("conv", "unet" or "proximal") on synthetic images with noise σ ~ U(0, ``max_sigma``), and writes
    safetensors to ``out``.

    The loss is the squared error divided by σ + 0.02, so that small noise levels count too. Returns the validation PSNR
    at three noise levels, on images of another seed.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    data, held = synthetic(images, size, seed), synthetic(64, size, seed + 1)
    model = make_denoiser({"architecture": architecture})
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1, (k + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * k / steps))
    )

    def score(sigma: float) -> float:
        noise = torch.randn(held.shape, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            mse = (model(held + sigma * noise, sigma) - held).square().flatten(1).mean(1)
        return float(-10 * mse.log10().mean())

    running = 0.0
    for k in range(steps):
        x = _augment(data[torch.randint(0, len(data), (batch,), generator=rng)], rng)
        sigma = torch.rand(batch, generator=rng) * max_sigma
        noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=rng)
        loss = ((model(noisy, sigma) - x).square().flatten(1).mean(1) / (sigma + 0.02)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        running = value if k == 0 else 0.99 * running + 0.01 * value
        if (k + 1) % 200 == 0 or k + 1 == steps:
            say(f"step {k + 1}/{steps}  loss {running:.5f}  PSNR at sigma 0.05: {score(0.05):.2f} dB")
    scores = {f"psnr_sigma_{s}": round(score(s), 2) for s in (0.02, 0.05, 0.1)}
    about = {
        "command": f"equipoise pretrain --architecture {architecture} --steps {steps} --seed {seed}",
        "data": "synthetic: dead leaves and anatomical phantoms (equipoise.imaging.phantoms)",
        "scores": str(scores),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_denoiser(model, out, about)
    return scores
