"""The contraction penalty: does it find where f gains most, and what does it cost?

    python benchmarks/penalty.py [--steps 40]

64² CT, 20 views, batch 4, trained without the penalty at a high rate, so that gains grow. Each row:
the gain ‖Jᵀv‖ at the equilibrium (mean of the batch) for v along what was left of each solve, after
one power iteration (two products, as JacobianPenalty does it); for v remembered from the step
before, from one other image (one product, ``along="memory"``); for v random after 0 and after 3
power iterations (1 and 4 products); and after 30, for comparison. Then the time of a training step
with the penalty and without, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from common import arguments, parser, planned_scan, start_trainer
from torch import Tensor

from equipoise.config import parse
from equipoise.learning.trainer import Trainer
from equipoise.run import load_data


def trainer_with(weight: float, rate: float, size: int) -> Trainer:
    tree = {
        "data": {"size": size, "count": 24},
        "objective": {"contraction": {"weight": weight}},
        "learning": {"batch": 4, "steps": 200, "lr": rate, "warmup": 5},
    }
    config = parse(tree, "benchmark")
    return start_trainer(config, load_data(config, planned_scan(config)))


def lengths(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)


def gains(product: Callable[[Tensor], Tensor], v: Tensor, after: tuple[int, ...]) -> list[float]:
    """Mean ‖Jᵀv‖ / ‖v‖ after so many power iterations."""
    found = []
    for k in range(max(after) + 1):
        v = product(v / lengths(v).reshape(-1, 1, 1, 1))
        if k in after:
            found.append(float(lengths(v).mean()))
    return found


def products_of(trainer: Trainer) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """v ↦ Jᵀv at the equilibria of the next step's batch, and what is left there of the solves."""
    (part,) = trainer.batches.of_step(trainer.step)
    model = trainer.model
    with torch.no_grad():
        x = model.equilibrium(part.y, part.physics).value
    x.requires_grad_()
    out = model.step.bind(part.y, part.physics)(x)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(out, x, v.expand_as(x), retain_graph=True)[0]

    return product, (out - x).detach()


def compare_directions(steps: int, size: int) -> None:
    trainer = trainer_with(0, 1e-3, size)
    start = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 1, size, size, generator=start)
    print("step   residual   remembered   random   3 its   30 its")
    for step in range(steps + 1):
        product, left = products_of(trainer)
        v = product(direction / direction.norm())
        if step % 10 == 0:
            random = torch.randn(left.shape, generator=torch.Generator().manual_seed(step))
            plain, three, thirty = gains(product, random, (0, 3, 30))
            (residual,) = gains(product, left, (1,))
            remembered = float(lengths(v).mean())
            print(
                f"{step:>4}{residual:>11.2f}{remembered:>13.2f}{plain:>9.2f}{three:>8.2f}{thirty:>9.2f}",
                flush=True,
            )
        direction = v[:1]
        trainer.advance()


def compare_times(rounds: int, size: int) -> None:
    trainers = {
        "with": trainer_with(0.01, 2e-4, size),
        "without": trainer_with(0, 2e-4, size),
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.advance()
            times[name].append(time.perf_counter() - start)
    on = median(times["with"][2:])
    off = median(times["without"][2:])
    more = on / off - 1
    print(f"a training step: {on:.2f} s with the penalty, {off:.2f} s without: {more:.0%} more")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--size", type=int, default=64)
    a = arguments(p, steps=0, rounds=3, size=16)
    compare_directions(a.steps, a.size)
    compare_times(a.rounds, a.size)


if __name__ == "__main__":
    main()
