"""σ and λ are chosen by measurements that the model is not given."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from deepinv.physics import BlurFFT, ComposedLinearPhysics, Inpainting

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.learning import choice as choosing
from equipoise.learning.choice import HeldOut, choose, held_out_part, with_values
from equipoise.reconstruction.settings import ModelSettings

from .examples import dataset_of, images


def scans(noise, count=3, size=16, views=30):
    physics = eq.ParallelBeam(size, views, normalize=True)
    x = images(count)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        y = physics.A(x)
        return dataset_of(physics, y + noise * torch.randn_like(y))


def test_it_is_the_best_of_its_neighbours():
    held_out = held_out_part(scans(0.03))
    settings = ModelSettings()
    choice = choose(settings, held_out, 0.03)
    assert choice.settings.keys() == {"model.sigma", "model.step.strength"}

    def score(values):
        model = with_values(settings, values).make(1, 0.03).eval()
        model.stop = eq.Stop(1e-3, 60)
        return held_out.score(model)

    best = score(choice.settings)
    for factor in (0.5, 2):
        other = {**choice.settings, "model.sigma": choice.settings["model.sigma"] * factor}
        assert not score(other) < best - 2e-3
    for factor in (0.3, 3):
        strength = choice.settings["model.step.strength"] * factor
        assert not score({**choice.settings, "model.step.strength": strength}) < best - 2e-3


def test_more_noise_asks_for_more_prior():
    few, many = (choose(ModelSettings(), held_out_part(scans(n)), n) for n in (0.001, 0.1))
    assert few.settings["model.step.strength"] < many.settings["model.step.strength"]


def test_rows_that_are_lost_are_filled():
    """Between σ = 0.02 and the 0.16 that fills them nothing is better than what it began with."""
    shape = (1, 32, 32)
    mask = torch.ones(shape)
    mask[:, ::4] = 0
    blur = BlurFFT(shape, filter=torch.ones(1, 1, 1, 5) / 5)
    physics = ComposedLinearPhysics(blur, Inpainting(shape, mask=mask))
    x = eq.phantoms(3, 32)
    y = physics.A(x)
    data = dataset_of(physics, y)
    data = replace(data, scan=replace(data.scan, image_shape=shape))
    choice = choose(ModelSettings(), held_out_part(data), 0.005)
    assert choice.settings["model.sigma"] >= 0.08
    model = with_values(ModelSettings(), choice.settings).make(1, 0.005).eval()
    with torch.no_grad():
        gain = psnr(model(y, physics), x) - psnr(y, x)
    assert float(gain.min()) > 6


def test_what_is_said_is_kept():
    settings = ModelSettings(sigma=0.07, step={"kind": "proximal", "strength": 0.5})
    assert choose(settings, held_out_part(scans(0.03)), 0.03).settings == {}
    half = ModelSettings(sigma=0.07)
    assert choose(half, held_out_part(scans(0.03)), 0.03).settings.keys() == {"model.step.strength"}
    gradient = ModelSettings(step="gradient")
    assert choose(gradient, held_out_part(scans(0.03)), 0.03).settings.keys() == {"model.sigma"}


def test_where_there_is_nothing_to_choose_by_it_says_so():
    random = ModelSettings(denoiser={"kind": "random", "channels": 4, "layers": 2})
    for settings, held_out, why in (
        (random, held_out_part(scans(0.03)), "not trained yet"),
        (ModelSettings(), None, "cannot be split"),
    ):
        choice = choose(settings, held_out, 0.04)
        assert why in choice.words
        assert choice.settings["model.sigma"] == 0.02
        assert choice.settings["model.step.strength"] == pytest.approx(4.0)


def test_the_part_that_is_kept_out_is_the_judge():
    data = scans(0.03)
    training, kept_out = data.split(10, 3)
    held_out = held_out_part(training, kept_out)
    assert held_out.given.y.shape[-2] == 27
    assert held_out.left_out.y.shape[-2] == 3
    assert held_out_part(data).left_out.y.shape[-2] == 6


def test_a_solve_that_came_to_nothing_has_no_score():
    data = scans(0.03)

    model = with_values(ModelSettings(), {"model.sigma": 0.02}).make(1, 0.03).eval()
    model.stop = eq.Stop(1e-9, 1)
    assert math.isnan(HeldOut(*data.split(5, 0)).score(model))


@pytest.mark.parametrize(("size", "expected"), [(16, 16), (64, 16), (96, 7), (128, 4), (320, 1)])
def test_small_measurements_are_looked_at_in_greater_numbers(size, expected):
    """So that about as much is left out of them."""
    few = dataset_of(Inpainting((1, size, size), 0.5), torch.zeros(20, 1, 4, 4))
    few = replace(few, scan=replace(few.scan, image_shape=(1, size, size)))
    assert len(held_out_part(few, kept_out=few).given) == expected


def test_the_search_ends_by_number_and_never_by_the_clock(monkeypatch):
    """A busy machine chooses what an idle one does."""
    held_out, tried = held_out_part(scans(0.01)), []

    def score(self, model):
        tried.append(float(model.step.sigma))
        return -len(tried)  # each is better than the one before

    monkeypatch.setattr(HeldOut, "score", score)
    monkeypatch.setattr(choosing.time, "monotonic", iter(range(0, 10**9, 10**6)).__next__)
    for most in (3, 7):
        tried.clear()
        monkeypatch.setattr(choosing, "MOST_TRIED", most)
        said: list[str] = []
        found = choose(ModelSettings(), held_out, 0.01, say=said.append)
        assert len(tried) == most
        assert found.settings["model.sigma"] == tried[-1]
        assert f"the search was ended after {most} settings" in found.words
        assert said[0].startswith("choosing model.sigma and model.step.strength by what is left")
