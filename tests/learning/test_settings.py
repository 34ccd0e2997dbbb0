"""What the sections ``objective`` and ``learning`` make."""

from __future__ import annotations

import deepinv
import pytest
import torch
from pydantic import ValidationError

import equipoise as eq
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.data.settings import PhantomSettings
from equipoise.errors import UserError
from equipoise.imaging.groups import Reflections, Rotations
from equipoise.imaging.settings import (
    DynamicMRISettings,
    FanBeamSettings,
    InpaintingSettings,
    MRISettings,
    ParallelBeamSettings,
)
from equipoise.imaging.splitting import may_be_left_out, split
from equipoise.learning.batching import Part
from equipoise.learning.losses import (
    AS_THE_MODEL,
    DEFAULT_ACCURACY,
    Equivariance,
    JacobianPenalty,
    MeasurementConsistency,
    MultiOperator,
    Recorrupted,
    Splitting,
    Supervised,
    Weighted,
)
from equipoise.learning.objective import Objective, accuracy_for
from equipoise.learning.objective_settings import EquivarianceSettings, ObjectiveSettings
from equipoise.learning.settings import LearningSettings

from .examples import ct, dataset_of, images, mri, small_model


def made(tree, physics=None):
    physics = ct() if physics is None else physics
    channels = 2 if isinstance(physics, deepinv.physics.MRI) else 1
    y = physics.A(images(3, channels))
    scan = dataset_of(physics, y, channels=channels).scan
    return ObjectiveSettings.model_validate(tree).make(scan, y)


def test_schedules():
    for schedule, half, end in (
        ("cosine", 0.55, 0.1),
        ("linear", 0.55, 0.1),
        ("constant", 1.0, 1.0),
    ):
        settings = LearningSettings(schedule=schedule, steps=1000, warmup=10, lr=1.0)
        assert settings.rate(0) == pytest.approx(0.1)
        assert settings.rate(500) == pytest.approx(half)
        assert settings.rate(1000) == pytest.approx(end)


def test_defaults():
    losses = made({})
    assert list(losses) == ["consistency", "splitting", "equivariance", "contraction"]
    assert (losses["consistency"].weight, losses["consistency"].floor) == (0.1, 1e-3)
    splitting = losses["splitting"]
    assert (splitting.weight, splitting.parts, splitting.misfit.floor) == (1.0, 5, 1e-3)
    equivariance = losses["equivariance"]
    assert (equivariance.weight, equivariance.noise) == (0.2, True)
    assert isinstance(equivariance.group, Rotations)
    contraction = losses["contraction"]
    assert (contraction.weight, contraction.bound) == (0.01, 0.97)
    assert contraction.along == "residual"


FEW = ParallelBeamSettings(angles=12)  # of 64 rows and columns; 13 are more than a fifth
MORE = ParallelBeamSettings(angles=13)
FAN = {"source_distance": 100, "detector_distance": 100}


@pytest.mark.parametrize(
    ("settings", "size", "two"),
    [
        (FEW, 64, False),
        (MORE, 64, True),
        (MORE, (32, 66), False),  # the longer side counts
        (FanBeamSettings(angles=12, **FAN), 64, False),
        (FanBeamSettings(angles=13, **FAN), 64, True),
        (MRISettings(acceleration=8), 32, True),
        (InpaintingSettings(keep=0.1), 32, True),
    ],
)
def test_with_few_views_three_images_are_differentiated_and_elsewhere_two(settings, size, two):
    scan = Scan.planned(settings, size)
    y = torch.zeros(1, *scan.measurement_shape)

    def chosen(tree):
        losses = ObjectiveSettings.model_validate(tree).make(scan, y)
        return losses["splitting"].takes_split, losses["equivariance"].stop_gradient

    assert chosen({}) == ((True, "image") if two else (False, True))
    for stop_gradient in (True, False):  # with which sharing saves nothing
        assert chosen({"equivariance": {"stop_gradient": stop_gradient}}) == (False, stop_gradient)
    held = {"equivariance": {"stop_gradient": "image"}}
    assert chosen(held) == (two, "image")
    for shared in (True, False):  # what is given counts
        for stop_gradient in (True, "image", False):
            options = {"shared": shared}, {"stop_gradient": stop_gradient}
            tree = dict(zip(("splitting", "equivariance"), options))
            assert chosen(tree) == (shared, stop_gradient)
    without = ObjectiveSettings.model_validate({"equivariance": 0}).make(scan, y)
    assert not without["splitting"].takes_split
    grouped = {"splitting": {"group": "rotations"}}
    assert chosen(grouped) == (False, "image" if two else True)


