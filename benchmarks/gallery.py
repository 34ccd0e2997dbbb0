"""Makes docs/gallery.md and its pictures: one operator after the other, learnt from phantoms'
measurements alone.

    python benchmarks/gallery.py [--steps 20]

Every picture is what `equipoise train` and `equipoise evaluate` do with the configuration beside
it, on phantoms that training did not see.
"""

from __future__ import annotations

import platform
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from common import ROOT, arguments, parser

from equipoise.assessment import figures
from equipoise.commands.train import train_run
from equipoise.comparison import Evaluation, evaluate
from equipoise.config import parse
from equipoise.run import load_run

SHOWN: dict[str, dict[str, Any]] = {
    "Fan-beam CT, 24 views": {
        "physics": {
            "kind": "fan_beam",
            "angles": 24,
            "source_distance": 120,
            "detector_distance": 60,
        }
    },
    "Low-dose CT: photons are counted": {
        "physics": {"kind": "parallel_beam", "angles": 40, "photons": 2000}
    },
    "Radial MRI": {"physics": {"kind": "non_cartesian_mri", "shots": 16, "samples": 96}},
    "MRI, Poisson-disc mask, 6×, four coils": {
        "physics": {"kind": "mri", "mask": "poisson_disc", "acceleration": 6, "coils": 4}
    },
    "Inpainting, a third of the pixels": {
        "physics": {"kind": "inpainting", "keep": 0.33, "noise": 0.01}
    },
    "Super-resolution, 2×": {
        "physics": {"kind": "super_resolution", "noise": 0.005},
        "objective": {"splitting": 0},
    },
    "Your own: motion blur, and every fourth row lost": {
        "physics": {"kind": "custom", "file": "motion.py", "noise": 0.005},
    },
}


class Made(NamedTuple):
    evaluation: Evaluation
    minutes: float


def made(title: str, tree: dict[str, Any], motion: str) -> Made:
    """The run of a configuration, trained and scored, and how long its training took."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "motion.py"
        file.write_text(motion)
        physics = tree["physics"]
        if physics["kind"] == "custom":
            physics = {**physics, "file": str(file)}
        config = parse({**tree, "physics": physics, "out": f"{folder}/run"}, title)
        started = time.perf_counter()
        train_run(config, say=lambda text: None)
        minutes = (time.perf_counter() - started) / 60
        evaluation = evaluate(load_run(f"{folder}/run"), count=4)
    return Made(evaluation, minutes)


def save_picture(evaluation: Evaluation, file: Path) -> None:
    dataset = evaluation.dataset
    images = evaluation.titled_images()
    y = dataset.measurements()
    figure = figures.grid(y, images, dataset.truth, dataset.names, rows=1)
    figures.save_png(figure, file)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--phantoms", type=int, default=40)
    p.add_argument("--operators", type=int, default=len(SHOWN), help="how many of them")
    p.add_argument("--out", type=Path, default=ROOT / "docs")
    quick_out = Path(tempfile.gettempdir()) / "gallery"
    a = arguments(p, steps=1, size=16, phantoms=4, operators=1, out=quick_out)
    a.out.mkdir(parents=True, exist_ok=True)
    page = (ROOT / "docs" / "operator.md").read_text()
    motion = re.search(r'```python title="motion.py"\n(.*?)```', page, re.S)
    assert motion is not None
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    text = [
        "# Gallery",
        "",
        f"`python benchmarks/gallery.py --steps {a.steps}` made this page ({machine}).",
        f"Each operator measured {a.phantoms} phantoms, which were thrown away; {a.steps} steps of "
        "four measurements; the picture is of",
        "a phantom that training did not see, the table the mean of four.",
        "Classical methods are tuned on these very images, in their favour.",
        "Error maps are on one scale.",
    ]
    for number, (title, sections) in enumerate(list(SHOWN.items())[: a.operators]):
        tree = {
            "data": {"size": a.size, "count": a.phantoms},
            **sections,
            "learning": {"steps": a.steps, "batch": 4},
        }
        evaluation, minutes = made(title, tree, motion[1])
        save_picture(evaluation, a.out / f"gallery-{number}.png")
        shown = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
        text += [
            "",
            f"## {title}",
            "",
            f"![{title}: measurement, every method, truth, error maps](gallery-{number}.png)",
            "",
            evaluation.table.markdown().rstrip(),
            "",
            f"```yaml\n{shown}```",
            "",
            f"Training: {minutes:.1f} min.",
        ]
        print(f"{title}: {minutes:.1f} min\n{evaluation.table.terminal()}", flush=True)
    text += [
        "",
        "Elsewhere: the demo's pictures on the [first page](../README.md), "
        "[real CT](../results/ct64.md), and a",
        "[real 8-coil acquisition](../results/brain.md).",
    ]
    (a.out / "gallery.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
