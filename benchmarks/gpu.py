"""All that needs a GPU, in one command and under half an hour: checks, times, trains, and writes
`results/gpu.md`.

    python benchmarks/gpu.py [--out results/gpu.md] [--steps 100] [--seeds 3] [--parts …]

"check" is `pytest -m cuda`. "times" are of A and Aᵀ (beside deepinv's), of the parts of an
evaluation, and of training steps, with the largest memory. "peers" runs `benchmarks/train_step.py`
and `benchmarks/gradient.py`, against deepinv and torchdeq on the same card. "train" is `equipoise
train` of `configs/ct256.yaml` (256², 60 views) and `configs/heads.yaml` (4× MRI) with more steps,
one seed after the other; on phantoms where the data are not there (`../shared/data`). The scores
are those of images that nobody trained on. Where only some parts are asked for, what they say is
added to the file. Without a GPU it says so, runs every part once at 32² on the CPU, writes nothing
and exits with 0.
"""

from __future__ import annotations

import argparse
import os
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
import yaml
from common import (
    DATA,
    DEVICE,
    ROOT,
    arguments,
    finish,
    machine,
    parser,
    planned_scan,
    start_trainer,
)

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.config import Config, parse
from equipoise.learning.validation import solve_dataset
from equipoise.run import load_data, load_run, unseen

CUDA = DEVICE.type == "cuda"
PARTS = ("check", "times", "peers", "train")


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


def largest_memory() -> str:
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if CUDA else "not measured"


def forget_memory() -> None:
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def check(account: Account) -> None:
    account.part("pytest -m cuda")
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "tests/test_cuda.py"]
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
        ours.angles.to(DEVICE), a.size, circle=False, normalize=True, device=DEVICE
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


def problems(a: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is trained, by name: the configurations of these names, with more steps."""
    found = {}
    for name, folder in (("ct256", DATA / "ct"), ("heads", DATA / "mri" / "heads")):
        sections = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
        sections["learning"] |= {"batch": a.batch, "steps": a.steps}
        if name == "ct256":
            sections["data"]["validation"] = str(DATA / "ct" / "val.h5")
        if not CUDA or not folder.exists():
            size = sections["data"]["size"] if CUDA else a.size
            sections["data"] = {"size": size, "count": 8 * a.batch}
        found[name] = sections
    return found


def time_peers(account: Account, a: argparse.Namespace) -> None:
    """What the benchmarks against deepinv and torchdeq print."""
    half, views = str(a.size // 2), str(a.views // 2)
    scripts = [
        ["train_step.py", "--map", kind, "--size", half, "--views", views, "--accuracy", "2e-3"]
        for kind in ("gradient", "proximal")
    ]
    scripts = [[*script, "--anderson"] for script in scripts]
    scripts += [["gradient.py", "--contraction", "0.9", "--rounds", "3"]]
    if not CUDA or a.quick:
        scripts = [[*script, "--quick"] for script in scripts]
    for name, *options in scripts:
        account.part(f"`benchmarks/{name} {' '.join(options)}`")
        command = [sys.executable, f"benchmarks/{name}", *options]
        printed = printed_by(command, a.patience)
        account.say(f"```\n{printed}\n```")


def printed_by(command: list[str], patience: float) -> str:
    """What a script printed, within so many seconds."""
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
            env=unbuffered,
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        return f"{printed.decode().strip()}\nstopped after {patience:.0f} s"
    return (done.stdout or done.stderr[-500:]).strip()


def train_all(account: Account, a: argparse.Namespace, folder: Path) -> None:
    """One after the other: processes that share a card take turns, and gain nothing."""
    for name, sections in problems(a).items():
        where = f"`configs/{name}.yaml`" if "path" in sections["data"] else f"{name}, phantoms"
        account.part(f"{where}, {sections['data']['size']}², {a.steps} steps of batch {a.batch}")
        scores = []
        for seed in range(a.seeds):
            score = trained(account, name, sections, seed, folder)
            if score is not None:
                scores.append(score)
        if scores:
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            account.say(f"- mean {statistics.mean(scores):.2f} dB, standard deviation {spread:.2f}")


def trained(
    account: Account, name: str, sections: dict[str, Any], seed: int, folder: Path
) -> float | None:
    """`equipoise train`; the PSNR after it, none if it failed."""
    out = folder / f"{name}-{seed}"
    file = folder / f"{name}-{seed}.yaml"
    file.write_text(yaml.safe_dump({**sections, "seed": seed, "name": name, "out": str(out)}))
    command = [sys.executable, "-m", "equipoise", "train", str(file)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    minutes = (time.perf_counter() - start) / 60
    if done.returncode:
        account.say(f"- seed {seed}: exit code {done.returncode}: {done.stderr.strip()[-200:]}")
        return None
    run = load_run(out)
    dataset, _ = unseen(run.config, run.scan, count=8)
    solved = run.solve(dataset)
    after = float(psnr(solved.value, dataset.require_truth()).mean())
    model = run.config.model.make(run.scan.image_shape[0], run.scan.noise, seed)
    model.stop = run.config.model.test_stop()
    before = solve_dataset(model, dataset).value
    account.say(
        f"- seed {seed}: {float(psnr(before, dataset.require_truth()).mean()):.2f} → {after:.2f} "
        f"dB in {minutes:.1f} minutes, {int(solved.converged.sum())} of {len(dataset)} converged"
    )
    return after


def heading(account: Account) -> None:
    command = " ".join(["python", *sys.argv])
    account.say(
        f"# On a GPU\n\n`{command}`: {machine()}, PyTorch {torch.__version__}, deepinv "
        f"{deepinv.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--large", type=int, default=512)
    p.add_argument("--views", type=int, default=60)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--seeds", type=int, default=3)
    text = "seconds that a benchmark against a peer may take"
    p.add_argument("--patience", type=float, default=300, help=text)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.md")
    smallest = {"size": 32, "large": 32, "views": 6, "batch": 2}
    smallest |= {"rounds": 1, "steps": 1, "seeds": 1}
    a = arguments(p, **smallest)
    if not CUDA:
        print("no GPU here: every part runs once at 32² on the CPU; nothing is written")
        vars(a).update(smallest)
    account = Account()
    heading(account)
    if "check" in a.parts:
        check(account)
    if "times" in a.parts:
        time_projector(account, a)
        time_parts(account, a)
        time_steps(account, a)
    if "peers" in a.parts:
        time_peers(account, a)
    if "train" in a.parts:
        with tempfile.TemporaryDirectory() as folder:
            train_all(account, a, Path(folder))
    if CUDA and not a.quick:
        before = a.out.read_text() + "\n" if set(a.parts) != set(PARTS) and a.out.exists() else ""
        a.out.write_text(before + "\n".join(account.lines) + "\n")
        print(f"written: {a.out}")


if __name__ == "__main__":
    main()
