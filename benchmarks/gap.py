"""Where splitting falls behind supervised training: losses that see the truth through ever less.

    OMP_NUM_THREADS=1 python benchmarks/gap.py [--size 128] [--views 60] [--steps 150] [--only …]

Chest CT of `ct/train.h5`, scored on `ct/val.h5`; the same network, start, batches and contraction
penalty in each row. What the model is given: all views of a sinogram, or all but a fifth of them,
as splitting does. What its image is compared with: the true image; what all rays, or those of the
views that are left out, would have measured of it without noise; or what they did measure. The
row `splitting` is splitting as it is, without equivariance; it and `rest_noisy` need no images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from common import DATA, arguments, is_there, mean_psnr, parser, planned_scan, start_model

from equipoise.config import Config, parse
from equipoise.imaging.splitting import split
from equipoise.learning.losses import (
    AS_THE_MODEL,
    Example,
    JacobianPenalty,
    LossValue,
    MeasurementConsistency,
    RecordedLoss,
)
from equipoise.learning.losses.base import mean_square
from equipoise.learning.losses.second_solve import reconstruct_again
from equipoise.learning.trainer import Trainer
from equipoise.run import load_training_data

PARTS, FLOOR = 5, 1e-3


class Seen(NamedTuple):
    """What the model is given, and what its image is compared with."""

    words: str
    is_whole: bool  #: the model is given all views
    truth: str  #: "image", "all rays" or "left out"
    is_exact: bool = True  #: without noise


ROWS = {
    "supervised": Seen("all views; the image", True, "image"),
    "rest": Seen("four fifths of them; the image", False, "image"),
    "rest_rays": Seen("four fifths; all rays, without noise", False, "all rays"),
    "left_out": Seen("four fifths; the rays left out, without noise", False, "left out"),
    "splitting": Seen("four fifths; the rays left out, as measured", False, "left out", False),
    "rest_noisy": Seen("four fifths; all rays, as measured", False, "all rays", False),
    "rays": Seen("all views; all rays, without noise", True, "all rays"),
}


class Through(RecordedLoss):
    """The error of the image, as far as it is seen."""

    def __init__(self, seen: Seen):
        super().__init__()
        self.seen = seen
        self.misfit = MeasurementConsistency(1.0, FLOOR)

    def evaluate(self, example: Example) -> LossValue:
        seen, x, truth = self.seen, example.x_net, example.x
        assert truth is not None
        part = int(torch.randint(PARTS, ()))
        rest, y_rest, left_out, y_left_out = split(example.physics, example.y, PARTS, part)
        solves: tuple = ()
        if not seen.is_whole:
            x, solves = reconstruct_again(example.model, y_rest, rest, AS_THE_MODEL)
        if seen.truth == "image":
            return LossValue(mean_square(x, truth), solves)
        physics, y = example.physics, example.y
        if seen.truth == "left out":
            physics, y = left_out, y_left_out
        if seen.is_exact:
            y = physics.A(truth)
        return LossValue(self.misfit(x_net=x, y=y, physics=physics), solves)


def configuration(size: int, views: int, steps: int, batch: int) -> Config:
    tree = {
        "data": {
            "path": str(DATA / "ct" / "train.h5"),
            "validation": str(DATA / "ct" / "val.h5"),
            "size": size,
        },
        "physics": {"kind": "parallel_beam", "angles": views, "noise": 0.001},
        "model": {"sigma": 0.01, "step": {"strength": 0.001}},
        "learning": {"steps": steps, "lr": 5e-4, "batch": batch},
    }
    return parse(tree, "benchmark")


def score_after_training(config: Config, seen: Seen) -> float:
    """PSNR on other patients, in dB."""
    dataset, held_out = load_training_data(config, planned_scan(config))
    assert held_out is not None
    model = start_model(config, dataset.scan)
    losses = {"supervised": Through(seen), "contraction": JacobianPenalty(0.01, 0.97)}
    trainer = Trainer(model, dataset, losses, config.learning, config.seed)
    for _ in range(config.learning.steps):
        trainer.advance()
    model.load_state_dict(trainer.final_weights())
    return mean_psnr(model.eval(), held_out, config.model.test_stop())


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--only", default=",".join(ROWS), help="rows by name")
    a = arguments(p, size=16, views=10, steps=1, batch=1, only="supervised,splitting")
    if not is_there(DATA / "ct" / "train.h5"):
        return
    config = configuration(a.size, a.views, a.steps, a.batch)
    print(f"{a.size}², {a.views} views, {a.steps} steps of {a.batch}; given; compared with")
    for name in a.only.split(","):
        decibels = score_after_training(config, ROWS[name])
        print(f"{decibels:6.2f} dB  {ROWS[name].words}", flush=True)


if __name__ == "__main__":
    main()
