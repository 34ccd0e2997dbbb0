"""A run and its folder: started, continued, loaded, used.

runs/NAME/
  config.yaml              what was asked for, with every default written out
  log.jsonl                one line a step
  checkpoint.safetensors   the state to continue from (and the one before it)
  model.safetensors        the trained weights: the running average
  curves.html, curves.png  how training went
  versions.json            of the packages, and the git state
  results.json             after `equipoise evaluate` or `equipoise demo`
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from . import build
from .assessment import report
from .assessment.baselines import classical
from .assessment.evaluate import Table, solve_rows
from .assessment.metrics import CONVENTIONS, misfit, psnr
from .config import Config, dump, parse
from .equilibrium import Equilibrium, Stop
from .errors import UserError
from .imaging.data import Images, Measurements
from .imaging.operators import select
from .imaging.splitting import split
from .imaging.writers import new_folder, write_images
from .learning import checkpoint
from .learning.loggers import open_loggers
from .learning.train import Report, Trainer, on_device, processes, together, train
from .reconstruction import contraction
from .reconstruction.model import EquilibriumReconstructor

MODEL = "model.safetensors"
MARK = "This folder is a run of Equipoise."
ABOUT = """{mark}

config.yaml: what was asked for, every default written out. log.jsonl: one line a training step. checkpoint.safetensors:
the state to continue from. model.safetensors: the trained weights. curves.html: how training went.

  equipoise train {folder}/config.yaml        continues, if it was interrupted
  equipoise reconstruct {folder} DATA OUT     reconstructs DATA (images to be measured, or measurements)
  equipoise evaluate {folder} DATA            scores it against classical methods
"""


@dataclass
class Run:
    """A trained model with the physics it was trained for."""

    folder: Path
    config: Config
    physics: Any
    model: EquilibriumReconstructor
    noise: float

    def solve(self, problem: build.Problem, batch: int = 16, fabric: Any = None) -> Equilibrium:
        """The equilibria of a problem's measurements, batch by batch; each process of ``fabric`` solves its share."""
        y = problem.y.to(next(self.model.parameters()).dtype)
        rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        mine = torch.arange(len(y)).tensor_split(world)[rank]
        longest = max(self.model.stop.max_steps, getattr(self.model.gradient, "steps", 0))  # Unrolled has its own
        whole = [torch.zeros(len(y), *problem.physics.image_shape, dtype=y.dtype), *torch.zeros(3, len(y), dtype=torch.float64)]
        whole += [torch.zeros(longest, len(y)), torch.zeros(1)]
        with torch.no_grad():
            for some in mine.split(batch) if len(mine) else ():
                r = self.model.equilibrium(y[some], select(problem.physics, some, len(y)))
                for into, part in zip(whole, (r.value, r.residual, r.steps, r.status)):
                    into[some] = part.to(into)
                whole[4][:, some] = torch.cat([r.trace, r.trace[-1:].expand(longest - len(r.trace), -1)]).to(whole[4])
                whole[5] = torch.maximum(whole[5], torch.tensor([float(len(r.trace))]))
        if world > 1:
            whole = [together(fabric, part, "sum" if i < 5 else "max").cpu() for i, part in enumerate(whole)]
        value, residual, steps, status, trace, length = whole
        return Equilibrium(value.to(problem.y.dtype), residual.to(y.dtype), steps.long(), status.long(), trace[: int(length)])

    def contraction(self, problem: build.Problem, x: Tensor) -> dict[str, Any]:
        """How f contracts at the first few of the equilibria x, and the same in words."""
        some = torch.arange(min(4, len(x)))
        dtype = next(self.model.parameters()).dtype
        y, x, step = problem.y[some].to(dtype), x[some].to(dtype), self.model.step
        physics = select(problem.physics, some, len(problem.y))
        found = contraction.measure(step.bind(y, physics), step.lift(x, y, physics), rng=torch.Generator().manual_seed(0))
        words = f"Contraction: at {len(some)} equilibria, ∂f/∂x has a spectral radius up to {float(found.radius.max()):.3f}"
        words += " (below 1: an equilibrium that iteration finds) and "
        words += (
            f"a norm up to {float(found.norm.max()):.2f}." if bool(found.norm.isfinite().all()) else "a norm that is not known."
        )
        norms = [v if math.isfinite(v) else None for v in found.norm.tolist()]
        return {"radius": found.radius.tolist(), "norm": norms, "words": words}


