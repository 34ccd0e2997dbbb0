"""Comparisons at the size of a stamp."""

from __future__ import annotations

import pytest
from support import tiny_tree

from equipoise.comparison.sweep import Comparison
from equipoise.config import parse


@pytest.fixture(scope="session")
def config():
    """Six sinograms of 16² phantoms; a random denoiser; two steps of training."""
    tree = tiny_tree(name="tiny", model={"test_max_steps": 20}, learning={"steps": 2, "batch": 2})
    return parse(tree, "tiny")


@pytest.fixture
def comparison(config, tmp_path):
    """A comparison of the methods that are given, over two seeds."""

    def make(*methods, seeds=2, only=None):
        return Comparison(config, list(methods), tmp_path / "compare", seeds, only)

    return make
