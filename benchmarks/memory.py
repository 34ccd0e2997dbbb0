"""Peak memory of the gradient of one two-pass loss, against the number of iterations.

    python benchmarks/memory.py [--size 128] [--batch 4]

Each figure is from a process of its own: the largest resident size while the gradient is taken
(Linux resets that mark on request), less the size just before it (Python, PyTorch, the system
matrix). Loss and network are those of `benchmarks/gradient.py`; the solves, forward and adjoint,
are kept from stopping early. The C library's allocator is told to give freed memory back at once
(``--as-is``: is left as it is), or what it keeps for later would be counted, which varies by 30 %
from run to run.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys

from common import arguments, parser

#: For glibc: freed memory goes back to the system.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def peak(how: str, steps: int, size: int, batch: int) -> None:
    """Prints the peak, in MB, of this process."""
    import torch
    from gradient import Denoiser, ei_gradient

    import equipoise as eq

    physics = eq.ParallelBeam(size, 20, normalize=True)
    y = physics.A(eq.phantoms(batch, size))
    net = Denoiser(0.9, trained=False)
    stop = eq.Stop(0, steps)
    gradient = {
        "implicit": eq.Implicit(stop=stop),
        "unrolled": eq.Unrolled(steps),
        "checkpointed": eq.Unrolled(steps, True),
    }[how]
    step = eq.GradientStep(net)
    model = eq.EquilibriumReconstructor(step, None, stop, gradient, on_failure="ignore")
    with torch.no_grad():
        model.step.bind(y, physics)(physics.A_adjoint(y))  # buffers that PyTorch makes once
    gc.collect()
    begin_anew()
    before = memory("VmRSS")
    theta = torch.linspace(-90, 90, batch)
    ei_gradient(lambda y: model(y, physics), physics, y, net, theta=theta)
    print(memory("VmHWM") - before)


def begin_anew() -> None:
    """The high-water mark begins at the present size."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def memory(name: str) -> float:
    """In MB: VmRSS, the resident size now; VmHWM, the largest since the mark was reset."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(name)]
    return int(line.split()[1]) * 1024 / 1e6


def measured(how: str, steps: int, a: argparse.Namespace) -> float:
    """The peak of a process of its own, in MB."""
    command = [
        *(sys.executable, __file__, "--size", str(a.size), "--batch", str(a.batch)),
        *("--one", how, str(steps)),
    ]
    environment = {**os.environ, **({} if a.as_is else GIVES_BACK)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--few", type=int, default=50, help="iterations of the shorter solve")
    p.add_argument("--many", type=int, default=500, help="iterations of the longer solve")
    p.add_argument("--unrolled", type=int, default=30, help="iterations that are unrolled")
    p.add_argument("--as-is", action="store_true")
    p.add_argument("--one", nargs=2, metavar=("HOW", "STEPS"), help=argparse.SUPPRESS)
    a = arguments(p, size=16, batch=2, few=3, many=6, unrolled=3)
    if a.one:
        how, steps = a.one
        peak(how, int(steps), a.size, a.batch)
        return
    print(f"{a.size}², batch {a.batch}, two passes: peak memory of one gradient")
    found = {}
    for how, steps in (
        ("implicit", a.few),
        ("implicit", a.many),
        ("unrolled", a.unrolled),
        ("checkpointed", a.unrolled),
    ):
        found[how, steps] = measured(how, steps, a)
        print(f"  {how:<13}{steps:4d} iterations {found[how, steps]:8.0f} MB", flush=True)
    growth = found["implicit", a.many] / found["implicit", a.few] - 1
    share = found["implicit", a.many] / found["unrolled", a.unrolled]
    print(
        f"  {a.few} → {a.many} iterations: {growth:+.1%} (goal: at most +5 %); of unrolling "
        f"{a.unrolled}: {share:.2f} (goal: below 0.33)"
    )


if __name__ == "__main__":
    main()
