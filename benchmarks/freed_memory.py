"""What the U-Net costs where freed memory is handed back to the system, and where it is kept.

    python benchmarks/freed_memory.py [--sizes 256 512] [--batch 4]

Each way in a process of its own: forward passes without a gradient, and products with the Jacobian
of its input; the mean of six, after three.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from common import arguments, parser

import equipoise as eq
from equipoise.machine import keep_freed_memory


def mean_ms(work: Callable[[], object], rounds: int = 6) -> float:
    for _ in range(3):
        work()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - started) / rounds * 1e3


def measure(size: int, batch: int) -> str:
    network = eq.load_denoiser("unet").to(memory_format=torch.channels_last)
    x = torch.rand(batch, 1, size, size)
    with torch.no_grad():
        forward = mean_ms(lambda: network(x, 0.02))
    x.requires_grad_()
    out = network(x, 0.02)
    v = torch.randn_like(out)
    back = mean_ms(lambda: torch.autograd.grad(out, x, v, retain_graph=True))
    return f"{batch} × {size}²: forward {forward:.0f} ms, product {back:.0f} ms"


def main() -> None:
    commands = parser(__doc__)
    commands.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    commands.add_argument("--batch", type=int, default=4)
    commands.add_argument("--way", choices=["handed back", "kept"])
    a = arguments(commands, False, sizes=[32], batch=1)
    if a.way is None:
        sizes = [str(size) for size in a.sizes]
        for way in ("handed back", "kept"):
            command = [sys.executable, __file__, "--way", way, "--batch", str(a.batch)]
            subprocess.run([*command, "--sizes", *sizes], check=True)
        return
    if a.way == "kept":
        keep_freed_memory()
    for size in a.sizes:
        print(f"{a.way}: {measure(size, a.batch)}", flush=True)


if __name__ == "__main__":
    main()
