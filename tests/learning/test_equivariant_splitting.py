"""Equivariant splitting: T_g R(y, A T_g) by a denoiser that works on moved images."""

from __future__ import annotations

import deepinv
import pytest
import torch
from deepinv.loss import EquivariantSplittingLoss, MCLoss
from deepinv.models import EquivariantReconstructor
from deepinv.physics.virtual import VirtualLinearPhysics

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.draws import seeded, shared
from equipoise.imaging.mri import cartesian_mask
from equipoise.imaging.splitting import split
from equipoise.learning.losses import Splitting, evaluate
from equipoise.learning.losses.base import Example
from equipoise.learning.objective_settings import ObjectiveSettings
from equipoise.reconstruction.denoisers import ComplexDenoiser
from equipoise.reconstruction.model import UntiedReconstructor

from .examples import Shrunk

PIXELS = 16
TIGHT = eq.Stop(1e-9, 1000)
STEPS = {
    "proximal": lambda D: eq.ProximalStep(D, strength=0.02, sigma=0.02, tol=1e-12),
    "gradient": lambda D: eq.GradientStep(D, sigma=0.02),
    "red": lambda D: eq.RED(D, strength=0.02, sigma=0.02),
    "admm": lambda D: eq.ADMM(D, strength=0.05, sigma=0.02, tol=1e-12),
}
GROUPS = {
    "rotations": eq.Rotations,
    "quarter turns": lambda: eq.Rotations(multiples=90),
    "reflections": eq.Reflections,
    "both": lambda: eq.Rotations(multiples=90) * eq.Reflections(),
}


ANY = ("rotations", "both")


def problem(what):
    """Denoiser, operator and measurements of two images, in float64."""
    denoiser = eq.load_denoiser()
    x = eq.phantoms(2, PIXELS, 900).double()
    if what == "ct":
        physics = eq.ParallelBeam(PIXELS, 10, normalize=True)
    elif what == "inpainting":
        physics = deepinv.physics.Inpainting((1, PIXELS, PIXELS), mask=0.6).double()
    else:
        mask = cartesian_mask(PIXELS, PIXELS, 4, 0.1)
        physics = deepinv.physics.MRI(mask=mask, img_size=(PIXELS, PIXELS)).double()
        denoiser, x = ComplexDenoiser(denoiser), torch.cat([x, 0.3 * x], 1)
    return Shrunk(denoiser, 0.7), physics, physics.A(x)


def model_of(step, stop=TIGHT):
    gradient = eq.Implicit(stop=eq.Stop(1e-10, 2000))
    return eq.EquilibriumReconstructor(step.double(), stop=stop, gradient=gradient)


#: ADMM has no equilibrium for the inpainting of this size that it finds in 1,000 evaluations.
PROBLEMS = [
    *((what, step, group) for what in ("ct", "mri") for step in STEPS for group in ANY),
    *(("inpainting", step, "both") for step in ("proximal", "gradient", "red")),
    ("ct", "proximal", "quarter turns"),
    ("mri", "proximal", "reflections"),
]


@pytest.mark.parametrize(("what", "step", "group"), PROBLEMS)
def test_is_the_reconstruction_with_the_moved_operator(what, step, group):
    """As deepinv composes A T_g, with the same draws."""
    denoiser, physics, y = problem(what)
    model, moves = model_of(STEPS[step](denoiser)), GROUPS[group]()
    torch.manual_seed(5)
    with torch.no_grad():
        theirs = EquivariantReconstructor(model, moves).train()(y, physics)
        torch.manual_seed(5)
        drawn = moves.get_params(physics.A_adjoint(y))
        ours = model.moved(moves, drawn).equilibrium(y, physics)
    assert bool((ours.status == 0).all())
    assert (ours.value - theirs).norm() < 1e-6 * theirs.norm()
    assert (model(y, physics) - theirs).norm() > 1e-4 * theirs.norm()


def test_agrees_with_deepinv_on_the_same_draw():
    """Its prediction of what ours leaves out."""
    denoiser, physics, y = problem("inpainting")
    model = model_of(STEPS["proximal"](denoiser))
    group = eq.Rotations(multiples=90)
    loss = Splitting(parts=5, group=group)
    with seeded((0, 0), [0, 1]):
        ours = loss(x_net=model(y, physics), y=y, physics=physics, model=model)
    with seeded((0, 0), [0, 1]):
        part = int(shared(lambda: torch.randint(5, ())))
        kept = split(physics, y, 5, part).physics.mask

        class Generator(deepinv.physics.generator.PhysicsGenerator):
            def step(self, *args, **kwargs):
                return {"mask": kept.expand(2, 1, PIXELS, PIXELS)}

        class Nothing(MCLoss):
            def forward(self, x_net, **kwargs):
                return x_net.new_zeros(len(x_net))

        theirs = EquivariantSplittingLoss(
            mask_generator=Generator(), transform=group, consistency_loss=Nothing()
        )
        wrapped = theirs.adapt_model(model)
        wrapped.train()
        x = wrapped(y, physics, update_parameters=True)
        wanted = theirs(x, y, physics, wrapped)
    # Theirs is the mean over what is left out, ours over all that y has.
    share = float((physics.mask - kept * physics.mask).mean())
    assert torch.allclose(ours, wanted * share, rtol=1e-6)


