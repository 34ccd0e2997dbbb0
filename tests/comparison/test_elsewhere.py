"""Other problems: what is changed, and what happens to a model that cannot cope."""

from __future__ import annotations

import pytest
import torch
from support import quiet

import equipoise as eq
from equipoise.comparison import elsewhere
from equipoise.comparison.elsewhere import Elsewhere, measured_elsewhere, other_problems
from equipoise.comparison.sweep import Comparison
from equipoise.comparison.trained import Trained
from equipoise.config import changed
from equipoise.run import MODEL


def values(config):
    found = {}
    for problem in other_problems(config):
        found.setdefault(problem.axis, []).append(problem.value)
    return found


def test_what_is_changed(config):
    assert values(config) == {
        "views": ["3", "6", "9", "12"],
        "noise": ["0.01", "0.03", "0.1", "0.3"],
        "anatomy": ["as trained", "turned by 30°", "phantoms"],
    }
    mri = changed(config, {"physics": {"kind": "mri", "acceleration": 4.0, "photons": 1e4}})
    assert values(mri) == {
        "acceleration": ["2", "4", "6"],
        "anatomy": ["as trained", "turned by 30°", "phantoms"],
    }


def test_turned_images_are_measured_anew(config, tmp_path):
    task = Comparison(config, [], tmp_path, 1)
    here, _ = task.unseen(0)
    turned = measured_elsewhere(task, 0, Elsewhere("anatomy", "turned", turn=30.0))
    angles = torch.full((len(here),), 30.0)
    assert torch.allclose(turned.truth, eq.Rotations().transform(here.truth, theta=angles))
    residual = turned.y - turned.scan.physics.A(turned.truth)
    assert float(residual.std()) == pytest.approx(turned.scan.noise, rel=0.1)


def test_more_noise_is_more_noise(config, tmp_path):
    task = Comparison(config, [], tmp_path, 1)
    noisy = measured_elsewhere(task, 0, Elsewhere("noise", "0.3", {"physics.noise": 0.3}))
    here, _ = task.unseen(0)
    assert torch.equal(noisy.truth, here.truth)
    assert noisy.scan.noise == pytest.approx(30 * here.scan.noise, rel=0.05)


def test_a_model_that_cannot_cope_says_so(config, tmp_path, monkeypatch):
    """It is tried again by the same command; the others have their scores."""
    method = Trained("net", "Network")
    task = Comparison(config, [method], tmp_path, 1)
    (tmp_path / "net-0").mkdir()
    (tmp_path / "net-0" / MODEL).write_text("")
    (tmp_path / "scores").mkdir()

    def one(folder, dataset, steps):
        return "it fell over" if steps == 3 else 30.0

    monkeypatch.setattr(elsewhere, "_psnr_or_reason", one)
    for _ in range(2):
        found = elsewhere.generalise(task, quiet)
        assert found["iterations"].failed
        assert found["iterations"].row("Network").cells["3"].reason == "it fell over"
        assert not found["noise"].failed
        assert found["noise"].row("Network").cells["0.3"].mean == 30.0
        assert list((tmp_path / "scores").iterdir()) == []
    monkeypatch.setattr(elsewhere, "_psnr_or_reason", lambda *args: 31.0)
    assert not elsewhere.generalise(task, quiet)["iterations"].failed
    monkeypatch.setattr(elsewhere, "_psnr_or_reason", lambda *args: 1 / 0)
    assert elsewhere.generalise(task, quiet)["noise"].row("Network").cells["0.3"].mean == 31.0
