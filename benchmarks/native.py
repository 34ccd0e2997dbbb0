"""A training step at native size, in yardsticks: what it costs, and where the time goes.

    python benchmarks/native.py [--size 256] [--views 60] [--batch 4] [--rounds 3] [--data FILE]
        [--three] [--before]

The yardstick is a forward pass of a six-layer, 32-channel network on the same batch: float32,
channels last, no gradient, two threads, the median of seven: in the same process, where freed
memory is kept, and in one of its own as PyTorch has it (*plain*), where each of the network's
tensors is mapped and cleared anew (`benchmarks/freed_memory.py`). First the parts: an evaluation of
the proximal step and a vector–Jacobian product, with the inner problem solved exactly and by
Chebyshev's steps, and how many evaluations a solve takes from where it begins. Then training steps
with the default objective, which moves no images where views lie as close as here, and with
equivariance beside it, as the goal says (``--three``: also with an adjoint for each of the three
images of a step, as it was); with ``objective.exact`` and without: each in a process of its own,
with the largest resident size. Everything is measured in turns; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import arguments, parser, planned_scan, start_model, start_trainer
from memory import begin_anew, memory
from torch import Tensor

import equipoise as eq
from equipoise.config import Config, parse
from equipoise.run import load_data

#: Goals of a training step, at the sizes that the options have of themselves.
MOST_YARDSTICKS, MOST_GIGABYTES = 50, 3 * 2**30 / 1e9


#: What differs from the default objective.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "default": {},
    "moved": {"equivariance": {"weight": 0.2}},
    "three": {"equivariance": {"weight": 0.2, "stop_gradient": True}},
}
LABELS = {
    "default": "the defaults",
    "moved": "with equivariance",
    "three": "with equivariance, three adjoints",
}


def configuration(
    a: argparse.Namespace, inner: str | int, exact: bool, objective: str = "default"
) -> Config:
    data = {"count": a.batch} if a.data is None else {"path": str(a.data), "kind": "images"}
    tree = {
        "data": {"size": a.size, **data},
        "physics": {"kind": "parallel_beam", "angles": a.views, "noise": 0.001},
        "model": {"step": {"kind": "proximal", "inner": inner}},
        "objective": {"exact": exact, **OBJECTIVES[objective]},
        "learning": {"batch": a.batch, "steps": 1000},
    }
    return parse(tree, "benchmark")


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def yardstick(batch: int, size: int, rounds: int = 7) -> float:
    """Seconds of a forward pass."""
    network = eq.ConvDenoiser(channels=32, layers=6).to(memory_format=torch.channels_last)
    x = torch.rand(batch, 1, size, size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network(x, 0.05)
        return median(seconds_of(lambda: network(x, 0.05)) for _ in range(rounds))


def report_parts(a: argparse.Namespace) -> None:
    """The cost of an evaluation and of a vector–Jacobian product, and how many a solve takes."""
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    solves = {}
    for inner in ("exact", "auto"):
        config = configuration(a, inner, True)
        dataset = load_data(config, planned_scan(config))
        y, physics, _ = dataset.batch(torch.arange(a.batch))
        model = start_model(config, dataset.scan)  # which knows the noise
        f = model.step.bind(y, physics)
        x = model.step.start(y, physics).requires_grad_()
        works[inner] = evaluation_and_product(f, x)
        stop = eq.Stop(1e-4, 100)
        with torch.no_grad():
            trace = eq.solve(f, x.detach(), stop=stop, on_failure="ignore").trace
        solves[inner] = [needed(trace, error) for error in (1e-2, 3e-3, 1e-3, 1e-4)]
        print(f"inner {inner}: {f.inner}", flush=True)
    times: dict[str, tuple[list[float], list[float]]] = {k: ([], []) for k in works}
    sticks = []
    for _ in range(a.rounds):
        sticks.append(yardstick(a.batch, a.size, 3))
        for inner, pair in works.items():
            for work, taken in zip(pair, times[inner]):
                taken.append(seconds_of(work))
    stick = median(sticks)
    print(f"yardstick {stick * 1e3:.0f} ms; evaluations to residuals 1e-2, 3e-3, 1e-3, 1e-4")
    for inner, (forward, back) in times.items():
        print(
            f"  {inner:<6} evaluation {median(forward) / stick:6.2f} yardsticks, product "
            f"{median(back) / stick:6.2f}; evaluations {solves[inner]}"
        )


def evaluation_and_product(f: Any, x: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    out = f(x)
    v = torch.randn_like(out)

    def evaluation() -> None:
        with torch.no_grad():
            f(x)

    return evaluation, lambda: torch.autograd.grad(out, x, v, retain_graph=True)


def needed(trace: Tensor, error: float) -> int | None:
    """Evaluations until every sample's residual is at most ``error``."""
    below = (trace.amax(1) <= error).nonzero()
    return int(below[0]) + 1 if len(below) else None