def test_nothing_moves_where_the_denoiser_commutes():
    denoiser, physics, y = problem("ct")
    group = eq.Rotations(multiples=90)
    step = STEPS["proximal"](eq.Invariant(denoiser, group))
    model = model_of(step)
    values = []
    for chosen in (None, group):
        with seeded((0, 0), [0, 1]):
            loss = Splitting(parts=5, group=chosen)
            values.append(
                evaluate(loss, Example(y.new_zeros(2, 1, PIXELS, PIXELS), y, physics, model))
            )
    assert torch.allclose(values[0].value, values[1].value, rtol=1e-6)


def test_each_sample_is_moved_by_its_own_draw_whatever_is_beside_it():
    denoiser, physics, y = problem("ct")
    model = model_of(STEPS["proximal"](denoiser))
    loss = Splitting(parts=5, group=eq.Rotations())
    x = y.new_zeros(2, 1, PIXELS, PIXELS)
    with seeded((0, 0), [0, 1]):
        both = loss(x_net=x, y=y, physics=physics, model=model)
    with seeded((0, 0), [1]):
        alone = loss(x_net=x[1:], y=y[1:], physics=physics, model=model)
    assert torch.allclose(both[1:], alone, rtol=1e-6)


def test_the_untied_and_the_model_itself_stay_as_they_are():
    denoiser, physics, y = problem("ct")
    step = STEPS["proximal"](denoiser).double()
    untied = UntiedReconstructor([step, step], on_failure="ignore")
    before = untied(y, physics)
    group = eq.Rotations(multiples=90)
    moves = {"theta": torch.tensor([90.0, 180.0])}
    moved = untied.moved(group, moves)
    assert (moved(y, physics) - before).norm() > 1e-4 * before.norm()
    assert torch.equal(untied(y, physics), before)
    assert step.denoiser is denoiser


def test_other_models_are_referred_to_deepinv():
    _, physics, y = problem("ct")
    loss = Splitting(parts=5, group=eq.Reflections())
    with pytest.raises(TypeError, match=r"deepinv\.loss\.EquivariantSplittingLoss"):
        loss(x_net=physics.A_adjoint(y), y=y, physics=physics, model=lambda y, p: p.A_adjoint(y))


@pytest.mark.parametrize("group", ["quarter turns", "rotations"])
def test_a_step_that_works_pixel_by_pixel(group):
    """It moves along with what only puts pixels in other places."""
    _, physics, y = problem("ct")
    step = eq.MirrorStep(Shrunk(eq.load_denoiser(), 0.7), floor=0.05)
    model, moves = model_of(step, eq.Stop(1e-9, 3)), GROUPS[group]()
    model.on_failure = "ignore"
    drawn = {"theta": torch.tensor([90.0, 180.0])}
    if group == "rotations":
        with pytest.raises(ValueError, match="MirrorStep works pixel by pixel"):
            model.moved(moves, drawn)
        return
    at = VirtualLinearPhysics(physics=physics, transform=moves, g_params=drawn)
    with torch.no_grad():
        theirs = moves.transform(model(y, at), **drawn)
        assert (model.moved(moves, drawn)(y, physics) - theirs).norm() < 1e-6 * theirs.norm()


def test_one_move_for_each_sample():
    denoiser, physics, y = problem("ct")
    model = model_of(STEPS["proximal"](denoiser))
    loss = Splitting(parts=5, group=eq.Rotations(n_trans=2))
    with pytest.raises(ValueError, match="one draw for each sample"):
        loss(x_net=physics.A_adjoint(y), y=y, physics=physics, model=model)


def test_in_a_configuration():
    asked = ObjectiveSettings.model_validate({"splitting": {"group": "quarter_turns"}})
    assert asked.splitting.group.kind == "quarter_turns"
    assert (
        ObjectiveSettings.model_validate({"splitting": {"group": "none"}}).splitting.group is None
    )
    with pytest.raises(ValueError, match="group"):
        ObjectiveSettings.model_validate({"splitting": {"group": "squares"}})


def test_quarter_turns_need_square_images():
    from equipoise.config import parse
    from equipoise.data.scan import Scan

    config = parse(
        {
            "data": {"kind": "phantoms", "size": [16, 24], "count": 2},
            "physics": {"kind": "mri", "acceleration": 2},
            "objective": {"splitting": {"group": "quarter_turns"}},
        },
        "c",
    )
    scan = Scan.planned(config.physics, config.data.size, 0)
    with pytest.raises(UserError, match=r"objective\.splitting\.group: quarter_turns need square"):
        config.objective.make(scan, torch.zeros(1, 2, 16, 24))
