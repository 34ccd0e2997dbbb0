"""A whole comparison, with trainings in processes of their own, at the size of a stamp.

Takes most of a minute: six trainings, each of which loads torch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from support import quiet

from equipoise.comparison.compare import compare
from equipoise.comparison.elsewhere import generalise
from equipoise.comparison.sweep import Comparison, plan
from equipoise.comparison.trained import Configured
from equipoise.config import changed
from equipoise.errors import UserError
from equipoise.run import read_config

METHODS = ["fbp", "tv", "pnp", "red", "implicit", "untied_5"]


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "tiny"
    first = plan([config], out, seeds=2, only=METHODS[1:])
    compare(first, jobs=2, say=quiet, elsewhere=True)
    task = plan([config], out, seeds=2, only=METHODS[:1])  # later: what was there is taken in
    compare(task, say=quiet)
    task.only = METHODS
    return task, compare(task, say=quiet, elsewhere=True)


class TestCompare:
    def test_every_method_and_image_is_scored(self, done):
        task, table = done
        assert [row.key for row in table.rows] == METHODS
        assert not table.failed
        saved = json.loads((task.out / "results.json").read_text())
        assert saved["about"]["reference"] == "Equilibrium, implicit"
        against = saved["scores"]["implicit"]
        for method in METHODS:
            row, scores = saved["table"][method], saved["scores"][method]
            assert row["seeds"] == 2
            assert len(scores[0]["psnr"]) == saved["about"]["images"] == 24
            means = [sum(s["psnr"]) / 24 for s in scores]
            assert row["psnr"] == pytest.approx(sum(means) / 2)
            if method == "implicit":
                continue
            difference = [
                p - q
                for s, a in zip(scores, against, strict=True)
                for p, q in zip(s["psnr"], a["psnr"], strict=True)
            ]
            assert row["difference"] == pytest.approx(sum(difference) / 48)
            assert row["low"] <= row["difference"] <= row["high"]

    def test_costs_and_settings(self, done):
        task, table = done
        saved = table.as_json()
        assert saved["untied_5"]["parameters"] == 5 * saved["implicit"]["parameters"]
        assert saved["implicit"]["memory_mb"] > 100
        assert saved["implicit"]["train_seconds"] > 0
        assert saved["fbp"]["train_seconds"] is None
        assert saved["red"]["setting"] == saved["pnp"]["setting"]
        assert saved["red"]["evaluations"] > saved["pnp"]["evaluations"]
        assert saved["untied_5"]["evaluations"] == 5
        assert saved["untied_5"]["converged"] is None
        tuned = json.loads((task.out / "scores" / "untied_5-tuning.json").read_text())
        run = read_config(task.out / "untied_5-1")
        assert run.model.step.strength == tuned["setting"]["strength"]
        assert run.seed == 1

    def test_what_is_written(self, done):
        task, table = done
        text = (task.out / "table.md").read_text()
        assert text.count("\n| ") > len(METHODS) + 2
        page = (task.out / "report.html").read_text()
        assert page.count('src="data:image/png;base64') == 4
        for row in table.rows:
            assert row.title in text
            assert row.title in page

    def test_elsewhere(self, done):
        task, table = done
        found = generalise(task, quiet)
        assert set(found) == {"views", "noise", "anatomy", "iterations"}
        here = table.row("implicit").cells["psnr"]
        places = {"views": "6", "noise": "0.01", "anatomy": "as trained"}
        for axis, value in places.items():
            there = found[axis].row("Equilibrium, implicit").cells[value]
            assert there.mean == pytest.approx(here.mean)
            assert there.spread == pytest.approx(here.spread)
        more_noise = found["noise"].row("Equilibrium, implicit").cells
        assert more_noise["0.3"].mean < more_noise["0.01"].mean - 5
        rows = [row.title for row in found["iterations"].rows]
        assert "Unrolled, 5 steps, untied" not in rows  # it has five steps, no more and no fewer
        assert (task.out / "elsewhere.png").stat().st_size > 10_000
        saved = json.loads((task.out / "results.json").read_text())
        assert set(saved["elsewhere"]) == set(found)

    def test_no_seed_is_lost_by_asking_for_fewer(self, done):
        task, table = done
        said: list[str] = []
        again = compare(replace(task, seeds=1, only=["fbp"]), say=said.append)
        assert again.as_json() == table.as_json()
        assert any("the table holds all 2 seeds" in line for line in said)

    def test_what_is_there_is_not_repeated(self, done):
        task, table = done
        said: list[str] = []
        before = {p: p.stat().st_mtime_ns for p in (task.out / "scores").iterdir()}
        again = compare(task, say=said.append, elsewhere=True)
        assert again.as_json() == table.as_json()
        assert not any(line.startswith(("trained", "scored", "tuned", "tried")) for line in said)
        assert before == {p: p.stat().st_mtime_ns for p in (task.out / "scores").iterdir()}


class TestTrainingThatFails:
    """One of two configurations names a denoiser that is not there."""

    @pytest.fixture
    def two(self, done, tmp_path):
        task, _ = done
        odd = changed(task.config, {"model.denoiser": {"kind": "file", "path": "nowhere"}})
        configs = {"tiny": task.config, "odd": odd}
        methods = [Configured(name, name, config=c) for name, c in configs.items()]
        two = Comparison(task.config, methods, tmp_path / "two", 1, configs=list(configs.values()))
        shutil.copytree(task.out / "implicit-0", two.out / "tiny-0")
        (two.out / "config.yaml").write_text(two.text())
        return two

    def test_its_row_says_why_and_it_is_tried_again(self, two):
        for _ in range(2):
            said: list[str] = []
            table = compare(two, say=said.append)
            assert table.failed
            assert not table.row("tiny").failed
            assert "nowhere" in table.row("odd").remarks()
            assert any(line.startswith("no scores: odd, seed 0: ") for line in said)
            assert "nowhere" in (two.out / "report.html").read_text()

    def test_giving_up_is_a_result(self, two):
        (two.out / "odd-0").mkdir()
        cost = {"train_seconds": 1, "memory_mb": 1, "threads": 1, "failed": "20 steps skipped"}
        (two.out / "odd-0" / "cost.json").write_text(json.dumps(cost))
        table = compare(two, say=quiet)
        assert table.row("odd").remarks() == "20 steps skipped"
        assert table.failed
        said: list[str] = []
        assert compare(two, say=said.append).as_json() == table.as_json()
        assert not any("odd" in line for line in said)

    def test_other_configurations_need_another_folder(self, two):
        compare(two, say=quiet)
        two.configs[1] = changed(two.config, {"learning.lr": 1e-3})
        with pytest.raises(UserError, match="comparison of another configuration"):
            compare(two, say=quiet)
