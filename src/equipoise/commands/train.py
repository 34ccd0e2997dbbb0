"""equipoise train: from measurements alone to a trained model, or on from where it stopped."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..assessment import figures
from ..assessment.page import page
from ..assessment.words import how_far_it_was_trained
from ..config import Config, dump, parse
from ..data.dataset import Dataset
from ..data.fingerprint import changes, fingerprint
from ..data.likeness import size_and_mean
from ..data.scan import Scan
from ..errors import UserError
from ..learning import checkpoint
from ..learning.checkpoint import Checkpoint
from ..learning.choice import Choice, HeldOut, choose, held_out_part, with_values
from ..learning.log import Report, read_log
from ..learning.loggers import open_loggers
from ..learning.loop import train
from ..learning.processes import from_first_object, processes, together
from ..learning.trainer import Trainer
from ..learning.validation import Validator
from ..machine import alone, check_writable, is_empty, write_whole
from ..reconstruction.settings import ModelSettings, denoiser_config
from ..run import (
    ABOUT,
    MARK,
    MODEL,
    described,
    differences,
    is_begun,
    is_run,
    load_training_data,
    read_config,
    versions,
    with_axis_of,
    with_stored_axis,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Seconds between the pages of a run that goes on; one takes about a second.
PAGE_EVERY = 60
#: Options of the section ``learning`` that may change between two parts of one run.
MAY_CHANGE = ("checkpoint_every", "validate_every", "workers", "loggers")

Say = Callable[[str], None]


def train_run(
    config: Config,
    say: Say = print,
    on_report: Callable[[Report], None] = lambda report: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains what ``config`` describes in its folder, or continues there.

    Returns True when it is trained to the end, False when it was interrupted.

    Raises:
        UserError: bad data, or the folder holds another run or something else, or another process
            is training there.
        TrainingGaveUp: too many steps in a row had to be skipped.
    """
    fabric = processes()
    if fabric.global_rank:
        return _train_run(config, fabric, say, on_report, interrupted)
    with alone(config.folder) as nobody_else:
        if not nobody_else:
            raise UserError(
                f"{config.folder}: another process is training there; wait for it, or name another "
                "run (name=… or out=…)"
            )
        check_writable(config.folder)
        return _train_run(config, fabric, say, on_report, interrupted)


def _train_run(
    config: Config,
    fabric: Fabric,
    say: Say,
    on_report: Callable[[Report], None],
    interrupted: Callable[[], bool],
) -> bool:
    config = with_stored_axis(described(config))
    folder = config.folder
    if fabric.global_rank:
        say, on_report = _silent, _silent
    saved = _earlier_state(config, say)

    config, data = _read_data(config, say)
    learnt_from = fingerprint(data.training.items)
    if saved is not None:
        _check_same_data(saved, learnt_from, data.training, folder)
    dataset, first = data.training, data.training.batch(torch.arange(1))
    losses = config.objective.make(dataset.scan, first.y)
    judge = held_out_part(dataset, data.kept_out)
    choice = _choice(config, judge, dataset.scan.noise, saved, fabric, say)
    settings = with_values(config.model, choice.settings)
    model = settings.make(dataset.scan.image_shape[0], dataset.scan.noise, config.seed)
    trainer = Trainer(model, dataset, losses, config.learning, config.seed, fabric)
    validator = _validator(settings, data)

    if saved is not None:
        trainer.restore(saved)
        if _is_finished(config, saved, trainer, say):
            return True
        say(f"{folder}: continuing at step {trainer.step}")
    _check_shared_folder(trainer, folder)
    inner = model.explain(first.y, first.physics)
    if inner:
        say(f"inner problem: {inner}")
    for words in (config.objective.explain(dataset.scan), trainer.objective.explain()):
        if words:
            say(f"losses: {words}")
    state = {
        "config": config.model_dump(mode="json"),
        "inner": inner,
        "noise": dataset.scan.noise,
        "data": {
            **learnt_from,
            "measured": size_and_mean(dataset),
            "shape": list(dataset.scan.measurement_shape),
            "is_kspace": dataset.items[0].holds == "kspace",
        },
        "denoiser": denoiser_config(model),
        "chosen": choice.settings,
        "versions": versions(),
        "processes": fabric.world_size,
    }
    if fabric.global_rank == 0:
        _begin_folder(config, state, choice)
    finished = saved is not None and bool(saved.state.get("ended"))
    if not finished:
        watch = _Watch(config, trainer, on_report)
        finished = train(trainer, folder, state, watch, interrupted, validator)
    if fabric.global_rank == 0:
        write_curves(folder, config)
        if finished:
            final = {**state, "step": trainer.step}
            checkpoint.write(folder / MODEL, trainer.final_weights(), final)
            _say_what_was_skipped(config, say)
            if judge is not None:
                _say_what_was_learnt(config.seed, settings, judge, trainer, say)
    together(fabric, torch.zeros(1))  # all wait for the first
    return finished


