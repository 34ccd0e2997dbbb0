"""Makes docs/gallery.md and its pictures: one operator after the other, learnt from phantoms' measurements alone.

    python benchmarks/gallery.py [--steps 30]

Every picture is what `equipoise train` and `equipoise evaluate` do with the configuration beside it, on phantoms that training did
not see.
"""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
import time
from pathlib import Path

import torch
import yaml

from equipoise import runs
from equipoise.assessment import report
from equipoise.config import parse

ROOT = Path(__file__).parents[1]
SHOWN = {
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
    "Radial MRI": {
        "physics": {"kind": "non_cartesian_mri", "shots": 16, "samples": 96},
        "objective": {"splitting": 0},
    },
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
        "objective": {"splitting": 0},
    },
}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=30)
    a = p.parse_args()
    operator = re.search(
        r'```python title="motion.py"\n(.*?)```', (ROOT / "docs" / "operator.md").read_text(), re.S
    )[1]
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    text = [
        "# Gallery",
        "",
        f"`python benchmarks/gallery.py --steps {a.steps}` made this page ({machine}).",
        f"Each operator measured 40 phantoms, which were thrown away; {a.steps} steps of four measurements; the picture is of",
        "a phantom that training did not see, the table the mean of four.",
        "Classical methods are tuned on these very images, in their favour.",
        "Error maps are on one scale.",
    ]
    for number, (title, tree) in enumerate(SHOWN.items()):
        tree = {
            "data": {"size": 64, "count": 40},
            **tree,
            "learning": {"steps": a.steps, "batch": 4, "warmup": 5},
        }
        shown = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
        with tempfile.TemporaryDirectory() as folder:
            motion = Path(folder) / "motion.py"
            motion.write_text(operator)
            if tree["physics"]["kind"] == "custom":
                tree = {**tree, "physics": {**tree["physics"], "file": str(motion)}}
            config = parse({**tree, "name": f"gallery-{number}", "out": f"{folder}/run"}, title)
            started = time.perf_counter()
            runs.train_run(config, say=lambda text: None)
            minutes = (time.perf_counter() - started) / 60
            run = runs.load_run(f"{folder}/run")
            table = runs.evaluate(run, count=4)
            problem, _ = runs.unseen(config, run.physics, count=4)
            figure = report.grid(problem.y, table.images, problem.truth, table.names, rows=1)
            report.save_png(figure, ROOT / "docs" / f"gallery-{number}.png")
        columns, rows = table.columns_and_rows()
        text += [
            "",
            f"## {title}",
            "",
            f"![{title}: measurement, every method, truth, error maps](gallery-{number}.png)",
            "",
        ]
        text += [f"| {' | '.join(r)} |" for r in (columns, ["---"] * len(columns), *rows)]
        text += ["", f"```yaml\n{shown}```", "", f"Training: {minutes:.1f} min."]
        print(title, rows, f"{minutes:.1f} min", flush=True)
    text += [
        "",
        "Elsewhere: the demo's pictures on the [first page](../README.md), [real CT](../results/ct64.md), and a",
    ]
    text += ["[real 8-coil acquisition](../results/brain.md)."]
    (ROOT / "docs" / "gallery.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
