"""Evaluations saved by starting EI's second pass at T_g x̂, its own answer once the network is
trained.

    python benchmarks/warm_start.py [--steps 100]

`configs/ct64.yaml` (the real slices in ../shared/data) is trained as it stands, which starts the
second pass at T_g x̂. At every step the same equation is solved once more from the start that nobody
chose (two steps of conjugate gradients), to the same tolerance, and thrown away.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from common import DATA, ROOT, arguments, is_there, parser, planned_scan, start_trainer
from torch import Tensor

from equipoise import EquilibriumReconstructor
from equipoise.config import load_config
from equipoise.equilibrium import Equilibrium
from equipoise.learning.losses import Example, LossValue, RecordedLoss
from equipoise.run import load_data


class Note(NamedTuple):
    """Of the second passes of a step: mean evaluations from either start, and the first residual
    from T_g x̂."""

    warm: float
    cold: float
    first: float


class Both(EquilibriumReconstructor):
    """The model, which solves every equation from both starts and notes what that took."""

    def __init__(self, model: EquilibriumReconstructor):
        super().__init__(model.step, model.solver, model.stop, model.gradient, model.on_failure)
        self.notes: list[Note] = []

    def equilibrium(self, y: Tensor, physics: Any, x0: Tensor | None = None) -> Equilibrium:
        solved = super().equilibrium(y, physics, x0)
        with torch.no_grad():
            warm = super().equilibrium(y, physics, x0).steps.double().mean()
            cold = super().equilibrium(y, physics, None).steps.double().mean()
        self.notes.append(Note(float(warm), float(cold), float(solved.trace[0].mean())))
        return solved


class Watched(RecordedLoss):
    """A loss that is evaluated with ``model`` in place of the trainer's."""

    def __init__(self, loss: RecordedLoss, model: Both):
        super().__init__()
        self.loss = loss
        self.model = model

    def evaluate(self, example: Example) -> LossValue:
        return self.loss.evaluate(replace(example, model=self.model))


def mean(notes: list[Note]) -> Note:
    return Note(*torch.tensor(notes).mean(0).tolist())


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--size", type=int, default=64)
    a = arguments(p, steps=2, size=16)
    file = DATA / "ct" / "train.h5"
    if not is_there(file):
        return
    overrides = [
        f"data.path={file}",
        "data.validation=null",
        f"data.size={a.size}",
        f"learning.steps={a.steps}",
    ]
    config = load_config(ROOT / "configs" / "ct64.yaml", overrides)
    trainer = start_trainer(config, load_data(config, planned_scan(config)))
    both = Both(trainer.model)
    trainer.losses["equivariance"] = Watched(trainer.losses["equivariance"], both)
    print("second pass: evaluations to the tolerance, mean over the batch")
    print(" steps        from T_g x̂   from CG   saved   first residual")
    size = max(1, a.steps // 5)
    for end in range(size, a.steps + 1, size):
        while trainer.step < end:
            trainer.advance()
        warm, cold, first = mean(both.notes[end - size : end])
        print(
            f"{end - size + 1:4d} … {end:<4d}{warm:13.1f}{cold:10.1f}{1 - warm / cold:8.0%}"
            f"{first:16.1e}",
            flush=True,
        )
    warm, cold, _ = mean(both.notes)
    print(f"all        {warm:13.1f}{cold:10.1f}{1 - warm / cold:8.0%}")


if __name__ == "__main__":
    main()
