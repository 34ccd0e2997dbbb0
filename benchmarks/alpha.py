"""Does one weight α of the equivariance term do for every operator? A sweep over CT, MRI and inpainting.

    python benchmarks/alpha.py [--size 32] [--steps 100] [--alphas 0 0.02 0.2 2] [--through-target]

Consistency and equivariance terms alone (no splitting), everything else as it comes. PSNR on images that training did not see, with
the averaged weights; also the largest gradient norm and the skipped steps, which would tell of trouble.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from equipoise import Stop, build
from equipoise.assessment.metrics import psnr
from equipoise.config import parse
from equipoise.learning.train import Trainer

DATA = Path(__file__).parents[2] / "shared" / "data"
CT = {"path": str(DATA / "ct" / "train.h5"), "validation": str(DATA / "ct" / "val.h5")}
PROBLEMS = {
    "CT, 12 views": {"data": CT, "physics": {"angles": 12, "noise": 0.001}},
    "MRI, 4×": {
        "data": {"path": str(DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz"), "holdout": 0.2},
        "physics": {"kind": "mri", "acceleration": 4, "noise": 0.0005},
    },
    "inpainting, 50 %": {
        "data": CT,
        "physics": {"kind": "inpainting", "keep": 0.5, "noise": 0.01},
        "objective": {"group": "shifts"},
    },
}


def trial(settings, alpha, a):
    objective = {**settings.get("objective", {}), "equivariance": alpha, "splitting": 0}
    objective["stop_gradient"] = not a.through_target
    tree = {**settings, "data": {**settings["data"], "size": a.size}, "objective": objective}
    tree["learning"] = {"steps": a.steps, "batch": 4, "warmup": 10}
    c = parse(tree, "alpha")
    physics = build.build_physics(c.physics, a.size, 0)
    problem = build.build_problem(c, physics)
    if c.data.holdout:
        problem, held = build.hold_out(problem, c.data.holdout)
    else:
        held = build.build_problem(c, physics, c.data.validation, 1000)
    build.set_noise(physics, c.physics, problem.noise)
    model = build.build_model(c.model, physics.image_shape[0], problem.noise)
    trainer = Trainer(
        model,
        physics,
        problem.y,
        build.build_objective(c.objective, physics, problem.y),
        c.learning,
        0,
    )
    judge = build.build_model(c.model, physics.image_shape[0], problem.noise)
    judge.stop = Stop(1e-4, 100)

    def score():
        judge.load_state_dict(trainer.averaged())
        with torch.no_grad():
            return float(psnr(judge(held.y, physics), held.truth).mean())

    before = score()
    reports = [trainer.advance() for _ in range(a.steps)]
    return before, score(), max(r.gradient for r in reports), sum(bool(r.skipped) for r in reports)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--alphas", nargs="+", type=float, default=[0, 0.02, 0.2, 2])
    p.add_argument(
        "--through-target",
        action="store_true",
        help="let the gradient through the target T_g x̂ as well",
    )
    a = p.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there")
        return
    print(f"{a.size}², {a.steps} steps of batch 4, {torch.get_num_threads()} thread(s)")
    print("problem             alpha  before   after   change  largest gradient  skipped")
    for name, settings in PROBLEMS.items():
        for alpha in a.alphas:
            before, after, gradient, skipped = trial(settings, alpha, a)
            print(
                f"{name:<18}{alpha:>7g}{before:>8.2f}{after:>8.2f}{after - before:>+9.2f}{gradient:>18.2g}{skipped:>9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
