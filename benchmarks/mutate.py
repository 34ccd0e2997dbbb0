"""Does a test notice? Single lines are changed at random, and the tests are run each time.

    python benchmarks/mutate.py --seed 0 --count 30        # results/mutations.md has the outcome

A change is a sign, a factor, a bound, an index, a comparison, or a deleted line. Comparisons become
their opposites: what differs at equality alone is no change where real numbers are compared, and
whole numbers have their bounds changed. The rooms take turns, so that each is tried about as often.
All tests are run, the likeliest first: the file that mirrors the changed one, the room's, the
others; up to the first that fails. The checkout is copied, and stays as it is; before the first
change the tests of the copy must pass (`--trusting` skips it).
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src") / "equipoise"
#: Every default, bound and named number: a few seconds, and they are changed often.
PROMISES = Path("tests") / "test_defaults.py"
#: Where a change of a room is likely to be noticed, beside the tests of the room itself.
ROOMS = {
    "equilibrium": ["tests/equilibrium"],
    "imaging": ["tests/imaging"],
    "data": ["tests/data", "tests/commands/test_every_operator.py"],
    "reconstruction": ["tests/reconstruction", "tests/equilibrium"],
    "learning": ["tests/learning", "tests/commands/test_train.py"],
    "assessment": ["tests/assessment", "tests/comparison"],
    "comparison": ["tests/comparison"],
    "commands": ["tests/commands"],
}
#: What only draws or speaks: a change there is seen by eye, not by a law.
LEFT_OUT = (
    "figures",
    "terminal.py",
    "phantoms.py",
    "torsos.py",
    "scenes.py",
    "grain.py",
    "pretrain.py",
    "loggers.py",
)
SWAPPED = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
    ast.Eq: "!=",
    ast.NotEq: "==",
}
#: A change that makes the tests take longer is noticed too. The whole suite takes 8 minutes on two
#: cores, several times that beside other work.
SECONDS = 2700


@dataclass(frozen=True)
class Change:
    """A piece of one line, and what it becomes."""

    file: Path
    line: int  # from 1
    column: int
    end: int
    new: str
    kind: str

    def apply(self, root: Path) -> str:
        """Writes the change into a copy; the line before and after."""
        path = root / self.file
        lines = path.read_text().splitlines(keepends=True)
        raw = lines[self.line - 1].encode()
        before = raw.decode().strip()
        raw = raw[: self.column] + self.new.encode() + raw[self.end :]
        lines[self.line - 1] = raw.decode()
        path.write_text("".join(lines))
        return f"{before}  →  {raw.decode().strip()}"


class Candidates(ast.NodeVisitor):
    """Every change that could be made to a file."""

    def __init__(self, file: Path, text: str):
        self.file = file
        self.lines = text.splitlines()
        self.found: list[Change] = []

    def _add(self, node: ast.AST, end: int, new: str, kind: str) -> None:
        change = Change(self.file, node.lineno, node.col_offset, end, new, kind)
        self.found.append(change)

    def _between(self, left: ast.expr, right: ast.expr, operator: ast.AST, kind: str) -> None:
        """The operator stands between its operands; those that span lines are left out."""
        if left.end_lineno != right.lineno or type(operator) not in SWAPPED:
            return
        raw = self.lines[left.end_lineno - 1].encode()
        between = raw[left.end_col_offset : right.col_offset].decode()
        sign = between.strip(" ()")
        if sign not in ("+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!="):
            return
        start = left.end_col_offset + between.index(sign)
        change = Change(
            self.file,
            left.end_lineno,
            start,
            start + len(sign),
            SWAPPED[type(operator)],
            kind,
        )
        self.found.append(change)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        kind = "sign" if isinstance(node.op, ast.Add | ast.Sub) else "factor"
        self._between(node.left, node.right, node.op, kind)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            self._between(node.left, node.comparators[0], node.ops[0], "comparison")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        index = node.slice
        if isinstance(index, ast.Constant) and type(index.value) is int:
            self._add(index, index.end_col_offset, str(index.value + 1), "index")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self._add(node, node.end_col_offset, str(node.value + 1), "bound")
        elif type(node.value) is float:
            self._add(node, node.end_col_offset, repr(node.value * 2 or 1.0), "factor")

    def visit_Expr(self, node: ast.Expr) -> None:
        self._delete(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._delete(node)
        self.generic_visit(node)

    def _delete(self, node: ast.stmt) -> None:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if node.lineno == node.end_lineno and not is_text:
            self._add(node, node.end_col_offset, "pass", "deleted line")

    # What follows never runs, or only speaks.
    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)


def candidates(room: str) -> list[Change]:
    """Every change that could be made to a room."""
    found: list[Change] = []
    for path in sorted((ROOT / PACKAGE / room).rglob("*.py")):
        file = path.relative_to(ROOT)
        if any(part in LEFT_OUT for part in file.parts):
            continue
        text = path.read_text()
        visitor = Candidates(file, text)
        visitor.visit(ast.parse(text))
        found += visitor.found
    return found


def draw(seed: int, count: int) -> Iterator[tuple[str, Change]]:
    """``count`` changes: the rooms take turns, and within a room the kinds."""
    rng = random.Random(seed)
    pools: dict[str, list[Change]] = {}
    for room in ROOMS:
        by_kind: dict[str, list[Change]] = {}
        for change in candidates(room):
            by_kind.setdefault(change.kind, []).append(change)
        kinds = sorted(by_kind)
        rng.shuffle(kinds)
        pools[room] = [rng.choice(by_kind[kinds[k % len(kinds)]]) for k in range(count)]
    for k in range(count):
        room = list(ROOMS)[k % len(ROOMS)]
        yield room, pools[room][k // len(ROOMS)]


def likeliest_first(copy: Path, room: str, change: Change) -> list[str]:
    """All files of tests, in the order in which they are likely to notice."""
    near = [Path(folder) for folder in ROOMS[room]]
    stem = change.file.stem if change.file.stem != "__init__" else change.file.parent.name

    def rank(file: Path) -> tuple[int, str]:
        in_room = [k for k, place in enumerate(near) if place == file or place in file.parents]
        mirrors = stem in file.stem or change.file.parent.name in file.stem
        if file == PROMISES:
            return -9, str(file)
        return (min(in_room, default=len(near)) - (mirrors and bool(in_room)) * 9, str(file))

    files = [path.relative_to(copy) for path in (copy / "tests").rglob("test_*.py")]
    return [str(file) for file in sorted(files, key=rank)]


def noticed_by(copy: Path, tests: list[str]) -> str:
    """The test that fails, or nothing."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "--no-header"]
    in_order = ["--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, *in_order, *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the tests did not end"
    if not done.returncode:
        return ""
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        return f"pytest ended with {done.returncode}"
    # "FAILED file::test[a b] - the error": what a test is called may have spaces.
    return failed[0].split(" ", 1)[1].split(" - ")[0]


def copied(folder: str) -> Path:
    """The checkout once more, with the real data beside it where there are any."""
    copy = Path(folder) / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "site")
    shutil.copytree(ROOT, copy, ignore=ignored)
    if (ROOT.parent / "shared").exists():
        (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
    return copy


def check_unchanged() -> None:
    """Nothing can be said to notice where tests fail without a change."""
    with tempfile.TemporaryDirectory() as folder:
        failed = noticed_by(copied(folder), ["tests"])
    if failed:
        raise SystemExit(f"{failed} fails without any change. Mend it first.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--list", action="store_true", help="show the changes, and run nothing")
    parser.add_argument("--trusting", action="store_true", help="no run without a change first")
    arguments = parser.parse_args()
    if not (arguments.list or arguments.trusting):
        check_unchanged()
    noticed = 0
    by_promises = 0
    print("| room | kind | where | change | noticed by |\n| --- | --- | --- | --- | --- |")
    for room, change in draw(arguments.seed, arguments.count):
        with tempfile.TemporaryDirectory() as folder:
            copy = copied(folder)
            text = change.apply(copy).replace("|", "\\|")
            tests = likeliest_first(copy, room, change)
            started = time.perf_counter()
            test = "not run" if arguments.list else noticed_by(copy, tests)
            seconds = time.perf_counter() - started
        noticed += bool(test)
        by_promises += test.startswith(str(PROMISES))
        where = f"{change.file.relative_to(PACKAGE)}:{change.line}"
        outcome = f"{test} ({seconds:.0f} s)" if test else "**nothing**"
        print(f"| {room} | {change.kind} | {where} | `{text}` | {outcome} |", flush=True)
    if not arguments.list:
        print(f"\n{noticed} of {arguments.count} changes were noticed (seed {arguments.seed}),")
        print(f"{by_promises} of them by the list of defaults and named numbers ({PROMISES}).")


if __name__ == "__main__":
    main()
