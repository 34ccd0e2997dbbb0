"""A command gets its fair share of the machine: its threads do not spin while they wait."""

from __future__ import annotations

import os
import subprocess
import sys

from support import ROOT

CODE = (
    "import os, sys; import equipoise.cli; "
    "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
)


def spin_count(**environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_set_before_torch_is_loaded():
    """libgomp reads its environment once, when torch loads it."""
    assert spin_count() == "0 False"


def test_what_the_user_asked_for_stays():
    assert spin_count(GOMP_SPINCOUNT="100") == "100 False"


def test_make_does_so_too():
    assert "export GOMP_SPINCOUNT := 0" in (ROOT / "Makefile").read_text()
