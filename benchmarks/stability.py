"""Does training stay stable? 2,000 steps from the shipped denoiser on real CT and MRI, over seeds, with and without the penalty.

    python benchmarks/stability.py [--steps 2000] [--seeds 3] [--size 48] [--batch 2] [--out runs/stability]

Each run is `equipoise train` in a process of its own with one thread, two at once; those that are there already are not repeated.
CT: ../shared/data/ct, validated on other patients. MRI: one volume (../shared/data/mri), so that its validation slices were
measured for training too. A run that stops itself counts as lost. At the end, with the averaged weights, on up to 16 validation
images: evaluations of f to a residual of 1e-5 (asked: all within 60), vector–Jacobian products to an adjoint residual of 1e-3
(asked: all within 40), the spectral radius of ∂f/∂x, and PSNR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from equipoise import Implicit, Stop, build, runs
from equipoise.assessment.metrics import psnr
from equipoise.errors import UserError
from equipoise.reconstruction.contraction import measure

DATA = Path(__file__).parents[2] / "shared" / "data"
PROBLEMS = {
    "ct": (
        DATA / "ct" / "train.h5",
        DATA / "ct" / "val.h5",
        ["physics.angles=20", "physics.noise=0.001"],
    ),
    "mri": (
        DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz",
        None,
        ["physics.kind=mri", "physics.noise=0.0005"],
    ),
}


def train(folder: Path, problem: str, seed: int, contraction: float, a: argparse.Namespace) -> None:
    if (folder / "model.safetensors").exists():
        return
    config = folder.with_suffix(".yaml")
    config.write_text("{}")
    data, _, more = PROBLEMS[problem]
    settings = [
        *(
            f"out={folder}",
            f"seed={seed}",
            f"data.path={data}",
            f"data.size={a.size}",
            f"objective.contraction={contraction}",
        ),
        *(
            f"learning.steps={a.steps}",
            f"learning.batch={a.batch}",
            "learning.checkpoint_every=200",
        ),
    ]
    command = [sys.executable, "-m", "equipoise", "train", str(config), *settings, *more]
    with folder.with_suffix(".log").open("w") as log:
        subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False
        )


def row(folder: Path, problem: str) -> str:
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    skipped, unsolved = (
        sum("skipped" in r for r in log),
        sum(r["unsolved"] for r in log[-100:]) / len(log[-100:]),
    )
    head = f"{len(log):>6}{skipped:>9}{unsolved:>10.1%}"
    try:
        run = runs.load_run(folder)
    except UserError as error:
        return f"{head}  {error}"
    data = PROBLEMS[problem][1] or PROBLEMS[problem][0]
    task = build.build_problem(run.config, run.physics, data)
    index = torch.linspace(len(task.y) // 4, len(task.y) - 1, min(16, len(task.y) // 2)).long()
    y, truth = task.y[index], task.truth[index]
    model = run.model
    model.stop, model.gradient = Stop(1e-5, 60), Implicit(stop=Stop(1e-3, 40))
    solved = model.equilibrium(y, task.physics)
    solved.value.square().sum().backward()
    radius = measure(
        model.step.bind(y, task.physics), model.step.lift(solved.value.detach(), y, task.physics)
    ).radius
    forward, adjoint = solved, solved.adjoint
    return (
        f"{head}{int(forward.steps.max()):>6} ({float(forward.converged.float().mean()):4.0%})"
        f"{int(adjoint.steps.max()):>6} ({float(adjoint.converged.float().mean()):4.0%}){float(radius.max()):>9.3f}"
        f"{float(psnr(solved.value.detach(), truth).mean()):>8.2f}"
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--size", type=int, default=48)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--out", type=Path, default=Path("runs/stability"))
    a = p.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there")
        return
    a.out.mkdir(parents=True, exist_ok=True)
    jobs = [(problem, seed, 0.1) for seed in range(a.seeds) for problem in PROBLEMS] + [
        (problem, 0, 0.0) for problem in PROBLEMS
    ]
    folders = {job: a.out / f"{job[0]}-{job[1]}{'' if job[2] else '-free'}" for job in jobs}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(folders[job], *job, a), jobs))
    print(f"{a.size}², batch {a.batch}, {a.steps} steps, {torch.get_num_threads()} threads")
    print(
        "run          penalty  steps  skipped  unfinished  forward      adjoint     radius    PSNR"
    )
    for job, folder in folders.items():
        print(f"{folder.name:<14}{job[2]:>6}{row(folder, job[0])}", flush=True)


if __name__ == "__main__":
    main()
