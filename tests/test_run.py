"""A run's folder: what may be edited in it, and what its weights refuse."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from support import quiet, tiny

from equipoise.commands.train import train_run
from equipoise.errors import UserError
from equipoise.run import MODEL, load_run, unseen_phantoms


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "unfinished"
    steps = []
    assert not train_run(tiny(folder), quiet, steps.append, lambda: len(steps) == 2)
    assert not (folder / MODEL).exists()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "finished"
    assert train_run(tiny(folder), quiet)
    return folder


def edited(source, target, section, **options):
    shutil.copytree(source, target)
    file = target / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    tree[section] |= options
    file.write_text(yaml.safe_dump(tree))
    return target


@pytest.mark.parametrize("which", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("model", {"invariant": "quarter_turns"}),
        ("model", {"step": {"kind": "red"}}),
        ("model", {"denoiser": {"kind": "random", "channels": 5, "layers": 2}}),
        ("model", {"sigma": 0.1}),
        ("physics", {"angles": 7}),
    ],
    ids=str,
)
def test_weights_of_another_model_are_refused(request, which, section, options, tmp_path):
    folder = edited(request.getfixturevalue(which), tmp_path / "run", section, **options)
    with pytest.raises(UserError, match=f"{section}.*then.*restore the file"):
        load_run(folder)


@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_tolerances_after_training_may_be_edited(request, which, tmp_path):
    folder = request.getfixturevalue(which)
    new = edited(folder, tmp_path / "run", "model", test_max_steps=9)
    assert load_run(new).model.stop.max_steps == 9


def test_an_unfinished_run_has_its_average(unfinished):
    """All that was trained is there: nothing keeps the random weights that it began with."""
    run = load_run(unfinished)
    start = run.config.model.make(1, run.scan.noise, seed=99)
    weights, others = run.model.state_dict(), start.state_dict()
    trained = [name for name, p in run.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(not torch.equal(weights[name], others[name]) for name in trained)


def test_batches_do_not_change_what_is_solved(finished):
    run = load_run(finished)
    dataset = unseen_phantoms(run.config, run.scan, 5)
    whole, parts = run.solve(dataset, batch=16), run.solve(dataset, batch=2)
    assert torch.allclose(whole.value, parts.value, atol=1e-5)
    assert torch.equal(whole.steps, parts.steps)
    assert torch.equal(whole.status, parts.status)
    assert whole.trace.shape == parts.trace.shape
    assert torch.allclose(whole.trace[-1], whole.residual, rtol=1e-4) or not whole.converged.all()
