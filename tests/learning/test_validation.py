"""Weights are scored a batch at a time, and the processes share the work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import equipoise as eq
from equipoise.assessment.metrics import misfit, psnr
from equipoise.imaging.splitting import split
from equipoise.learning.losses.base import LossValue
from equipoise.learning.tally import Tally
from equipoise.learning.validation import Validator, solve_dataset

from .examples import ct_dataset, in_processes, small_model


class Counting(eq.EquilibriumReconstructor):
    """Remembers how many samples it was given at a time."""

    def equilibrium(self, y, physics, x0=None):
        self.batches.append(len(y))
        return super().equilibrium(y, physics, x0)


def counting_model():
    model = small_model()
    model.__class__ = Counting
    model.batches = []
    return model


def test_no_batch_is_larger_than_asked():
    data, model = ct_dataset(count=5), counting_model()
    with torch.no_grad():
        whole = model.equilibrium(data.y, data.scan.physics)
    model.batches = []
    solved = solve_dataset(model, data, batch=2)
    assert model.batches == [2, 2, 1]
    assert torch.allclose(solved.value, whole.value, rtol=1e-6)
    assert torch.allclose(solved.residual, whole.residual, rtol=1e-3)
    assert torch.equal(solved.steps, whole.steps)
    assert torch.equal(solved.status, whole.status)
    assert torch.allclose(solved.trace, whole.trace, rtol=1e-3)


@pytest.mark.parametrize("world", [2, 7])
def test_every_process_solves_its_share_and_knows_all(world):
    data = ct_dataset(count=5)
    alone = solve_dataset(small_model(), data, batch=2)
    models = {rank: counting_model() for rank in range(world)}

    def run(fabric):
        return solve_dataset(models[fabric.global_rank], data, batch=2, fabric=fabric)

    for solved in in_processes(world, run):
        assert torch.allclose(solved.value, alone.value, rtol=1e-6)
        assert torch.equal(solved.steps, alone.steps)
        assert solved.trace.shape == alone.trace.shape
    assert sum(sum(model.batches) for model in models.values()) == 5
    assert max(sum(model.batches) for model in models.values()) <= 3


def test_scores_are_those_of_the_weights_given():
    data = ct_dataset(count=4, with_truth=True)
    model, other = small_model(), small_model(seed=3)
    validator = Validator(model, data)
    scores = validator(other.state_dict())
    with torch.no_grad():
        x = other(data.y, data.scan.physics)
    assert scores["psnr"] == pytest.approx(float(psnr(x, data.truth).mean()), rel=1e-6)
    expected = float(misfit(x, data.y, data.scan.physics).mean())
    assert scores["misfit"] == pytest.approx(expected, rel=1e-6)
    assert scores["unsolved"] == 0


def test_what_was_kept_out_is_predicted():
    data = ct_dataset(count=4)
    physics, y, left, y_left = split(data.scan.physics, data.y, 3, 0)
    training = replace(data, y=y, scan=replace(data.scan, physics=physics))
    kept_out = replace(data, y=y_left, scan=replace(data.scan, physics=left))
    model = small_model()
    scores = Validator(small_model(seed=3), None, training, kept_out)(model.state_dict())
    with torch.no_grad():
        expected = float(misfit(model(y, physics), y_left, left).mean())
    assert scores == {"held_out": pytest.approx(expected, rel=1e-6)}


def test_what_processes_count_is_added_up():
    """Losses are means over the whole batch, and whatever is largest anywhere is known to all."""

    def run(fabric):
        tally = Tally(True)
        gain = torch.tensor([0.5, 0.7 + fabric.global_rank])
        tally.add_loss("a", LossValue(torch.tensor([1.0, 3.0]), gain=gain), share=0.5)
        tally.share(fabric)
        return tally

    for tally in in_processes(2, run):
        assert tally.losses(["a"]) == {"a": 2.0}
        assert tally.largest["gain"] == pytest.approx(1.7)


def test_processes_count_together_what_one_of_them_lacks():
    """As where all samples of one are lost: it has no adjoint solve, and the others have."""

    def run(fabric):
        tally = Tally(True)
        for name in ("a", "b")[fabric.global_rank :]:
            tally.add_loss(name, LossValue(torch.tensor([1.0])), share=0.5)
        if fabric.global_rank == 0:
            tally.add_loss("c", LossValue(torch.tensor([1.0]), gain=torch.tensor([0.4])), share=0.5)
        tally.share(fabric)
        return tally

    for tally in in_processes(2, run):
        assert tally.losses("abc") == {"a": 0.5, "b": 1.0, "c": 0.5}
        assert tally.largest["gain"] == pytest.approx(0.4)