def _difference(a: Any, b: Any, at: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in a.keys() | b.keys() for d in _difference(a.get(k), b.get(k), f"{at}.{k}" if at else k)]
    return [] if a == b else [f"{at}: {b!r} then, {a!r} now"]


def _check_same(config: Config, saved: dict[str, Any], folder: Path) -> None:
    now, then = config.model_dump(mode="json"), dict(saved)
    for tree in (now, then):
        tree.pop("out", None)
        tree["learning"] = {
            k: v for k, v in tree["learning"].items() if k not in ("checkpoint_every", "validate_every", "workers", "loggers")
        }
    if changes := _difference(now, then):
        raise UserError(
            f"{folder} holds a run with another configuration ({'; '.join(sorted(changes))}); nothing was changed. "
            "Name another run (name=… or out=…), or move that folder away"
        )


def train_run(
    config: Config,
    say: Callable[[str], None] = print,
    on_report: Callable[[Report], None] = lambda r: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains what ``config`` describes in its folder, or continues there. True when it is trained to the end.

    Raises:
        UserError: bad data, or the folder holds another run or something else.
    """
    fabric, folder = processes(), config.folder
    if fabric.global_rank:
        say, on_report = (lambda text: None), (lambda report: None)
    saved = None
    if folder.exists():
        if not folder.is_dir():
            raise UserError(f"{folder}: is a file; name another run folder with out=…")
        saved, remark = checkpoint.load_latest(folder)
        if remark:
            say(f"{remark}; going on from the one before")
        if saved is None and any(folder.iterdir()):
            if not is_run(folder):
                raise UserError(f"{folder}: is not empty and no run of Equipoise; nothing was written. Name another with out=…")
            _check_same(config, read_config(folder).model_dump(mode="json"), folder)
        if saved is not None:
            _check_same(config, saved.state["config"], folder)

    operator = build.build_physics(config.physics, config.data.size, config.seed)
    problem = build.build_problem(config, operator, stream=config.data.stream)
    held = None
    if config.data.holdout:
        count = len(problem.y)
        problem, held = build.hold_out(problem, config.data.holdout)
        who = ", ".join(dict.fromkeys(held.source.patients))
        say(f"holding out {len(held.y)} of {count} measurements: patients {who}")
    elif config.data.validation is not None:
        held = build.build_problem(config, operator, config.data.validation, config.seed + 1000)
    for note in problem.source.notes:
        say(f"note: {note}")
    physics, y = problem.physics, problem.y
    build.set_noise(physics, config.physics, problem.noise)
    apart = None
    if config.data.keep_out:
        try:
            physics, y, *apart = split(physics, y, round(1 / config.data.keep_out), 0)
        except (ValueError, TypeError) as error:
            raise UserError(f"data.keep_out={config.data.keep_out}: {error}, or set data.keep_out=0") from error
    model = build.build_model(config.model, physics.image_shape[0], problem.noise, config.seed)
    losses = build.build_objective(config.objective, physics, y)
    truth = problem.truth if config.objective.supervised else None
    if config.objective.supervised and truth is None:
        raise UserError("objective.supervised needs images, and the data are measurements; set it to 0")
    trainer = Trainer(model, physics, y, losses, config.learning, config.seed, fabric, truth)
    validate = _validator(config, held, trainer, apart, problem.noise)
    if saved is not None:
        trainer.restore(saved)
        ended = saved.state.get("ended") or f"trained for {trainer.step} steps"
        if (trainer.step >= config.learning.steps or saved.state.get("ended")) and _whole(folder / MODEL):
            say(f"{folder}: already {ended}")
            return True
        say(f"{folder}: continuing at step {trainer.step}")

    problem.truth = None  # from here on there is no image anywhere, but in a supervised loss
    resolved = config.model_dump(mode="json")
    state = {
        "config": resolved,
        "noise": problem.noise,
        "denoiser": build.denoiser_config(model),
        "versions": versions(),
        "processes": fabric.world_size,
    }
    low, high = (float(together(fabric, torch.tensor(float(trainer.step)), how)) for how in ("min", "max"))
    if low < high:  # this also waits until all have looked at the folder
        raise UserError(
            f"{folder}: some processes see a checkpoint at step {high:.0f} there, others do not; it must be one folder for all"
        )
    if fabric.global_rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump(config))
        (folder / "README.txt").write_text(ABOUT.format(mark=MARK, folder=folder))
        (folder / "versions.json").write_text(json.dumps(state["versions"], indent=1))
        loggers = open_loggers(list(config.learning.loggers), folder, config.name, resolved, trainer.step)

    shown = time.monotonic()

    def log(report: Report) -> None:
        nonlocal shown
        for logger in loggers:
            logger(report)
        on_report(report)
        if time.monotonic() - shown > PAGE_EVERY:
            write_curves(folder, config, reload=PAGE_EVERY)
            shown = time.monotonic()

    if saved is not None and saved.state.get("ended"):
        finished = True
    else:
        finished = train(trainer, folder, state, log, interrupted, validate)
    if fabric.global_rank == 0:
        write_curves(folder, config)
        if finished:
            checkpoint.write(folder / MODEL, trainer.kept(), {**state, "step": trainer.step})
    together(fabric, torch.zeros(1))  # all wait for the first
    return finished


def simulate(config: Config, out: str | Path) -> list[Path]:
    """Measures the images that ``config`` names and writes what was measured into the new folder ``out``: one ``.npy`` each in
    ``out/measurements``, and ``out/config.yaml``, which trains on them. The images themselves are not written.

    Raises:
        UserError: ``out`` is not empty; the data are measurements already.
    """
    out = new_folder(out)
    physics = build.build_physics(config.physics, config.data.size, config.seed)
    problem = build.build_problem(config, physics, stream=True)
    if not isinstance(problem.source, Images):
        raise UserError(f"{config.data.path}: holds measurements already; simulate measures images")
    folder = out / "measurements"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name.split('.')[0]}.npy" for name in problem.source.names]
    if len(set(paths)) < len(paths):
        paths = [folder / f"{i:05d}.npy" for i in range(len(paths))]
    for i, path in enumerate(paths):
        np.save(path, (problem.y[i] / physics.gain).numpy())
    other = config.model_copy(deep=True)
    other.name, other.out = config.name + "-simulated", None
    other.data.path, other.data.kind, other.data.stream, other.data.holdout = folder.resolve(), "measurements", False, 0
    other.data.peak = 1.0
    if not other.data.keep_out:
        other.learning.patience = 0
    if other.data.validation is not None:
        other.data.validation = other.data.validation.resolve()
    (out / "config.yaml").write_text(dump(other))
    return paths


def overview(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(folder, state, problem, scores) of every run below ``folder``."""
    for path in sorted(p.parent for p in folder.rglob("config.yaml") if is_run(p.parent)):
        try:
            config = read_config(path)
        except UserError as error:
            yield str(path), "unreadable", "", str(error)
            continue
        log = report.read_log(path)
        steps = f"{log[-1]['step'] if log else 0}/{config.learning.steps} steps"
        state = f"trained, {steps}" if (path / MODEL).exists() else steps
        scores: list[str] = []
        valid: dict[str, float] = next((r["validation"] for r in reversed(log) if r.get("validation")), {})
        if valid:
            scores.append("validation " + " ".join(f"{k} {v:.4g}" for k, v in valid.items()))
        for where, results in evaluations(path):
            name = where.name if where != path else "evaluation"
            scores.append(f"{name} {results['methods']['equipoise']['psnr']:.2f} dB")
        yield str(path), state, f"{config.physics.kind} {config.data.size}²", "; ".join(scores)


def evaluations(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, results) of every evaluation against the truth that a run's folder holds."""
    for path in sorted([*run.glob("evaluation-*/results.json"), *run.glob("results.json")]):
        results = json.loads(path.read_text())
        if "psnr" in results["methods"]["equipoise"]:
            yield path.parent, results


def is_run(folder: Path) -> bool:
    """Whether the folder was made by :func:`train_run`."""
    readme = folder / "README.txt"
    return (folder / "config.yaml").is_file() and readme.is_file() and readme.read_text(errors="replace").startswith(MARK)


def read_config(folder: Path) -> Config:
    """The configuration of a run folder."""
    path = folder / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML any more ({error}); restore it from the run's checkpoint or a backup") from error
    return parse(tree, str(path))


def _whole(path: Path) -> bool:
    try:
        checkpoint.read(path)
    except UserError:
        return False
    return True


def versions() -> dict[str, str]:
    """What a run was made with: packages, Python, and the state of the git repository it was started in, if there is one."""
    import deepinv

    from . import __version__

    out = {"equipoise": __version__, "torch": torch.__version__, "deepinv": deepinv.__version__}
    out["python"] = platform.python_version()
    for key, command in (("git", ("rev-parse", "HEAD")), ("uncommitted", ("status", "--short"))):
        try:
            out[key] = subprocess.run(("git", *command), capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            break
    return out


PAGE_EVERY = 60  # seconds between the pages of a run that goes on; one takes about a second
VALIDATED = 16  # measurements of which a part is kept out, that are looked at


def _validator(
    config: Config, held: build.Problem | None, trainer: Trainer, apart: list[Any] | None, noise: float
) -> Callable[[], dict[str, float]] | None:
    """Scores of the averaged weights: PSNR (where there is truth) and misfit on ``held``; ``held_out``, the relative misfit to
    what was kept out of the measurements that are trained on (operator and data in ``apart``)."""
    if held is None and apart is None:
        return None
    device = trainer.fabric.device
    evaluator = build.build_model(config.model, trainer.physics.image_shape[0], noise).to(device)
    operator = None if held is None else on_device(held.physics, device)
    left, y_left = (None, None) if apart is None else (on_device(apart[0], device), apart[1])
    evaluator.stop = Stop(config.model.test_rtol, config.model.test_max_steps)

    def of(y: Tensor) -> Tensor:
        return y.to(trainer.fabric.device, next(evaluator.parameters()).dtype)

    def validate() -> dict[str, float]:
        evaluator.load_state_dict(trainer.averaged())
        out: dict[str, float] = {}
        with torch.no_grad():
            if held is not None:
                y = of(held.y)
                solved = evaluator.equilibrium(y, operator)
                out["misfit"] = float(misfit(solved.value, y, operator).double().mean())
                if held.truth is not None:
                    out["psnr"] = float(psnr(solved.value, of(held.truth)).mean())
                out["unsolved"] = float((~solved.converged).float().mean())
            if y_left is not None:
                index = torch.arange(len(y_left))[:VALIDATED]
                solved = evaluator.equilibrium(of(trainer.y[index]), select(trainer.physics, index, len(y_left)))
                predicted = misfit(solved.value, of(y_left[index]), select(left, index, len(y_left)))
                out["held_out"] = float(predicted.double().mean())
        return out

    return validate


def write_curves(folder: Path, config: Config, reload: int = 0) -> None:
    """The page of a run: as it ended, or, with ``reload`` (seconds), as it stands."""
    log = report.read_log(folder)
    if not log:
        return
    png = report.save_png(report.curves(log), folder / "curves.png")
    last = log[-1]
    skipped, shortened = (sum(1 for r in log if r.get(k)) for k in ("skipped", "shortened"))
    words = [
        f"{last['step']} of {config.learning.steps} steps; the last solve took {last['forward']:.0f} evaluations forward and "
        f"{last['adjoint']:.0f} backward; {skipped} steps were skipped, {shortened} shortened.",
        f"Command: {' '.join(['equipoise', *sys.argv[1:]])}",
    ]
    report.page(
        folder / "curves.html",
        f"Training of {config.name}",
        words,
        [(png, "Loss parts, solver steps, residuals, validation")],
        config=dump(config),
        reload=reload,
    )


def load_run(folder: str | Path) -> Run:
    """The trained model of a run folder, ready to reconstruct.

    Raises:
        UserError: no run there, or its files are damaged.
    """
    folder = Path(folder)
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise UserError(f"{folder}: no run of Equipoise there (no config.yaml); train one with: equipoise train CONFIG")
    config = read_config(folder)
    config.out = folder
    if (folder / MODEL).exists():
        try:
            saved = checkpoint.read(folder / MODEL)
        except UserError as error:
            raise UserError(f"{error}; make it anew from the checkpoint with: equipoise train {config_file}") from error
        weights = saved.tensors
    else:
        latest, _ = checkpoint.load_latest(folder)
        if latest is None:
            raise UserError(f"{folder}: not trained yet; run: equipoise train {config_file}")
        saved = latest
        weights = {k.removeprefix("average."): v for k, v in saved.tensors.items() if k.startswith("average.")}
    physics = build.build_physics(config.physics, config.data.size, config.seed)
    build.set_noise(physics, config.physics, saved.state["noise"])
    model = build.build_model(config.model, physics.image_shape[0], saved.state["noise"], denoiser=saved.state.get("denoiser"))
    try:
        model.load_state_dict(weights, strict=(folder / MODEL).exists())
    except RuntimeError as error:
        raise UserError(f"{config_file}: describes another model than the weights beside it; restore the file ({error})") from error
    model.stop = Stop(config.model.test_rtol, config.model.test_max_steps)
    model.eval()
    return Run(folder, config, physics, model, saved.state["noise"])


def reconstruct(run: Run, data: str | Path, out: str | Path, say: Callable[[str], None] = print) -> Equilibrium:
    """Reconstructs ``data`` into the new folder ``out``: images in the input's kind, ``preview.png``, ``report.json``."""
    fabric, out = processes(), new_folder(out)
    problem = build.build_problem(run.config, run.physics, Path(data))
    solved = run.solve(problem, fabric=fabric)
    if fabric.global_rank:
        return solved
    x: Tensor = solved.value
    names = problem.source.names
    native = x * run.config.data.peak if isinstance(problem.source, Measurements) else x
    paths = write_images(problem.source, native, out)
    report.save_png(report.grid(problem.y, {"equipoise": x}, problem.truth, names), out / "preview.png")
    rows = solve_rows(solved, names)
    for row, far in zip(rows, misfit(x, problem.y, problem.physics).tolist()):
        row["misfit"] = far
    about = {
        "run": str(run.folder),
        "data": str(data),
        "measured": "the images in DATA were measured with the run's operator and noise first"
        if problem.truth is not None
        else "DATA",
        "images": rows,
    }
    (out / "report.json").write_text(json.dumps(about, indent=1))
    for row in rows:
        residual = "not finite" if row["residual"] is None else f"{row['residual']:.1e}"
        say(f"{row['name']}: residual {residual} after {row['steps']} steps, {row['status']}, misfit {row['misfit']:.1e}")
    say(f"wrote {len(paths)} file(s), preview.png and report.json to {out}")
    return solved


def unseen_phantoms(config: Config, physics: Any, count: int) -> build.Problem:
    """Phantoms of another seed than the run's, measured."""
    config = config.model_copy(deep=True)
    config.data = config.data.model_copy(update={"path": None, "kind": "phantoms", "count": count})
    return build.build_problem(config, physics, seed=config.seed + 500_000)


def unseen(config: Config, physics: Any, data: str | Path | None = None, count: int = 24) -> tuple[build.Problem, str]:
    """What training did not see, and its name: ``data``, or the configuration's ``data.validation`` or held-out patients, or,
    for a run on phantoms, ``count`` of another seed.

    Raises:
        UserError: there is nothing of the kind, or it cannot be read.
    """
    d = config.data
    data = d.validation if data is None else Path(data)
    if data is not None:
        return build.build_problem(config, physics, data, config.seed + 1000), str(data)
    if d.holdout:
        return build.hold_out(build.build_problem(config, physics), d.holdout)[1], "held-out"
    if d.path is not None and d.kind != "phantoms":
        raise UserError(
            f"{config.name}: name the data to score on (what it was trained on would flatter it): equipoise evaluate RUN DATA, or "
            "data.validation=…, or data.holdout=0.2"
        )
    return unseen_phantoms(config, physics, count), "phantoms"


def evaluate(run: Run, data: str | Path | None = None, folder: Path | None = None, count: int = 24) -> Table:
    """Scores the run, its start and the classical methods on the same measurements; writes the table and pictures.

    Args:
        data: images (measured here) or measurements. None: the configuration's ``data.validation``, or, for a run on
            phantoms, ``count`` of another seed.
        folder: where to; default: a folder in the run's, named after the data.

    Raises:
        UserError: there is no data to score on, or it cannot be read.
    """
    problem, what = unseen(run.config, run.physics, data, count)
    physics, y = problem.physics, problem.y
    about = {
        "data": what,
        "images": len(y),
        "size": run.config.data.size,
        "physics": run.config.physics.model_dump(mode="json", exclude_none=True),
        "seed": run.config.seed,
        "tuning": "window, iterations and weight of the classical methods are the best for the first eight of these very images"
        if problem.truth is not None
        else "defaults",
    }
    table = Table(about, problem.source.names)
    for name, (x, setting, _) in classical(y, physics, problem.truth).items():
        table.add(name, x, y, physics, problem.truth, setting)
    start = build.build_model(run.config.model, physics.image_shape[0], run.noise, run.config.seed)
    start.stop = run.model.stop
    with torch.no_grad():
        before = Run(run.folder, run.config, physics, start, run.noise).solve(problem)
    table.add("untrained", before.value, y, physics, problem.truth, f"denoiser: {run.config.model.denoiser}")
    solved = run.solve(problem)
    late = int((~solved.converged).sum())
    setting = f"{float(solved.steps.float().mean()):.0f} evaluations" + (f"; {late} of {len(y)} not converged" if late else "")
    table.add("equipoise", solved.value, y, physics, problem.truth, setting)
    table.solve = solved
    about["contraction"] = run.contraction(problem, solved.value)
    if folder is None:
        folder = _evaluation_folder(run.folder, what)
    folder.mkdir(parents=True, exist_ok=True)
    table.folder = folder
    table.save(folder)
    picture = report.save_png(report.grid(y, table.images, problem.truth, problem.source.names), folder / "grid.png")
    figures = [(picture, "Measurement, every method and the truth; error maps on one scale under each row")]
    if (curves := run.folder / "curves.png").exists():
        figures.append((curves.read_bytes(), "Training: loss parts, solver steps, residuals, validation"))
    what = f"on {len(y)} phantoms that training did not see" if what == "phantoms" else f"on {what}"
    report.page(
        folder / "report.html",
        f"{run.config.name} {what}",
        _words(table),
        figures,
        table.columns_and_rows(),
        CONVENTIONS,
        dump(run.config),
        report.pictures(table.images, problem.truth, problem.source.names),
    )
    return table


def _evaluation_folder(run: Path, data: str) -> Path:
    """Named after the data; other data of the same name gets a number."""
    stem = Path(data).resolve().name.split(".")[0]
    for k in range(1, 1000):
        folder = run / (f"evaluation-{stem}" if k == 1 else f"evaluation-{stem}-{k}")
        results = folder / "results.json"
        if not results.exists() or json.loads(results.read_text())["problem"]["data"] == data:
            return folder
    raise UserError(f"{run}: a thousand evaluations named {stem}; remove some")


def _words(table: Table) -> list[str]:
    mean = {m: sum(s["psnr"]) / len(s["psnr"]) for m, s in table.scores.items() if "psnr" in s}
    words = [
        "Trained from measurements alone: no clean image of this problem was used. "
        "The denoiser it starts from was trained on synthetic images."
    ]
    if mean:
        rest = ", ".join(f"{report.label(m)} {v:.2f}" for m, v in mean.items() if m != "equipoise")
        words.append(f"Equipoise reaches {mean['equipoise']:.2f} dB on average; {rest} dB.")
        words.append(f"In the classical methods' favour: {table.problem['tuning']}.")
    words.append(table.problem["contraction"]["words"])
    words.append(f"Command: equipoise {' '.join(sys.argv[1:])}")
    return words
