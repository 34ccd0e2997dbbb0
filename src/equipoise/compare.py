"""Every method on the same measurements: trained, tuned, scored over seeds, and told apart by intervals.

compare/NAME/
  config.yaml           what was compared
  METHOD-SEED/          the run of each learned method
  scores/*.json         of each method and seed: per image, with costs; on other problems
  results.json          all of them, with means, deviations and intervals
  table.md, report.html for reading
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import build, runs
from .assessment import report
from .assessment.baselines import FAMILIES, classical
from .assessment.metrics import CONVENTIONS, bootstrap, psnr, ssim, summary
from .config import Config, dump, parse
from .equilibrium import Stop, Unrolled
from .errors import UserError
from .imaging.groups import Rotations
from .imaging.operators import select

#: How each learned method differs from the configuration; all else (data, start, budget) is the same. First those that
#: have its objective, then those that are the equilibrium with some of its terms.
GRADIENTS: dict[str, dict[str, Any]] = {
    "implicit": {"model.gradient": "implicit"},
    "jacobian_free": {"model.gradient": "jacobian_free"},
    "phantom": {"model.gradient": "phantom"},
    "unrolled_5": {"model.gradient": "unrolled", "model.depth": 5, "objective.contraction": 0},
    "unrolled_10": {"model.gradient": "unrolled", "model.depth": 10, "objective.contraction": 0},
    "untied_5": {"model.gradient": "unrolled", "model.depth": 5, "model.untied": True, "objective.contraction": 0},
}
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "consistency": ("consistency",),
    "ei": ("consistency", "equivariance"),
    "sure_ei": ("sure", "equivariance"),
    "splitting": ("splitting",),
    "supervised": ("supervised",),
}
TERMS = "consistency", "equivariance", "splitting", "operators", "sure", "r2r", "supervised", "variation"
#: The denoiser as it comes, in a step: λ, as a multiple of what the noise asks for, and σ are tuned. RED has the equilibria
#: of plug-and-play with the same λ and σ, Aᵀ(A x − y) + λ (x − D(x)) = 0, and takes its.
PLUGGED: dict[str, dict[str, Any]] = {
    "pnp": {"model.step": "proximal"},
    "equivariant_pnp": {"model.step": "proximal", "model.invariant": "quarter_turns"},
    "red": {"model.step": "red"},
}
STOPPED = "in a row were skipped"  # what a training that gives up says: a result, where other errors are not
STRENGTHS, SIGMAS = (0.3, 1.0, 3.0, 10.0), (0.01, 0.02, 0.04, 0.08)
#: Of unrolling, before it is trained: few steps get further with a larger λ.
STRONGER = (1.0, 3.0, 10.0, 30.0, 100.0)
TUNED_ON = 8  # images of the training data


def _true(problem: build.Problem) -> Tensor:
    if problem.truth is None:
        raise UserError(
            f"{problem.source.path}: holds measurements, so there is no truth to tune on or to compare with; name images, as "
            "data.path and data.validation"
        )
    return problem.truth


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with other values at dotted keys."""
    tree = config.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return parse(tree, config.name)


def learned(config: Config) -> dict[str, Config]:
    """Name → configuration of every learned method; what cannot be learnt from, or is another of them again, is left out."""
    config = changed(config, {"model.gradient": "implicit", "model.untied": False})
    out = {name: changed(config, changes) for name, changes in GRADIENTS.items()}
    for name, terms in OBJECTIVES.items():
        weights = {f"objective.{k}": (getattr(config.objective, k) or 1.0) if k in terms else 0.0 for k in TERMS}
        new = changed(config, weights)
        if new not in out.values() and (name != "splitting" or config.objective.splitting):
            out[name] = new
    return out


