"""What share of a training step goes into reading measurements, and into logs, progress, pages and
checkpoints?

    python benchmarks/overhead.py [--size 64] [--steps 40]

Real chest CT (../shared/data/ct), read and measured while training (data.stream, one worker), with
TensorBoard beside log.jsonl and a checkpoint every ten steps. Loading: the time a step waits for
its batch. The rest: wall-clock from report to report less the steps.
"""

from __future__ import annotations

import tempfile
import time
from typing import NamedTuple

from common import DATA, arguments, is_there, parser

from equipoise.commands.train import train_run
from equipoise.config import parse
from equipoise.learning.log import Report

BATCH = 4


class StepTime(NamedTuple):
    reported: float  # when
    seconds: float  # of the step
    waiting: float  # of these


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--steps", type=int, default=40)
    a = arguments(p, size=16, steps=3)
    file = DATA / "ct" / "train.h5"
    if not is_there(file):
        return
    times: list[StepTime] = []

    def on_report(report: Report) -> None:
        seconds = BATCH / report.images_per_second
        times.append(StepTime(time.perf_counter(), seconds, report.waiting * seconds))

    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "out": f"{folder}/run",
            "data": {"path": str(file), "size": a.size, "stream": True},
            "learning": {
                "steps": a.steps,
                "batch": BATCH,
                "workers": 1,
                "loggers": ["tensorboard"],
                "checkpoint_every": 10,
            },
        }
        train_run(parse(tree, "overhead"), lambda text: None, on_report)
    steps = sum(step.seconds for step in times[1:])
    waits = sum(step.waiting for step in times[1:])
    wall = times[-1].reported - times[0].reported
    pace = steps / (a.steps - 1)
    print(f"{a.size}², {a.steps} steps of batch {BATCH}, {pace:.2f} s a step")
    print(
        f"loading {waits / wall:.2%}   logs, progress, pages and checkpoints {1 - steps / wall:.2%}"
    )


if __name__ == "__main__":
    main()
