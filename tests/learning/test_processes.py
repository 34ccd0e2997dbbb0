"""What the processes of a run have of their own."""

from __future__ import annotations

import deepinv
import torch

from equipoise.learning.processes import any_of, from_first, on_device, share_gradient

from .examples import in_processes


def test_an_operator_is_taken_to_the_device_as_a_copy():
    """Data that are measured while they are read keep theirs; on a CPU there is nothing to do."""
    physics = deepinv.physics.MRI(mask=torch.ones(1, 1, 8, 8), img_size=(8, 8))
    assert on_device(physics, torch.device("cpu")) is physics
    moved = on_device(physics, torch.device("meta"))
    assert moved is not physics
    assert moved.mask.device.type == "meta"
    assert physics.mask.device.type == "cpu"


def test_all_have_what_the_first_has():
    answers = in_processes(3, lambda one: from_first(one, torch.tensor([1.0 + one.global_rank])))
    assert [float(answer) for answer in answers] == [1.0, 1.0, 1.0]


def test_gradients_are_summed_and_none_counts_as_nothing():
    def run(one):
        weights = [torch.zeros(2, 3), torch.zeros(4)]
        weights[one.global_rank].grad = torch.full_like(weights[one.global_rank], 2.0)
        weights[0].grad = torch.ones(2, 3) * (1 + one.global_rank)
        share_gradient(one, weights)
        return [w.grad for w in weights]

    for first, second in in_processes(2, run):
        assert torch.equal(first, torch.full((2, 3), 3.0))
        assert torch.equal(second, torch.full((4,), 2.0))


def test_one_of_them_is_enough():
    assert in_processes(2, lambda one: any_of(one, one.global_rank == 1)) == [True, True]
    assert in_processes(2, lambda one: any_of(one, False)) == [False, False]