@dataclass
class Comparison:
    """What is compared, and where it is kept.

    Args:
        config: of the problem, and of the reference method.
        methods: name → configuration of each learned method.
        classic: classical and plug-and-play methods that are taken in too.
        out: folder; what is there already is not repeated.
        seeds: seed, seed + 1, …; a seed changes noise, masks, batches and draws (and phantoms), but not which images of a
            file are held out.
        only: what is trained, tuned and scored now; the rest is taken in where it has been already. None: all.
    """

    config: Config
    methods: dict[str, Config]
    classic: list[str]
    out: Path
    seeds: int
    only: list[str] | None = None

    def names(self) -> list[str]:
        """What is asked for now."""
        return [m for m in (*self.classic, *self.methods) if self.only is None or m in self.only]

    def text(self) -> str:
        """What the folder is known by: the configuration, or those that are compared with each other."""
        return dump(self.config) if self.classic else "---\n".join(map(dump, self.methods.values()))

    def every_seed(self) -> range:
        return range(self.config.seed, self.config.seed + self.seeds)

    def run_folder(self, method: str, seed: int) -> Path:
        return self.out / f"{method}-{seed}"

    def score_file(self, method: str, seed: int) -> Path:
        return self.out / "scores" / f"{method}-{seed}.json"

    # ------------------------------------------------------------------------------------------------ work

    def train(self, jobs: int, say: Callable[[str], None]) -> None:
        """Trains what is not trained yet, ``jobs`` at once, each `equipoise train` in a process of its own."""
        asked = {m: self.methods[m] for m in self.names() if m in self.methods}
        for method, config in asked.items():
            if config.model.gradient == "unrolled" and config.model.strength is None:
                asked[method] = changed(config, self.tuned(method, config, [config.model.sigma], STRONGER, say))
        todo = [(m, s) for s in self.every_seed() for m in asked if not self.score_file(m, s).exists()]
        threads = max(1, torch.get_num_threads() // jobs)

        def one(task: tuple[str, int]) -> None:
            method, seed = task
            folder = self.run_folder(method, seed)
            if (folder / "cost.json").exists():
                return
            config = asked[method].model_copy(update={"seed": seed, "out": folder, "name": method})
            path = folder.with_suffix(".yaml")
            path.write_text(dump(config))
            with folder.with_suffix(".log").open("a") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "equipoise", "train", str(path)],
                    env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                    stdout=log,
                    stderr=log,
                )
                _, status, usage = os.wait4(process.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if code < 0 or code == 130:
                raise UserError(f"{folder}: training was interrupted; the same command goes on from there")
            steps = report.read_log(folder)
            seconds = sum(config.learning.batch / r["images_per_second"] for r in steps)
            failed = (folder.with_suffix(".log").read_text().strip() or f"exit status {code}").splitlines()[-1] if code else ""
            if failed and STOPPED not in failed:
                say(f"not trained: {method}, seed {seed}: {failed}")
                return
            cost = {"train_seconds": seconds, "memory_mb": usage.ru_maxrss / 1024, "threads": threads, "failed": failed}
            folder.mkdir(exist_ok=True)
            (folder / "cost.json").write_text(json.dumps(cost))
            say(f"trained {method}, seed {seed}: {seconds / 60:.1f} min" + (f"; {failed}" if failed else ""))

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, todo))

    def problem(self, seed: int) -> tuple[build.Problem, str]:
        """The measurements to score on: those of the seed."""
        config = self.config.model_copy(update={"seed": seed})
        physics = build.build_physics(config.physics, config.data.size, seed)
        problem, what = runs.unseen(config, physics)
        _true(problem)
        return problem, what

    @cached_property
    def tuning(self) -> build.Problem:
        """Measurements to tune on: a few of the training images, measured as in the first seed."""
        config = self.config
        physics = build.build_physics(config.physics, config.data.size, config.seed)
        problem = build.build_problem(config, physics)
        if config.data.holdout:
            problem = build.hold_out(problem, config.data.holdout)[0]
        some = torch.linspace(0, len(problem.y) - 1, min(TUNED_ON, len(problem.y))).long()
        source = problem.source.subset(some.tolist())
        return build.Problem(problem.physics, problem.y[some], problem.noise, source, _true(problem)[some])

    def tuned(
        self, method: str, config: Config, sigmas: Iterable[float], strengths: Iterable[float], say: Callable[[str], None]
    ) -> dict[str, Any]:
        """The λ and σ with which the untrained model of ``config`` does best on the images to tune on."""
        cache = self.out / "scores" / f"{method}-tuning.json"
        if cache.exists():
            found: dict[str, Any] = json.loads(cache.read_text())
            return found
        cache.parent.mkdir(parents=True, exist_ok=True)
        tuning, best, setting = self.tuning, -float("inf"), {}
        for sigma in sigmas:
            for times in strengths:
                strength = times * max(build.MIN_STRENGTH[0], (tuning.noise / sigma) ** 2)
                changes = {"model.sigma": sigma, "model.strength": strength}
                model = build.build_model(changed(config, changes).model, self._channels(tuning), tuning.noise)
                model.stop, model.on_failure = Stop(1e-3, 60), "ignore"
                with torch.no_grad():
                    score = float(psnr(model(tuning.y, tuning.physics), _true(tuning)).mean())
                if score > best:
                    best, setting = score, changes
        say(f"tuned {method}: " + ", ".join(f"{k.removeprefix('model.')}={v:.3g}" for k, v in setting.items()))
        cache.write_text(json.dumps(setting))
        return setting

    @staticmethod
    def _channels(problem: build.Problem) -> int:
        return int(problem.physics.image_shape[0])

    def score(self, say: Callable[[str], None]) -> None:
        """Scores what is not scored yet."""
        (self.out / "scores").mkdir(parents=True, exist_ok=True)
        for seed in self.every_seed():
            missing = [m for m in self.names() if not self.score_file(m, seed).exists()]
            if not missing:
                continue
            problem, _ = self.problem(seed)
            if any(m in FAMILIES for m in missing):
                found = classical(problem.y, problem.physics, None, (self.tuning.y, _true(self.tuning), self.tuning.physics))
                for method in (m for m in FAMILIES if m in missing):
                    if method in found:
                        x, setting, seconds = found[method]
                        self._write(method, seed, x, problem, {"setting": setting, "seconds": seconds / len(x)})
                    else:
                        self.score_file(method, seed).write_text("{}")  # does not apply to this operator
            for method in (m for m in missing if m not in FAMILIES):
                if method in PLUGGED:
                    run, about = self._plug(method, problem, say)
                elif not (cost := self.run_folder(method, seed) / "cost.json").exists():
                    continue  # training it came to an error
                else:
                    about = json.loads(cost.read_text())
                    if about["failed"]:
                        self.score_file(method, seed).write_text(json.dumps(about))
                        continue
                    run = runs.load_run(self.run_folder(method, seed))
                    if run.config.model.gradient == "unrolled" and run.config.model.strength is not None:
                        about["setting"] = f"strength {run.config.model.strength:.2g}"
                first = select(problem.physics, torch.arange(1), len(problem.y))
                run.solve(replace(problem, physics=first, y=problem.y[:1]))  # what a geometry needs once is not counted
                started = time.perf_counter()
                solved = run.solve(problem)
                about["seconds"] = (time.perf_counter() - started) / len(problem.y)
                about["evaluations"] = float(solved.steps.double().mean())
                about["converged"] = float(solved.converged.double().mean())
                about["parameters"] = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
                self._write(method, seed, solved.value, problem, about)
                say(f"scored {method}, seed {seed}: {float(psnr(solved.value, _true(problem)).mean()):.2f} dB")

    def _plug(self, method: str, problem: build.Problem, say: Callable[[str], None]) -> tuple[runs.Run, dict[str, Any]]:
        config = changed(self.config, PLUGGED[method])
        like = "pnp" if method == "red" else method
        config = changed(config, self.tuned(like, changed(self.config, PLUGGED[like]), SIGMAS, STRENGTHS, say))
        model, strength = build.build_model(config.model, self._channels(problem), problem.noise), config.model.strength
        assert strength is not None
        model.stop = Stop(config.model.test_rtol, config.model.test_max_steps)
        if like != method:  # where A does not see, RED's steps are λ / (1 + λ) of plug-and-play's: so is what a residual means
            model.stop = Stop(model.stop.rtol * strength / (1 + strength), 10 * model.stop.max_steps)
        setting = f"sigma {config.model.sigma:g}, strength {strength:.2g}"
        return runs.Run(self.out, config, problem.physics, model, problem.noise), {"setting": setting}

    def _write(self, method: str, seed: int, x: Tensor, problem: build.Problem, about: dict[str, Any]) -> None:
        scores = {"psnr": psnr(x, _true(problem)).tolist(), "ssim": ssim(x, _true(problem)).tolist()}
        scores |= {"names": problem.source.names, "patients": problem.source.patients}
        if seed == self.config.seed:
            np.save(self.out / "scores" / f"{method}.npy", x[:SHOWN].numpy())
        self.score_file(method, seed).write_text(json.dumps(scores | about))

    def images(self) -> dict[str, Tensor]:
        """The first few images of every method, for the first seed."""
        files = {m: self.out / "scores" / f"{m}.npy" for m in self.names()}
        return {m: torch.from_numpy(np.load(file)) for m, file in files.items() if file.exists()}

    # ------------------------------------------------------------------------------------------------ outcome

    def collect(self) -> dict[str, list[dict[str, Any]]]:
        """Method → what was scored, seed by seed, now or before; methods that do not apply are left out."""
        out = {}
        for method in (*self.classic, *self.methods):
            files = [self.score_file(method, s) for s in self.every_seed()]
            found = [json.loads(file.read_text()) for file in files if file.exists()]
            if len(found) == self.seeds and any(found):
                out[method] = found
        if not out:
            raise UserError(f"{self.out}: none of {', '.join(self.names())} could be scored on this problem; see the lines above")
        return out

    def reference(self, found: dict[str, list[dict[str, Any]]]) -> str:
        """What differences are from: the first learned method, which is the (first) configuration as it is, if it is taken in."""
        return next(m for m in (*self.methods, *self.classic) if m in found)

    def summarise(self, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Method → means, deviations over seeds, and the interval of its difference from the reference, of what was collected."""
        against, out = found[self.reference(found)], {}
        for method, seeds in found.items():
            good = [s for s in seeds if "psnr" in s]
            row: dict[str, Any] = {"seeds": len(good), "failed": [s["failed"] for s in seeds if s.get("failed")]}
            for key in ("psnr", "ssim") if good else ():
                means = [sum(s[key]) / len(s[key]) for s in good]
                row[key] = sum(means) / len(means)
                row[f"{key}_std"] = float(torch.tensor(means, dtype=torch.float64).std()) if len(means) > 1 else None
            for key in ("evaluations", "converged", "seconds", "train_seconds", "memory_mb", "parameters"):
                values = [s[key] for s in good if key in s]
                row[key] = sum(values) / len(values) if values else None
            row["setting"] = good[0].get("setting", "") if good else ""
            pairs = [(s, a) for s, a in zip(seeds, against) if "psnr" in s and "psnr" in a]
            if pairs and seeds is not against:
                difference = torch.tensor([[p - q for p, q in zip(s["psnr"], a["psnr"])] for s, a in pairs])
                row["difference"], row["low"], row["high"] = bootstrap(difference, pairs[0][0]["patients"])
            out[method] = row
        return out

    # ------------------------------------------------------------------------------------------------ elsewhere

    def generalise(self, say: Callable[[str], None]) -> dict[str, dict[str, dict[str, list[float]]]]:
        """The trained models as they are, on other problems: axis → value → method → mean PSNR of each seed."""
        out: dict[str, dict[str, dict[str, list[float]]]] = {}
        files = {(m, s): self.out / "scores" / f"elsewhere-{m}-{s}.json" for m in self.methods for s in self.every_seed()}
        for seed in self.every_seed():
            folders = {m: self.run_folder(m, seed) for m in self.names() if m in self.methods and not files[m, seed].exists()}
            folders = {m: folder for m, folder in folders.items() if (folder / runs.MODEL).exists()}
            problems: list[tuple[str, str, build.Problem, int | None]] = []
            if folders:
                problems += [
                    (axis, v, self._other(seed, changes, turn), None) for axis, v, changes, turn in _elsewhere(self.config)
                ]
                here, _ = self.problem(seed)
                problems += [("most iterations", str(n), here, n) for n in ITERATIONS]
            for method, folder in folders.items():
                found: dict[str, dict[str, float]] = {}
                for axis, value, other, most in problems:
                    run = runs.load_run(folder)
                    if most is not None:
                        if run.config.model.untied:
                            continue
                        run.model.stop = Stop(0.0, most)
                        if run.config.model.gradient == "unrolled":
                            run.model.gradient = Unrolled(most)
                    found.setdefault(axis, {})[value] = float(psnr(run.solve(other).value, _true(other)).mean())
                files[method, seed].write_text(json.dumps(found, indent=1))
                say(f"tried elsewhere: {method}, seed {seed}")
        for method in self.methods:
            seeds = [json.loads(files[method, s].read_text()) for s in self.every_seed() if files[method, s].exists()]
            for axis, values in (seeds[0] if len(seeds) == self.seeds else {}).items():
                for value in values:
                    out.setdefault(axis, {}).setdefault(value, {})[method] = [s[axis][value] for s in seeds]
        return out

    def _other(self, seed: int, changes: dict[str, Any], turn: float) -> build.Problem:
        config = changed(self.config, changes).model_copy(update={"seed": seed})
        physics = build.build_physics(config.physics, config.data.size, seed)
        problem, _ = runs.unseen(config, physics)
        if turn:
            problem.truth = Rotations().transform(_true(problem), theta=torch.full((len(problem.y),), turn))
            problem.y, problem.noise = build.measure(problem.truth, problem.physics, config.physics, seed + 1)
        return problem


ITERATIONS = (3, 5, 10, 20, 40, 80)  # evaluations of f at test time


def _elsewhere(config: Config) -> list[tuple[str, str, dict[str, Any], float]]:
    """(axis, value, changes, turn in degrees): more and fewer measurements, more noise, other anatomy."""
    p = config.physics
    out: list[tuple[str, str, dict[str, Any], float]] = []
    views, times = getattr(p, "angles", None), getattr(p, "acceleration", None)
    if isinstance(views, int):
        out += [("views", str(n), {"physics.angles": n}, 0) for n in (views // 2, views, round(1.5 * views), 2 * views)]
    if times is not None:
        out += [("acceleration", f"{f:g}", {"physics.acceleration": f}, 0) for f in (times / 2, times, 1.5 * times)]
    if p.photons is None:
        out += [("noise", f"{p.noise * f:g}", {"physics.noise": p.noise * f}, 0) for f in (1, 3, 10, 30)]
    out += [("anatomy", "as trained", {}, 0), ("anatomy", "turned by 30°", {}, 30.0)]
    phantoms = {"data.kind": "phantoms", "data.path": None, "data.validation": None, "data.holdout": 0}
    return [*out, ("anatomy", "phantoms", phantoms, 0)]


SHOWN = 3  # images in the page's grid


def plan(configs: list[Config], out: Path | None, seeds: int, only: list[str] | None = None) -> Comparison:
    """One configuration: all methods. Several, on the same data: those, the first being what the others are compared with.

    Raises:
        UserError: their data or operators differ; two share a name; a method is not known.
    """
    config = configs[0]
    out = Path("compare") / config.name if out is None else out
    if len(configs) > 1:
        for other in configs[1:]:
            if (other.data, other.physics, other.seed) != (config.data, config.physics, config.seed):
                raise UserError(
                    f"{other.name} and {config.name} differ in data, physics or seed, so their scores cannot be compared"
                )
        methods, classic = {c.name: c for c in configs}, []
        if len(methods) < len(configs):
            raise UserError("two configurations share a name; give each its own with name: …")
    else:
        methods, classic = learned(config), [*FAMILIES, *PLUGGED]
    if unknown := [m for m in only or () if m not in (*classic, *methods)]:
        raise UserError(f"no method is called {', '.join(unknown)} here; there are {', '.join((*classic, *methods))}")
    return Comparison(config, methods, classic, out, seeds, only)


def compare(task: Comparison, jobs: int = 1, say: Callable[[str], None] = print, elsewhere: bool = False) -> dict[str, Any]:
    """Trains, tunes and scores what is missing, and writes results, table and page.

    Raises:
        UserError: the folder holds another comparison; the data have no truth.
    """
    out, text = task.out, task.text()
    if (out / "config.yaml").exists() and (out / "config.yaml").read_text() != text:
        raise UserError(
            f"{out}: holds the comparison of another configuration; nothing was changed. Name another folder with --out"
        )
    if out.exists() and not (out / "config.yaml").exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and no comparison; nothing was written. Name another folder with --out")
    problem, what = task.problem(task.config.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(text)
    say(f"{len(task.names())} methods, {task.seeds} seeds; scored on {len(problem.y)} images ({what})")
    task.train(jobs, say)
    task.score(say)
    found = task.collect()
    table = task.summarise(found)
    about = {
        "command": " ".join(["equipoise", *sys.argv[1:]]),
        "data": what,
        "reference": report.label(task.reference(found)),
        "images": len(problem.y),
        "patients": len(set(problem.source.patients)),
        "seeds": list(task.every_seed()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads for scoring",
        "versions": runs.versions(),
        "conventions": CONVENTIONS,
        "tuning": f"classical, plug-and-play and unrolled methods: best PSNR on {TUNED_ON} of the true images whose measurements "
        "are trained on; the other learned methods are not tuned",
    }
    (out / "results.json").write_text(json.dumps({"about": about, "table": table, "scores": found}, indent=1))
    others = task.generalise(say) if elsewhere else {}
    columns, rows = _rows(table)
    (out / "table.md").write_text(_markdown(task.config.name, about, columns, rows, others))
    figures = [
        (report.save_png(report.boxes(found), out / "boxes.png"), "PSNR of every image, over all seeds"),
        (report.save_png(report.cost(table), out / "cost.png"), "Quality against what a reconstruction costs"),
    ]
    if others:
        png = report.save_png(report.elsewhere(others), out / "elsewhere.png")
        figures.append((png, "The same models, unchanged, on other problems: mean PSNR, and its range over seeds"))
    viewer = []
    if images := task.images():
        truth = _true(problem)[:SHOWN]
        viewer = report.pictures(images, truth, problem.source.names, SHOWN)
        grid = report.grid(problem.y[:SHOWN], images, truth, problem.source.names, SHOWN)
        figures.insert(0, (report.save_png(grid, out / "grid.png"), "Measurement, methods and truth; error maps on one scale"))
    report.page(
        out / "report.html", f"Comparison: {task.config.name}", _words(about), figures, (columns, rows), CONVENTIONS, text, viewer
    )
    return table


def _rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    columns = ["method", "PSNR (dB)", "SSIM", "difference (dB)", "95 % interval", "evaluations", "converged"]
    columns += ["ms / image", "training (min)", "memory (MB)", "parameters", "setting"]
    rows = []
    for method, r in table.items():
        minutes = None if r["train_seconds"] is None else r["train_seconds"] / 60
        row = [report.label(method)]
        over = {key: "" if r.get(f"{key}_std") is None else f" ± {r[f'{key}_std']:.{n}f}" for key, n in (("psnr", 2), ("ssim", 4))}
        row += [f"{r['psnr']:.2f}{over['psnr']}", f"{r['ssim']:.4f}{over['ssim']}"] if "psnr" in r else ["–", "–"]
        row += [f"{r['difference']:+.2f}", f"{r['low']:+.2f} … {r['high']:+.2f}"] if "difference" in r else ["–", "–"]
        row += [number(r["evaluations"], ".0f"), number(r["converged"], ".0%")]
        row += [number(None if r["seconds"] is None else 1e3 * r["seconds"], ".1f"), number(minutes, ".1f")]
        row += [number(r["memory_mb"], ".0f"), number(r["parameters"], ",.0f")]
        row += ["; ".join(text for text in (r["setting"], *r["failed"]) if text)]
        rows.append(row)
    return columns, rows


def _markdown(name: str, about: dict[str, Any], columns: list[str], rows: list[list[str]], others: dict[str, Any]) -> str:
    lines = [f"## {name}", "", *_words(about), ""]
    lines += [f"| {' | '.join(r)} |" for r in (columns, ["---"] * len(columns), *rows)]
    for axis, values in others.items():
        methods = list(dict.fromkeys(m for scores in values.values() for m in scores))
        lines += ["", f"PSNR (dB), mean over seeds, of the same models with other {axis}:", ""]
        head = ["", *values]
        cells = [[report.label(m), *(f"{summary(s[m])[0]:.2f}" if m in s else "–" for s in values.values())] for m in methods]
        lines += [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *cells)]
    return "\n".join(lines) + "\n"


def _words(about: dict[str, Any]) -> list[str]:
    resampled = "patients" if about["patients"] > 1 else "images (one volume)"
    return [
        f"`{about['command']}`",
        f"{about['images']} images of {about['patients']} patient(s), {about['data']}; seeds {about['seeds']}; {about['machine']}.",
        f"Mean ± standard deviation over seeds (those that trained). Difference: from {about['reference']} on the same images; its "
        f"interval from a paired bootstrap over {resampled} and seeds, widened for how few they are. Tuning of {about['tuning']}. "
        f"Metrics: {about['conventions']}.",
    ]
