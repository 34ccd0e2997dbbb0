"""What the processes of a run have of their own."""

from __future__ import annotations

import deepinv
import torch

from equipoise.learning.processes import on_device


def test_an_operator_is_taken_to_the_device_as_a_copy():
    """Data that are measured while they are read keep theirs; on a CPU there is nothing to do."""
    physics = deepinv.physics.MRI(mask=torch.ones(1, 1, 8, 8), img_size=(8, 8))
    assert on_device(physics, torch.device("cpu")) is physics
    moved = on_device(physics, torch.device("meta"))
    assert moved is not physics
    assert moved.mask.device.type == "meta"
    assert physics.mask.device.type == "cpu"
