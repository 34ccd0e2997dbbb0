"""Do exact gradients train worse than rough ones? Their tails are heavy; what tames them?

    python benchmarks/tails.py [--steps 80] [--seeds 0 1 2]      # 64² chest CT, real data

20 views, batch 4, learning rate 5e-4, σ = 0.02, λ = 0.001, else the defaults. Each row: the PSNR of
the running average on `ct/val.h5` before training and after so many steps, median and longest norm
of the gradient, seconds a step, for solves to the model's tolerance and to that of the losses, and
three clips.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from common import DATA, arguments, is_there, mean_psnr, parser, planned_scan, start_trainer

from equipoise.config import parse
from equipoise.run import load_training_data

#: Name → what is changed.
VARIANTS: dict[str, dict[str, Any]] = {
    "rough, clip 0.1": {"exact": False, "clip": 0.1, "longest": None},
    "rough, clip auto": {"exact": False, "clip": "auto", "longest": None},
    "rough, clip auto, longest 10": {"exact": False, "clip": "auto", "longest": 10.0},
    "exact, clip 0.1": {"exact": True, "clip": 0.1, "longest": None},
    "exact, clip auto": {"exact": True, "clip": "auto", "longest": None},
    "exact, clip auto, longest 10": {"exact": True, "clip": "auto", "longest": 10.0},
}


def tree_of(variant: dict[str, Any], seed: int, steps: int, size: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "data": {
            "path": str(DATA / "ct" / "train.h5"),
            "validation": str(DATA / "ct" / "val.h5"),
            "size": size,
        },
        "physics": {"kind": "parallel_beam", "angles": 20, "noise": 0.001},
        "model": {
            "sigma": 0.02,
            "step": {"kind": "proximal", "strength": 0.001},
            "gradient": {"kind": "implicit", "longest": variant["longest"]},
        },
        "objective": {"exact": variant["exact"]},
        "learning": {
            "steps": steps,
            "batch": 4,
            "lr": 5e-4,
            "warmup": 10,
            "ema": 0.9,
            "clip": variant["clip"],
        },
    }


def main() -> None:
    commands = parser(__doc__)
    commands.add_argument("--steps", type=int, default=80)
    commands.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    commands.set_defaults(size=64)
    options = arguments(commands, steps=2, seeds=[0], size=16)
    if not is_there(DATA / "ct" / "train.h5"):
        return
    print("variant | seed | PSNR (dB) before | after | median norm | longest norm | s/step")
    for seed in options.seeds:
        for name, variant in VARIANTS.items():
            config = parse(tree_of(variant, seed, options.steps, options.size), "benchmark")
            training, held_out = load_training_data(config, planned_scan(config))
            assert held_out is not None
            trainer = start_trainer(config, training)
            before = mean_psnr(trainer.model, held_out)
            started = time.perf_counter()
            norms = [trainer.advance().gradient for _ in range(options.steps)]
            seconds = (time.perf_counter() - started) / options.steps
            trainer.model.load_state_dict(trainer.averaged())
            score = mean_psnr(trainer.model, held_out)
            usual, longest = statistics.median(norms), max(norms)
            print(
                f"{name} | {seed} | {before:.2f} | {score:.2f} | {usual:.4f} | {longest:.3f} | "
                f"{seconds:.2f}"
            )


if __name__ == "__main__":
    main()
