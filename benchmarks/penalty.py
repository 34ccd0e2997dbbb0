"""The contraction penalty: does a remembered direction find the gain, and what does it cost?

    python benchmarks/penalty.py [--steps 40]

64² CT, 20 views, batch 4, trained without the penalty at a high rate, so that gains grow. Each row: the gain ‖Jᵀv‖ at the
equilibrium (mean of the batch) for v remembered from the step before, from one other image (one product, as JacobianPenalty does
it); for v random after 0 and after 3 power iterations (1 and 4 products); and after 30, for comparison. Then the time of a training
step with the penalty and without, in turns.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from equipoise import build
from equipoise.config import parse
from equipoise.learning.train import Trainer


def make(contraction: float, lr: float) -> Trainer:
    tree = {"data": {"size": 64, "count": 24}, "objective": {"contraction": contraction}}
    config = parse(
        {**tree, "learning": {"batch": 4, "steps": 200, "lr": lr, "warmup": 5}}, "benchmark"
    )
    physics = build.build_physics(config.physics, 64)
    problem = build.build_problem(config, physics)
    build.set_noise(physics, config.physics, problem.noise)
    model = build.build_model(config.model, 1, problem.noise)
    losses = build.build_objective(config.objective, physics, problem.y)
    return Trainer(model, physics, problem.y, losses, config.learning, 0)


def gains(product, v: torch.Tensor, at: tuple[int, ...]) -> list[float]:
    out = []
    for k in range(max(at) + 1):
        v = product(v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))
        if k in at:
            out.append(float(v.flatten(1).norm(dim=1).mean()))
    return out


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=40)
    a = p.parse_args()
    trainer = make(0, 1e-3)
    direction = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    print("step   remembered   random   3 its   30 its")
    for step in range(a.steps + 1):
        y, physics = next(iter(trainer._batches()))
        with torch.no_grad():
            x = trainer.model.equilibrium(y, physics).value
        x.requires_grad_()
        out = trainer.model.step.bind(y, physics)(x)

        def product(v, out=out, x=x):
            return torch.autograd.grad(out, x, v.expand_as(x), retain_graph=True)[0]

        v = product(direction / direction.norm())
        if step % 10 == 0:
            row = gains(
                product,
                torch.randn(x.shape, generator=torch.Generator().manual_seed(step)),
                (0, 3, 30),
            )
            print(
                f"{step:>4}{float(v.flatten(1).norm(dim=1).mean()):>13.2f}{row[0]:>9.2f}{row[1]:>8.2f}{row[2]:>9.2f}",
                flush=True,
            )
        direction = v[:1]
        trainer.advance()
    both = {"with": make(0.1, 2e-4), "without": make(0, 2e-4)}
    times = {name: [] for name in both}
    for _ in range(15):
        for name, t in both.items():
            start = time.perf_counter()
            t.advance()
            times[name].append(time.perf_counter() - start)
    on, off = (median(times[name][2:]) for name in both)
    print(
        f"a training step: {on:.2f} s with the penalty, {off:.2f} s without: {on / off - 1:.0%} more"
    )


if __name__ == "__main__":
    main()
