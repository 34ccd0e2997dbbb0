"""A command gets its fair share of the machine: its threads do not spin while they wait, and what
memory it freed it takes again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from support import ROOT

from equipoise import cli

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


#: Pages that are cleared for the system's sake while 40 × 64 MiB are filled and freed.
FAULTS = """
import resource, sys, torch
from equipoise.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
faults()
print(faults())
"""


def page_faults(way: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, way],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_was_freed_is_taken_again():
    in_a_round = 40 * 2**26 // os.sysconf("SC_PAGESIZE")
    handed_back = page_faults("handed back")
    assert page_faults("kept") < 0.05 * in_a_round
    users = page_faults("kept", MALLOC_MMAP_THRESHOLD_="1048576")
    assert users > 0.5 * handed_back, "whoever asked for something else did not get it"


def test_the_command_line_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(cli, "app", lambda: called.append("run"))
    cli.main()
    assert called == ["kept", "run"]
