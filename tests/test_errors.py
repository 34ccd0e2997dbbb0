"""Messages are one paragraph that says where, what and what to do."""

from __future__ import annotations

import errno

import pytest

from equipoise.cli import _in_words
from equipoise.config import parse
from equipoise.errors import LONGEST_MESSAGE, UserError, need, shortened


def test_a_long_message_keeps_its_place_and_its_remedy():
    error = UserError("file.h5: it holds " + ", ".join(map(str, range(999))) + "; rename one")
    assert len(str(error)) <= LONGEST_MESSAGE
    assert str(error).startswith("file.h5: it holds 0, 1")
    assert str(error).endswith("; rename one")


def test_a_short_one_stays():
    assert shortened("short", 5) == "short"
    assert shortened("longer text", 10) == "lon … text"
    assert str(UserError("x" * LONGEST_MESSAGE)) == "x" * LONGEST_MESSAGE


def test_a_list_of_views_is_not_printed_whole():
    angles = [*range(721), "north"]
    with pytest.raises(UserError, match=r"physics.angles.*north") as caught:
        parse({"physics": {"angles": angles}}, "c.yaml")
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(UserError, match=r"pip install 'equipoise\[extra\]'"):
        need("no_such_package_anywhere", "extra")


def test_a_full_disk_is_told_with_what_to_do():
    error = OSError(errno.ENOSPC, "No space left on device", "runs/a/log.jsonl")
    said = _in_words(error)
    assert "the disk is full where runs/a/log.jsonl was to be written" in said
    assert "give the same command again" in said
    assert "Permission" in _in_words(PermissionError(errno.EACCES, "Permission denied", "x"))
