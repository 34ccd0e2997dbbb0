"""Denoisers to start from: their cost, how well they denoise, and what they give untrained.

    python benchmarks/backbone.py shipped unet [FILE …] [--size 256] [--views 60] [--count 4]

Each name is a denoiser that comes with the package, or a file made by `equipoise pretrain`. The
cost is that of a forward pass of the batch, in yardsticks (six layers of 32 channels, the same
batch); PSNR of denoising at some noise levels and of plug-and-play (the proximal step with λ as the
noise asks, residual 1e-4 within 100 evaluations) for each σ, on slices of `ct/val.h5`, and of T1
heads at 4× (unless --size is below 128: CT alone). Real data in ../shared/data; without them it
says so.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from common import DATA, arguments, is_there, parser, planned_scan
from torch import Tensor

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.config import Config, parse
from equipoise.data.dataset import Dataset
from equipoise.reconstruction.denoisers import ComplexDenoiser
from equipoise.run import load_data

NOISES = (0.01, 0.02, 0.05)
SIGMAS = (0.005, 0.01, 0.02, 0.04, 0.08)


def configuration(kind: str, a: Any) -> Config:
    ct = {"kind": "parallel_beam", "angles": a.views, "noise": 0.001}
    mri = {"kind": "mri", "acceleration": 4, "noise": 0.001}
    path = DATA / ("ct/val.h5" if kind == "CT" else "mri/heads")
    data: dict[str, Any] = {"path": str(path), "size": a.size if kind == "CT" else 128}
    if kind == "MRI":
        data["slices"] = "middle 1"
    tree = {"data": data, "physics": ct if kind == "CT" else mri}
    return parse(tree, "benchmark")


def forward_seconds(network: torch.nn.Module, x: Tensor, rounds: int = 5) -> float:
    times = []
    with torch.no_grad():
        for _ in range(rounds):
            started = time.perf_counter()
            network(x, 0.02)
            times.append(time.perf_counter() - started)
    return min(times)


def denoised(network: torch.nn.Module, truth: Tensor, sigma: float) -> float:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return float(psnr(network(truth + sigma * noise, sigma), truth).mean())


def plugged(config: Config, network: torch.nn.Module, dataset: Dataset, sigma: float) -> str:
    """PSNR, and the share of the solves that ended at their tolerance."""
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    truth = dataset.require_truth()
    step: Any = config.model.step
    strength = step.default_strength(dataset.scan.noise, sigma)
    D = ComplexDenoiser(network) if truth.shape[1] == 2 else network
    step = eq.ProximalStep(D, strength=strength, sigma=sigma)
    model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-4, 100), on_failure="ignore")
    with torch.no_grad():
        solved = model.equilibrium(y, physics)
    share = float(solved.converged.double().mean())
    return f"{float(psnr(solved.value, truth).mean()):.2f} dB ({share:.0%})"


def main() -> None:
    commands = parser(__doc__)
    commands.add_argument("denoisers", nargs="*", default=["shipped", "unet"])
    commands.add_argument("--count", type=int, default=4)
    commands.add_argument("--size", type=int, default=256)
    commands.add_argument("--views", type=int, default=60)
    a = arguments(commands, size=32, views=12, count=1)
    if not is_there(DATA / "ct" / "val.h5"):
        return
    kinds = ["CT", "MRI"] if a.size >= 128 else ["CT"]
    yardstick = eq.ConvDenoiser(channels=32, layers=6)
    batch = torch.rand(4, 1, a.size, a.size)
    unit = forward_seconds(yardstick, batch)
    configs = {kind: configuration(kind, a) for kind in kinds}
    datasets = {k: load_data(c, planned_scan(c)).spread(a.count) for k, c in configs.items()}
    for name in a.denoisers:
        network = eq.load_denoiser(name)
        count = sum(p.numel() for p in network.parameters())
        cost = forward_seconds(network, batch) / unit
        print(f"{name}: {count} parameters, {cost:.2f} yardsticks")
        for kind, dataset in datasets.items():
            magnitude = dataset.require_truth().square().sum(1, keepdim=True).sqrt()
            levels = [f"{s:g}: {denoised(network, magnitude, s):.2f}" for s in NOISES]
            print(f"  {kind} denoised of σ = {', '.join(levels)} dB")
            for sigma in SIGMAS:
                text = plugged(configs[kind], network, dataset, sigma)
                print(f"  {kind} plug-and-play, σ = {sigma:g}: {text}", flush=True)


if __name__ == "__main__":
    main()
