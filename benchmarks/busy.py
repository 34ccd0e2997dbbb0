"""A gradient beside one busy process: how many times as long as alone (goal: 2.2).

    python benchmarks/busy.py [--size 64] [--views 20] [--batch 4] [--rounds 7]

The gradient of one equivariant-imaging loss (two equilibria and their adjoints) on as many threads
as there are cores, in a process of its own; then the same while another process does nothing but
count. Once as `equipoise` runs, whose threads wait without spinning (`equipoise/machine.py`), and
once as PyTorch does by itself. Medians; in turns, alone and beside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from statistics import median

from common import arguments, parser

GOAL = 2.2


@contextmanager
def busy_process():
    """Something that takes all of one core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def measure(a: argparse.Namespace) -> None:
    """Prints two medians: alone, and beside a busy process."""
    import torch

    import equipoise as eq

    torch.manual_seed(0)
    physics = eq.ParallelBeam(a.size, a.views, normalize=True)
    step = eq.ProximalStep(eq.load_denoiser("unet"), strength=0.002, sigma=0.02)
    model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-3), gradient=eq.Implicit())
    y = physics.A(eq.phantoms(a.batch, a.size))
    loss = eq.Equivariance(eq.Rotations())

    def seconds() -> float:
        torch.manual_seed(1)  # the same rotation and noise
        start = time.perf_counter()
        x = model(y, physics)
        loss(x_net=x, y=y, physics=physics, model=model).mean().backward()
        return time.perf_counter() - start

    seconds()
    alone, beside = [], []
    for _ in range(a.rounds):
        alone.append(seconds())
        with busy_process():
            beside.append(seconds())
    print(median(alone), median(beside))


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    a = arguments(p, size=16, views=6, batch=2, rounds=1)
    if a.one:
        measure(a)
        return
    options = ["--size", a.size, "--views", a.views, "--batch", a.batch, "--rounds", a.rounds]
    plain = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    ways = {"as equipoise runs": plain | {"GOMP_SPINCOUNT": "0"}, "as PyTorch does": plain}
    print(f"{a.size}², {a.views} views, batch {a.batch}; {os.cpu_count()} cores; goal {GOAL}")
    for name, environment in ways.items():
        command = [sys.executable, __file__, "--one", *map(str, options)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        alone, beside = map(float, done.stdout.split()[-2:])
        print(
            f"{name:<18} alone {alone:6.2f} s, beside a busy process {beside:6.2f} s: "
            f"{beside / alone:.1f} times as long"
        )


if __name__ == "__main__":
    main()
