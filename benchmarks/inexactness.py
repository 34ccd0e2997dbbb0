"""What the adjoint's accuracy costs over a training run, and what it buys.

    python benchmarks/inexactness.py [--steps 150] [--arms exact loose rule]

`configs/ct64.yaml` (the real slices in ../shared/data) is trained from the same seed with three tolerances of the adjoint
solve: 1e-3, the forward solve's own; 1e-2; and the rule, ten times the residual that the sample's forward solve reached
(`Implicit(inexact=10)`), but no less than 1e-3. Arms that are finished in runs/inexactness are not run again, so they can be
run one by one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from equipoise.config import load_config
from equipoise.runs import train_run

CT = Path(__file__).parents[2] / "shared" / "data" / "ct"
ARMS = {
    "exact": ["model.adjoint_rtol=0.001"],
    "loose": ["model.adjoint_rtol=0.01"],
    "rule": ["model.adjoint_rtol=0.001", "model.adjoint_inexact=10"],
}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    a = p.parse_args()
    if not CT.is_dir():
        print(f"skipped: {CT} is not there, and this is about real slices")
        return
    print(
        f"{'arm':<8}{'PSNR':>8}{'forward':>10}{'adjoint':>10}{'unsolved':>10}   per solve and step, {a.steps} steps of batch 8"
    )
    for arm in a.arms:
        folder = Path("runs") / "inexactness" / f"{arm}_{a.steps}"
        config = load_config(
            Path(__file__).parents[1] / "configs" / "ct64.yaml",
            [
                *ARMS[arm],
                f"learning.steps={a.steps}",
                f"learning.validate_every={a.steps}",
                f"out={folder}",
            ],
        )
        train_run(config)
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        mean = {
            key: sum(line[key] for line in log) / len(log)
            for key in ("forward", "adjoint", "unsolved")
        }
        psnr = log[-1]["validation"]["psnr"]
        print(
            f"{arm:<8}{psnr:8.2f}{mean['forward']:10.1f}{mean['adjoint']:10.1f}{mean['unsolved']:10.1%}"
        )


if __name__ == "__main__":
    main()
