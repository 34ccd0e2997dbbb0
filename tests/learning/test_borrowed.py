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
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import cartesian_mask
from equipoise.imaging.splitting import split
from equipoise.learning.borrowed import OTHERWISE, SplittingMasks, borrowed, loss_names
from equipoise.learning.checkpoint import Checkpoint
from equipoise.learning.losses import Weighted
from equipoise.reconstruction.denoisers import ComplexDenoiser
from equipoise.run import load_training_data

from .examples import Shrunk, ct, dataset_of, images, small_model, small_trainer

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


def test_unsure_moves_at_the_pace_of_the_noise():
    sure = made({"SureGaussianLoss": {"unsure": True, "sigma": 0.02}})["SureGaussianLoss"].loss
    assert sure.step_size == pytest.approx(0.05 * 0.02**2)
    given = {"unsure": True, "step_size": 1e-3}
    assert made({"SureGaussianLoss": given})["SureGaussianLoss"].loss.step_size == 1e-3


def test_each_sample_draws_its_own_mask():
    """Alone as beside others, and again when a run goes on."""
    generator = made({"SplittingLoss": 1})["SplittingLoss"].loss.mask_generator
    with seeded((0, 5), [3, 4]):
        both = generator.step(2)["mask"]
    with seeded((0, 5), [4]):
        alone = generator.step(1)["mask"]
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[0], both[1])
    assert 0.8 < float(both.mean()) < 1
    measured = (torch.arange(16) % 2 == 0).float().expand(1, 1, 16, 16)
    with seeded((0, 6), [0, 1]):
        kept = SplittingMasks((1, 16, 16), split_ratio=0.5).step(2, input_mask=measured)["mask"]
    assert not bool((kept > measured).any())


def test_frames_cannot_be_masked_so():
    scan = SimpleNamespace(
        physics=SimpleNamespace(), measurement_shape=(2, 4, 8, 8), image_shape=(2, 4, 8, 8)
    )
    with pytest.raises(UserError, match=r"single images of one size; set objective\.splitting"):
        borrowed("SplittingLoss", 1.0, scan)


def test_augmentation_consistency_of_what_commutes_is_nothing():
    """Its operators are replaced product by product, so that no formula of their class holds."""
    noise = deepinv.physics.GaussianNoise(0.0)
    mask = cartesian_mask(16, 16, 2, 0.2)
    physics = deepinv.physics.MRI(mask=mask, img_size=(16, 16)).double()
    physics.noise_model = noise
    group = eq.Rotations(multiples=90)
    denoiser = eq.Invariant(ComplexDenoiser(Shrunk(eq.load_denoiser(), 0.5)), group)
    step = eq.ProximalStep(denoiser, strength=0.1, tol=1e-10)
    model = eq.EquilibriumReconstructor(step.double(), stop=eq.Stop(1e-10, 500))
    y = physics(torch.cat([eq.phantoms(2, 16)] * 2, 1).double())
    loss = L.AugmentConsistencyLoss(T_e=group)
    with torch.no_grad():
        value = loss(model(y, physics), y, physics, model)
    assert float(value) < 1e-12


def test_an_operator_whose_products_were_replaced_is_split_as_it_measures():
    physics, x = eq.ParallelBeam(16, 10, normalize=True), eq.phantoms(1, 16)
    other = physics.clone()
    other.A = lambda x: physics.A(x.flip(-1))
    parts = split(other, other.A(x), 5, 0)
    assert torch.equal(parts.physics.A(x), parts.y)
    assert torch.equal(parts.left_physics.A(x), parts.left_y)
    assert torch.equal(parts.y + parts.left_y, other.A(x))


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
        ({"TVLoss": {"weight": -1}}, r"TVLoss\.weight must be a finite number >= 0, got -1"),
        ({"TVLoss": {"weight": "a"}}, r"TVLoss\.weight must be a finite number"),
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

    def test_our_settings_are_not_put_back(self):
        """What a user gives to a new trainer stands above what the old one had."""
        first = self.trainer(Weighted(L.TVLoss(), 2.0))
        second = self.trainer(Weighted(L.TVLoss(), 3.0))
        second.restore(Checkpoint(*copy.deepcopy(first.checkpoint())))
        assert second.losses["theirs"].weight == 3.0

    def test_what_learns_is_not_shared(self):
        torch.manual_seed(0)
        loss = Weighted(L.SureGaussianLoss(0.01, unsure=True))
        with pytest.raises(UserError, match=r"learning\.accumulate=1"):
            small_trainer({"theirs": loss}, dataset_of(ct(), ct()(images(4))), accumulate=2)

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


class Picky(L.Loss):
    """Takes no sinograms, as deepinv's splitting takes none whose shape its mask does not have."""

    def forward(self, **kwargs):
        raise ValueError("y and mask must have the same shape")


def test_a_loss_that_refuses_what_was_measured_is_named():
    wanted = r"objective: picky does not take these measurements \(y and mask .*leave it out"
    with pytest.raises(UserError, match=wanted):
        small_trainer({"picky": Weighted(Picky())}).advance()
    with pytest.raises(ValueError, match="y and mask must"):  # one of somebody's own
        small_trainer({"picky": Picky()}).advance()
