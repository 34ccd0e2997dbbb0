"""Training on measurements of different sizes: each step sees one size, and is made as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.learning.trainer import Trainer
from equipoise.learning.validation import solve_dataset
from equipoise.run import load_training_data

pytest.importorskip("nibabel")


@pytest.fixture
def config(tmp_path):
    import nibabel

    folder = tmp_path / "heads"
    folder.mkdir()
    for k, shape in enumerate(((12, 16, 3), (16, 10, 2))):
        volume = 1 + np.random.default_rng(k).random(shape)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{k}.nii")
    return {
        "data": {"path": str(folder), "size": "native", "kind": "images"},
        "physics": {"kind": "mri", "acceleration": 2, "noise": 0.01},
        "model": {
            "max_steps": 6,
            "denoiser": {"kind": "random", "channels": 4, "layers": 2},
            "gradient": {"kind": "implicit", "max_steps": 20},
            "precision": "64",
        },
        "objective": {"splitting": {"parts": 2}, "equivariance": {"weight": 0.1}},
        "learning": {"steps": 4, "batch": 2, "warmup": 50},
    }


def trainer_of(tree, **learning) -> Trainer:
    config = parse({**tree, "learning": {**tree["learning"], **learning}}, "test")
    scan = Scan.planned(config.physics, config.data.size, config.seed)
    dataset, _ = load_training_data(config, scan)
    model = config.model.make(2, dataset.scan.noise, config.seed)
    losses = config.objective.make(dataset.scan, dataset.batch(torch.arange(1)).y)
    return Trainer(model, dataset.without_truth(), losses, config.learning, config.seed)


def test_a_step_is_the_same_however_its_batch_is_shared(config):
    whole, parts = trainer_of(config), trainer_of(config, accumulate=2)
    sizes = set()
    for _ in range(3):
        sizes.add(tuple(whole.batches.of_step(whole.step)[0].y.shape[-2:]))
        a, b = whole.advance(), parts.advance()
        assert not a.skipped
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient == pytest.approx(b.gradient, rel=1e-3)
    assert sizes == {(12, 16), (16, 10)}


def test_streamed_steps_are_those_in_memory(config):
    streamed = {**config, "data": {**config["data"], "stream": True}}
    for k in range(2):
        a, b = trainer_of(config), trainer_of(streamed)
        (p,), (q,) = a.batches.of_step(k), b.batches.of_step(k)
        assert torch.equal(p.places, q.places)
        assert torch.allclose(p.y, q.y, atol=1e-6)
        assert torch.equal(p.physics.mask, q.physics.mask)


def test_what_is_solved_together_is_as_if_alone(config):
    trainer = trainer_of(config)
    dataset, model = trainer.dataset, trainer.model
    solved = solve_dataset(model, dataset)
    for group in dataset.by_size(torch.arange(len(dataset))):
        y, physics, alone = dataset.taken_out(group, dataset.y[group], solved.value[group])
        with torch.no_grad():
            found = model.equilibrium(y, physics).value
        assert torch.allclose(found, alone, atol=1e-10)


def test_operators_of_other_samples_do_not_fit(config):
    config["objective"] = {"operators": 1.0}
    with pytest.raises(UserError, match=r"objective.operators: the samples are of different sizes"):
        trainer_of(config)
