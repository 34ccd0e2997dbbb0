"""All that needs a GPU, in one command and under half an hour: checks, times, trains, and writes
`results/gpu.md`.

    python benchmarks/gpu.py [--out results/gpu.md] [--steps 300] [--seeds 3]

Checks are `pytest -m cuda`. Times are of A and Aᵀ (beside deepinv's), of the parts of an
evaluation, and of training steps, with the largest memory. Trained are 256² CT with 60 views and
heads of 2 mm as 4× MRI, over some seeds, on real data where they are (`../shared/data`) and on
phantoms elsewhere; the scores are those of images that nobody trained on. Without a GPU it says so,
runs every part once at 32² on the CPU, writes nothing and exits with 0.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv
import torch
from common import DATA, ROOT, arguments, mean_psnr, parser, planned_scan, start_trainer

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.commands.train import train_run
from equipoise.config import Config, parse
from equipoise.run import load_data, load_run, unseen

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


class Account:
    """The lines that are printed, and written in the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.started = time.perf_counter()

    def say(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def part(self, title: str) -> None:
        minutes = (time.perf_counter() - self.started) / 60
        self.say(f"\n## {title}\n")
        print(f"({minutes:.1f} minutes so far)", flush=True)


def seconds_of(work: Callable[[], Any], rounds: int) -> float:
    """Median, with the device's work finished."""
    times = []
    for _ in range(rounds + 1):
        finish()
        start = time.perf_counter()
        work()
        finish()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def finish() -> None:
    if CUDA:
        torch.cuda.synchronize()


def largest_memory() -> str:
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if CUDA else "not measured"


def forget_memory() -> None:
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def check(account: Account) -> None:
    account.part("pytest -m cuda")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/test_cuda.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    account.say(f"`{last}` (exit code {done.returncode})")


def configuration(a: argparse.Namespace, size: int, views: int, batch: int) -> Config:
    return parse(
        {
            "data": {"size": size, "count": 2 * batch},
            "physics": {"kind": "parallel_beam", "angles": views, "noise": 0.001},
            "learning": {"batch": batch, "steps": 1000},
        },
        "benchmark",
    )


def time_projector(account: Account, a: argparse.Namespace) -> None:
    account.part(f"A and Aᵀ, {a.size}², {a.views} views, batch {a.batch}")
    ours = eq.ParallelBeam(a.size, a.views, normalize=True)
    theirs = deepinv.physics.Tomography(
        ours.angles, a.size, circle=False, normalize=True, device=DEVICE
    )
    x = eq.phantoms(a.batch, a.size).to(DEVICE)
    for name, physics in (("equipoise", ours), ("deepinv", theirs)):
        y = physics.A(x)
        forward = seconds_of(lambda: physics.A(x), a.rounds)
        back = seconds_of(lambda: physics.A_adjoint(y), a.rounds)
        account.say(f"- {name}: {forward * 1e3:.2f} ms and {back * 1e3:.2f} ms")


def time_parts(account: Account, a: argparse.Namespace) -> None:
    account.part(f"An evaluation, {a.size}², {a.views} views, batch {a.batch}")
    physics = eq.ParallelBeam(a.size, a.views, normalize=True)
    y = physics.A(eq.phantoms(a.batch, a.size).to(DEVICE))
    denoiser = eq.load_denoiser().to(DEVICE)
    for inner in ("exact", "auto"):
        step = eq.ProximalStep(denoiser, 1e-3, 0.02, inner=inner).to(DEVICE)
        f = step.bind(y, physics)
        x = step.start(y, physics).requires_grad_()
        out = f(x)
        v = torch.randn_like(out)
        with torch.no_grad():
            network = seconds_of(lambda: step.denoise(x), a.rounds)
            evaluation = seconds_of(lambda: f(x), a.rounds)
        product = seconds_of(lambda: torch.autograd.grad(out, x, v, retain_graph=True), a.rounds)
        account.say(
            f"- inner {inner}: the network {network * 1e3:.1f} ms, an evaluation "
            f"{evaluation * 1e3:.1f} ms, a vector–Jacobian product {product * 1e3:.1f} ms"
        )


def time_steps(account: Account, a: argparse.Namespace) -> None:
    account.part("Steps of training, the default objective")
    for size, views, batch in ((a.size, a.views, a.batch), (a.large, 2 * a.views, a.batch)):
        config = configuration(a, size, views, batch)
        forget_memory()
        trainer = start_trainer(config, load_data(config, planned_scan(config)))
        report = trainer.advance()
        seconds = seconds_of(trainer.advance, a.rounds)
        account.say(
            f"- {size}², {views} views, batch {batch}: {seconds:.2f} s, {batch / seconds:.1f} "
            f"images a second, at most {largest_memory()}; {report.forward:.0f} evaluations "
            "forward, "
            f"{report.adjoint:.0f} backward a solve"
        )


def problems(a: argparse.Namespace, steps: int) -> dict[str, dict[str, Any]]:
    """The sections of what is trained, by name."""
    learning = {"batch": a.batch, "steps": steps}
    ct: dict[str, Any] = {
        "data": {"size": a.size, "count": 8 * a.batch},
        "physics": {"kind": "parallel_beam", "angles": a.views, "noise": 0.001},
        "learning": learning,
    }
    mri: dict[str, Any] = {
        "data": {"size": a.size, "count": 8 * a.batch},
        "physics": {"kind": "mri", "acceleration": 4, "noise": 0.0005},
        "learning": learning,
    }
    if CUDA and (DATA / "ct" / "train.h5").exists():
        files = {name: str(DATA / "ct" / f"{name}.h5") for name in ("train", "val")}
        ct["data"] = {"path": files["train"], "validation": files["val"], "size": a.size}
    if CUDA and (DATA / "mri" / "heads").exists():
        mri["data"] = {"path": str(DATA / "mri" / "heads"), "size": 128, "holdout": 0.25}
    return {"CT": ct, "MRI": mri}


def train_all(account: Account, a: argparse.Namespace, folder: Path) -> None:
    for name, sections in problems(a, a.steps).items():
        where = "real data" if "path" in sections["data"] else "phantoms"
        account.part(
            f"{name}, {sections['data']['size']}², {where}, {a.steps} steps of batch {a.batch}"
        )
        scores = []
        for seed in range(a.seeds):
            config = parse({**sections, "seed": seed, "name": name}, "benchmark")
            config.out = folder / f"{name}-{seed}"
            start = time.perf_counter()
            train_run(config, lambda line: None)
            minutes = (time.perf_counter() - start) / 60
            run = load_run(config.out)
            dataset, _ = unseen(run.config, run.scan, count=8)
            images = run.solve(dataset).value.cpu()
            after = float(psnr(images, dataset.require_truth()).mean())
            model = run.config.model.make(run.scan.image_shape[0], run.scan.noise, seed)
            before = mean_psnr(model, dataset, run.config.model.test_stop())
            scores.append(after)
            account.say(f"- seed {seed}: {before:.2f} → {after:.2f} dB in {minutes:.1f} minutes")
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        account.say(f"- mean {statistics.mean(scores):.2f} dB, standard deviation {spread:.2f}")


def heading(account: Account) -> None:
    card = torch.cuda.get_device_name() if CUDA else "no GPU"
    command = " ".join(["python", *sys.argv])
    account.say(
        f"# On a GPU\n\n`{command}`: {card}, PyTorch {torch.__version__}, deepinv "
        f"{deepinv.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--large", type=int, default=512)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.md")
    smallest = {"size": 32, "large": 32, "views": 6, "batch": 2}
    smallest |= {"rounds": 1, "steps": 1, "seeds": 1}
    a = arguments(p, **smallest)
    if not CUDA:
        print("no GPU here: every part runs once at 32² on the CPU; nothing is written")
        vars(a).update(smallest)
    account = Account()
    heading(account)
    check(account)
    time_projector(account, a)
    time_parts(account, a)
    time_steps(account, a)
    with tempfile.TemporaryDirectory() as folder:
        train_all(account, a, Path(folder))
    if CUDA and not a.quick:
        a.out.write_text("\n".join(account.lines) + "\n")
        print(f"written: {a.out}")


if __name__ == "__main__":
    main()
