"""The learned steps side by side on real CT: evaluations to 1e-6, PSNR before and after the same
training.

    python benchmarks/steps.py [--steps 60] [--size 64] [--batch 4] [--kinds proximal gradient]

20 views, 0.1 % noise; trained on the sinograms of ../shared/data/ct/train.h5, scored on 8 slices of
val.h5 (other patients). Each step starts from the shipped denoiser, with the σ and λ or η of a
small grid that are best before training, on the images it is scored on: what this compares is the
steps, not how well they can be tuned without truth. Evaluations: mean over the images, with
Anderson, in brackets how many of the 8 reached 1e-6 within 300.
"""

from __future__ import annotations

import itertools
import time
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

from equipoise import EquilibriumReconstructor, Stop
from equipoise.assessment.metrics import psnr
from equipoise.config import Config, changed, parse
from equipoise.data.dataset import Dataset
from equipoise.equilibrium import Equilibrium
from equipoise.reconstruction.contraction import measure
from equipoise.run import load_data

STRENGTHS = ("strength", (None, 0.02, 0.2))
STEP_SIZES = ("step_size", (1.0, 1.9))
GRIDS: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "proximal": STRENGTHS,
    "admm": STRENGTHS,
    "douglas_rachford": STRENGTHS,
    "red": ("strength", (0.05, 0.2, 1.0)),
    "gradient": STEP_SIZES,
    "primal_dual": STEP_SIZES,
    "mirror": ("step_size", (1.0,)),
}
SIGMAS = (0.02, 0.05)


class Best(NamedTuple):
    psnr: float
    config: Config
    sigma: float
    setting: str


def configuration(a: Any) -> Config:
    tree = {
        "data": {"path": str(DATA / "ct" / "train.h5"), "size": a.size},
        "physics": {"angles": 20, "noise": 0.001},
        "learning": {"steps": a.steps, "batch": a.batch, "warmup": 10},
    }
    return parse(tree, "benchmark")


def best_before_training(config: Config, kind: str, scored: Dataset) -> Best:
    key, values = GRIDS[kind]
    found = []
    for sigma, value in itertools.product(SIGMAS, values):
        step: dict[str, Any] = {"kind": kind}
        if value is not None:
            step[key] = value
        setting = changed(config, {"model.step": step, "model.sigma": sigma})
        score = mean_psnr(start_model(setting, scored.scan), scored, Stop(1e-3, 300))
        words = f"{key} {'auto' if value is None else value}"
        found.append(Best(score, setting, sigma, words))
    return max(found, key=lambda best: best.psnr)


def solve(model: EquilibriumReconstructor, dataset: Dataset, max_steps: int) -> Equilibrium:
    usual = model.stop
    model.stop = Stop(1e-6, max_steps)
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    with torch.no_grad():
        solved = model.equilibrium(y, physics)
    model.stop = usual
    return solved


def spectral_radius(model: EquilibriumReconstructor, x: torch.Tensor, dataset: Dataset) -> float:
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))
    step = model.step
    return float(measure(step.bind(y, physics), step.lift(x, y, physics)).radius.max())


def in_words(solved: Equilibrium, dataset: Dataset) -> str:
    score = float(psnr(solved.value, dataset.require_truth()).mean())
    steps = float(solved.steps.double().mean())
    return f"{score:8.2f}{steps:8.0f} ({int(solved.converged.sum())})   "


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--kinds", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--max-steps", type=int, default=300, help="of the solves to 1e-6")
    a = arguments(p, steps=1, size=16, kinds=["proximal", "gradient"], images=2, max_steps=20)
    if not is_there(DATA / "ct"):
        return
    config = configuration(a)
    dataset = load_data(config, planned_scan(config))
    others = load_data(config, dataset.scan, DATA / "ct" / "val.h5", 1000)
    scored = others.spread(a.images)
    threads = torch.get_num_threads()
    print(f"{a.size}², 20 views, {a.steps} training steps of batch {a.batch}, {threads} threads")
    print(
        "step               sigma  setting           before   to 1e-6         after   to 1e-6"
        "       radius   s/step"
    )
    for kind in a.kinds:
        best = best_before_training(config, kind, scored)
        before = solve(start_model(best.config, scored.scan), scored, a.max_steps)
        trainer = start_trainer(best.config, dataset)
        started = time.perf_counter()
        reports = [trainer.advance() for _ in range(a.steps)]
        seconds = (time.perf_counter() - started) / a.steps
        skipped = sum(1 for report in reports if report.skipped)
        model = trainer.model
        model.load_state_dict(trainer.averaged())
        after = solve(model, scored, a.max_steps)
        radius = spectral_radius(model, after.value, scored)
        note = f"  {skipped} skipped" if skipped else ""
        print(
            f"{kind:<19}{best.sigma:<7}{best.setting:<16}{in_words(before, scored)}"
            f"{in_words(after, scored)}{radius:8.3f}{seconds:8.2f}{note}",
            flush=True,
        )


if __name__ == "__main__":
    main()
