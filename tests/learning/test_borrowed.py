"""deepinv's losses by name in a configuration, and what losses remember from step to step."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.comparison.methods import METHODS
from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.learning.borrowed import OTHERWISE, borrowed, loss_names
from equipoise.learning.checkpoint import Checkpoint
from equipoise.learning.losses import Weighted
from equipoise.run import load_training_data

from .examples import ct, dataset_of, images, small_model, small_trainer

L = deepinv.loss


def configured(deepinv_losses, **objective):
    config = parse(
        {
            "data": {"kind": "phantoms", "size": 16, "count": 2},
            "physics": {"kind": "parallel_beam", "angles": 6, "noise": 0.01},
            "objective": {**objective, "deepinv": deepinv_losses},
        },
        "c",
    )
    scan = Scan.planned(config.physics, config.data.size, 0)
    return config, load_training_data(config, scan)[0].scan  # with its noise


def made(deepinv_losses, **objective):
    config, scan = configured(deepinv_losses, **objective)
    y = torch.zeros(1, *scan.measurement_shape)
    return config.objective.make(scan, y)


def test_each_is_to_be_had_or_says_what_to_do_instead():
    assert "SureGaussianLoss" in loss_names()
    assert "EquivariantSplittingLoss" in loss_names()
    for name, instead in OTHERWISE.items():
        with pytest.raises(UserError, match=rf"objective\.deepinv\.{name}: .*not this one") as e:
            made({name: 1.0})
        assert instead in str(e.value)


@pytest.mark.parametrize("name", [n for n in loss_names() if n != "SurePoissonLoss"])
def test_by_a_weight_alone(name):
    if name == "SurePGLoss":
        given = {"weight": 0.5, "gain": 0.1}
    else:
        given = 0.5
    losses = made({name: given})
    assert list(losses)[-2] == name
    assert isinstance(losses[name], Weighted)
    assert losses[name].weight == 0.5
    assert type(losses[name].loss) is getattr(L, name)


def test_arguments():
    losses = made(
        {
            "SureGaussianLoss": {"weight": 2, "unsure": True, "step_size": 1e-5},
            "EILoss": {"transform": "reflections"},
            "EquivariantSplittingLoss": {
                "mask_generator": 0.7,
                "transform": "quarter_turns",
                "consistency_loss": "SureGaussianLoss",
            },
        }
    )
    sure = losses["SureGaussianLoss"]
    assert sure.weight == 2
    assert sure.loss.unsure
    # The noise level is that of the scan, whose operator has norm 1.
    noise = configured({})[1].physics.noise_model
    assert float(sure.loss.sigma2.detach()) == pytest.approx(float(noise.sigma) ** 2)
    assert isinstance(losses["EILoss"].loss.T, eq.Reflections)
    splitting = losses["EquivariantSplittingLoss"].loss
    assert splitting.mask_generator.split_ratio == 0.7
    assert isinstance(splitting.consistency_loss, L.SureGaussianLoss)
    assert splitting.transform.multiples == 90


def test_a_weight_of_zero_leaves_it_out():
    assert "TVLoss" not in made({"TVLoss": 0})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"EquivariantSplittingLoss": {"prediction_loss": "Loss"}}, "prediction_loss must be one"),
        ({"Sure": 1}, "there are .*SureGaussianLoss"),
        ({"TVLoss": {"wieght": 1}}, r"TVLoss\.wieght: no such argument; TVLoss takes weight"),
        ({"EILoss": {"transform": "squares"}}, "squares"),
        ({"SurePGLoss": 1}, "gain"),
    ],
)
def test_mistakes(given, words):
    with pytest.raises(UserError, match=words):
        made(given)


def test_methods_of_a_comparison_leave_them_out():
    config, _ = configured({"TVLoss": 0.1})
    methods = {method.name: method for method in METHODS}
    assert methods["implicit"].configuration(config).objective.deepinv == {"TVLoss": 0.1}
    assert methods["supervised"].configuration(config).objective.deepinv == {}


REMEMBERING = {
    "unsure": lambda: Weighted(L.SureGaussianLoss(0.01, unsure=True, step_size=1e-3), 2.0),
    "unsure of two kinds": lambda: L.SurePGLoss(0.01, 0.01, unsure=True),
    "interleaved": lambda: L.InterleavedLossScheduler(L.MCLoss(), L.TVLoss()),
}


class TestMemory:
    def trainer(self, loss):
        torch.manual_seed(0)
        y = ct()(images(4))
        return small_trainer({"theirs": loss}, dataset_of(ct(), y), small_model(), batch=2)

    @pytest.mark.parametrize("which", REMEMBERING)
    def test_a_run_that_goes_on_remembers(self, which):
        """To the bit what an uninterrupted run has: weights, and what the losses know."""
        whole = self.trainer(REMEMBERING[which]())
        for _ in range(4):
            whole.advance()
        first = self.trainer(REMEMBERING[which]())
        for _ in range(2):
            first.advance()
        kept = copy.deepcopy(first.checkpoint())
        second = self.trainer(REMEMBERING[which]())
        second.restore(Checkpoint(*kept))
        for _ in range(2):
            second.advance()
        wanted, found = whole.checkpoint()[0], second.checkpoint()[0]
        assert wanted.keys() == found.keys()
        assert any(key.startswith("memory.theirs") for key in wanted)
        for key, value in wanted.items():
            assert torch.equal(value.double(), found[key].double()), key

    def test_unsure_learns_the_noise(self):
        trainer = self.trainer(L.SureGaussianLoss(0.01, unsure=True, step_size=1e-3))
        before = float(trainer.checkpoint()[0]["memory.theirs.loss.sigma2"])
        for _ in range(3):
            trainer.advance()
        assert float(trainer.checkpoint()[0]["memory.theirs.loss.sigma2"]) != before

    def test_a_wrapper_is_remembered(self):
        noisy = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.05)).double()

        def trainer():
            torch.manual_seed(0)
            loss = L.ScoreLoss(total_batches=10)
            return small_trainer({"score": loss}, dataset_of(noisy, noisy(images(4))), batch=2)

        first = trainer()
        for _ in range(3):
            first.advance()
        second = trainer()
        second.restore(Checkpoint(*copy.deepcopy(first.checkpoint())))
        assert second.objective.wrappers["score"].counter == 3


def test_noise_that_is_not_there():
    scan = SimpleNamespace(physics=SimpleNamespace(), measurement_shape=(1, 4, 4))
    with pytest.raises(UserError, match="sigma"):
        borrowed("SureGaussianLoss", 1.0, scan)