def degrees(first: float, count: int, apart: float) -> list[float]:
    return [first + apart * i for i in range(count)]


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        (ParallelBeamSettings(angles=40), False),  # 4.5° apart
        (ParallelBeamSettings(angles=39), True),
        (ParallelBeamSettings(angles=degrees(-90, 60, 3)), False),
        (ParallelBeamSettings(angles=degrees(179, 60, -3)), False),
        (ParallelBeamSettings(angles=degrees(0, 120, 1)), True),  # nothing over 60°
        (ParallelBeamSettings(angles=[*degrees(0, 60, 3), 1.5]), False),
        (ParallelBeamSettings(angles=[*degrees(0, 30, 3), *degrees(96, 28, 3)]), True),  # two lack
        (FanBeamSettings(angles=80, **FAN), False),  # each ray comes twice
        (FanBeamSettings(angles=41, **FAN), False),  # an odd number: between the others
        (FanBeamSettings(angles=degrees(0, 120, 1), **FAN), True),
        (MRISettings(acceleration=2), True),
        (InpaintingSettings(keep=0.9), True),
    ],
)
def test_where_views_lie_close_splitting_stands_alone(settings, moves):
    scan = Scan.planned(settings, 32)
    y = torch.zeros(1, *scan.measurement_shape)
    every = ["consistency", "splitting", "equivariance", "contraction"]

    def losses(tree):
        return ObjectiveSettings.model_validate(tree).make(scan, y)

    alone = ["splitting", "contraction"]
    assert list(losses({})) == (every if moves else alone)
    assert list(losses({"equivariance": {"group": "reflections"}})) == (every if moves else alone)
    # What is given counts.
    given = losses({"equivariance": 0.3})
    assert list(given) == every
    assert (given["consistency"].weight, given["equivariance"].weight) == (0.1, 0.3)
    assert list(losses({"consistency": 0.3})) == (every if moves else every[:2] + every[3:])
    without = losses({"equivariance": 0})
    assert ("consistency" in without) == moves
    assert without["splitting"].takes_split != moves
    # Without splitting, nothing but moved images says what is missing.
    nothing_left_out = losses({"splitting": 0})
    assert [nothing_left_out[name].weight for name in ("consistency", "equivariance")] == [0.1, 0.2]
    settled = ObjectiveSettings().settled(scan)
    expected = (0.1, 0.2) if moves else (0, 0)
    assert (settled.consistency.weight, settled.equivariance.weight) == expected
    assert settled.settled(scan) == settled
    said = "splitting without consistency and equivariance: views lie "
    assert ObjectiveSettings().explain(scan).startswith(said) != moves
    assert not ObjectiveSettings(equivariance=0.2).explain(scan)
    said = "splitting without equivariance: views lie "
    assert ObjectiveSettings(consistency=0.1).explain(scan).startswith(said) != moves


def test_where_splitting_stands_alone_a_step_seeks_one_image():
    physics = eq.ParallelBeam(16, 40).normalize().double()
    y = physics.A(images(3).double())
    scan = dataset_of(physics, y).scan
    objective = Objective(small_model().double(), ObjectiveSettings().make(scan, y))
    found = objective.differentiate(Part(torch.arange(3), y, physics), 0, {})
    assert [len(made) for made in found.solves.values()] == [1, 0, 0]


