"""Does training stay stable? 2,000 steps from the shipped denoiser on real CT and MRI, over seeds,
with and without the penalty.

    python benchmarks/stability.py [--steps 2000] [--seeds 3] [--size 48] [--batch 2]
                                   [--out runs/stability]

Each run is `equipoise train` in a process of its own with one thread, two at once; those that are
there already are not repeated. CT: ../shared/data/ct, validated on other patients. MRI: one volume
(../shared/data/mri), so that its validation slices were measured for training too. A run that stops
itself counts as lost. At the end, with the averaged weights, on up to 16 validation images:
evaluations of f to a residual of 1e-5 (asked: all within 60), vector–Jacobian products to an
adjoint residual of 1e-3 (asked: all within 40), the spectral radius of ∂f/∂x, and PSNR.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from common import DATA, arguments, is_there, parser

from equipoise import Implicit, Stop
from equipoise.assessment.metrics import psnr
from equipoise.data.dataset import Dataset
from equipoise.equilibrium import Equilibrium
from equipoise.errors import UserError
from equipoise.learning.log import read_log
from equipoise.reconstruction.contraction import measure
from equipoise.run import load_data, load_run


class Problem(NamedTuple):
    data: Path
    validation: Path | None
    overrides: tuple[str, ...]


CT = DATA / "ct"
PROBLEMS = {
    "ct": Problem(CT / "train.h5", CT / "val.h5", ("physics.angles=20", "physics.noise=0.001")),
    "mri": Problem(
        DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz",
        None,
        ("physics.kind=mri", "physics.noise=0.0005"),
    ),
}


class Job(NamedTuple):
    problem: str
    seed: int
    penalty: float

    @property
    def name(self) -> str:
        return f"{self.problem}-{self.seed}{'' if self.penalty else '-free'}"


def train(job: Job, a: argparse.Namespace) -> None:
    folder = a.out / job.name
    if (folder / "model.safetensors").exists():
        return
    config = folder.with_suffix(".yaml")
    config.write_text("{}")
    problem = PROBLEMS[job.problem]
    overrides = [
        f"out={folder}",
        f"seed={job.seed}",
        f"data.path={problem.data}",
        f"data.size={a.size}",
        f"objective.contraction={job.penalty}",
        f"learning.steps={a.steps}",
        f"learning.batch={a.batch}",
        "learning.checkpoint_every=200",
        *problem.overrides,
    ]
    command = [sys.executable, "-m", "equipoise", "train", str(config), *overrides]
    with folder.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)


def row(job: Job, folder: Path) -> str:
    log = read_log(folder)
    if not log:
        return f"  not trained: see {folder.with_suffix('.log')}"
    skipped = sum(1 for step in log if step.get("skipped"))
    late = log[-100:]
    unsolved = sum(step["unsolved"] for step in late) / len(late)
    head = f"{len(log):>6}{skipped:>9}{unsolved:>10.1%}"
    try:
        run = load_run(folder)
    except UserError as error:
        return f"{head}  {error}"
    problem = PROBLEMS[job.problem]
    everything = load_data(run.config, run.scan, problem.validation or problem.data)
    count = len(everything)
    places = torch.linspace(count // 4, count - 1, min(16, count // 2)).long()
    scored = everything.some(places)
    model = run.model
    model.stop = Stop(1e-5, 60)
    model.gradient = Implicit(stop=Stop(1e-3, 40))
    y, physics, _ = scored.batch(torch.arange(len(scored)))
    solved = model.equilibrium(y, physics)
    solved.value.square().sum().backward()
    x = solved.value.detach()
    radius = measure(model.step.bind(y, physics), model.step.lift(x, y, physics)).radius
    assert solved.adjoint is not None
    return (
        f"{head}{worst(solved)}{worst(solved.adjoint)}{float(radius.max()):>9.3f}"
        f"{mean_psnr(x, scored):>8.2f}"
    )


def worst(solved: Equilibrium) -> str:
    """The most steps of a sample, and how many samples converged."""
    return f"{int(solved.steps.max()):>6} ({float(solved.converged.double().mean()):4.0%})"


def mean_psnr(x: torch.Tensor, dataset: Dataset) -> float:
    return float(psnr(x, dataset.require_truth()).mean())


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--size", type=int, default=48)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    p.add_argument("--out", type=Path, default=Path("runs/stability"))
    a = arguments(p, steps=1, seeds=1, size=16, problems=["ct"])
    if not is_there(DATA):
        return
    a.out.mkdir(parents=True, exist_ok=True)
    jobs = [Job(problem, seed, 0.01) for seed in range(a.seeds) for problem in a.problems]
    jobs += [Job(problem, 0, 0.0) for problem in a.problems]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(job, a), jobs))
    threads = torch.get_num_threads()
    print(f"{a.size}², batch {a.batch}, {a.steps} steps, {threads} threads")
    print(
        "run          penalty  steps  skipped  unfinished  forward      adjoint     radius    PSNR"
    )
    for job in jobs:
        print(f"{job.name:<14}{job.penalty:>6}{row(job, a.out / job.name)}", flush=True)


if __name__ == "__main__":
    main()
