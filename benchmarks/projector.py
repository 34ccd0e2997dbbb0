"""Tomography: time of A and Aᵀ against deepinv's and ASTRA's projectors, memory, and agreement, in one run.

    pip install -e '.[bench]'
    python benchmarks/projector.py [--size 256] [--views 60] [--batch 4] [--rounds 15]

Times are medians of rounds in which the libraries take turns. The floor is the time to copy as many bytes as both matrices have
(each product reads its matrix once). ASTRA's CPU projector (`linear`, Joseph's method as here) takes one image at a time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

import deepinv
import numpy as np
import torch
from memory import memory

import equipoise as eq
from equipoise.imaging.tomography.projector import forget_matrices


def astra_projector(size: int, angles: np.ndarray, detectors: int):
    """A and Aᵀ of one image, or None where ASTRA is not installed."""
    try:
        import astra
    except ImportError:
        return None
    volume = astra.create_vol_geom(size, size)
    # ASTRA's angle turns the other way round and its detector starts at the other end
    geometry = astra.create_proj_geom("parallel", 1.0, detectors, np.deg2rad(angles))
    projector = astra.create_projector("linear", geometry, volume)
    operator = astra.optomo.OpTomo(projector)
    return (
        lambda x: operator.FP(x.astype(np.float32)),
        lambda y: operator.BP(y.astype(np.float32)),
    )


def copy_time(bytes_: int) -> float:
    """To copy half as many bytes, which reads and writes: as many bytes moved as reading them all."""
    a = torch.empty(bytes_ // 8, dtype=torch.float32)
    b = torch.empty_like(a)
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        b.copy_(a)
        taken.append(time.perf_counter() - start)
    return median(taken[2:])


def peak(size: int, views: int) -> None:
    """Prints the memory, in MB, that building the operator and applying it takes, at most and in the end."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

    before = memory("VmRSS")
    physics = eq.ParallelBeam(size, views)
    physics.A_adjoint(physics.A(torch.zeros(1, 1, size, size)))
    print(memory("VmHWM") - before, memory("VmRSS") - before)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peak:
        peak(a.size, a.views)
        return
    forget_matrices()
    start = time.perf_counter()
    ours = eq.ParallelBeam(a.size, a.views)
    matrix = ours.matrix.on(False, torch.float32, torch.device("cpu"))
    ours.matrix.on(True, torch.float32, torch.device("cpu"))
    built = time.perf_counter() - start
    print(f"{a.size}², {a.views} views, {ours.geometry.detectors} detectors, {torch.get_num_threads()} threads")
    print(f"{len(matrix.values()) / 1e6:.1f} M non-zeros, built with its transpose in {built:.2f} s")
    theirs = deepinv.physics.Tomography(ours.angles, a.size, circle=False, normalize=False)
    x = eq.phantoms(a.batch, a.size)
    y, other = ours.A(x), theirs.A(x)
    astra = astra_projector(a.size, ours.angles.numpy(), ours.geometry.detectors)
    image, sinogram = x[0, 0].numpy(), y[0, 0].numpy()
    timed = {
        f"equipoise, batch {a.batch}": (lambda: ours.A(x), lambda: ours.A_adjoint(y)),
        "equipoise, one image": (lambda: ours.A(x[:1]), lambda: ours.A_adjoint(y[:1])),
        f"deepinv, batch {a.batch}": (lambda: theirs.A(x), lambda: theirs.A_adjoint(other)),
    }
    if astra:
        timed["ASTRA, one image"] = (lambda: astra[0](image), lambda: astra[1](sinogram))
        theirs_too = astra[0](image)
        error = min(np.linalg.norm(sinogram - s) for s in (theirs_too, theirs_too[:, ::-1])) / np.linalg.norm(sinogram)
        print(f"difference from ASTRA's sinogram: {error:.2%} (allowed: 1 %)")
    else:
        print("ASTRA is not installed: pip install -e '.[bench]'")
    times = {name: ([], []) for name in timed}
    for _ in range(a.rounds):
        for name, pair in timed.items():
            for taken, f in zip(times[name], pair):
                start = time.perf_counter()
                f()
                taken.append(time.perf_counter() - start)
    both = {}
    print(f"{'':<24}{'A':>10}{'Aᵀ':>10}{'both':>10}")
    for name, (forward, back) in times.items():
        both[name] = median(forward) + median(back)
        print(f"{name:<24}{median(forward) * 1e3:7.1f} ms{median(back) * 1e3:7.1f} ms{both[name] * 1e3:7.1f} ms")
    size = 2 * 8 * len(matrix.values())
    floor = copy_time(size)
    mine = both[f"equipoise, batch {a.batch}"]
    print(f"reading both matrices at copy bandwidth: {floor * 1e3:.1f} ms; ours takes {mine / floor:.1f} times that (goal: 4)")
    print(f"against deepinv: {both[f'deepinv, batch {a.batch}'] / mine:.0f} × faster (goal: 25)")
    if astra:
        ratio = both["ASTRA, one image"] / (mine / a.batch)
        print(f"against ASTRA, per image: {ratio:.1f} × faster (goal: 5)")
    command = [sys.executable, __file__, "--peak", "--size", "512", "--views", str(a.views)]
    most, rest = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
    print(f"512², {a.views} views: {most:.0f} MB at most while it is built, {rest:.0f} MB kept (goal: 1024)")


if __name__ == "__main__":
    main()
