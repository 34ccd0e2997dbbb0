"""Laws of the phantoms."""

from __future__ import annotations

import pytest
import torch

from equipoise.imaging.phantoms import KINDS, dead_leaves, phantoms


class TestPhantoms:
    def test_range_looks_and_seeds(self):
        for images in (phantoms(8, 48, 3, KINDS), dead_leaves(3, 48, 3)):
            assert images.min() >= 0
            assert images.max() <= 1
            assert images.flatten(1).std(1).min() > 0.05
        assert torch.equal(phantoms(2, 32, 1), phantoms(4, 32, 1)[:2])
        assert not torch.equal(phantoms(1, 32, 1), phantoms(1, 32, 2))
        with pytest.raises(ValueError, match="kinds must be"):
            phantoms(1, 32, 0, ("elbow",))
