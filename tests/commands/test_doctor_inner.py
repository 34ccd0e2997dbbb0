"""The doctor says how the inner problem is solved, and why."""

from __future__ import annotations

import pytest

from equipoise.commands.doctor import examine
from equipoise.config import parse


@pytest.mark.parametrize(
    ("physics", "inner", "words"),
    [
        ({"kind": "parallel_beam", "angles": 6}, "auto", "eigenvectors"),
        ({"kind": "parallel_beam", "angles": 6}, 3, "chebyshev, 3 step(s)"),
        ({"kind": "inpainting"}, "auto", "formula"),
    ],
)
def test_it_is_told(physics, inner, words):
    tree = {
        "data": {"size": 16, "count": 4},
        "physics": physics,
        "model": {
            "max_steps": 4,
            "step": {"inner": inner},
            "denoiser": {"kind": "random", "channels": 4, "layers": 2},
        },
        "objective": {"splitting": 0},
        "learning": {"steps": 2, "batch": 2},
    }
    found = [f for f in examine(parse(tree, "test")) if f.what.startswith("inner problem: ")]
    assert [finding.verdict for finding in found] == ["ok"]
    assert words in found[0].what
