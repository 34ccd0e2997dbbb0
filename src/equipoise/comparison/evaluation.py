"""One run, scored beside its start and the classical methods on the same measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..assessment import figures
from ..assessment.page import page, pictures
from ..assessment.reference import Reference, has_unseen_views, reference_of
from ..assessment.solves import solve_in_words, unfinished
from ..assessment.table import (
    Missing,
    Table,
    Value,
    reason_of,
)
from ..assessment.words import (
    command_line,
    how_far_it_was_trained,
    how_it_was_trained,
    unfinished_in_words,
)
from ..config import dump
from ..data.dataset import Dataset
from ..data.fingerprint import SAMPLES, number_known
from ..data.item import Item
from ..equilibrium import Equilibrium
from ..errors import UserError
from ..learning.log import read_log
from ..learning.processes import processes, together
from ..learning.validation import solve_dataset
from ..machine import check_writable, json_text, write_whole
from ..run import Run, load_training_data, unseen
from .bootstrap import Bootstrap
from .evaluated import TUNED_ON, Evaluation
from .fastmri import check_scorable, fastmri_table, in_words
from .method import Method, Problem, Unavailable
from .methods import PNP, classical_methods
from .plugged import untrained
from .sureness import sureness
from .tuning import Tuner

BEFORE = "Equipoise, before training"


def evaluate(
    run: Run,
    data: str | Path | None = None,
    folder: Path | None = None,
    count: int = 24,
    score: str | None = None,
    asked: Bootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Scores a run, its start and the classical methods on the same measurements, and writes
    results.json, grid.png and report.html.

    Several processes (``torchrun``) share the run's own solves and its samples; each knows the
    whole outcome, and the first one writes it.

    Args:
        run: that is scored.
        data: images (measured here) or measurements. None: the configuration's ``data.validation``
            or held-out patients, or, for a run on phantoms, ``count`` of another seed.
        folder: where to; default: a folder in the run's, named after the data.
        count: of phantoms.
        score: "fastmri": by fastMRI's measures too, see ``assessment/fastmri.py``.
        asked: also whether the run's own estimate of its errors is true.
        progress: of its samples.
        say: told what they cost, before they begin.

    Raises:
        UserError: there is no data to score on, or it cannot be read; or they have nothing that
            fastMRI's measures could compare with.
    """
    if score not in (None, "fastmri"):
        raise UserError(f"score={score}: the only other convention that is known is fastmri")
    fabric = processes()
    is_first = not fabric.global_rank
    if is_first:
        check_writable(run.folder if folder is None else folder)
    dataset, what = unseen(run.config, run.scan, data, count)
    dataset = run.with_notes(dataset)
    if score == "fastmri":
        check_scorable(dataset)
    where = "" if data is None else str(Path(data).resolve())
    folder = _folder(run.folder, what, where) if folder is None else folder
    evaluation = Evaluation({**_problem(run, dataset, what), "path": where}, dataset, folder)
    evaluation.refer_to(reference_of(dataset))
    _add_baselines(evaluation, run)
    # One by one, an image is the same to the bit in whichever process, and so are its samples.
    solved = run.solve(dataset, batch=16 if asked is None else 1, fabric=fabric)
    _add_run(evaluation, run, solved)
    if score == "fastmri":
        titles = {row.key: row.title for row in evaluation.table.rows}
        evaluation.fastmri = fastmri_table(dataset, evaluation.images, titles)
        evaluation.words += in_words(evaluation.fastmri)
    if asked is not None:
        tell = say if is_first else _silent
        evaluation.sure = sureness(run, dataset, solved.value, asked, progress, tell, fabric)
        evaluation.words[-1:-1] = evaluation.sure.words()
    if is_first:
        _write(evaluation, run, what)
    together(fabric, torch.zeros(1))  # all wait for the first
    return evaluation


def _add_baselines(evaluation: Evaluation, run: Run) -> None:
    """The classical methods, and plug-and-play where a reference stands in for the truth."""
    dataset = evaluation.dataset
    tuned_on = _to_tune_on(evaluation, run)
    tuner = Tuner(None if tuned_on is None else lambda: tuned_on, say=_silent)
    methods: list[Method] = list(classical_methods(run.config))
    if evaluation.reference is not None:
        methods.append(PNP)
    for method in methods:
        problem = Problem(run.config, dataset.scan, tuner, evaluation.folder)
        _add_method(evaluation, method, problem)


