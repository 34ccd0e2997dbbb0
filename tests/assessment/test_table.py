"""One table, four renderings: none of them loses a row, a value or a reason."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.assessment.page import page
from equipoise.assessment.table import (
    LONGEST_REASON,
    NOTHING,
    Column,
    Interval,
    Missing,
    Row,
    Table,
    Value,
    reason_of,
    value_over_images,
)
from equipoise.errors import UserError


@pytest.fixture
def table():
    columns = [
        Column("psnr", "PSNR (dB)", ".2f", ".2f"),
        Column("interval", "95 % interval", "+.2f"),
        Column("seconds", "ms / image", ".1f", scale=1e3),
    ]
    scored = {"psnr": Value(30.126, 0.5), "interval": Interval(-0.1, 0.25), "seconds": Value(0.012)}
    rows = [
        Row("tv", "Total variation", scored, "weight 0.001", more={"seeds": 3}),
        Row("fbp", "FBP", missing=[Missing("the views are not even")]),
        Row(
            "net",
            "Network",
            {"psnr": Value(31.0)},
            missing=[Missing("seed 1: out of memory", failed=True)],
        ),
    ]
    return Table("method", columns, rows)


def page_of(table, folder):
    page(folder / "page.html", "A page", [], [], table=table)
    return (folder / "page.html").read_text()


class TestRenderings:
    def test_terminal(self, table):
        assert table.terminal().splitlines() == [
            "method              PSNR (dB)  95 % interval  ms / image  setting",
            "Total variation  30.13 ± 0.50  -0.10 … +0.25        12.0  weight 0.001",
            "FBP                         –              –           –  the views are not even",
            "Network                 31.00              –           –  seed 1: out of memory",
        ]

    def test_markdown(self, table):
        table.rows[0].remark = "a|b\nc"
        lines = table.markdown().splitlines()
        assert lines[0] == "| method | PSNR (dB) | 95 % interval | ms / image | setting |"
        assert lines[1] == "| --- | --- | --- | --- | --- |"
        assert lines[2].endswith("| 12.0 | a\\|b c |")
        assert len(lines) == 5

    def test_json(self, table):
        tree = json.loads(json.dumps(table.as_json(), allow_nan=False))
        assert tree["tv"] == {
            "setting": "weight 0.001",
            "psnr": 30.126,
            "psnr_std": 0.5,
            "low": -0.1,
            "high": 0.25,
            "seconds": 0.012,
            "failed": [],
            "missing": [],
            "seeds": 3,
        }
        assert tree["fbp"]["psnr"] is None
        assert tree["fbp"]["missing"] == ["the views are not even"]
        assert tree["net"]["failed"] == ["seed 1: out of memory"]

    def test_a_column_without_values_is_not_in_json(self, table):
        for row in table.rows:
            row.cells["psnr"] = Missing("no truth")
        assert all("psnr" not in entry for entry in table.as_json().values())
        assert all("no truth" in entry["missing"] for entry in table.as_json().values())

    def test_page(self, table, tmp_path):
        text = page_of(table, tmp_path)
        assert text.count("<tr") == 1 + len(table.rows)
        assert text.count('<tr class="failed"') == 1
        assert "Network: seed 1: out of memory</small>" in text  # also where the table is wide
        assert "30.13 ± 0.50" in text

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.booleans(), min_size=1, max_size=6))
    def test_every_row_says_its_value_or_its_reason(self, tmp_path_factory, there):
        rows = [
            Row(f"m{k}", f"Method {k}", {"psnr": Value(10.0 + k)})
            if has
            else Row(f"m{k}", f"Method {k}", missing=[Missing(f"reason {k}", failed=True)])
            for k, has in enumerate(there)
        ]
        table = Table("method", [Column("psnr", "PSNR (dB)", ".1f")], rows)
        texts = [table.terminal(), table.markdown(), json.dumps(table.as_json())]
        texts.append(page_of(table, tmp_path_factory.mktemp("pages")))
        for k, has in enumerate(there):
            said = f"{10.0 + k:.1f}" if has else f"reason {k}"
            assert all(said in text for text in texts)
        assert table.failed == (not all(there))


class TestMissing:
    def test_what_cannot_be_had_is_no_failure(self, table):
        assert [row.failed for row in table.rows] == [False, False, True]
        assert table.failed
        table.rows.pop()
        assert not table.failed

    def test_a_cell_may_fail_too(self, table):
        del table.rows[2]
        table.rows[0].cells["seconds"] = Missing("the clock stood still", failed=True)
        assert table.failed
        assert (
            table.terminal().splitlines()[-1]
            == f"{NOTHING} the clock stood still (Total variation)"
        )

    def test_a_note_for_each_reason(self, table, tmp_path):
        del table.rows[2]
        for row in table.rows:
            row.cells["psnr"] = Missing("no truth")
        table.rows[0].cells["seconds"] = Missing("no clock")
        notes = [f"{NOTHING} no truth", f"{NOTHING} no clock (Total variation)"]
        assert table.notes() == notes
        for text in (table.terminal(), table.markdown(), page_of(table, tmp_path)):
            assert all(note in text for note in notes)

    def test_no_row_of_that_name(self, table):
        assert table.row("fbp").title == "FBP"
        with pytest.raises(KeyError, match="no row is called 'nonsense'"):
            table.row("nonsense")


class TestValues:
    def test_over_images(self):
        assert value_over_images([1.0, 3.0]) == Value(2.0, 1.0)
        assert value_over_images(torch.tensor([2.0])) == Value(2.0, 0.0)

    def test_images_that_are_not_finite_have_no_mean(self):
        found = value_over_images([1.0, math.nan, math.inf])
        assert found == Missing("of 2 of 3 images: not finite", failed=True)

    def test_a_row_may_have_a_format_of_its_own(self):
        columns = [Column("net", "Network", ".3g", ".1g")]
        row = Row("psnr", "PSNR", {"net": Value(27.456, 0.04)}, form=".4g")
        table = Table("", columns, [row], remarks="")
        assert table.lines() == [["PSNR", "27.46 ± 0.04"]]
        assert table.head() == ["", "Network"]
        assert "setting" not in table.as_json()["psnr"]


class TestReasons:
    def test_of_an_error(self):
        assert reason_of(UserError("mend\n  it")) == "mend it"
        assert reason_of(ValueError("no")) == "ValueError: no"
        assert len(reason_of(RuntimeError("x" * 5000))) == LONGEST_REASON
        just_fits = "x" * LONGEST_REASON
        assert reason_of(UserError(just_fits)) == just_fits
