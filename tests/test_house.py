"""The house: imports go down, no circles, nothing to scroll or decode, and the public names."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import equipoise as eq

SOURCE = Path(eq.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
#: A room may import from itself and from those named before it.
FLOORS = [
    "version",
    "errors",
    "machine",
    "settings",
    "equilibrium",
    "imaging",
    "data",
    "reconstruction",
    "assessment",
    "learning",
    "earlier",
    "config",
    "run",
    "comparison",
    "commands",
    "cli",
    "__main__",
]
#: The front door, which opens every room when somebody asks for one of its names.
FRONT_DOOR = SOURCE / "__init__.py"
MOST_COLUMNS = 100


def name_of(path: Path) -> str:
    """The dotted name of a module of the package, "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def room(name: str) -> str:
    return name.split(".")[0]


def is_for_types_alone(node: ast.AST) -> bool:
    """Whether it is the body of ``if TYPE_CHECKING:``, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in it: inside functions too."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    base = path.relative_to(SOURCE).parts[:-1]
    while pending:
        node = pending.pop()
        if is_for_types_alone(node):
            continue
        pending += ast.iter_child_nodes(node)
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        start = base[: len(base) - node.level + 1]
        target = ".".join([*start, *(node.module or "").split(".")]).strip(".")
        for alias in node.names:
            inner = f"{target}.{alias.name}".strip(".")
            found.add(inner if inner in MODULES else target)
    return found - {name_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_go_down(path):
    if path == FRONT_DOOR:
        return
    here = room(name_of(path))
    assert here in FLOORS, f"{here} stands on no floor: name it in FLOORS"
    below = FLOORS[: FLOORS.index(here) + 1]
    assert {room(name) for name in imports(path)} - {""} <= set(below)


def test_no_circles():
    graph = {name: imports(path) - {""} for name, path in MODULES.items() if name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other: {' → '.join(error.args[1])}")


def test_equilibrium_imports_torch_alone():
    for path in (SOURCE / "equilibrium").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_to_decode(path):
    """Lines that fit, and one statement on each."""
    text = path.read_text()
    # The model card and the like are texts in which a line is a paragraph.
    texts = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    inside = {
        line
        for node in texts
        if isinstance(node.value, str) and node.end_lineno > node.lineno
        for line in range(node.lineno, node.end_lineno + 1)
    }
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= MOST_COLUMNS or number in inside, f"{path}:{number}"
    starts = [n.lineno for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)]
    doubled = {line for line in starts if starts.count(line) > 1}
    assert not doubled, f"{path}: several statements in lines {sorted(doubled)}"


def test_public_names():
    for name in eq.__all__:
        assert getattr(eq, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        eq.nonsense  # noqa: B018


def test_help_is_light():
    """`equipoise --help` must not load torch: that is what would make it slow."""
    heavy = ("torch", "numpy", "deepinv", "matplotlib", "pydantic")
    code = (
        "import sys; from equipoise.cli import app; "
        f"sys.exit(any(module in sys.modules for module in {heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shipped_weights_are_small():
    assert (SOURCE / "weights" / "denoiser.safetensors").stat().st_size <= 1_000_000
