"""The losses that SSIBench (arXiv 2502.14009) compares on MRI, with the same network and steps, on
the heads; each beside supervised training.

    python benchmarks/ssibench.py [--scenario single|several|noisy|coils] [--steps 40] [--seeds 1]

It runs `equipoise compare configs/heads.yaml --methods benchmarks/ssibench.py` for one operator
(the default), several (each image with a mask of its own), ten times the noise, or eight simulated
coils, and prints the table; what was trained is not trained again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from equipoise.comparison.methods import register
from equipoise.comparison.trained import Trained

ROOT = Path(__file__).parents[1]
SCENARIOS = {
    "single": [],
    "several": ["physics.masks=each"],
    "noisy": ["physics.noise=0.005"],
    "coils": ["physics.coils=8"],
}
#: Methods of the package that belong here, by name.
OURS = ("zero_filled", "tv", "pnp", "consistency", "splitting", "ei", "sure_ei", "implicit")


def with_losses(name: str, label: str, *terms: str, **changes: object) -> Trained:
    """A method with these terms of the objective alone, and with these changes."""
    return Trained(name, label, {k.replace("__", "."): v for k, v in changes.items()}, terms)


#: Those that need masks that differ.
OF_SEVERAL = ("weighted", "moi")
BY_DEEPINV = "objective.deepinv"
LOSSES = [
    # With masks of their own alone:
    with_losses(
        "weighted",
        "Random splits, weighted by density",
        "splitting",
        objective__splitting__left_out="random",
        objective__splitting__weighting="density",
    ),
    with_losses("moi", "Consistency + multi-operator", "consistency", "operators"),
    # With any:
    with_losses(
        "random",
        "Random splits (SSDU)",
        "splitting",
        objective__splitting__left_out="random",
    ),
    with_losses(
        "es",
        "Equivariant splitting",
        "splitting",
        objective__splitting__group="rotations",
    ),
    with_losses(
        "es_quarters",
        "Equivariant splitting, quarter turns",
        "splitting",
        objective__splitting__group="quarter_turns",
    ),
    with_losses(
        "es_all",
        "Equivariant splitting + consistency + EI",
        "splitting",
        "consistency",
        "equivariance",
        objective__splitting__group="rotations",
    ),
    with_losses("r2r_ei", "R2R + EI", "r2r", "equivariance"),
    Trained(
        "unsure_ei",
        "UNSURE + EI",
        {BY_DEEPINV: {"SureGaussianLoss": {"unsure": True, "sigma": 0.01}}},
        ("equivariance",),
    ),
    Trained(
        "vortex",
        "Consistency + VORTEX",
        {BY_DEEPINV: {"AugmentConsistencyLoss": 1.0}},
        ("consistency",),
    ),
]


def main() -> None:
    from common import DATA, arguments, is_there, parser

    p = parser(__doc__)
    p.add_argument("--scenario", choices=SCENARIOS, default="single")
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--only", default="", help="methods by name, in place of all")
    p.add_argument("--out", type=Path, default=None, help="default: compare/ssibench-SCENARIO")
    quick = {"steps": 1, "size": 32, "only": "zero_filled,es,supervised", "jobs": 1}
    a = arguments(p, **quick)
    if not is_there(DATA / "mri" / "heads"):
        return
    name = f"ssibench-{a.scenario}"
    options = [f"name={name}", f"learning.steps={a.steps}", f"data.size={a.size}"]
    options += ["learning.validate_every=100000", f"data.path={DATA / 'mri' / 'heads'}"]
    if a.quick:
        options += ["data.slices=middle 1", "model.max_steps=3", "model.test_max_steps=3"]
        options += ["model.sigma=0.04", "model.step.strength=0.003"]
        a.out = Path(tempfile.mkdtemp())
    suited = [
        m.name for m in LOSSES if a.scenario == "several" or m.name not in ("weighted", "moi")
    ]
    methods = a.only or ",".join([*OURS, *suited, "supervised"])
    given = ["--only", methods, "--seeds", str(a.seeds), "--jobs", str(a.jobs)]
    given += ["--methods", __file__, "--out", str(a.out or ROOT / "compare" / name)]
    config = str(ROOT / "configs" / "heads.yaml")
    command = [sys.executable, "-m", "equipoise", "compare", config]
    subprocess.run([*command, *options, *SCENARIOS[a.scenario], *given], check=True)


if __name__ == "__main__":
    main()
else:
    for method in LOSSES:
        register(method)
