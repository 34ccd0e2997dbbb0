"""What the README and the pages in docs show runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import typer
import yaml

import equipoise as eq
from equipoise.cli import app
from equipoise.commands.doctor import examine
from equipoise.config import parse

ROOT = Path(__file__).parents[1]


def examples(path: str) -> list[str]:
    return re.findall(
        r"<!-- run by tests/test_readme.py -->\n```python[^\n]*\n(.*?)```",
        (ROOT / path).read_text(),
        re.S,
    )


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


def test_the_operator_page(tmp_path):
    motion, sheet = examples("docs/operator.md")
    names: dict = {}
    exec(compile(motion, "docs/operator.md", "exec"), names)
    assert names["y"].shape == (2, 1, 32, 32)
    assert not names["y"][:, :, ::4].any()
    exec(compile(sheet, "docs/operator.md", "exec"), {})
    (tmp_path / "sheet.py").write_text(sheet)
    config = parse(
        {
            "physics": {"kind": "custom", "file": tmp_path / "sheet.py"},
            "objective": {"splitting": 0},
            "data": {"count": 4, "size": 32},
        },
        "sheet",
    )
    assert [f.what for f in examine(config) if f.verdict == "wrong"] == []


def test_configurations_on_the_pages_are_valid():
    found = [
        (p, t)
        for p in (ROOT / "docs").glob("*.md")
        for t in re.findall(r"```yaml[^\n]*\n(.*?)```", p.read_text(), re.S)
    ]
    assert found
    for path, text in found:
        parse(yaml.safe_load(text), str(path))


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    r = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert r.returncode == 0, r.stderr
    text = (tmp_path / "site" / "theory.html").read_text()
    assert text.count("<math") > 30
    assert "arithmatex" not in text  # every formula is drawn
    assert 'id="train"' in (tmp_path / "site" / "commands.html").read_text()
    assert "objective.equivariance" in (tmp_path / "site" / "options.html").read_text()
    fetched = re.compile(r"""(?:src|<link[^>]* href)=["']?https?:""")
    assert [
        page for page in (tmp_path / "site").rglob("*.html") if fetched.search(page.read_text())
    ] == []


def test_the_reference_has_every_public_name():
    listed = re.findall(
        r"^::: equipoise\.\S*?(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.M
    )
    assert sorted(listed) == sorted(eq.__all__)


def test_every_command_shows_an_example_that_parses():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        shown = re.findall(r"Example: equipoise (\w+) ?(.*?)(?:\n\n|$)", command.help, re.S)
        assert [n for n, _ in shown] == [name]
        command.make_context(name, shown[0][1].split())