def test_how_accurately_the_second_solves_are_made():
    """As accurately as the model's tolerance says, or as the losses themselves ask."""
    for exact, accuracy in ((False, AS_THE_MODEL), (True, DEFAULT_ACCURACY)):
        losses = made({"exact": exact, "operators": 1.0}, mri(samples=3))
        for name in ("splitting", "equivariance", "operators"):
            assert losses[name].accuracy == accuracy
        assert accuracy_for(losses.values()) == accuracy
    assert accuracy_for([deepinv.loss.TVLoss()]) == DEFAULT_ACCURACY
    assert accuracy_for([deepinv.loss.TVLoss(), losses["consistency"]]) == DEFAULT_ACCURACY
    assert accuracy_for([losses["consistency"]]) is None


def test_every_loss_in_its_order():
    others = ("exact", "counts", "deepinv")
    names = [name for name in ObjectiveSettings.model_fields if name not in others]
    losses = made(dict.fromkeys(names, 0.5), mri(samples=3))
    assert list(losses) == [
        "consistency",
        "splitting",
        "equivariance",
        "operators",
        "sure",
        "r2r",
        "supervised",
        "variation",
        "contraction",
    ]
    kinds = [
        MeasurementConsistency,
        Splitting,
        Equivariance,
        MultiOperator,
        Weighted,
        Recorrupted,
        Supervised,
        deepinv.loss.TVLoss,
        JacobianPenalty,
    ]
    for loss, kind in zip(losses.values(), kinds, strict=True):
        assert isinstance(loss, kind)
        assert getattr(loss, "weight", None) == 0.5 or loss.tv_loss_weight == 0.5
    assert losses["r2r"].sigma == pytest.approx(0.01)
    assert losses["sure"].loss.sigma2 == pytest.approx(0.01**2)


def test_options_reach_their_loss():
    losses = made(
        {
            "consistency": {"weight": 1.0, "floor": 0},
            "splitting": {"weight": 2.0, "parts": 3, "floor": 0.1},
            "equivariance": {
                "weight": 3.0,
                "group": "reflections",
                "draws": 2,
                "renoise": False,
                "stop_gradient": False,
            },
            "contraction": {"weight": 4.0, "bound": 0.5},
        }
    )
    assert losses["consistency"].floor == 0
    assert (losses["splitting"].parts, losses["splitting"].misfit.floor) == (3, 0.1)
    equivariance = losses["equivariance"]
    assert isinstance(equivariance.group, Reflections)
    assert equivariance.group.n_trans == 2
    assert not equivariance.noise
    assert not equivariance.stop_gradient
    assert losses["contraction"].bound == 0.5


@pytest.mark.parametrize("coils", [1, 2])
@pytest.mark.parametrize("left_out", ["random", "interleaved"])
def test_weights_by_density_make_up_for_what_is_seldom_left_out(coils, left_out):
    """Averaged over samples and splits, every point that is ever left out counts alike."""
    settings = MRISettings(acceleration=3, masks="each", coils=coils)
    dataset = load_dataset(PhantomSettings(size=16, count=200), Scan.planned(settings, 16))
    tree = {"splitting": {"weighting": "density", "left_out": left_out, "parts": 2}}
    loss = ObjectiveSettings.model_validate(tree).make(dataset.scan, dataset.y)["splitting"]
    assert loss.at_random == (left_out == "random")
    weights = loss.misfit.weights
    assert torch.broadcast_shapes(weights.shape, dataset.y.shape[1:]) == dataset.y.shape[1:]
    weights = weights if coils == 1 else weights[:, 0]
    parts = [None] * 20 if left_out == "random" else [0, 1]
    torch.manual_seed(0)
    chosen = [split(dataset.scan.physics, dataset.y, 2, k).left_physics.mask for k in parts]
    counted = torch.stack([(mask * weights).mean(0) for mask in chosen]).mean(0)[0, 0]
    often = torch.stack([mask.mean(0) for mask in chosen]).mean(0)[0, 0] > 0.02
    assert 4 < int(often.sum()) < 16  # not the centre
    assert float(counted[often].std()) < 0.2 * float(counted[often].mean())
    assert float(weights.max()) > 2 * float(weights[weights > 0].min())
    batch = dataset.batch(torch.arange(2))
    x = batch.physics.A_adjoint(batch.y)
    assert torch.isfinite(loss.misfit(x_net=x, y=batch.y, physics=batch.physics)).all()


