"""What holds for all tests."""

from __future__ import annotations

import os

import pytest

# Nothing is left in, or read from, the folder of caches of whoever runs them.
os.environ["EQUIPOISE_CACHE"] = "off"


@pytest.fixture(autouse=True)
def the_same_draws_each_time() -> None:
    """What passed once passes again, in whatever order tests are run."""
    import torch

    torch.manual_seed(0)
