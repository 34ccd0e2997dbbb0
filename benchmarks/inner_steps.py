"""λ and the steps of the inner problem: what plug-and-play gains, and what an equilibrium and its
adjoint cost.

    python benchmarks/inner_steps.py [--size 256] [--views 60] [--strengths 1e-4 1e-3 1e-2]
                                     [--steps 4 6 auto 16] [--sigma 0.02] [--count 4]

Slices of `ct/val.h5` (real data in ../shared/data), 0.1 % noise, the default denoiser: residual
6e-5 within 100 evaluations forward, 3.5e-4 within 60 products back, of a gradient drawn at random.
"""

from __future__ import annotations

import time

import torch
from common import DATA, arguments, is_there, parser, planned_scan

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.config import parse
from equipoise.data.dataset import Dataset
from equipoise.run import load_data

STOP, ADJOINT_STOP = eq.Stop(6e-5, 100), eq.Stop(3.5e-4, 60)


def report(dataset: Dataset, strength: float, steps: int | str, sigma: float) -> str:
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    truth = dataset.require_truth()
    step = eq.ProximalStep(eq.load_denoiser("unet"), strength, sigma, inner=steps)
    gradient = eq.Implicit(stop=ADJOINT_STOP)
    model = eq.EquilibriumReconstructor(step, stop=STOP, gradient=gradient, on_failure="ignore")
    g = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(2):  # the second time, all that is made once is there
        started = time.perf_counter()
        solved = model.equilibrium(y, physics)
        middle = time.perf_counter()
        (solved.value * g).sum().backward()
        seconds = [middle - started, time.perf_counter() - middle]
    score = float(psnr(solved.value.detach(), truth).mean())
    evaluations = float(solved.steps.double().mean())
    products = float(solved.adjoint.steps.double().mean())
    return (
        f"λ {strength:g}, inner {steps} ({step.explain(y, physics).steps}): {score:.2f} dB; "
        f"{evaluations:.0f} evaluations, {products:.0f} products; {seconds[0]:.2f} + "
        f"{seconds[1]:.2f} = {sum(seconds):.2f} s"
    )


def main() -> None:
    commands = parser(__doc__)
    commands.add_argument("--size", type=int, default=256)
    commands.add_argument("--views", type=int, default=60)
    commands.add_argument("--count", type=int, default=4)
    commands.add_argument("--sigma", type=float, default=0.02)
    commands.add_argument("--strengths", type=float, nargs="+", default=[1e-4, 1e-3, 1e-2])
    commands.add_argument("--steps", nargs="+", default=["4", "6", "auto", "16"])
    a = arguments(commands, size=32, views=12, count=1, strengths=[1e-3], steps=["auto"])
    if not is_there(DATA / "ct" / "val.h5"):
        return
    data = {"path": str(DATA / "ct" / "val.h5"), "size": a.size}
    physics = {"kind": "parallel_beam", "angles": a.views, "noise": 0.001}
    config = parse({"data": data, "physics": physics}, "benchmark")
    dataset = load_data(config, planned_scan(config)).spread(a.count)
    for strength in a.strengths:
        for steps in a.steps:
            wanted = int(steps) if steps.isdigit() else steps
            print(report(dataset, strength, wanted, a.sigma), flush=True)


if __name__ == "__main__":
    main()
