"""Randomness belongs to a sample."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

import equipoise as eq
from equipoise.imaging.draws import seeded, shared


def test_what_a_sample_draws_does_not_depend_on_its_batchmates():
    x, group = torch.rand(4, 1, 8, 8), eq.Rotations() * eq.Shifts()
    with seeded((3, 7), [0, 1, 2, 3]):
        whole, again = group.get_params(x), group.get_params(x)
    with seeded((3, 7), [2, 3]):
        half = group.get_params(x[2:])
    for key in whole:
        assert torch.equal(whole[key][2:], half[key])
        assert len(whole[key].unique()) > 1
        assert not torch.equal(whole[key], again[key])
    with seeded((3, 8), [2, 3]):
        assert not torch.equal(group.get_params(x[2:])["theta"], half["theta"])


def test_shared_draws():
    def draw(samples):
        with seeded((1, 2), samples):
            return [int(shared(lambda: torch.randint(1000, ()))) for _ in range(4)]

    assert draw([0, 1]) == draw([5])
    assert len(set(draw([0]))) > 1


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_global_generator_is_as_before(fails):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with suppress(ZeroDivisionError), seeded((3, 7), [0]):
        torch.rand(2)
        shared(lambda: torch.rand(1))
        _ = 1 / (not fails)
    assert torch.equal(torch.rand(3), expected)