def _add_run(evaluation: Evaluation, run: Run, solved: Equilibrium) -> None:
    """The model before and after training, and what is to be said of it."""
    dataset = evaluation.dataset
    start = untrained(run.config, dataset.scan)
    start.stop = run.model.stop
    before = solve_dataset(start, dataset)
    denoiser = f"denoiser: {run.config.model.denoiser.kind}"
    evaluation.add("untrained", BEFORE, before.value, f"{denoiser}; {_solve(run, before)}")
    evaluation.add("equipoise", "Equipoise", solved.value, _solve(run, solved))
    evaluation.solved = solved
    evaluation.problem["contraction"] = _contraction(run, dataset, solved)
    trained_on = _trained_on_in_words(run, dataset.items, evaluation.problem["data"])
    if trained_on:
        evaluation.problem["trained_on"] = trained_on
    evaluation.words = _words(evaluation, run, before, solved)


def _is_unrolled(run: Run) -> bool:
    """Whether it takes some steps, and has no equilibrium that it could miss."""
    return run.config.model.gradient.kind == "unrolled"


def _solve(run: Run, solved: Equilibrium) -> str:
    if _is_unrolled(run):
        return f"{int(solved.steps.max())} unrolled steps"
    return solve_in_words(solved)


def _contraction(run: Run, dataset: Dataset, solved: Equilibrium) -> dict[str, Any]:
    if _is_unrolled(run):
        return {"words": "Its steps are unrolled: it has no equilibrium."}
    return run.contraction(dataset, solved.value)


def _problem(run: Run, dataset: Dataset, what: str) -> dict[str, Any]:
    """What is scored on."""
    return {
        "data": what,
        "data_notes": dataset.notes,
        "images": len(dataset),
        "size": run.config.data.size,
        "physics": run.config.physics.model_dump(mode="json", exclude_none=True),
        "seed": run.config.seed,
    }


def _to_tune_on(evaluation: Evaluation, run: Run) -> Dataset | None:
    """The first images with their truth; or what was trained on, where its files hold views that
    were not used. None, if there is nothing of the kind. The problem says which."""
    dataset, problem = evaluation.dataset, evaluation.problem
    problem["tuning"] = "defaults"
    if dataset.truth is not None:
        count = min(TUNED_ON, len(dataset))
        problem["tuning"] = (
            "window, iterations and weight of the classical methods are the best for the first "
            f"{count} of these very images"
        )
        return dataset.some(torch.arange(count))
    if evaluation.reference is None or run.config.data.kind == "phantoms":
        return None
    training, _ = load_training_data(run.config, run.scan)
    if not has_unseen_views(training):
        return None
    problem["tuning"] = (
        f"settings of the other methods are the best for the unseen views of up to {TUNED_ON} "
        "scans that were trained on"
    )
    return training.spread(TUNED_ON)


def _add_method(evaluation: Evaluation, method: Method, problem: Problem) -> None:
    """The method's row, with its scores, or with the reason why it has none."""
    try:
        fitted = method.fit(problem)
        found = fitted.reconstruct(evaluation.dataset)
        images = found.value if isinstance(found, Equilibrium) else found
        evaluation.add(method.name, method.label, images, fitted.setting)
    except Unavailable as error:
        evaluation.add_missing(method.name, method.label, Missing(str(error)))
    except Exception as error:  # a method may come to any; its row says which
        missing = Missing(reason_of(error), failed=True)
        evaluation.add_missing(method.name, method.label, missing)


def _silent(_: str) -> None:
    pass


def _words(evaluation: Evaluation, run: Run, before: Equilibrium, solved: Equilibrium) -> list[str]:
    """What the page says: what the run did, what it reaches, and what is in whose favour."""
    config, problem = run.config, evaluation.problem
    words = [how_it_was_trained(config, run.scan)]
    words.append(how_far_it_was_trained(read_log(run.folder), config.learning.steps))
    words.append(_scores_in_words(evaluation.table))
    if evaluation.reference is not None:
        words += _reference_in_words(evaluation, evaluation.reference)
    if evaluation.dataset.truth is not None:
        words.append(f"In the classical methods' favour: {problem['tuning']}.")
    words.append(problem.get("trained_on", ""))
    words.append(problem["contraction"]["words"])
    if not _is_unrolled(run):
        words.append(
            unfinished_in_words({BEFORE: unfinished(before), "Equipoise": unfinished(solved)})
        )
    words += [f"Data: {note}." for note in problem["data_notes"]]
    words.append(f"Command: {command_line()}")
    return [text for text in words if text]


