"""Tomography: time of A and Aᵀ against deepinv's and ASTRA's projectors, memory, and agreement, in
one run.

    pip install -e '.[bench]'
    python benchmarks/projector.py [--size 256] [--views 60] [--batch 4] [--rounds 15]

Times are medians of rounds in which the libraries take turns. The floor is the time to copy as many
bytes as both matrices have, the rows of all views counted (each product reads its matrix once);
ours stores fewer where views are turned copies of others. ASTRA's CPU projector (`linear`, Joseph's
method as here) takes one image at a time. Nothing is read from disk; what the large fan takes with
a folder of caches is measured at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import deepinv
import numpy as np
import torch
from common import arguments, parser
from memory import begin_anew, memory

import equipoise as eq
from equipoise.imaging.tomography.projector import forget_matrices


class Pair(NamedTuple):
    """A and Aᵀ."""

    forward: Callable[[], Any]
    back: Callable[[], Any]


class Times(NamedTuple):
    """Median seconds."""

    forward: float
    back: float

    @property
    def both(self) -> float:
        return self.forward + self.back


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


def copy_time(count: int) -> float:
    """To copy half of ``count`` bytes, which reads and writes: as many bytes are moved as if all
    were read."""
    a = torch.empty(count // 8, dtype=torch.float32)
    b = torch.empty_like(a)
    seconds = [seconds_of(lambda: b.copy_(a)) for _ in range(7)]
    return median(seconds[2:])


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def times_in_turns(pairs: dict[str, Pair], rounds: int) -> dict[str, Times]:
    forward: dict[str, list[float]] = {name: [] for name in pairs}
    back: dict[str, list[float]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, pair in pairs.items():
            forward[name].append(seconds_of(pair.forward))
            back[name].append(seconds_of(pair.back))
    return {name: Times(median(forward[name]), median(back[name])) for name in pairs}


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of sinograms, whichever way the detector of the other one runs."""
    size = np.linalg.norm(ours)
    return min(np.linalg.norm(ours - other) / size for other in (theirs, theirs[:, ::-1]))


def peak(size: int, views: int) -> None:
    """Prints the memory, in MB, that building the operator and applying it takes, at most and in
    the end."""
    begin_anew()
    before = memory("VmRSS")
    physics = eq.ParallelBeam(size, views)
    physics.A_adjoint(physics.A(torch.zeros(1, 1, size, size)))
    print(memory("VmHWM") - before, memory("VmRSS") - before)


def report_memory(size: int, views: int) -> None:
    """Of a process of its own."""
    command = [sys.executable, __file__, "--peak", "--size", str(size), "--views", str(views)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    most, rest = map(float, done.stdout.split()[-2:])
    print(
        f"{size}², {views} views: {most:.0f} MB at most while it is built, {rest:.0f} MB kept "
        "(goal: 1024)"
    )


def build_fan(size: int, views: int, detectors: int) -> None:
    """Prints seconds (and of all threads together) to build a fan and its transpose, and the MB
    that are kept."""
    before = memory("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    physics = eq.FanBeam(size, views, 2.0 * size, float(size), detectors=detectors)
    physics.matrix.on(True, torch.float32, torch.device("cpu"))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(seconds, busy, memory("VmRSS") - before)


def report_fan(size: int, views: int, detectors: int) -> None:
    """Each of a process of its own: without a folder of caches, and twice with one."""
    fan = [str(size), str(views), str(detectors)]
    with tempfile.TemporaryDirectory() as folder:
        for place, words in (("off", "built"), (folder, "built and kept"), (folder, "read")):
            command = [sys.executable, __file__, "--fan", *fan]
            environment = {**os.environ, "EQUIPOISE_CACHE": place}
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            )
            seconds, busy, kept = map(float, done.stdout.split()[-3:])
            print(
                f"fan, {size}², {views} views, {detectors} detectors: {words} with its transpose "
                f"in {seconds:.1f} s ({busy:.1f} s of all threads; goal: 10), {kept:.0f} MB"
            )


def compare(a: argparse.Namespace) -> None:
    forget_matrices()
    start = time.perf_counter()
    ours = eq.ParallelBeam(a.size, a.views)
    matrix = ours.matrix.on(False, torch.float32, torch.device("cpu"))
    ours.matrix.on(True, torch.float32, torch.device("cpu"))
    built = time.perf_counter() - start
    count, stored = ours.matrix.nonzeros, len(matrix.values())
    detectors, threads = ours.geometry.detectors, torch.get_num_threads()
    print(f"{a.size}², {a.views} views, {detectors} detectors, {threads} threads")
    print(
        f"{count / 1e6:.1f} M non-zeros, {stored / 1e6:.1f} M of them stored, built with the "
        f"transpose in {built:.2f} s"
    )
    theirs = deepinv.physics.Tomography(ours.angles, a.size, circle=False, normalize=False)
    x = eq.phantoms(a.batch, a.size)
    y = ours.A(x)
    other = theirs.A(x)
    mine, peer = f"equipoise, batch {a.batch}", f"deepinv, batch {a.batch}"
    pairs = {
        mine: Pair(lambda: ours.A(x), lambda: ours.A_adjoint(y)),
        "equipoise, one image": Pair(lambda: ours.A(x[:1]), lambda: ours.A_adjoint(y[:1])),
        peer: Pair(lambda: theirs.A(x), lambda: theirs.A_adjoint(other)),
    }
    astra = astra_projector(a.size, ours.angles.numpy(), detectors)
    if astra is None:
        print("skipped: ASTRA is not installed: pip install -e '.[bench]'")
    else:
        project, back_project = astra
        image, sinogram = x[0, 0].numpy(), y[0, 0].numpy()
        pairs["ASTRA, one image"] = Pair(lambda: project(image), lambda: back_project(sinogram))
        difference = relative_difference(sinogram, project(image))
        print(f"difference from ASTRA's sinogram: {difference:.2%} (allowed: 1 %)")
    times = times_in_turns(pairs, a.rounds)
    print(f"{'':<24}{'A':>10}{'Aᵀ':>10}{'both':>10}")
    for name, taken in times.items():
        columns = (taken.forward, taken.back, taken.both)
        print(f"{name:<24}" + "".join(f"{seconds * 1e3:7.1f} ms" for seconds in columns))
    floor = copy_time(2 * 8 * count)
    ratio = times[mine].both / floor
    print(
        f"reading both matrices at copy bandwidth: {floor * 1e3:.1f} ms; ours takes {ratio:.1f} "
        "times that (goal: 4)"
    )
    print(f"against deepinv: {times[peer].both / times[mine].both:.0f} × faster (goal: 25)")
    if astra is not None:
        ratio = times["ASTRA, one image"].both / (times[mine].both / a.batch)
        print(f"against ASTRA, per image: {ratio:.1f} × faster (goal: 5)")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--large", type=int, default=512, help="size whose memory is measured")
    p.add_argument("--large-fan", type=int, nargs=3, default=(512, 720, 560))
    p.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--fan", type=int, nargs=3, help=argparse.SUPPRESS)
    a = arguments(p, size=32, views=10, rounds=1, large=32, large_fan=(32, 20, 40))
    if a.fan:
        build_fan(*a.fan)
        return
    os.environ["EQUIPOISE_CACHE"] = "off"
    if a.peak:
        peak(a.size, a.views)
        return
    compare(a)
    report_memory(a.large, a.views)
    report_fan(*a.large_fan)


if __name__ == "__main__":
    main()
