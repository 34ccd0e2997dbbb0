"""Some of many, on the command line and in files."""

from __future__ import annotations

import pytest

from equipoise.config import load_config
from equipoise.data.ranges import chosen, places_of
from equipoise.errors import UserError


@pytest.mark.parametrize(
    ("places", "right"),
    [
        (None, [0, 1, 2, 3, 4]),
        (2, [2]),
        (-1, [4]),
        ("1:3", [1, 2]),
        ("::2", [0, 2, 4]),
        ("::-1", [4, 3, 2, 1, 0]),
        ([4, 0], [4, 0]),
    ],
)
def test_chosen(places, right):
    assert chosen(places, 5, "rows") == right


@pytest.mark.parametrize("places", [5, -6, [0, 9], "7:9"])
def test_what_is_not_there(places):
    with pytest.raises(UserError, match=r"rows.*5, counted from 0"):
        chosen(places, 5, "rows")


def test_a_range_is_no_time_of_day(tmp_path):
    """YAML 1.1 reads 10:20 as 620."""
    (tmp_path / "c.yaml").write_text("data: {path: ., kind: measurements, rows: 10:20}\n")
    assert load_config(tmp_path / "c.yaml").data.rows == "10:20"
    assert load_config(tmp_path / "c.yaml", ["data.rows=1:30"]).data.rows == "1:30"
    assert load_config(tmp_path / "c.yaml", ["data.rows=7"]).data.rows == 7
    assert load_config(tmp_path / "c.yaml", ["seed=0x10"]).seed == 16


@pytest.mark.parametrize(("text", "right"), [("7", 7), ("1:3", "1:3"), ("3,5,8", [3, 5, 8])])
def test_places_of_a_command_line(text, right):
    assert places_of(text, "--rows") == right
    with pytest.raises(UserError, match=r"--rows=x"):
        places_of("x", "--rows")
