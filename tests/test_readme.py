"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(capsys):
    (code,) = re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert "tensor([0, 0, 0, 0])" in capsys.readouterr().out  # all converged
