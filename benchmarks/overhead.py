"""What share of a training step goes into reading measurements, and into logs, progress, pages and checkpoints?

    python benchmarks/overhead.py [--size 64] [--steps 40]

Real chest CT (../shared/data/ct), read and measured while training (data.stream, one worker), with TensorBoard beside log.jsonl
and a checkpoint every ten steps. Loading: the time a step waits for its batch. The rest: wall-clock from report to report less
the steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from equipoise import runs
from equipoise.config import parse

DATA = Path(__file__).parents[2] / "shared" / "data" / "ct" / "train.h5"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--steps", type=int, default=40)
    a = p.parse_args()
    if not DATA.is_file():
        print(f"skipped: {DATA} is not there")
        return
    told: list[tuple[float, float, float]] = []  # when, seconds of the step, of which waiting
    batch = 4

    def on_report(r):
        seconds = batch / r.images_per_second
        told.append((time.perf_counter(), seconds, r.waiting * seconds))

    with tempfile.TemporaryDirectory() as folder:
        learning = {
            "steps": a.steps,
            "batch": batch,
            "workers": 1,
            "loggers": ["tensorboard"],
            "checkpoint_every": 10,
        }
        tree = {
            "out": f"{folder}/run",
            "data": {"path": str(DATA), "size": a.size, "stream": True},
            "learning": learning,
        }
        runs.train_run(parse(tree, "overhead"), lambda text: None, on_report)
    steps, waits = (sum(column[1:]) for column in list(zip(*told))[1:])
    wall = told[-1][0] - told[0][0]
    print(f"{a.size}², {a.steps} steps of batch {batch}, {steps / (a.steps - 1):.2f} s a step")
    print(
        f"loading {waits / wall:.2%}   logs, progress, pages and checkpoints {1 - steps / wall:.2%}"
    )


if __name__ == "__main__":
    main()
