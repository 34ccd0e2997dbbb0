"""When the exact gradient pays, and when equivariance does: small trainings over a designed set of
problems and settings, one thing changed at a time.

    OMP_NUM_THREADS=1 python benchmarks/when_it_pays.py [--steps 40] [--size 64] [--jobs 2]
        [--out DIR] [--only NAME,NAME] [--figure FILE.png] [--three]

Each row is a setting: implicit minus Jacobian-free, and, where the objective has an equivariance
term beside others, with minus without it (both implicit), in dB on people whom training has not
seen, with an interval of 95 % by person. Chest CT (ct/train.h5, scored on ct/val.h5) and T1 heads
(six of sixteen held out). What was trained is not trained again: the same command goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import DATA, ROOT, arguments, is_there, parser

from equipoise.comparison.statistics import Difference, bootstrap

CT = {
    "data.path": DATA / "ct" / "train.h5",
    "data.validation": DATA / "ct" / "val.h5",
    "physics.kind": "parallel_beam",
    "physics.angles": 20,
    "physics.noise": 0.001,
    "model.sigma": 0.02,
    "model.step.strength": 0.001,
    "learning.lr": 5e-4,
}
MRI = {
    "data.path": DATA / "mri" / "heads",
    "data.slices": "middle 8",
    "data.holdout": "[Subj1_T1, Subj2_T1, Subj4_T1, Subj5_T1, Subj6_T1, Subj9_T1]",
    "physics.kind": "mri",
    "physics.acceleration": 4,
    "physics.noise": 0.0005,
    "objective.splitting.parts": 3,
    "model.sigma": 0.04,
    "model.step.strength": 0.003,
}
#: Of CT images, other operators.
POINTS = {k: v for k, v in CT.items() if k not in ("physics.angles",)} | {
    "physics.kind": "inpainting",
    "physics.noise": 0.01,
    "model.sigma": 0.04,
    "model.step.strength": 0.01,
}
BLUR = POINTS | {"physics.kind": "blur", "objective.splitting": 0, "model.step.strength": 0.003}
EI_ALONE = {"objective.splitting": 0}
THROUGH = {**EI_ALONE, "objective.equivariance.stop_gradient": "false"}
LIMITED = "[" + ", ".join(str(6 * k) for k in range(20)) + "]"


class Setting(NamedTuple):
    """A row of the map."""

    problem: str
    change: str
    options: dict[str, Any]


SETTINGS = {
    "ct": Setting("CT, 20 views", "the defaults", CT),
    "ct-ei": Setting("CT, 20 views", "no splitting", {**CT, **EI_ALONE}),
    "ct-through": Setting("CT, 20 views", "no splitting, through the target", {**CT, **THROUGH}),
    "ct-random": Setting("CT, 20 views", "random start", {**CT, "model.denoiser": "random"}),
    "ct-gradient": Setting(
        "CT, 20 views",
        "gradient step",
        {k: v for k, v in CT.items() if k != "model.step.strength"} | {"model.step": "gradient"},
    ),
    "ct-free": Setting("CT, 20 views", "no penalty", {**CT, "objective.contraction": 0}),
    "ct-alpha": Setting("CT, 20 views", "α = 1", {**CT, "objective.equivariance": 1}),
    "ct-noise": Setting(
        "CT, 20 views",
        "ten times the noise",
        {**CT, "physics.noise": 0.01, "model.sigma": 0.04, "model.step.strength": 0.01},
    ),
    "ct-10": Setting("CT, 10 views", "the defaults", {**CT, "physics.angles": 10}),
    "ct-60": Setting(
        "CT, 60 views",
        "with equivariance",  # where the default has none
        {**CT, "physics.angles": 60, "objective.equivariance": 0.2},
    ),
    "ct-limited": Setting("CT over 120°", "the defaults", {**CT, "physics.angles": LIMITED}),
    "ct-limited-ei": Setting(
        "CT over 120°", "no splitting", {**CT, **EI_ALONE, "physics.angles": LIMITED}
    ),
    "mri": Setting("MRI, 4×", "the defaults", MRI),
    "mri-ei": Setting("MRI, 4×", "no splitting", {**MRI, **EI_ALONE}),
    "mri-through": Setting("MRI, 4×", "no splitting, through the target", {**MRI, **THROUGH}),
    "mri-random": Setting("MRI, 4×", "random start", {**MRI, "model.denoiser": "random"}),
    "mri-8": Setting(
        "MRI, 8×",
        "the defaults",
        {**MRI, "physics.acceleration": 8, "physics.center": 0.04},
    ),
    "mri-alpha": Setting("MRI, 4×", "α = 1", {**MRI, "objective.equivariance": 1}),
    "points": Setting("inpainting, half", "the defaults", POINTS),
    "points-ei": Setting("inpainting, half", "no splitting", {**POINTS, **EI_ALONE}),
    "points-30": Setting("inpainting, 30 %", "the defaults", {**POINTS, "physics.keep": 0.3}),
    "blur": Setting("blur", "no splitting", BLUR),
    "blur-through": Setting("blur", "no splitting, through the target", {**BLUR, **THROUGH}),
    "blur-wide": Setting("blur, wider", "no splitting", {**BLUR, "physics.width": 2.5}),
}
#: All else as with it, also where the default would leave consistency out, too.
WITHOUT = {
    "objective.equivariance": 0,
    "objective.consistency": 0.1,
    "objective.splitting.shared": "false",
}
#: The objective of ``--three``.
THREE_ADJOINTS = "objective: {equivariance: {stop_gradient: true}}\n"


def written(options: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def trained(name: str, options: dict[str, Any], methods: str, a: Any) -> dict[str, Any]:
    """The scores of a comparison, which is made if it is not there."""
    out = a.out / f"{a.size}-{a.steps}{'-three' if a.three else ''}" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    if not (out / "results.json").exists() or a.again:
        base = a.out / "base.yaml"
        command = [sys.executable, "-m", "equipoise", "compare", str(base)]
        done = subprocess.run(
            [
                *command,
                f"name={name}",
                *written(options),
                "--out",
                str(out),
                "--only",
                methods,
                "--seeds",
                "1",
            ],
            capture_output=True,
            text=True,
        )
        out.with_name(f"{name}.log").write_text(done.stdout + done.stderr)
        if not (out / "results.json").exists():
            return {}
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["scores"]
    return found


def difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Difference | None:
    if not one or not other or not one[0].get("psnr") or not other[0].get("psnr"):
        return None
    a, b = torch.tensor(one[0]["psnr"]), torch.tensor(other[0]["psnr"])
    return bootstrap((a - b)[None], one[0]["patients"])


def row(name: str, a: Any) -> dict[str, Any]:
    """Both differences of a setting, and how it ended."""
    setting = SETTINGS[name]
    found = trained(name, setting.options, "implicit,jacobian_free", a)
    implicit = found.get("implicit", [])
    gradient = difference(implicit, found.get("jacobian_free", []))
    without = trained(f"{name}-without", {**setting.options, **WITHOUT}, "implicit", a)
    equivariance = difference(implicit, without.get("implicit", []))
    print(text_of(name, implicit, gradient, equivariance), flush=True)
    return {"name": name, "gradient": gradient, "equivariance": equivariance}


def text_of(
    name: str,
    implicit: list[dict[str, Any]],
    gradient: Difference | None,
    equivariance: Difference | None,
) -> str:
    setting = SETTINGS[name]
    score = implicit[0] if implicit else {}
    psnr = sum(score["psnr"]) / len(score["psnr"]) if score.get("psnr") else float("nan")
    converged = score.get("converged", float("nan"))
    return (
        f"{setting.problem:<18} {setting.change:<34} {psnr:6.2f} {converged:6.0%}   "
        f"{shown(gradient):<26} {shown(equivariance)}"
    )


def shown(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Both differences of every setting, with their intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 0.34 * len(rows) + 1.2), sharey=True)
    titles = {
        "gradient": "exact − Jacobian-free gradient (dB)",
        "equivariance": "with − without equivariance (dB)",
    }
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for place, each in enumerate(rows):
            found = each[key]
            if found is not None:
                ax.plot([found.low, found.high], [place, place], color="#2563eb", lw=2)
                ax.plot(found.mean, place, "o", color="#2563eb", ms=5)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_title(title, fontsize=10)
        ax.set_xscale("symlog", linthresh=0.5)
        ax.set_xticks([-10, -3, -1, 0, 1, 3, 10])
        ax.set_xticklabels(["−10", "−3", "−1", "0", "1", "3", "10"])
        ax.minorticks_off()
        ax.grid(axis="x", alpha=0.3)
    names = [f"{SETTINGS[e['name']].problem}: {SETTINGS[e['name']].change}" for e in rows]
    axes[0].set_yticks(range(len(rows)), names, fontsize=8)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--out", type=Path, default=ROOT / "compare" / "when_it_pays")
    p.add_argument("--only", default="")
    p.add_argument("--again", action="store_true", help="go on with comparisons that had failures")
    p.add_argument("--figure", type=Path, default=None)
    text = "three adjoints a step, as the map was measured: of the image of all measurements, too"
    p.add_argument("--three", action="store_true", help=text)
    a = arguments(p, steps=1, size=16, only="ct,mri", jobs=1)
    if not is_there(DATA / "ct" / "train.h5"):
        return
    if a.quick:
        import tempfile

        a.out = Path(tempfile.mkdtemp())
    a.out.mkdir(parents=True, exist_ok=True)
    quick = "\nmodel: {max_steps: 3, test_max_steps: 3}" if a.quick else ""
    (a.out / "base.yaml").write_text(
        f"data: {{size: {a.size}, path: .}}\nlearning: {{steps: {a.steps}, batch: 4, "
        f"validate_every: 100000}}{quick}\n{THREE_ADJOINTS if a.three else ''}"
    )
    names = a.only.split(",") if a.only else list(SETTINGS)
    print(f"{a.size}², {a.steps} steps of batch 4, seed 0, one thread each")
    head = ("problem", "setting", "PSNR", "conv.", "exact − Jacobian-free", "with − without EI")
    print("{:<18} {:<34} {:>6} {:>6}   {:<26} {}".format(*head))
    with ThreadPoolExecutor(a.jobs) as pool:
        rows = list(pool.map(lambda name: row(name, a), names))
    if a.figure is not None:
        draw(rows, a.figure)


if __name__ == "__main__":
    main()
