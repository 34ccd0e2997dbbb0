"""The house: imports go down, the package stays light, the public names are there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise as eq

SOURCE = Path(eq.__file__).parent
# A room may import from those named before it; `learning` and `assessment` do not see each other.
FLOORS = [
    "errors",
    "config",
    "equilibrium",
    "imaging",
    "reconstruction",
    "learning",
    "assessment",
    "build",
    "runs",
    "compare",
    "diagnosis",
    "export",
    "demo",
    "cli",
]


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, from its relative imports."""
    depth, found = len(path.relative_to(SOURCE).parts), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found & set(FLOORS)


@pytest.mark.parametrize(
    "path", sorted(p for p in SOURCE.rglob("*.py") if room(p) in FLOORS), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_only_go_down(path):
    here = room(path)
    allowed = set(FLOORS[: FLOORS.index(here) + 1])
    if here == "assessment":
        allowed -= {"learning"}
    assert imported_rooms(path) <= allowed


def test_equilibrium_imports_torch_alone():
    for path in (SOURCE / "equilibrium").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                continue
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {"torch", *sys.stdlib_module_names}


def test_public_names():
    for name in eq.__all__:
        assert getattr(eq, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        eq.nonsense  # noqa: B018


def test_help_is_light():
    """`equipoise --help` must not load torch: that is what would make it slow."""
    heavy = ("torch", "numpy", "deepinv", "matplotlib", "pydantic")
    code = f"import sys; from equipoise.cli import app; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_is_small():
    lines = sum(bool(line.strip()) for p in SOURCE.rglob("*.py") for line in p.read_text().splitlines())
    assert lines < 7500
    assert (SOURCE / "weights" / "denoiser.safetensors").stat().st_size <= 1_000_000
