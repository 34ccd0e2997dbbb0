"""What release 0.1 left behind goes on working: runs, interrupted runs, exported models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import quiet

import equipoise as eq
from equipoise.commands.runs import list_runs
from equipoise.commands.train import train_run
from equipoise.config import load_config
from equipoise.learning import checkpoint
from equipoise.run import MODEL, load_run

LEFT = Path(__file__).parent / "data" / "release-0.1"


@pytest.fixture(scope="module")
def expected():
    return load_file(LEFT / "expected.safetensors")


def same_image(model, run, expected):
    """After three evaluations, as ``expected`` was made: rounding has not grown yet."""
    model.stop, model.on_failure = eq.Stop(1e-4, 3), "ignore"
    with torch.no_grad():
        x = model(expected["y"], run.scan.physics)
    return float((x - expected["x"]).abs().max()) < 1e-5


def test_a_finished_run_gives_the_same_images(expected):
    run = load_run(LEFT / "finished")
    assert same_image(run.model, run, expected)
    assert run.config.model.step.kind == "proximal"
    assert run.config.objective.splitting.parts == 2


def test_an_interrupted_run_goes_on_to_the_same_weights(expected, tmp_path):
    folder = tmp_path / "interrupted"
    shutil.copytree(LEFT / "interrupted", folder)
    config = load_config(folder / "config.yaml", [f"out={folder}"])
    said = []
    assert train_run(config, said.append)
    assert any("continuing at step 3" in line for line in said)
    final = checkpoint.read(folder / MODEL).tensors
    for name, tensor in final.items():
        other = expected[f"continued.{name}"]
        assert (tensor - other).abs().max() <= 1e-6 + 1e-4 * other.abs().max(), name


def test_an_exported_model_loads(expected):
    model = eq.EquilibriumReconstructor.from_pretrained(LEFT / "exported")
    assert same_image(model, load_run(LEFT / "finished"), expected)


def test_they_are_listed_and_not_trained_again(tmp_path):
    shutil.copytree(LEFT / "finished", tmp_path / "finished")
    rows = list(list_runs(tmp_path))
    assert [row.state for row in rows] == ["trained, 4/4 steps"]
    config = load_config(tmp_path / "finished" / "config.yaml", [f"out={tmp_path / 'finished'}"])
    said = []
    assert train_run(config, said.append)
    assert "already trained for 4 steps" in said[-1]
    assert train_run(config, quiet)
