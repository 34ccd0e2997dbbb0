"""The learned steps side by side on real CT: evaluations to 1e-6, PSNR before and after the same training.

    python benchmarks/steps.py [--steps 60] [--size 64] [--batch 4]

20 views, 0.1 % noise; trained on the sinograms of ../shared/data/ct/train.h5, scored on 8 slices of val.h5 (other patients). Each
step starts from the shipped denoiser, with the σ and λ or η of a small grid that are best before training, on the images it is
scored on: what this compares is the steps, not how well they can be tuned without truth. Evaluations: mean over the images, with
Anderson, in brackets how many of the 8 reached 1e-6 within 300.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from equipoise import Implicit, Stop, build
from equipoise.assessment.metrics import psnr
from equipoise.config import parse
from equipoise.learning.train import Trainer
from equipoise.reconstruction.contraction import measure

DATA = Path(__file__).parents[2] / "shared" / "data" / "ct"
WEIGHTS = {"strength": [None, 0.02, 0.2]}
PACES = {"step_size": [1.0, 1.9]}
GRIDS = {
    "proximal": WEIGHTS,
    "admm": WEIGHTS,
    "douglas_rachford": WEIGHTS,
    "red": {"strength": [0.05, 0.2, 1.0]},
    "gradient": PACES,
    "primal_dual": PACES,
    "mirror": {"step_size": [1.0]},
}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--batch", type=int, default=4)
    a = p.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there")
        return
    tree = {
        "data": {"path": str(DATA / "train.h5"), "size": a.size},
        "physics": {"angles": 20, "noise": 0.001},
    }
    tree["learning"] = {"steps": a.steps, "batch": a.batch, "warmup": 10}
    config = parse(tree, "benchmark")
    physics = build.build_physics(config.physics, a.size)
    problem = build.build_problem(config, physics)
    build.set_noise(physics, config.physics, problem.noise)
    held = build.build_problem(config, physics, DATA / "val.h5", 1000)
    index = torch.linspace(0, len(held.y) - 1, 8).long()
    y, truth = held.y[index], held.truth[index]

    def reconstruct(model, rtol):
        model.stop = Stop(rtol, 300)
        with torch.no_grad():
            return model.equilibrium(y, physics)

    print(
        f"{a.size}², 20 views, {a.steps} training steps of batch {a.batch}, {torch.get_num_threads()} threads"
    )
    print(
        "step               sigma  setting           before   to 1e-6         after   to 1e-6       radius   s/step"
    )
    for step, grid in GRIDS.items():
        best = None
        for sigma, (key, value) in itertools.product(
            (0.02, 0.05), [(k, v) for k, values in grid.items() for v in values]
        ):
            settings = config.model.model_copy(update={"step": step, "sigma": sigma, key: value})
            model = build.build_model(settings, 1, problem.noise)
            score = float(psnr(reconstruct(model, 1e-3).value, truth).mean())
            if best is None or score > best[0]:
                best = score, settings, sigma, f"{key} {'auto' if value is None else value}"
        _, settings, sigma, setting = best
        model = build.build_model(settings, 1, problem.noise)
        before = reconstruct(model, 1e-6)
        model = build.build_model(settings, 1, problem.noise)
        losses = build.build_objective(config.objective, physics, problem.y)
        trainer = Trainer(model, physics, problem.y, losses, config.learning, 0)
        started, skipped = time.perf_counter(), 0
        for _ in range(a.steps):
            skipped += bool(trainer.advance().skipped)
        seconds = (time.perf_counter() - started) / a.steps
        model.load_state_dict(trainer.averaged())
        after = reconstruct(model, 1e-6)
        radius = measure(
            model.step.bind(y, physics), model.step.lift(after.value, y, physics)
        ).radius.max()
        model.gradient = Implicit()
        row = f"{step:<19}{sigma:<7}{setting:<16}"
        for r in (before, after):
            row += f"{float(psnr(r.value, truth).mean()):8.2f}{float(r.steps.float().mean()):8.0f} ({int(r.converged.sum())})   "
        print(
            f"{row}{float(radius):8.3f}{seconds:8.2f}"
            + (f"  {skipped} skipped" if skipped else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
