"""What docs/equilibrium.md shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "equilibrium.md"
MARK = r"<!-- run by tests/equilibrium/test_page.py -->\n```python[^\n]*\n(.*?)```"
EXAMPLES = re.findall(MARK, PAGE.read_text(), re.S)


def test_there_are_examples():
    assert len(EXAMPLES) == 1


@pytest.mark.parametrize("code", EXAMPLES)
def test_it_runs_and_all_samples_converge(code, capsys):
    torch.set_default_dtype(torch.float32)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "tensor([0, 0, 0, 0])" in capsys.readouterr().out