def _say_what_was_skipped(config: Config, say: Say) -> None:
    log = read_log(config.folder)
    skipped = [row["skipped"] for row in log if row.get("skipped")]
    if skipped and len(skipped) == len(log):
        say(
            f"warning: each of the {len(log)} steps was skipped ({skipped[-1]}): the model is the "
            "one that training began with; equipoise doctor looks for the reason"
        )
    elif skipped:
        say(f"note: {how_far_it_was_trained(log, config.learning.steps)}")


def _silent(_: Any) -> None:
    pass


# -------------------------------------------------------------------------- what is there already


def _earlier_state(config: Config, say: Say) -> Checkpoint | None:
    """The state to continue from, if the folder holds an unfinished run of this configuration.

    Raises:
        UserError: it holds another run, or something else.
    """
    folder = config.folder
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; name another run folder with out=…")
    saved, remark = checkpoint.load_latest(folder)
    if remark:
        say(f"{remark}; going on from the one before")
    if saved is not None:
        _check_same(config, _saved_config(saved, folder), folder)
    elif not (is_empty(folder) or is_begun(folder)):
        if not is_run(folder):
            raise UserError(
                f"{folder}: is not empty and no run of Equipoise; nothing was written. Name "
                "another with out=…"
            )
        _check_same(config, read_config(folder), folder)
    return saved


def _saved_config(saved: Checkpoint, folder: Path) -> Config:
    return parse(saved.state["config"], str(folder), is_saved=True)


def _check_same(config: Config, earlier: Config, folder: Path) -> None:
    """
    Raises:
        UserError: the folder's run has other settings, by name.
    """
    now, then = (_settings_that_count(c) for c in (config, earlier))
    changes = differences(now, then)
    if changes:
        raise UserError(
            f"{folder} holds a run with another configuration ({'; '.join(changes)}); "
            "nothing was changed. Name another run (name=… or out=…), or move that folder away"
        )


def _check_same_data(
    saved: Checkpoint, learnt_from: dict[str, Any], dataset: Dataset, folder: Path
) -> None:
    """
    Raises:
        UserError: the folder's run has learnt from other measurements than there are now.
    """
    other = changes(saved.state.get("data"), learnt_from, dataset.names)
    if other:
        raise UserError(
            f"{folder} holds a run that learnt from other data ({other}); nothing was changed. "
            "Name another run (name=… or out=…), or put those data back"
        )


