"""The loop: log, validation, checkpoints, interruption."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from equipoise.errors import TrainingGaveUp
from equipoise.learning import checkpoint
from equipoise.learning.log import Report, append_to_log, read_log
from equipoise.learning.loggers import open_loggers
from equipoise.learning.loop import train
from equipoise.learning.trainer import PATIENCE

from .examples import small_trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def nothing(report):
    pass


def test_what_is_not_finite_is_null_in_the_log_and_nan_when_it_is_read(tmp_path):
    report = Report(3, math.nan, {"splitting": math.inf}, *[1.0] * 11)
    with append_to_log(tmp_path) as log:
        log.write(report.line() + "\n")
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    (row,) = read_log(tmp_path)
    assert math.isnan(row["loss"])
    assert math.isnan(row["parts"]["splitting"])
    assert (row["step"], row["forward"]) == (3, 1.0)


def test_a_run_leaves_a_log_and_checkpoints(tmp_path):
    reports = []
    trainer = small_trainer(steps=5, checkpoint_every=2)
    assert train(trainer, tmp_path, {"config": "c"}, reports.append)
    assert [r.step for r in reports] == [1, 2, 3, 4, 5]
    assert [r.last for r in reports] == [False] * 4 + [True]
    log = lines(tmp_path)
    assert [r["loss"] for r in log] == [r.loss for r in reports]
    saved = checkpoint.read(tmp_path / checkpoint.FILE)
    assert (saved.state["step"], saved.state["config"], saved.state["ended"]) == (5, "c", "")
    assert checkpoint.read(tmp_path / checkpoint.PREVIOUS).state["step"] == 4


def test_a_step_is_in_the_log_when_it_is_reported(tmp_path):
    """Whoever follows the log sees the step that has just ended, and not those of minutes ago."""
    seen = []
    trainer = small_trainer(steps=2)
    train(trainer, tmp_path, {}, lambda report: seen.append(lines(tmp_path)[-1]["step"]))
    assert seen == [1, 2]


def test_how_fast_a_step_is_said_to_be():
    trainer = small_trainer(steps=2, batch=3)
    started = time.perf_counter()
    report = trainer.advance()
    whole = time.perf_counter() - started
    assert 3 / whole <= report.images_per_second < 2 * 3 / whole
    assert 0 <= report.waiting < 0.9


def test_an_interruption_keeps_the_last_state(tmp_path):
    reports = []
    trainer = small_trainer(steps=5)
    assert not train(trainer, tmp_path, {}, reports.append, lambda: len(reports) >= 3)
    assert checkpoint.read(tmp_path / checkpoint.FILE).state["step"] == 3
    assert train(trainer, tmp_path, {}, reports.append)
    assert [r["step"] for r in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_validation_is_logged_and_ends_what_makes_no_progress(tmp_path):
    scores = iter([0.5, 0.3, 0.4, 0.35, 0.2])
    options = {"steps": 50, "validate_every": 2, "patience": 2}
    trainer = small_trainer(**options)
    assert train(
        trainer, tmp_path, {}, nothing, validate=lambda weights, fabric: {"held_out": next(scores)}
    )
    log = lines(tmp_path)
    assert [r.get("validation") for r in log] == [
        None,
        {"held_out": 0.5},
        None,
        {"held_out": 0.3},
        None,
        {"held_out": 0.4},
        None,
        {"held_out": 0.35},
    ]
    assert log[-1]["ended"] == "no progress since step 4"
    saved = checkpoint.read(tmp_path / checkpoint.FILE)
    assert (saved.state["best_step"], saved.state["best_score"]) == (4, 0.3)
    assert saved.state["ended"] == "no progress since step 4"


def test_the_last_step_is_validated_and_misfit_will_do(tmp_path):
    trainer = small_trainer(steps=3, validate_every=2)
    assert train(
        trainer,
        tmp_path,
        {},
        nothing,
        validate=lambda weights, fabric: {"misfit": 1.0, "psnr": 2.0},
    )
    assert ["validation" in r for r in lines(tmp_path)] == [False, True, True]


def test_what_gives_up_leaves_the_checkpoint_before(tmp_path):
    trainer = small_trainer(
        {"broken": lambda x_net, **kwargs: x_net.sum() * float("nan")},
        steps=100,
        checkpoint_every=5,
    )
    with pytest.raises(TrainingGaveUp):
        train(trainer, tmp_path, {}, nothing)
    assert checkpoint.read(tmp_path / checkpoint.FILE).state["step"] == PATIENCE - 5
    assert all("the loss is nan" in r["skipped"] for r in lines(tmp_path))


def test_tensorboard_is_given_every_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = small_trainer(steps=3, validate_every=2)
    (logger,) = open_loggers(["tensorboard"], tmp_path, "name", {}, 0)
    train(trainer, tmp_path, {}, logger, validate=lambda weights, fabric: {"misfit": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [r["loss"] for r in lines(tmp_path)]
    logged = events.Scalars("parts/consistency")
    assert [v.step for v in logged] == [1, 2, 3]
    assert [v.value for v in logged] == pytest.approx(losses, rel=1e-5)
    assert [v.value for v in events.Scalars("validation/misfit")] == [0.25, 0.25]


class TestCheckpointFile:
    def tensors(self):
        return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}

    def test_it_comes_back_as_it_was(self, tmp_path):
        path = tmp_path / "c.safetensors"
        state = {"step": 3, "score": 0.1, "text": "ä"}
        checkpoint.write(path, self.tensors(), state)
        saved = checkpoint.read(path)
        assert saved.state == state
        assert all(torch.equal(saved.tensors[k], v) for k, v in self.tensors().items())
        assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]

    @pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
    def test_a_damaged_one_is_noticed_and_the_one_before_used(self, tmp_path, damage):
        for step in (1, 2):
            checkpoint.save_latest(tmp_path, self.tensors(), {"step": step})
        latest = tmp_path / checkpoint.FILE
        data = bytearray(latest.read_bytes())
        data[-3] ^= 4
        whole = latest.read_bytes()
        latest.write_bytes({"cut": whole[:-9], "bit": bytes(data), "empty": b""}[damage])
        found, remark = checkpoint.load_latest(tmp_path)
        assert found.state["step"] == 1
        assert "damaged" in remark
        checkpoint.save_latest(tmp_path, self.tensors(), {"step": 3})  # what is whole is kept
        assert checkpoint.read(tmp_path / checkpoint.PREVIOUS).state["step"] == 1
