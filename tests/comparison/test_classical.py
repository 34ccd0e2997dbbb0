"""Classical and plug-and-play methods: what they are tuned to, and when they cannot be had."""

from __future__ import annotations

import deepinv
import pytest
import torch
from support import quiet

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.comparison.classical import (
    FilteredBackprojection,
    LeastSquares,
    TotalVariation,
    ZeroFilled,
)
from equipoise.comparison.method import Unavailable
from equipoise.comparison.plugged import (
    STRENGTHS,
    TUNING_STOP,
    PlugAndPlay,
    RegularisationByDenoising,
    reconstructed_in_tuning,
    strength_of,
)
from equipoise.comparison.sweep import Comparison
from equipoise.comparison.tuning import Tuner
from equipoise.config import changed
from equipoise.data.scan import Scan
from equipoise.equilibrium import Stop
from equipoise.learning.search import Ladder

CLASSICAL = [LeastSquares(), TotalVariation(), FilteredBackprojection()]


def problem_of(config, tmp_path, with_images=True):
    comparison = Comparison(config, [], tmp_path, 1)
    load = comparison.tuning if with_images else None
    return comparison.problem(config.seed, 1, Tuner(load, say=quiet)), comparison


class TestTuning:
    @pytest.mark.parametrize("method", CLASSICAL, ids=lambda m: m.name)
    def test_the_best_lies_inside_what_was_tried(self, config, tmp_path, method, monkeypatch):
        """Each neighbour of the chosen setting was looked at, and none is clearly better."""
        problem, comparison = problem_of(config, tmp_path)
        dataset = comparison.tuning()
        (option, ladder) = next(iter(method.ladders(problem.scan).items()))

        def score(value):
            x = method.reconstruct(dataset.y, dataset.scan.physics, {option: value})
            return float(psnr(x, dataset.truth).mean())

        fitted = method.fit(problem)
        chosen = problem.tuner.best(
            method.name,
            {option: ladder},
            lambda data, s: method.reconstruct(data.y, data.scan.physics, s),
        )[option]
        assert fitted.setting == method.in_words({option: chosen})
        place = ladder.values.index(chosen)
        for k in (place - 1, place + 1):
            if 0 <= k < len(ladder.values) and ladder.first is not None:
                assert score(ladder.values[k]) <= score(chosen) + 0.01

    def test_beyond_the_values_that_are_tried_first(self, config, tmp_path):
        """Much noise asks for more total variation than any weight of the first list, and for
        fewer iterations."""
        noisy = changed(config, {"physics.noise": 0.3, "data.count": 8})
        problem, _ = problem_of(noisy, tmp_path)
        weight = float(TotalVariation().fit(problem).setting.removeprefix("weight "))
        assert weight > 3e-3
        iterations = int(LeastSquares().fit(problem).setting.removesuffix(" iterations"))
        assert iterations < 10

    @pytest.mark.parametrize(
        ("method", "setting"), zip(CLASSICAL, ["20 iterations", "weight 0.0001", "window ramp"])
    )
    def test_without_images_the_setting_is_the_usual_one(self, config, tmp_path, method, setting):
        problem, _ = problem_of(config, tmp_path, with_images=False)
        assert method.fit(problem).setting == setting


class TestUnavailable:
    def fan(self, config, angles):
        physics = {"kind": "fan_beam", "angles": angles}
        return changed(
            config, {"physics": {**physics, "source_distance": 40, "detector_distance": 20}}
        )

    def test_a_fan_that_is_too_short(self, config, tmp_path):
        short = self.fan(config, [0.0, 10.0, 20.0])
        problem, _ = problem_of(short, tmp_path)
        with pytest.raises(Unavailable, match="no filtered backprojection: "):
            FilteredBackprojection().fit(problem)

    def test_a_fan_that_is_whole(self, config, tmp_path):
        whole = self.fan(config, 12)
        problem, comparison = problem_of(whole, tmp_path)
        dataset, _ = comparison.unseen(0)
        x = FilteredBackprojection().fit(problem).reconstruct(dataset)
        assert float(psnr(x, dataset.truth).mean()) > 15

    def test_an_operator_without_one(self, config, tmp_path):
        blur = changed(config, {"physics": {"kind": "blur"}})
        problem, comparison = problem_of(blur, tmp_path)
        fitted, (dataset, _) = FilteredBackprojection().fit(problem), comparison.unseen(0)
        with pytest.raises(Unavailable, match="BlurFFT has no method fbp"):
            fitted.reconstruct(dataset)

    def test_an_operator_whose_own_knows_no_windows(self):
        class Plain(deepinv.physics.LinearPhysics):
            def fbp(self, y):
                return 2 * y

        method = FilteredBackprojection()
        scan = Scan(None, Plain(), 1.0, (1, 4, 4), (1, 4, 4))
        assert method.ladders(scan) == {}
        y = torch.rand(1, 1, 4, 4)
        assert torch.equal(method.reconstruct(y, Plain(), {}), 2 * y)


