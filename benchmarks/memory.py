"""Peak memory of the gradient of one two-pass loss, against the number of iterations.

    python benchmarks/memory.py [--size 128] [--batch 4]

Each figure is from a process of its own: the largest resident size while the gradient is taken (Linux resets that mark on
request), less the size just before it (Python, PyTorch, the system matrix). Loss and network are those of
`benchmarks/gradient.py`; the solves, forward and adjoint, are kept from stopping early. The C library's allocator is told to
give freed memory back at once (``--as-is``: is left as it is), or what it keeps for later would be counted, which varies by 30 %
from run to run.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys


def peak(how: str, steps: int, size: int, batch: int) -> None:
    """Prints the peak, in MB, of this process."""
    import torch
    from gradient import Denoiser, ei_gradient

    import equipoise as eq

    physics = eq.ParallelBeam(size, 20, normalize=True)
    y = physics.A(eq.phantoms(batch, size))
    net = Denoiser(0.9, trained=False)
    stop = eq.Stop(0, steps)
    how_to = {
        "implicit": eq.Implicit(stop=stop),
        "unrolled": eq.Unrolled(steps),
        "checkpointed": eq.Unrolled(steps, True),
    }[how]
    model = eq.EquilibriumReconstructor(
        eq.GradientStep(net), stop=stop, gradient=how_to, on_failure="ignore"
    )
    with torch.no_grad():
        model.step.bind(y, physics)(physics.A_adjoint(y))  # buffers that PyTorch makes once
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark begins anew
    before = memory("VmRSS")
    ei_gradient(lambda y: model(y, physics), physics, y, net, theta=torch.linspace(-90, 90, batch))
    print(memory("VmHWM") - before)


def memory(name: str) -> float:
    """In MB: VmRSS, the resident size now; VmHWM, the largest since the mark was reset."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(name)]
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--as-is", action="store_true")
    p.add_argument("--one", nargs=2, metavar=("HOW", "STEPS"), help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        peak(a.one[0], int(a.one[1]), a.size, a.batch)
        return
    print(f"{a.size}², batch {a.batch}, two passes: peak memory of one gradient")
    env = (
        dict(os.environ)
        if a.as_is
        else {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    )
    found = {}
    for how, steps in (("implicit", 50), ("implicit", 500), ("unrolled", 30), ("checkpointed", 30)):
        command = [
            sys.executable,
            __file__,
            "--size",
            str(a.size),
            "--batch",
            str(a.batch),
            "--one",
            how,
            str(steps),
        ]
        found[how, steps] = float(
            subprocess.run(
                command, check=True, capture_output=True, text=True, env=env
            ).stdout.split()[-1]
        )
        print(f"  {how:<13}{steps:4d} iterations {found[how, steps]:8.0f} MB")
    growth = found["implicit", 500] / found["implicit", 50] - 1
    share = found["implicit", 500] / found["unrolled", 30]
    print(
        f"  50 → 500 iterations: {growth:+.1%} (goal: at most +5 %); of unrolling 30: {share:.2f} (goal: below 0.33)"
    )


if __name__ == "__main__":
    main()
