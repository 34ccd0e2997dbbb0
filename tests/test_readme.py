"""What the README and the pages in docs show runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def examples(path: str) -> list[str]:
    return re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", (ROOT / path).read_text(), re.S)


def lines(code: str) -> int:
    return len([line for line in code.splitlines() if line.strip()])


def test_the_readme(capsys):
    (code,) = examples("README.md")
    assert lines(code) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert "tensor([0, 0, 0, 0])" in capsys.readouterr().out  # all converged


def test_the_equilibrium_page(capsys):
    solving, two_passes = examples("docs/equilibrium.md")
    exec(compile(solving, "docs/equilibrium.md", "exec"), {})
    assert "tensor([0, 0, 0, 0])" in capsys.readouterr().out
    assert lines(two_passes) <= 15
    names: dict = {}
    exec(compile(two_passes, "docs/equilibrium.md", "exec"), names)
    assert names["W"].grad.norm() > 0


def test_the_training_page():
    (code,) = examples("docs/training.md")
    names: dict = {}
    exec(compile(code, "docs/training.md", "exec"), names)
    assert names["x"].shape == (2, 1, 32, 32)


def test_the_data_page():
    (custom,) = examples("docs/data.md")
    names: dict = {}
    exec(compile(custom, "docs/data.md", "exec"), names)
    assert names["y"].shape == (2, 1, 32, 32)
    assert not names["y"][:, :, ::4].any()
