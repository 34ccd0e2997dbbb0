"""From scores to a row: means, deviations and differences, by hand."""

from __future__ import annotations

import pytest
import torch
from fake_methods import Scaled

from equipoise.assessment.table import Missing, Table, Value
from equipoise.comparison.scores import Score, check_finite, read_score, write_score
from equipoise.comparison.statistics import bootstrap
from equipoise.comparison.summary import COLUMNS, reference, row_of
from equipoise.comparison.trained import Trained
from equipoise.errors import UserError

NAMES = ["a", "b"]


def score(psnr, ssim=(0.5, 0.7), **costs):
    return Score(list(psnr), list(ssim), NAMES, ["p", "q"], "a setting", costs)


class TestRows:
    def test_means_and_deviations_over_seeds(self):
        seeds = [score([10.0, 12.0], seconds=1.0), score([14.0, 16.0], seconds=3.0)]
        row = row_of(Scaled("one"), seeds, [], [0, 1])
        assert row.cells["psnr"] == Value(13.0, pytest.approx(8**0.5))
        assert row.cells["seconds"] == Value(2.0)
        assert "evaluations" not in row.cells
        assert "difference" not in row.cells
        assert row.remark == "a setting"

    def test_one_seed_has_no_deviation(self):
        row = row_of(Scaled("one"), [score([10.0, 12.0])], [], [0])
        assert row.cells["psnr"] == Value(11.0, None)

    def test_differences_are_paired(self):
        """By seed and by image: what both share does not widen the interval."""
        shared = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        own = [score((20 + 5 * s + 0.25).tolist()) for s in shared]
        against = [score((20 + 5 * s).tolist()) for s in shared]
        row = row_of(Scaled("one"), own, against, [0, 1])
        assert row.cells["difference"].mean == pytest.approx(0.25)
        assert row.cells["interval"] == pytest.approx((0.25, 0.25))

    def test_the_interval_is_the_bootstrap_by_patient(self):
        own = [score([10.0, 13.0]), score([11.0, 15.0])]
        against = [score([10.5, 12.0]), score([10.0, 15.5])]
        row = row_of(Scaled("one"), own, against, [0, 1])
        expected = bootstrap(torch.tensor([[-0.5, 1.0], [1.0, -0.5]]), ["p", "q"])
        assert (row.cells["difference"].mean, *row.cells["interval"]) == expected

    def test_one_image_with_one_seed_has_no_interval(self):
        own, other = (Score([psnr], [0.5], ["a"], ["p"]) for psnr in (10.0, 11.0))
        row = row_of(Scaled("one"), [own], [other], [0])
        assert row.cells["difference"].mean == -1
        assert "interval" not in row.cells

    def test_differences_are_of_the_seeds_that_both_have(self):
        own = [Score(missing="it failed", failed=True), score([14.0, 16.0])]
        against = [score([1.0, 1.0]), score([13.0, 15.0])]
        row = row_of(Scaled("one"), own, against, [3, 4])
        assert row.cells["difference"].mean == pytest.approx(1.0)
        assert row.missing == [Missing("seed 3: it failed", failed=True)]

    def test_other_images_cannot_be_compared(self):
        other = score([1.0, 2.0])
        other.names = ["a", "c"]
        with pytest.raises(UserError, match="scored on different images"):
            row_of(Scaled("one"), [score([1.0, 2.0])], [other], [0])

    def test_in_the_units_of_the_heads(self):
        row = row_of(Scaled("one"), [score([10.0, 12.0], seconds=0.5, train_seconds=90)], [], [0])
        table = Table("", COLUMNS, [row])
        line = dict(zip(table.head(), table.lines()[0], strict=False))
        assert line["ms / image"] == "500.0"
        assert line["training (min)"] == "1.5"

    def test_two_reasons(self):
        bad = [Score(missing="one"), Score(missing="another", failed=True), None]
        row = row_of(Scaled("one"), bad, [], [0, 1, 2])
        assert row.remarks() == "seed 0: one; seed 1: another; not scored yet: seed 2"
        assert row.failed


class TestReference:
    def test_the_first_that_is_trained_and_has_scores(self):
        classic, first, second = Scaled("c"), Trained("a", "A"), Trained("b", "B")
        methods = [classic, first, second]
        good, bad = [score([1.0, 2.0])], [Score(missing="no")]
        assert reference(methods, {"c": good, "a": good, "b": good}) is first
        assert reference(methods, {"c": good, "a": bad, "b": good}) is second
        assert reference(methods, {"c": good, "a": bad, "b": bad}) is classic
        assert reference(methods, {"c": bad, "a": bad, "b": bad}) is None


class TestFiles:
    def test_a_score_is_read_as_it_was_written(self, tmp_path):
        for one in (
            score([1.0, 2.0], seconds=0.5, parameters=7, memory_mb=100.0),
            Score(missing="why", failed=True, again=True),
            Score(missing="why"),
        ):
            write_score(tmp_path / "scores" / "x.json", one)
            assert read_score(tmp_path / "scores" / "x.json") == one
        assert read_score(tmp_path / "none.json") is None


def test_images_that_are_not_finite():
    assert check_finite([1.0, 2.0]) == ""
    assert check_finite([1.0, float("nan"), float("inf")]) == "2 of 3 images are not finite"
