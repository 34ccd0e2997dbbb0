"""How soon does training from measurements reach what deepinv's parts reach in half an hour?

    python benchmarks/time_to_quality.py [--minutes 30] [--size 64] [--views 20] [--steps gradient proximal]

Real chest CT (../shared/data/ct): trained on sinograms of one set of patients, PSNR on others. Both start from the shipped
denoiser, with Adam, the same learning rate and batches of 4. Theirs: PGD(DEQ=True), Tomography, MCLoss and EILoss with
bilinear rotations. Ours: `equipoise.Trainer` with the default objective, with the same gradient step, and with the default
proximal one. Time is processor time of one thread spent in training steps (validation is not counted), so that a job beside
does not matter.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import deepinv
import torch
from torchvision.transforms import InterpolationMode

import equipoise as eq
from equipoise import build
from equipoise.assessment.metrics import psnr
from equipoise.config import parse
from equipoise.learning.train import Trainer, batch_of

warnings.filterwarnings("ignore")
DATA = Path(__file__).parents[2] / "shared" / "data" / "ct"
BATCH, RATE = 4, 2e-4


def configuration(a, step):
    return parse(
        {
            "data": {"path": str(DATA / "train.h5"), "size": a.size},
            "physics": {"angles": a.views, "noise": 0.001},
            "model": {"step": step},
            "learning": {
                "steps": 100_000,
                "batch": BATCH,
                "lr": RATE,
                "warmup": 10,
                "schedule": "constant",
            },
        },
        "time_to_quality",
    )


def run(step, score, seconds, every, goal=math.inf):
    """Steps until the time is over or the score reached: (seconds, score, steps) now and then."""
    spent, told, n, history = 0.0, 0.0, 0, [(0.0, score(), 0)]
    while spent < seconds and history[-1][1] < goal:
        start = time.process_time()
        try:
            step()
        except eq.EquilibriumError as error:
            print(f"  stopped: {error}")
            break
        spent += time.process_time() - start
        n += 1
        if spent - told >= every or spent >= seconds:
            told = spent
            history.append((spent, score(), n))
            print(f"  {spent / 60:6.2f} min  {n:5d} steps  {history[-1][1]:6.2f} dB", flush=True)
            if not math.isfinite(history[-1][1]):
                break
    return history


def ours(a, step, seconds, goal):
    c = configuration(a, step)
    physics = build.build_physics(c.physics, a.size, 0)
    problem = build.build_problem(c, physics)
    held = build.build_problem(c, physics, DATA / "val.h5", 1000)
    build.set_noise(physics, c.physics, problem.noise)
    model = build.build_model(c.model, 1, problem.noise)
    trainer = Trainer(
        model,
        physics,
        problem.y,
        build.build_objective(c.objective, physics, problem.y),
        c.learning,
        0,
    )
    judge = build.build_model(c.model, 1, problem.noise)
    judge.stop = eq.Stop(1e-4, 100)

    def score():
        judge.load_state_dict(trainer.averaged())
        with torch.no_grad():
            return float(psnr(judge(held.y, physics), held.truth).mean())

    return run(trainer.advance, score, seconds, a.every, goal)


def theirs(a, seconds):
    c = configuration(a, "gradient")
    own = build.build_physics(c.physics, a.size, 0)
    truth = build.build_problem(c, own).truth
    held = build.build_problem(c, own, DATA / "val.h5", 1000).truth
    physics = deepinv.physics.Tomography(
        angles=a.views, img_width=a.size, circle=False, normalize=True
    )
    torch.manual_seed(0)
    with torch.no_grad():
        clean = physics.A(truth)
        sigma = 0.001 * float(clean.abs().max())
        y = clean + sigma * torch.randn_like(clean)
        y_held = physics.A(held)
        y_held = y_held + sigma * torch.randn_like(y_held)
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
        max_iter=50,
    )
    rotate = deepinv.transform.Rotate(interpolation_mode=InterpolationMode.BILINEAR)
    losses = [deepinv.loss.MCLoss(), deepinv.loss.EILoss(rotate)]
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    count = [0]

    def step():
        some = y[batch_of(count[0], len(y), BATCH, 0)]
        count[0] += 1
        optimizer.zero_grad()
        x = solver(some, physics)
        sum(
            loss(x_net=x, y=some, physics=physics, model=solver).mean() for loss in losses
        ).backward()
        optimizer.step()

    def score():
        with torch.no_grad():
            return float(psnr(solver(y_held, physics), held).mean())

    return run(step, score, seconds, a.every)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--every", type=float, default=60, help="seconds of training between scores")
    p.add_argument("--steps", nargs="+", default=["gradient", "proximal"])
    a = p.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there")
        return
    torch.set_num_threads(1)
    print("deepinv")
    history = theirs(a, 60 * a.minutes)
    last, best = history[-1][1], max(s for _, s, _ in history if math.isfinite(s))
    goal = last if math.isfinite(last) else best
    print(
        f"deepinv: {history[0][1]:.2f} dB before, {last:.2f} dB after {history[-1][0] / 60:.1f} min, best on the way {best:.2f} dB"
    )
    for kind in a.steps:
        print(f"equipoise, {kind} step")
        found = ours(a, kind, 60 * a.minutes / 5, max(goal, best))
        reached = next((t for t, s, _ in found if s >= goal), None)
        says = "not reached" if reached is None else f"reached after {reached / 60:.2f} min"
        first, (spent, end, _) = found[0][1], found[-1]
        print(
            f"equipoise, {kind} step: {first:.2f} dB before, {end:.2f} dB after {spent / 60:.1f} min; {goal:.2f} dB {says}"
        )


if __name__ == "__main__":
    main()
