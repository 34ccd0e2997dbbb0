"""What tests of whole runs share: a run at the size of a stamp, and commands in processes."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.config import Config, parse

ROOT = Path(__file__).parents[1]
#: Real data, which stay out of this repository.
DATA = ROOT / ".." / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.exists(), reason=f"no real data at {DATA}")

TINY: dict[str, Any] = {
    "data": {"size": 16, "count": 6},
    "physics": {"angles": 6, "noise": 0.01},
    "model": {
        "max_steps": 6,
        "test_max_steps": 6,
        "denoiser": {"kind": "random", "channels": 4, "layers": 2},
        "gradient": {"kind": "implicit", "max_steps": 20},
    },
    "objective": {"splitting": {"parts": 2}},
    "learning": {"steps": 4, "batch": 3, "checkpoint_every": 2, "validate_every": 2},
}


def tiny_tree(**sections: Any) -> dict[str, Any]:
    """The tree of a tiny run; a mapping given for a section is laid over it, and what is no section
    is set."""
    tree = copy.deepcopy(TINY)
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **section} if both else section
    return tree


def tiny(folder: Path, **sections: Any) -> Config:
    """A tiny run in ``folder``."""
    return parse(tiny_tree(out=str(folder), **sections), "test")


def bytes_of_tensors() -> int:
    """Of all tensors that Python holds, views counted once with what they are views of:
    tracemalloc sees none of it."""
    held = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            with suppress(RuntimeError):  # of a program that was traced: it holds nothing
                held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def quiet(text: object) -> None:
    """Says nothing."""


def equipoise(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "equipoise", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def torchrun(count: int, *args: object, cwd: Path) -> subprocess.Popen[str]:
    """The command line in several processes that share the work."""
    launch = ["torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
    return subprocess.Popen(
        [sys.executable, "-m", *launch, "-m", "equipoise", *map(str, args)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
