"""What the README and the pages in docs show runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from support import real_data

import equipoise as eq
from equipoise.cli import app
from equipoise.commands.doctor import examine
from equipoise.commands.train import train_run
from equipoise.comparison.methods import METHODS
from equipoise.config import load_config, parse
from equipoise.data.formats import FORMATS, base

ROOT = Path(__file__).parents[1]
BENCHMARKS = [
    path
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if "arguments(p," in path.read_text()
]


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


def test_the_uncertainty_page(capsys):
    (code,) = examples("docs/uncertainty.md")
    names = run(code, "docs/uncertainty.md")
    assert names["u"].std.shape == (2, 1, 32, 32)
    assert names["mean"].std.shape == (2, 1)
    assert (names["u"].rmse > 0).all()


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


@pytest.fixture
def registries():
    """What a page registers is forgotten after it."""
    formats, suffixes, methods = dict(FORMATS), set(base._KNOWN_SUFFIXES), list(METHODS)
    yield
    FORMATS.clear()
    FORMATS.update(formats)
    base._KNOWN_SUFFIXES.clear()
    base._KNOWN_SUFFIXES.update(suffixes)
    METHODS[:] = methods


def test_the_page_for_contributors(registries, capsys):
    form, operator, step, loss, method = examples("docs/extending.md")
    names = run(form, "docs/extending.md")
    assert names["values"].shape == (20, 91)
    assert names["item"].format == "text"
    names = run(operator, "docs/extending.md")
    assert names["y"].shape == (2, 1, 32, 32)
    names = run(step, "docs/extending.md")
    assert names["images"][0].shape == (2, 1, 16, 16)
    names = run(loss, "docs/extending.md")
    assert names["report"].parts["negative"] >= 0
    assert names["report"].skipped == ""
    names = run(method, "docs/extending.md")
    assert names["images"].shape == (4, 1, 16, 16)
    assert "weight" in names["fitted"].setting
    assert METHODS[-1].name == "tikhonov"


def run(code: str, page: str) -> dict:
    """The names that an example leaves."""
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    return names


def files_named_on(page: str) -> set[str]:
    """Paths of files in the package and in the tests, as the pages for contributors name them."""
    found = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.py)`", (ROOT / page).read_text())
    return {name for name in found if "FILE" not in name and "ROOM" not in name}


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md"])
def test_files_that_the_pages_name_are_there(page):
    """A page that follows the code is worth nothing once the code has moved."""
    source = ROOT / "src" / "equipoise"
    files = [p.relative_to(ROOT) for p in ROOT.glob("tests/**/*.py")]
    files += [p.relative_to(source) for p in source.glob("**/*.py")]
    known = {str(file) for file in files} | {file.name for file in files}
    assert sorted(files_named_on(page) - known) == []


def test_functions_that_the_walks_name_are_there():
    rows = re.findall(
        r"^\| \d+ \| `([\w/]+\.py)` \| (.*?) \|", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    assert len(rows) > 20
    for file, cell in rows:
        text = (ROOT / "src" / "equipoise" / file).read_text()
        for name in re.findall(r"`([\w.]+)`", cell):
            last = name.split(".")[-1]
            assert re.search(rf"(?:def|class) {last}\b", text), (file, name)


def test_a_walk_names_nine_files_at_most():
    sections = re.split(r"^##+ ", (ROOT / "docs/architecture.md").read_text(), flags=re.M)
    walks = [set(re.findall(r"^\| \d+ \| `([\w/]+\.py)` \|", s, re.M)) for s in sections]
    walks = [walk for walk in walks if walk]
    measurement, inside_a_solve, training_step = walks
    assert "equilibrium/solve.py" in inside_a_solve
    assert len(measurement) <= 9
    assert len(training_step) <= 9


def test_the_configurations_that_come_along_are_valid():
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert files
    for file in files:
        tree = yaml.safe_load(file.read_text())
        assert parse(tree, str(file)).name == file.stem


@pytest.mark.slow
@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_runs(script, tmp_path):
    """In its smallest form; one that needs data or a peer which is not there skips, saying so."""
    r = subprocess.run(
        [sys.executable, script, "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert r.returncode == 0, r.stderr[-2000:]


def test_no_benchmark_has_the_name_of_what_others_import():
    """Their folder is looked in first: a ``coverage.py`` there was what numba imported."""
    libraries = "sigpy, deepinv, matplotlib, h5py, pydicom, lightning_fabric"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import {libraries}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    own = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert not own & sys.stdlib_module_names


def test_configurations_on_the_pages_are_valid():
    found = [
        (p, t)
        for p in (ROOT / "docs").glob("*.md")
        for t in re.findall(r"```yaml[^\n]*\n(.*?)```", p.read_text(), re.S)
    ]
    assert found
    for path, text in found:
        parse(yaml.safe_load(text), str(path))


def command_and_output(page: str) -> tuple[list[str], list[str]]:
    """The command that a scanner's page begins with, without ``equipoise``, and what it prints."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / page).read_text(), re.S)
    return shlex.split(blocks[0])[1:], blocks[1].splitlines()


@real_data
@pytest.mark.parametrize("page", ["clinical-dicom", "cartesian-mri", "fan-beam"])
def test_the_pages_of_scanners_show_what_is_printed(page, tmp_path, monkeypatch):
    """With a network that learns nothing in one step."""
    monkeypatch.chdir(ROOT)
    (command, file, *given), printed = command_and_output(f"docs/scanners/{page}.md")
    assert command == "train"
    tree = load_config(file, given).model_dump(mode="json", exclude_none=True)
    tiny = {"max_steps": 2, "test_max_steps": 2, "gradient": {"kind": "implicit", "max_steps": 2}}
    tree["model"] = {**tiny, "denoiser": {"kind": "random", "channels": 2, "layers": 2}}
    tree["learning"] = {"steps": 1, "batch": 1, "warmup": 1}
    tree["out"] = str(tmp_path / "run")
    said: list[str] = []
    train_run(parse(tree, page), said.append)
    assert [line for line in said if line.startswith(("note", "holding"))] == printed


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    r = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
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