def _scores_in_words(table: Table) -> str:
    cells = {row.key: row.cells.get("psnr") for row in table.rows}
    own = cells.pop("equipoise")
    if not isinstance(own, Value):
        return ""
    others = [
        f"{table.row(key).title} {cell.mean:.2f}"
        for key, cell in cells.items()
        if isinstance(cell, Value)
    ]
    return f"Equipoise reaches {own.mean:.2f} dB on average; {', '.join(others)} dB."


def _reference_in_words(evaluation: Evaluation, reference: Reference) -> list[str]:
    """Which judges there are, how far they are from each other, and who is ahead by the one that no
    reconstruction made."""
    tuning = evaluation.problem["tuning"]
    if tuning == "defaults":
        tuning = "the other methods have their default settings, since nothing is there to tune on"
    words = [f"There is no truth; {tuning}."]
    apart = reference.apart()
    if apart is not None:
        words.append(
            "The two references, least squares and filtered backprojection of all views, are "
            f"{apart:.1f} dB from each other, so either decides who wins up to there; the misfit "
            "on the views that nobody used needs none."
        )
    rows = {row.key: row.cells.get("unseen") for row in evaluation.table.rows}
    own = rows.pop("equipoise", None)
    others = {key: cell.mean for key, cell in rows.items() if isinstance(cell, Value)}
    if isinstance(own, Value) and others:
        best = min(others, key=lambda key: others[key])
        words.append(
            f"Equipoise predicts the unseen views to {own.mean:.3%}, the best other method "
            f"({evaluation.table.row(best).title}) to {others[best]:.3%}."
        )
    return words


def _trained_on_in_words(run: Run, items: Sequence[Item], data: str) -> str:
    """What of these data the run has learnt from, by their values, wherever they lie."""
    if run.learnt_from:
        known = number_known(run.learnt_from, items)
    else:
        path = getattr(run.config.data, "path", None)
        same = path is not None and Path(data).resolve() == Path(path).resolve()
        known = len(items) if same else 0
    if not known:
        return ""
    if known >= min(len(items), SAMPLES):
        return "In its own favour: these are the data that it was trained on."
    return (
        f"In its own favour: at least {known} of these {len(items)} are among the data that it was "
        "trained on."
    )


def _write(evaluation: Evaluation, run: Run, what: str) -> None:
    folder, dataset = evaluation.folder, evaluation.dataset
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json_text(evaluation.as_json(), indent=1))
    y, _, truth = dataset.batch(torch.arange(len(dataset)))
    images = evaluation.titled_images()
    grid = figures.save_png(
        figures.grid(y, images, truth, dataset.names, units=dataset.items[0].units.words),
        folder / "grid.png",
    )
    shown = [
        (grid, "Measurement, every method and the truth; error maps on one scale under each row")
    ]
    curves = run.folder / "curves.png"
    if curves.exists():
        text = "Training: loss parts, solver steps, residuals, validation"
        shown.append((curves.read_bytes(), text))
    sure = evaluation.sure
    if sure is not None and (figure := sure.figure()) is not None:
        drawn = figures.save_png(figure, folder / "reliability.png")
        shown.append((drawn, "Predicted against true errors; bounds against what they hold"))
    on = {
        "phantoms": f"{len(dataset)} phantoms that training did not see",
        "held-out": f"{len(dataset)} measurements that were held out",
    }.get(what, what)
    page(
        folder / "report.html",
        f"{run.config.name} on {on}",
        evaluation.words,
        shown,
        table=evaluation.table,
        conventions=evaluation.conventions,
        more_tables=[("How sure? Bounds beside the truth", sure.table)] if sure else None,
        config=dump(run.config),
        viewer=pictures(
            images,
            truth,
            dataset.names,
            readings=sure.readings if sure else None,
            units=[item.units for item in dataset.items],
        ),
    )


def _folder(run: Path, data: str, where: str) -> Path:
    """Named after the data; other data of the same name, or from another place, gets a number."""
    stem = Path(data).resolve().name.split(".")[0]
    for k in range(1, 1000):
        folder = run / (f"evaluation-{stem}" if k == 1 else f"evaluation-{stem}-{k}")
        results = folder / "results.json"
        if not results.exists():
            return folder
        problem = json.loads(results.read_text())["problem"]
        path = problem.get("path")  # which release 0.1 did not keep
        is_same = path == where if path and where else problem["data"] == data
        if is_same:
            return folder
    raise UserError(f"{run}: a thousand evaluations named {stem}; remove some")


def evaluations(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, results) of every evaluation against the truth that a run's folder holds."""
    for path in sorted([*run.glob("evaluation-*/results.json"), *run.glob("results.json")]):
        results = json.loads(path.read_text())
        if results["methods"]["equipoise"].get("psnr") is not None:
            yield path.parent, results
