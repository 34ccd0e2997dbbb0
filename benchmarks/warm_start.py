"""Evaluations saved by starting EI's second pass at T_g x̂, its own answer once the network is trained.

    python benchmarks/warm_start.py [--steps 100]

`configs/ct64.yaml` (the real slices in ../shared/data) is trained as it stands, which starts the second pass at T_g x̂. At every
step the same equation is solved once more from the start that nobody chose (two steps of conjugate gradients), to the same
tolerance, and thrown away.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from equipoise import EquilibriumReconstructor, Equivariance, build
from equipoise.config import load_config
from equipoise.learning.train import Trainer

CT = Path(__file__).parents[2] / "shared" / "data" / "ct"


class Both(EquilibriumReconstructor):
    """The model, solving every equation from both starts."""

    def __init__(self, model: EquilibriumReconstructor):
        super().__init__(model.step, model.solver, model.stop, model.gradient, model.on_failure)
        self.noted: list[tuple[float, float, float]] = []

    def equilibrium(self, y, physics, x0=None):
        warm = super().equilibrium(y, physics, x0)
        with torch.no_grad():
            steps = [super(Both, self).equilibrium(y, physics, start).steps for start in (x0, None)]
        self.noted.append((*(float(s.float().mean()) for s in steps), float(warm.trace[0].mean())))
        return warm


class Watched(torch.nn.Module):
    """The equivariance term, evaluated with ``both``."""

    def __init__(self, loss: Equivariance, both: Both):
        super().__init__()
        self.loss, self.both, self.solved = loss, both, None

    def forward(self, model, **kwargs):
        value = self.loss(model=self.both, **kwargs)
        self.solved = self.loss.solved
        return value


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=100)
    a = p.parse_args()
    if not CT.is_dir():
        print(f"skipped: {CT} is not there, and this is about real slices")
        return
    config = load_config(
        Path(__file__).parents[1] / "configs" / "ct64.yaml", [f"learning.steps={a.steps}"]
    )
    physics = build.build_physics(config.physics, config.data.size, config.seed)
    problem = build.build_problem(config, physics)
    build.set_noise(physics, problem.noise)
    model = build.build_model(config.model, 1, problem.noise, config.seed)
    losses = build.build_objective(config.objective, physics, problem.y)
    both = Both(model)
    losses["equivariance"] = Watched(losses["equivariance"], both)
    trainer = Trainer(model, physics, problem.y, losses, config.learning, config.seed)
    print("second pass: evaluations to the tolerance, mean over the batch")
    print(" steps        from T_g x̂   from CG   saved   first residual")
    size = max(1, a.steps // 5)
    for end in range(size, a.steps + 1, size):
        while trainer.step < end:
            trainer.advance()
        warm, cold, first = torch.tensor(both.noted[end - size : end]).mean(0).tolist()
        print(
            f"{end - size + 1:4d} … {end:<4d}{warm:13.1f}{cold:10.1f}{1 - warm / cold:8.0%}{first:16.1e}"
        )
    warm, cold, _ = torch.tensor(both.noted).mean(0).tolist()
    print(f"all        {warm:13.1f}{cold:10.1f}{1 - warm / cold:8.0%}")


if __name__ == "__main__":
    main()