def test_zero_filled_is_the_adjoint(config, tmp_path):
    mri = changed(config, {"physics": {"kind": "mri"}})
    problem, comparison = problem_of(mri, tmp_path)
    dataset, _ = comparison.unseen(0)
    fitted = ZeroFilled().fit(problem)
    assert fitted.setting == "Aᵀ y"
    x = fitted.reconstruct(dataset)
    assert torch.allclose(x, dataset.scan.physics.A_adjoint(dataset.y))


class TestPlugged:
    """A denoiser that contracts, so that there are equilibria: D(x) = x / (1 + σ)."""

    @pytest.fixture
    def contracting(self, config, monkeypatch):
        class Shrinking(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.one = torch.nn.Parameter(torch.ones(()))

            def forward(self, x, sigma):
                return self.one * x / (1 + sigma)

        from equipoise.reconstruction.denoisers.settings import RandomSettings

        monkeypatch.setattr(RandomSettings, "make", lambda self, seed=0: Shrinking())
        return changed(config, {"model.test_rtol": 1e-6, "model.test_max_steps": 200})

    def test_red_has_the_equilibria_of_plug_and_play(self, contracting, tmp_path):
        problem, comparison = problem_of(contracting, tmp_path)
        dataset, _ = comparison.unseen(0)
        plugged = PlugAndPlay("pnp", "PnP")
        first = plugged.fit(problem)
        second = RegularisationByDenoising(plugged).fit(problem)
        assert first.setting == second.setting
        x, y = first.reconstruct(dataset), second.reconstruct(dataset)
        assert bool(x.converged.all())
        assert bool(y.converged.all())
        assert float((x.value - y.value).norm() / x.value.norm()) < 1e-3

    def test_no_neighbour_of_the_setting_is_better(self, contracting, tmp_path):
        problem, comparison = problem_of(contracting, tmp_path)
        method, dataset = PlugAndPlay("pnp", "PnP"), comparison.tuning()
        base = method.configuration(contracting)

        def score(sigma, strength):
            changes = {"model.sigma": sigma, "model.step.strength": strength}
            x = reconstructed_in_tuning(changed(base, changes), dataset)
            return float(psnr(x, dataset.truth).mean())

        best = method.setting(problem)
        sigma, strength = best["sigma"], best["strength"]
        noise = dataset.scan.noise
        times = strength / strength_of(base, noise, sigma, 1.0)
        place = int(torch.tensor(STRENGTHS.values).sub(times).abs().argmin())
        assert STRENGTHS.values[place] == pytest.approx(times)
        for k in (place - 1, place + 1):
            other = strength_of(base, noise, sigma, STRENGTHS.values[k])
            assert score(sigma, other) <= score(sigma, strength) + 0.01
        for other in (sigma / 2, 2 * sigma):
            asked = strength_of(base, noise, other, times)
            assert score(other, asked) <= score(sigma, strength) + 0.01

    def test_whatever_the_step_and_the_gradient(self, config):
        other = changed(
            config,
            {
                "model.step": {"kind": "gradient", "step_size": 0.5},
                "model.gradient": {"kind": "unrolled", "steps": 3},
            },
        )
        found = PlugAndPlay("pnp", "PnP").configuration(other)
        assert found.model.step.kind == "proximal"
        assert found.model.gradient.kind == "implicit"


def test_a_ladder_is_a_promise():
    """Every method's first values and default are on its ladder."""
    scan = Scan(None, eq.ParallelBeam(8, 3), 1.0, (1, 8, 8), (1, 3, 12))
    for method in CLASSICAL:
        for ladder in method.ladders(scan).values():
            assert isinstance(ladder, Ladder)
            assert ladder.default in ladder.values
            assert len(ladder.start()) >= 3


def test_tuning_is_no_tighter_than_it_need_be():
    assert Stop(1e-3, 60) == TUNING_STOP
