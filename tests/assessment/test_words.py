"""What is claimed about a run follows what the run did."""

from __future__ import annotations

import sys

import pytest
from support import tiny

from equipoise.assessment.words import (
    command_line,
    how_far_it_was_trained,
    how_it_was_trained,
    unfinished_in_words,
)
from equipoise.data.scan import Scan

ALONE = "Trained from measurements alone: no clean image of this problem was used."
OFF = {
    "consistency": 0.0,
    "equivariance": 0.0,
    "splitting": 0.0,
}


def words(folder, **sections):
    config = tiny(folder, **sections)
    return how_it_was_trained(config, Scan.planned(config.physics, config.data.size))


class TestHowItWasTrained:
    def test_from_measurements_alone(self, tmp_path):
        assert words(tmp_path).startswith(ALONE)

    @pytest.mark.parametrize("loss", ["consistency", "splitting", "sure", "r2r", "variation"])
    def test_whatever_the_loss(self, tmp_path, loss):
        assert words(tmp_path, objective={**OFF, loss: 1.0}).startswith(ALONE)

    def test_supervised(self, tmp_path):
        said = words(tmp_path, objective={**OFF, "supervised": 1.0})
        assert said.startswith(
            "Supervised: trained on measurements together with their true images."
        )
        assert "alone" not in said

    def test_supervised_in_part(self, tmp_path):
        said = words(tmp_path, objective={"supervised": 0.01})
        assert said.startswith("Trained on the true images as well as on measurements")
        assert "consistency, splitting and equivariance" in said
        many = {"physics": {"kind": "parallel_beam", "angles": 60}}
        said = words(tmp_path, objective={"supervised": 0.01}, **many)
        assert "beside splitting." in said

    def test_where_it_started(self, tmp_path):
        assert words(tmp_path).endswith("The denoiser it starts from had random weights.")
        for name in ("shipped", "unet"):
            said = words(tmp_path, model={"denoiser": name})
            assert said.endswith("was trained on synthetic images.")
        said = words(tmp_path, model={"denoiser": "somewhere/mine.safetensors"})
        assert said.endswith("was read from mine.safetensors.")


class TestHowFar:
    def test_nothing_is_said_without_a_log(self):
        assert how_far_it_was_trained([], 10) == ""

    def test_steps_skips_and_shortened(self):
        log = [{"step": 1, "unsolved": 0.0}, {"step": 2, "skipped": "why", "unsolved": 0.0}]
        log.append({"step": 3, "shortened": "why", "unsolved": 0.0})
        said = how_far_it_was_trained(log, 10)
        assert said == "Training took 3 of 10 steps; 1 steps were skipped, 1 shortened."

    def test_an_early_end(self):
        log = [{"step": 3, "ended": "no progress since step 1", "unsolved": 0.0}]
        assert "ended there: no progress since step 1" in how_far_it_was_trained(log, 10)

    def test_solves_that_did_not_finish(self):
        log = [{"step": 1, "unsolved": 0.96}, {"step": 2, "unsolved": 0.92}]
        assert "94% of its solves, forward and adjoint, stopped" in how_far_it_was_trained(log, 2)


def test_a_solve_in_a_thousand_is_not_worth_a_word():
    log = [{"step": 1, "unsolved": 0.001}]
    assert how_far_it_was_trained(log, 1).endswith("0 steps were skipped, 0 shortened.")
    log = [{"step": 1, "unsolved": 0.01}]
    assert "1% of its solves" in how_far_it_was_trained(log, 1)


def test_unfinished_solves_of_methods():
    assert unfinished_in_words({"A": 0.0, "B": 0.0}) == ""
    said = unfinished_in_words({"A": 0.0, "B": 0.25})
    assert "25% of B" in said
    assert "of A" not in said


def test_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/equipoise", "evaluate", "runs/x"])
    assert command_line() == "equipoise evaluate runs/x"
    monkeypatch.setattr(sys, "argv", ["/somewhere/equipoise/__main__.py", "demo"])
    assert command_line() == "equipoise demo"
    monkeypatch.setattr(sys, "argv", ["benchmarks/gallery.py", "--fast"])
    assert command_line() == "python gallery.py --fast"
