"""What the adjoint's accuracy costs over a training run, and what it buys.

    python benchmarks/inexactness.py [--steps 150] [--arms exact loose rule]

`configs/ct64.yaml` (the real slices in ../shared/data) is trained from the same seed with three
tolerances of the adjoint solve: 1e-3, the forward solve's own; 1e-2; and the rule, ten times the
residual that the sample's forward solve reached (`Implicit(inexact=10)`), but no less than 1e-3.
Arms that are finished in runs/inexactness are not run again, so they can be run one by one.
"""

from __future__ import annotations

from pathlib import Path

from common import DATA, ROOT, arguments, is_there, parser

from equipoise.commands.train import train_run
from equipoise.config import load_config
from equipoise.learning.log import read_log

ARMS = {
    "exact": ["model.gradient.rtol=0.001"],
    "loose": ["model.gradient.rtol=0.01"],
    "rule": ["model.gradient.rtol=0.001", "model.gradient.inexact=10"],
}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--out", type=Path, default=Path("runs") / "inexactness")
    a = arguments(p, steps=1, size=16)
    if not is_there(DATA / "ct"):
        return
    print(
        f"{'arm':<8}{'PSNR':>8}{'forward':>10}{'adjoint':>10}{'unsolved':>10}   per solve and "
        f"step, {a.steps} steps of batch 8"
    )
    for arm in a.arms:
        folder = a.out / f"{arm}_{a.steps}"
        overrides = [
            *ARMS[arm],
            f"data.path={DATA / 'ct' / 'train.h5'}",
            f"data.validation={DATA / 'ct' / 'val.h5'}",
            f"data.size={a.size}",
            f"learning.steps={a.steps}",
            f"learning.validate_every={a.steps}",
            f"out={folder}",
        ]
        train_run(load_config(ROOT / "configs" / "ct64.yaml", overrides))
        log = read_log(folder)
        means = {
            key: sum(row[key] for row in log) / len(log)
            for key in ("forward", "adjoint", "unsolved")
        }
        psnr = log[-1]["validation"]["psnr"]
        print(
            f"{arm:<8}{psnr:8.2f}{means['forward']:10.1f}{means['adjoint']:10.1f}"
            f"{means['unsolved']:10.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
