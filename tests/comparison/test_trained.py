"""A training is a process of its own, and its exit code tells how it ended."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from equipoise.comparison.method import Failed, Interrupted, Problem, Unavailable
from equipoise.comparison.plugged import strength_of
from equipoise.comparison.sweep import Comparison
from equipoise.comparison.trained import Trained
from equipoise.comparison.tuning import Tuner
from equipoise.config import changed, load_config
from equipoise.data.scan import Scan
from equipoise.errors import UserError


@pytest.fixture
def problem(config, tmp_path):
    scan = Scan.planned(config.physics, config.data.size, 0)
    return Problem(config, scan, Tuner(None), tmp_path)


@pytest.fixture
def train_ends_with(monkeypatch, tmp_path):
    """Instead of `equipoise train`: a program that says something and ends with this code."""

    def replace(code: str, says: str = "what it says"):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho 'error: {says}'\n{code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))

    return replace


METHOD = Trained("net", "Network")


class TestExitCodes:
    def test_giving_up_is_a_result(self, problem, train_ends_with):
        train_ends_with("exit 3", "20 steps in a row were skipped")
        for _ in range(2):  # the second time from what is kept
            with pytest.raises(Failed, match=r"^20 steps in a row were skipped$"):
                METHOD.train(problem)
            train_ends_with("exit 1", "it was tried again")
        cost = json.loads((METHOD.folder(problem) / "cost.json").read_text())
        assert cost["memory_mb"] > 0
        assert cost["threads"] == 1

    @pytest.mark.parametrize("code", ["exit 130", "kill -TERM $$", "kill -KILL $$"])
    def test_interrupted(self, problem, train_ends_with, code):
        train_ends_with(code)
        with pytest.raises(Interrupted, match="training was interrupted; the same command goes on"):
            METHOD.train(problem)
        assert not (METHOD.folder(problem) / "cost.json").exists()

    @pytest.mark.parametrize("code", [1, 2, 4, 77])
    def test_errors(self, problem, train_ends_with, code):
        train_ends_with(f"exit {code}", "20 steps in a row were skipped")
        with pytest.raises(UserError, match=r"^20 steps in a row were skipped$") as caught:
            METHOD.train(problem)
        assert not isinstance(caught.value, Failed | Interrupted | Unavailable)
        assert not (METHOD.folder(problem) / "cost.json").exists()

    def test_what_says_nothing(self, problem, train_ends_with):
        train_ends_with("exit 4")
        script = sys.executable
        lines = Path(script).read_text().splitlines()
        Path(script).write_text("\n".join(line for line in lines if "echo" not in line))
        with pytest.raises(UserError, match="training ended with exit code 4"):
            METHOD.train(problem)


class TestWhatIsTrained:
    def test_is_written_beside_the_run(self, problem, train_ends_with):
        train_ends_with("exit 1")
        with pytest.raises(UserError):
            METHOD.train(problem)
        written = load_config(problem.folder / "net-0.yaml")
        assert written == METHOD.settled(problem)
        assert written.name == "net"
        assert written.folder == METHOD.folder(problem) == problem.folder / "net-0"

    def test_what_a_configuration_does_not_allow(self, problem):
        """Supervision needs images in memory."""
        stream = changed(problem.config, {"data.stream": True})
        streamed = Problem(stream, problem.scan, problem.tuner, problem.folder)
        supervised = Trained("supervised", "Supervised", terms=("supervised",))
        with pytest.raises(Unavailable, match="needs the images in memory"):
            supervised.train(streamed)

    def test_the_strength_of_unrolled_steps_is_tuned(self, config, tmp_path):
        comparison = Comparison(config, [], tmp_path, 1)
        tuner = Tuner(comparison.tuning, tmp_path / "scores", lambda text: None)
        problem = comparison.problem(0, 1, tuner)
        unrolled = {"model.gradient": {"kind": "unrolled", "steps": 3}}
        method = Trained("unrolled_3", "Unrolled", unrolled)
        strength = method.settled(problem).model.step.strength
        known = json.loads((tmp_path / "scores" / "unrolled_3-tuning.json").read_text())
        assert strength == known["setting"]["strength"]
        noise = comparison.tuning().scan.noise
        usual = strength_of(config, noise, config.model.sigma_value, 1.0)
        assert strength / usual == pytest.approx(round(strength / usual, 2))
        chosen = changed(config, {"model.step.strength": 0.5})
        fixed = Problem(chosen, problem.scan, Tuner(None), tmp_path)
        assert method.settled(fixed).model.step.strength == 0.5

    def test_steps_without_a_strength_have_nothing_to_tune(self, config, tmp_path):
        other = changed(config, {"model.step": {"kind": "gradient"}})
        scan = Scan.planned(other.physics, other.data.size, 0)
        method = Trained("u", "U", {"model.gradient": {"kind": "unrolled"}})
        assert method.settled(Problem(other, scan, Tuner(None), tmp_path)).model.step.kind == (
            "gradient"
        )