def step_of_training(a: argparse.Namespace, inner: str, exact: bool, objective: str) -> None:
    """Prints the yardsticks of a step, its gigabytes, its evaluations and its loss."""
    config = configuration(a, inner, exact, objective)
    trainer = start_trainer(config, load_data(config, planned_scan(config)))
    trainer.advance()  # what all others use is made
    begin_anew()
    sticks, times = [], []
    for _ in range(a.rounds):
        sticks.append(yardstick(a.batch, a.size))
        start = time.perf_counter()
        report = trainer.advance()
        times.append(time.perf_counter() - start)
    taken, plain = median(times), float(a.plain) or median(sticks)
    print(
        f"{taken:.1f} s, {taken / median(sticks):.0f} yardsticks, {taken / plain:.0f} plain; at "
        f"most {memory('VmHWM') / 1e3:.2f} GB in all; {report.forward:.0f} evaluations forward, "
        f"{report.adjoint:.0f} backward a solve, {report.unsolved:.0%} of the solves unfinished, "
        f"loss {report.loss:.3e}{'; ' + report.skipped if report.skipped else ''}"
    )


def report_steps(a: argparse.Namespace) -> None:
    sizes = [*("--size", str(a.size), "--batch", str(a.batch), "--threads", str(a.threads))]
    command = [sys.executable, __file__, *sizes, "--yardstick"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    plain = done.stdout.strip()
    print(f"plain yardstick {float(plain) * 1e3:.0f} ms")
    objectives = ["default", "moved", *(["three"] if a.three else [])]
    inners = ["auto", *(["exact"] if a.before else [])]
    for inner, objective, exact in product(inners, objectives, (True, False)):
        command = [
            *(sys.executable, __file__, "--size", str(a.size), "--views", str(a.views)),
            *("--batch", str(a.batch), "--rounds", str(a.rounds), "--threads", str(a.threads)),
            *("--one", inner, str(int(exact)), objective, "--plain", plain),
            *(() if a.data is None else ("--data", str(a.data))),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        last = done.stdout.strip().splitlines()[-1]
        way = f"{LABELS[objective]}, objective.exact={str(exact).lower()}"
        print(f"a step, inner {inner}, {way}: {last}", flush=True)
    print(f"goals, with equivariance: {MOST_YARDSTICKS} yardsticks, {MOST_GIGABYTES:.2f} GB")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    text = "images to measure, such as ct/train.h5; none: phantoms, whose solves are shorter"
    p.add_argument("--data", type=Path, help=text)
    text = "also the steps with the inner problem solved exactly, as it was: minutes each"
    p.add_argument("--before", action="store_true", help=text)
    text = "also with three adjoints a step: of the image of all measurements, too"
    p.add_argument("--three", action="store_true", help=text)
    p.add_argument(
        "--one", nargs=3, metavar=("INNER", "EXACT", "OBJECTIVE"), help=argparse.SUPPRESS
    )
    p.add_argument("--plain", default="0", help=argparse.SUPPRESS)
    p.add_argument("--yardstick", action="store_true", help=argparse.SUPPRESS)
    plainly = "--yardstick" in sys.argv
    a = arguments(p, keep_memory=not plainly, size=16, views=6, batch=2, rounds=1, threads=1)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.yardstick:
        print(yardstick(a.batch, a.size))
        return
    if a.one:
        inner, exact, objective = a.one
        step_of_training(a, inner, exact == "1", objective)
        return
    print(f"{a.size}², {a.views} views, batch {a.batch}, {torch.get_num_threads()} threads")
    report_parts(a)
    report_steps(a)


if __name__ == "__main__":
    main()
