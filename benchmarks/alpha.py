"""Does one weight α of the equivariance term do for every operator? A sweep over CT, MRI and
inpainting.

    python benchmarks/alpha.py [--size 32] [--steps 100] [--alphas 0 0.02 0.2 2] [--through-target]

Consistency and equivariance terms alone (no splitting), everything else as it comes. PSNR on
images that training did not see, with the averaged weights; also the largest gradient norm and the
skipped steps, which would tell of trouble.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from common import (
    DATA,
    arguments,
    is_there,
    mean_psnr,
    parser,
    planned_scan,
    start_model,
    start_trainer,
)

from equipoise import Stop
from equipoise.config import parse
from equipoise.run import load_training_data

CT = {"path": str(DATA / "ct" / "train.h5"), "validation": str(DATA / "ct" / "val.h5")}
MRI = {"path": str(DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz"), "holdout": 0.2}
PROBLEMS: dict[str, dict[str, Any]] = {
    "CT, 12 views": {
        "data": CT,
        "physics": {"angles": 12, "noise": 0.001},
        "objective": {"equivariance": {"group": "rotations"}},
    },
    "MRI, 4×": {
        "data": MRI,
        "physics": {"kind": "mri", "acceleration": 4, "noise": 0.0005},
        "objective": {"equivariance": {"group": "rotations"}},
    },
    "inpainting, 50 %": {
        "data": CT,
        "physics": {"kind": "inpainting", "keep": 0.5, "noise": 0.01},
        "objective": {"equivariance": {"group": "shifts"}},
    },
}


class Trial(NamedTuple):
    before: float  # dB
    after: float  # dB
    gradient: float  # the largest norm
    skipped: int


def trial(problem: dict[str, Any], alpha: float, a: argparse.Namespace) -> Trial:
    equivariance = {
        **problem["objective"]["equivariance"],
        "weight": alpha,
        "stop_gradient": not a.through_target,
    }
    tree = {
        "data": {**problem["data"], "size": a.size},
        "physics": problem["physics"],
        "objective": {"equivariance": equivariance, "splitting": 0},
        "learning": {"steps": a.steps, "batch": 4, "warmup": 10},
    }
    config = parse(tree, "alpha")
    dataset, held_out = load_training_data(config, planned_scan(config))
    assert held_out is not None
    trainer = start_trainer(config, dataset)
    judge = start_model(config, dataset.scan)

    def score() -> float:
        judge.load_state_dict(trainer.averaged())
        return mean_psnr(judge, held_out, Stop(1e-4, 100))

    before = score()
    reports = [trainer.advance() for _ in range(a.steps)]
    skipped = sum(1 for report in reports if report.skipped)
    return Trial(before, score(), max(report.gradient for report in reports), skipped)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--alphas", nargs="+", type=float, default=[0, 0.02, 0.2, 2])
    p.add_argument(
        "--through-target",
        action="store_true",
        help="let the gradient through the target T_g x̂ as well",
    )
    a = arguments(p, size=16, steps=1, alphas=[0.2])
    if not is_there(DATA):
        return
    print(f"{a.size}², {a.steps} steps of batch 4, {torch.get_num_threads()} thread(s)")
    print("problem             alpha  before   after   change  largest gradient  skipped")
    for name, problem in PROBLEMS.items():
        for alpha in a.alphas:
            found = trial(problem, alpha, a)
            change = found.after - found.before
            print(
                f"{name:<18}{alpha:>7g}{found.before:>8.2f}{found.after:>8.2f}{change:>+9.2f}"
                f"{found.gradient:>18.2g}{found.skipped:>9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
