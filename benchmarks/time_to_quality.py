"""How soon does training from measurements reach what deepinv's parts reach in half an hour?

    python benchmarks/time_to_quality.py [--minutes 30] [--size 64] [--views 20]
                                         [--steps gradient proximal]

Real chest CT (../shared/data/ct): trained on sinograms of one set of patients, PSNR on others. Both
start from the shipped denoiser, with Adam, the same learning rate and batches of 4. Theirs:
PGD(DEQ=True), Tomography, MCLoss and EILoss with bilinear rotations. Ours: our `Trainer` with the
default objective, with the same gradient step, and with the default proximal one. Time is processor
time of one thread spent in training steps (validation is not counted), so that a job beside does
not matter.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import deepinv
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
from torchvision.transforms import InterpolationMode

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.config import Config, parse
from equipoise.learning.batching import batch_indices
from equipoise.run import load_data

warnings.filterwarnings("ignore")
CT = DATA / "ct"
BATCH, RATE = 4, 2e-4


class Point(NamedTuple):
    """Of a training: after so many seconds and steps, the score."""

    seconds: float
    score: float
    steps: int


def configuration(a: argparse.Namespace, step: str) -> Config:
    tree = {
        "data": {"path": str(CT / "train.h5"), "size": a.size},
        "physics": {"angles": a.views, "noise": 0.001},
        "model": {"step": step},
        "learning": {
            "steps": 100_000,
            "batch": BATCH,
            "lr": RATE,
            "warmup": 10,
            "schedule": "constant",
        },
    }
    return parse(tree, "time_to_quality")


def trained(
    step: Callable[[], object],
    score: Callable[[], float],
    seconds: float,
    every: float,
    goal: float = math.inf,
) -> list[Point]:
    """Steps until the time is over or the score is reached, scored now and then."""
    spent = 0.0
    scored = 0.0  # when
    steps = 0
    history = [Point(0.0, score(), 0)]
    while spent < seconds and history[-1].score < goal:
        start = time.process_time()
        try:
            step()
        except eq.EquilibriumError as error:
            print(f"  stopped: {error}")
            break
        spent += time.process_time() - start
        steps += 1
        if spent - scored >= every or spent >= seconds:
            scored = spent
            history.append(Point(spent, score(), steps))
            print(f"  {spent / 60:6.2f} min  {steps:5d} steps  {history[-1].score:6.2f} dB")
            if not math.isfinite(history[-1].score):
                break
    return history


def ours(a: argparse.Namespace, step: str, seconds: float, goal: float) -> list[Point]:
    config = configuration(a, step)
    dataset = load_data(config, planned_scan(config))
    held_out = load_data(config, dataset.scan, CT / "val.h5", 1000)
    trainer = start_trainer(config, dataset)
    judge = start_model(config, dataset.scan)

    def score() -> float:
        judge.load_state_dict(trainer.averaged())
        return mean_psnr(judge, held_out, eq.Stop(1e-4, 100))

    return trained(trainer.advance, score, seconds, a.every, goal)


def theirs(a: argparse.Namespace, seconds: float) -> list[Point]:
    config = configuration(a, "gradient")
    scan = planned_scan(config)
    truth = load_data(config, scan).require_truth()
    held_out = load_data(config, scan, CT / "val.h5", 1000).require_truth()
    physics = deepinv.physics.Tomography(
        angles=a.views, img_width=a.size, circle=False, normalize=True
    )
    torch.manual_seed(0)
    with torch.no_grad():
        clean = physics.A(truth)
        sigma = 0.001 * float(clean.abs().max())
        y = clean + sigma * torch.randn_like(clean)
        y_held_out = physics.A(held_out)
        y_held_out = y_held_out + sigma * torch.randn_like(y_held_out)
    net = eq.load_denoiser()
    solver = deepinv.optim.PGD(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.PnP(net),
        stepsize=1.0,
        g_param=0.02,
        unfold=True,
        DEQ=deepinv.optim.DEQConfig(),
        early_stop=True,
        thres_conv=1e-3,
        max_iter=a.max_iter,
    )
    rotate = deepinv.transform.Rotate(interpolation_mode=InterpolationMode.BILINEAR)
    losses = [deepinv.loss.MCLoss(), deepinv.loss.EILoss(rotate)]
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    made = 0  # steps

    def step() -> None:
        nonlocal made
        batch = y[batch_indices(made, len(y), BATCH, 0)]
        made += 1
        optimizer.zero_grad()
        x = solver(batch, physics)
        values = [loss(x_net=x, y=batch, physics=physics, model=solver).mean() for loss in losses]
        torch.stack(values).sum().backward()
        optimizer.step()

    def score() -> float:
        with torch.no_grad():
            return float(psnr(solver(y_held_out, physics), held_out).mean())

    return trained(step, score, seconds, a.every)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--every", type=float, default=60, help="seconds of training between scores")
    p.add_argument("--steps", nargs="+", default=["gradient", "proximal"])
    p.add_argument("--max-iter", type=int, default=50, help="of deepinv's solver")
    a = arguments(p, minutes=0.01, size=16, views=10, every=1, steps=["gradient"], max_iter=5)
    if not is_there(CT):
        return
    torch.set_num_threads(1)
    print("deepinv")
    history = theirs(a, 60 * a.minutes)
    before, last = history[0], history[-1]
    best = max(point.score for point in history if math.isfinite(point.score))
    goal = last.score if math.isfinite(last.score) else best
    print(
        f"deepinv: {before.score:.2f} dB before, {last.score:.2f} dB after "
        f"{last.seconds / 60:.1f} min, best on the way {best:.2f} dB"
    )
    for kind in a.steps:
        print(f"equipoise, {kind} step")
        history = ours(a, kind, 60 * a.minutes / 5, max(goal, best))
        reached = next((point.seconds for point in history if point.score >= goal), None)
        says = "not reached" if reached is None else f"reached after {reached / 60:.2f} min"
        before, last = history[0], history[-1]
        print(
            f"equipoise, {kind} step: {before.score:.2f} dB before, {last.score:.2f} dB after "
            f"{last.seconds / 60:.1f} min; {goal:.2f} dB {says}"
        )


if __name__ == "__main__":
    main()