@pytest.mark.parametrize("mask", ["lines", "radial"])
def test_each_frame_of_a_sequence_has_a_density_of_its_own(mask):
    settings = DynamicMRISettings(frames=3, acceleration=3, mask=mask, masks="each")
    dataset = load_dataset(PhantomSettings(size=16, count=30), Scan.planned(settings, 16))
    tree = {"splitting": {"weighting": "density", "parts": 2}}
    loss = ObjectiveSettings.model_validate(tree).make(dataset.scan, dataset.y[:1])["splitting"]
    weights, masks = loss.misfit.weights, dataset.scan.physics.mask
    assert weights.shape == masks.shape[1:]
    for frame in range(3):
        alone = deepinv.physics.MRI(mask=masks[:, :, frame], img_size=(16, 16))
        free = may_be_left_out(alone)
        assert torch.equal(may_be_left_out(dataset.scan.physics)[:, :, frame], free)
        assert torch.equal(weights[:, frame] > 0, free.mean(0) > 0)
    torch.manual_seed(0)
    left = split(dataset.scan.physics, dataset.y, 2, None).left_physics.mask
    assert bool((weights.expand_as(left)[left > 0] > 0).all())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (MRISettings(), "there is only one here.*physics.masks=each"),
        (ParallelBeamSettings(angles=6), "no mask of k-space"),
    ],
)
def test_a_density_that_nobody_knows_is_an_error(settings, why):
    dataset = load_dataset(PhantomSettings(size=16, count=2), Scan.planned(settings, 16))
    tree = {"splitting": {"weighting": "density", "parts": 2}}
    with pytest.raises(UserError, match=why):
        ObjectiveSettings.model_validate(tree).make(dataset.scan, dataset.y)


def test_what_is_tried_out_is_one_measurement(monkeypatch):
    """Of many with masks of their own: not all of them at once."""
    settings = MRISettings(acceleration=3, masks="each")
    dataset = load_dataset(PhantomSettings(size=16, count=50), Scan.planned(settings, 16))
    tried = []

    def recorded(physics, y, parts, k):
        found = split(physics, y, parts, k)
        tried.append(found.y.shape)
        return found

    monkeypatch.setattr("equipoise.learning.objective_settings.split", recorded)
    ObjectiveSettings().make(dataset.scan, dataset.y[:1])
    assert tried == [(1, 2, 16, 16)]


def test_the_risk_estimate_is_that_of_the_noise():
    physics = ct()
    physics.noise_model = deepinv.physics.PoissonNoise(0.02, clip_positive=True)
    loss = made({"sure": 1.0}, physics)["sure"].loss
    assert isinstance(loss, deepinv.loss.SurePoissonLoss)
    assert loss.gain == pytest.approx(0.02)
    with pytest.raises(UserError, match=r"objective.r2r needs Gaussian noise"):
        made({"r2r": 1.0}, physics)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(UserError, match=r"objective.splitting.parts=7: cannot split 6 views"):
        made({"splitting": {"parts": 7}})
    nothing = dict.fromkeys(ObjectiveSettings.model_fields.keys() - {"deepinv"}, 0)
    with pytest.raises(UserError, match="all weights are 0"):
        made(nothing)
    for tree, where in (
        ({"consistency": -1}, "consistency.weight"),
        ({"consistency": True}, "consistency must be a value, not True"),
        ({"splitting": {"pieces": 3}}, "splitting.pieces"),
        ({"equivarience": 1}, "equivarience"),
    ):
        with pytest.raises(ValidationError, match=where):
            ObjectiveSettings.model_validate(tree)


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_quarter_turns_need_square_images(size):
    settings = EquivarianceSettings.model_validate({"group": "quarter_turns", "weight": 0.3})
    assert settings.make(AS_THE_MODEL, (16, 16), is_constant=True).weight == 0.3
    with pytest.raises(UserError, match="quarter_turns need square images"):
        settings.make(AS_THE_MODEL, size, is_constant=True)