def _settings_that_count(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json", exclude={"out"})
    for key in MAY_CHANGE:
        tree["learning"].pop(key)
    return tree


def _is_finished(config: Config, saved: Checkpoint, trainer: Trainer, say: Say) -> bool:
    ended = saved.state.get("ended") or ""
    if trainer.step < config.learning.steps and not ended:
        return False
    if not checkpoint.is_whole(config.folder / MODEL):
        return False
    say(f"{config.folder}: already {ended or f'trained for {trainer.step} steps'}")
    return True


def _check_shared_folder(trainer: Trainer, folder: Path) -> None:
    """Waits until all processes have looked at the folder.

    Raises:
        UserError: they do not see the same one.
    """
    step = torch.tensor(float(trainer.step))
    low = float(together(trainer.fabric, step, "min"))
    high = float(together(trainer.fabric, step, "max"))
    if low < high:
        raise UserError(
            f"{folder}: some processes see a checkpoint at step {high:.0f} there, others do not; "
            "it must be one folder for all"
        )


# --------------------------------------------------------------------------------------- the data


class _Data(NamedTuple):
    """What a run looks at."""

    training: Dataset
    held_out: Dataset | None
    kept_out: Dataset | None  #: the part of each of ``training`` that it is validated on


def _read_data(config: Config, say: Say) -> tuple[Config, _Data]:
    """The data, and the configuration with what they say of the scanner."""
    scan = Scan.planned(config.physics, config.data.size, config.seed)
    dataset, held_out = load_training_data(config, scan)
    config = with_axis_of(config, dataset)
    _tell_about_data(dataset, held_out, config, say)
    dataset, kept_out = _keep_out(config, dataset, say)
    if config.objective.supervised.weight:
        dataset.require_truth()
    else:
        dataset = dataset.without_truth()  # from here on there is no image anywhere
    return config, _Data(dataset, held_out, kept_out)


def _tell_about_data(dataset: Dataset, held_out: Dataset | None, config: Config, say: Say) -> None:
    if held_out is not None and config.data.holdout:
        patients = ", ".join(dict.fromkeys(held_out.patients))
        count = len(dataset) + len(held_out)
        say(f"holding out {len(held_out)} of {count} measurements: patients {patients}")
    for note in dataset.notes:
        say(f"note: {note}")


def _keep_out(config: Config, dataset: Dataset, say: Say) -> tuple[Dataset, Dataset | None]:
    """The measurements without the part that ``data.keep_out`` validates on, and that part."""
    fraction = config.data.keep_out
    if not fraction:
        return dataset, None
    try:
        parts = round(1 / fraction)
        if abs(parts * fraction - 1) > 0.02:
            say(f"note: data.keep_out={fraction:g}: one of {parts} parts is kept out")
        return dataset.split(parts, 0)
    except (ValueError, TypeError) as error:
        raise UserError(f"data.keep_out={fraction}: {error}, or set data.keep_out=0") from error


def _validator(settings: ModelSettings, data: _Data) -> Validator | None:
    if data.held_out is None and data.kept_out is None:
        return None
    scan = data.training.scan
    model = settings.make(scan.image_shape[0], scan.noise)
    model.stop = settings.test_stop()
    return Validator(model, data.held_out, data.training, data.kept_out)


# ------------------------------------------------------------------------------- what is chosen


def _choice(
    config: Config,
    judge: HeldOut | None,
    noise: float,
    saved: Checkpoint | None,
    fabric: Fabric,
    say: Say,
) -> Choice:
    """What is ``auto`` in the section ``model``: chosen when the run began, and kept."""
    if saved is not None:
        return Choice(saved.state.get("chosen", {}))
    choice = Choice()
    if fabric.global_rank == 0:
        choice = choose(config.model, judge, noise, config.seed, say)
    if choice.words:
        say(f"{choice.words}")
    return Choice(from_first_object(fabric, choice.settings), choice.words)


def _say_what_was_learnt(
    seed: int, settings: ModelSettings, judge: HeldOut, trainer: Trainer, say: Say
) -> None:
    """Whether the trained model predicts what it is not given better than the one it started from,
    by the same measure; a run that does not is told."""
    channels, noise = judge.given.scan.image_shape[0], judge.given.scan.noise
    model = settings.make(channels, noise, seed).eval()
    model.stop = settings.test_stop()
    before = judge.score(model)
    model.load_state_dict(trainer.final_weights())
    after = judge.score(model)
    if not (math.isfinite(before) and math.isfinite(after)):
        say(
            "warning: whether learning got ahead of its start is not known: some measurements that "
            "were to judge it have no equilibrium; raise model.max_steps or objective.contraction"
        )
        return
    said = (
        f"measurements that were left out are predicted to {math.exp(after):.3%} (before training: "
        f"{math.exp(before):.3%})"
    )
    if after >= 0:
        say(
            f"warning: {said}, no better than by nothing at all: what was left out is mostly "
            "noise, or the operator is not what measured these data; equipoise doctor tells"
        )
    elif after < before:
        say(said)
    else:
        say(
            f"warning: {said}: learning did not get ahead of its start. Train longer "
            "(learning.steps), with a lower learning.lr, or on more measurements"
        )


# ------------------------------------------------------------------------------------- the folder


def _begin_folder(config: Config, state: dict[str, Any], choice: Choice) -> None:
    folder = config.folder
    chosen = "".join(f"# {key} was chosen: {v:.6g}\n" for key, v in choice.settings.items())
    # The README first: it says whose folder this is, whenever the rest is not written.
    write_whole(folder / "README.txt", ABOUT.format(mark=MARK, folder=folder))
    write_whole(folder / "versions.json", json.dumps(state["versions"], indent=1))
    write_whole(folder / "config.yaml", chosen + dump(config))


class _Watch:
    """Hands each step's report to the loggers and the caller, and writes the page now and then."""

    def __init__(self, config: Config, trainer: Trainer, on_report: Callable[[Report], None]):
        self.config, self.on_report = config, on_report
        self.written = time.monotonic()
        self.loggers: list[Callable[[Report], None]] = []
        if trainer.fabric.global_rank == 0:
            self.loggers = open_loggers(
                list(config.learning.loggers),
                config.folder,
                config.name,
                config.model_dump(mode="json"),
                trainer.step,
            )

    def __call__(self, report: Report) -> None:
        for logger in self.loggers:
            logger(report)
        self.on_report(report)
        if time.monotonic() - self.written > PAGE_EVERY:
            write_curves(self.config.folder, self.config, reload=PAGE_EVERY)
            self.written = time.monotonic()


def write_curves(folder: Path, config: Config, reload: int = 0) -> None:
    """The page of a run: as it ended, or, with ``reload`` (seconds), as it stands."""
    log = read_log(folder)
    if not log:
        return
    picture = figures.save_png(figures.curves(log), folder / "curves.png")
    last = log[-1]
    skipped = sum(1 for row in log if row.get("skipped"))
    shortened = sum(1 for row in log if row.get("shortened"))
    words = [
        f"{last['step']} of {config.learning.steps} steps; the last solve took "
        f"{last['forward']:.0f} evaluations forward and {last['adjoint']:.0f} backward; {skipped} "
        f"steps were skipped, {shortened} shortened.",
        f"Command: {' '.join(['equipoise', *sys.argv[1:]])}",
    ]
    page(
        folder / "curves.html",
        f"Training of {config.name}",
        words,
        [(picture, "Loss parts, solver steps, residuals, validation")],
        config=dump(config),
        reload=reload,
    )
