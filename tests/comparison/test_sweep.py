"""What is missing is worked on, what is there is not repeated, and what fails says why."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
import yaml
from fake_methods import Breaking, Scaled
from support import quiet, tiny_tree

import equipoise as eq
from equipoise.assessment.metrics import psnr
from equipoise.comparison.compare import compare
from equipoise.comparison.method import Fitted, Interrupted
from equipoise.comparison.outcome import Outcome
from equipoise.comparison.scores import read_score
from equipoise.comparison.sweep import (
    Comparison,
    Sweep,
    check_data,
    check_folder,
    collect,
    plan,
    scored,
)
from equipoise.config import changed, parse
from equipoise.errors import UserError
from equipoise.learning.search import Ladder
from equipoise.machine import write_whole
from equipoise.run import read_config


def run(comparison, say=quiet):
    """The work and its table, without figures and page, which take longer."""
    check_folder(comparison)
    dataset, what = comparison.unseen(comparison.config.seed)
    comparison.out.mkdir(parents=True, exist_ok=True)
    (comparison.out / "config.yaml").write_text(comparison.text())
    check_data(comparison, dataset)
    Sweep(comparison, say=say).run()
    return Outcome(comparison, collect(comparison), dataset, what, {}).table


class TestScores:
    def test_of_every_image_and_seed(self, comparison):
        task = comparison(Scaled("one"), Scaled("half", 0.5))
        run(task)
        for seed in task.every_seed():
            dataset, _ = task.unseen(seed)
            x = dataset.scan.physics.A_adjoint(dataset.y)
            for method, factor in zip(task.methods, (1.0, 0.5), strict=True):
                score = read_score(task.score_file(method, seed))
                assert score.psnr == pytest.approx(psnr(factor * x, dataset.truth).tolist())
                assert score.names == dataset.names
                assert score.patients == dataset.patients
                assert score.costs["seconds"] > 0

    def test_seeds_differ_in_their_measurements(self, comparison):
        task = comparison(Scaled("one"))
        run(task)
        first, second = collect(task)["one"]
        assert first.psnr != second.psnr

    def test_solves_are_counted(self, comparison, config):
        task = comparison()
        dataset, _ = task.unseen(0)
        model = config.model.make(1, 0.01)
        fitted = Fitted(lambda data: model.equilibrium(data.y, data.scan.physics))
        score, images = scored(fitted, dataset)
        solved = model.equilibrium(dataset.y, dataset.scan.physics)
        assert torch.allclose(images, solved.value)
        assert score.costs["evaluations"] == pytest.approx(float(solved.steps.double().mean()))
        assert score.costs["converged"] == float(solved.converged.double().mean())


class TestNotRepeated:
    def test_what_is_there(self, comparison):
        method, said = Scaled("one"), []
        first = run(comparison(method))
        assert method.fitted == [0, 1]
        again = run(comparison(method), said.append)
        assert method.fitted == [0, 1]
        assert again.as_json() == first.as_json()
        assert not any(line.startswith("scored") for line in said)

    def test_another_seed_is_added(self, comparison):
        method = Scaled("one")
        run(comparison(method))
        table = run(comparison(method, seeds=3))
        assert method.fitted == [0, 1, 2]
        assert table.row("one").more["seeds"] == 3

    def test_only_what_is_asked_for(self, comparison):
        one, two, three = Scaled("one"), Scaled("two", 0.5), Scaled("three", 0.1)
        run(comparison(one, two, three, only=["two"]))
        assert [one.fitted, two.fitted, three.fitted] == [[], [0, 1], []]
        table = run(comparison(one, two, three, only=["one"]))
        assert [row.key for row in table.rows] == ["one", "two"]  # what was scored is taken in


class TestFailures:
    """No row is lost, and the table tells that something failed."""

    @pytest.mark.parametrize(
        ("how", "reason", "failed"),
        [
            ("error", "RuntimeError: it fell over", True),
            ("reason", "there is none for this operator", False),
            ("nan", "24 of 24 images are not finite", True),
        ],
    )
    @pytest.mark.parametrize("seeds", [[0], [1], [0, 1]])
    def test_a_row_says_why(self, comparison, how, reason, failed, seeds):
        task = comparison(Scaled("one"), Breaking("bad", seeds, how))
        table = run(task)
        row = table.row("bad")
        assert table.failed == row.failed == failed
        assert not table.row("one").failed
        where = "" if len(seeds) == 2 else f"seed {seeds[0]}: "
        assert [m.reason for m in row.missing] == [where + reason]
        assert row.more["seeds"] == 2 - len(seeds)
        assert ("psnr" in row.cells) == (len(seeds) == 1)

    def test_in_all_files(self, comparison):
        """Terminal, Markdown, JSON and page; also where nothing at all has scores."""
        for methods in ([Scaled("one"), Breaking("bad", [1])], [Breaking("all", [0, 1])]):
            task = comparison(*methods)
            task.out = task.out / methods[0].name
            table = compare(task, say=quiet)
            where = "" if len(methods) == 1 else "seed 1: "
            reason = f"{where}RuntimeError: it fell over"
            assert reason in table.terminal()
            assert reason in (task.out / "table.md").read_text()
            assert reason in (task.out / "report.html").read_text()
            saved = json.loads((task.out / "results.json").read_text())
            assert saved["table"][methods[-1].name]["failed"] == [reason]

    def test_the_mean_is_of_the_seeds_that_have_scores(self, comparison):
        table = run(comparison(Scaled("one"), Breaking("bad", [0])))
        second = collect(comparison(Scaled("one")))["one"][1]
        assert table.row("bad").cells["psnr"].mean == pytest.approx(second.mean_psnr)
        assert table.row("bad").cells["difference"].mean == pytest.approx(0)

    def test_errors_are_tried_again_and_reasons_are_not(self, comparison):
        bad, none = Breaking("bad", [1]), Breaking("none", [0, 1], "reason")
        nan = Breaking("nan", [0], "nan")
        run(comparison(bad, none, nan))
        bad.seeds = []
        table = run(comparison(bad, none, nan))
        assert bad.fitted == [0, 1, 1]
        assert none.fitted == [0, 1]
        assert nan.fitted == [0, 1]
        assert not table.row("bad").missing

    def test_a_failure_stays_in_the_table_of_a_later_comparison(self, comparison):
        one, bad = Scaled("one"), Breaking("bad", [0, 1])
        run(comparison(one, bad))
        table = run(comparison(one, bad, only=["one"]))
        assert table.failed
        assert table.row("bad").remarks() == "RuntimeError: it fell over"

    def test_seeds_that_were_never_tried_are_named(self, comparison):
        one, two = Scaled("one"), Scaled("two", 0.5)
        run(comparison(one, two))
        table = run(comparison(one, two, seeds=3, only=["one"]))
        assert table.row("two").remarks() == "factor 0.5; not scored yet: seed 2"
        assert not table.failed

    def test_where_to_look_for_an_error(self, comparison):
        task = comparison(Breaking("bad", [0]))
        run(task)
        assert "it fell over" in (task.out / "bad-0.log").read_text()

    def test_nothing_has_scores(self, comparison):
        task = comparison(Breaking("none", [0, 1], "reason"))
        table = run(task)
        assert table.row("none").remarks() == "there is none for this operator"

    def test_an_interruption_is_no_failure(self, comparison):
        class Stopped(Scaled):
            def fit(self, problem):
                raise Interrupted("somebody wanted to stop")

        task = comparison(Scaled("one"), Stopped("two"))
        with pytest.raises(Interrupted, match="somebody wanted to stop"):
            run(task)
        assert collect(task)["one"][0].is_there
        assert "two" not in collect(task)

    def test_what_waits_to_be_trained_is_not_trained_after_an_interruption(self, comparison):
        """Nobody who has stopped a comparison wants hours of trainings to go on behind it."""
        sweep, trained = Sweep(comparison(Scaled("one")), say=quiet), []

        def attempt(job, work):
            if work == sweep._train_one:
                trained.append(job)
                time.sleep(0.05)
                raise Interrupted("somebody wanted to stop")
            return True

        sweep._attempt = attempt
        with pytest.raises(Interrupted):
            sweep._train(list(range(5)))
        count = len(trained)
        assert count < 5
        time.sleep(0.3)
        assert len(trained) == count


class TestTuning:
    """Nothing is tuned on what is scored."""

    @pytest.fixture
    def held_out(self, tmp_path):
        """Twelve patients, of whom a third is held out."""
        folder = tmp_path / "images"
        folder.mkdir()
        for k, image in enumerate(eq.phantoms(12, 16, 3).numpy()):
            np.save(folder / f"patient{k:02d}.npy", image[0])
        data = {"path": str(folder), "kind": "images", "holdout": 0.34, "size": 16}
        tree = tiny_tree(name="held", learning={"steps": 2, "batch": 2})
        return parse({**tree, "data": data}, "held")

    def test_on_patients_that_are_trained_on(self, held_out, tmp_path):
        task = Comparison(held_out, [], tmp_path / "compare", 2)
        tuned_on = task.tuning()
        for seed in task.every_seed():
            scored_on, _ = task.unseen(seed)
            assert not set(scored_on.patients) & set(tuned_on.patients)
            equal = (scored_on.truth[:, None] - tuned_on.truth[None]).flatten(2).abs().amax(2) == 0
            assert not equal.any()

    def test_what_a_method_is_tuned_on_is_what_it_is_said(self, held_out, tmp_path):
        """A method with a setting sees the training patients first, and those that are held out
        only when it is scored."""
        patients = []

        class Tuned(Scaled):
            def fit(self, problem):
                def reconstruct(dataset, setting):
                    patients.append(set(dataset.patients))
                    return setting["factor"] * dataset.scan.physics.A_adjoint(dataset.y)

                ladder = Ladder((0.5, 1.0, 2.0, 4.0), first=(0.5, 1.0), default=1.0)
                setting = problem.tuner.best(self.name, {"factor": ladder}, reconstruct)
                return Fitted(lambda dataset: reconstruct(dataset, setting), str(setting))

        task = Comparison(held_out, [Tuned("tuned")], tmp_path / "compare", 1)
        run(task)
        scored_on = set(task.unseen(0)[0].patients)
        tuning, scoring = patients[:-2], patients[-2:]
        assert all(not scored_on & seen for seen in tuning)
        assert all(seen <= scored_on for seen in scoring)
        known = json.loads((task.out / "scores" / "tuned-tuning.json").read_text())
        assert known["setting"]["factor"] in (0.5, 1.0, 2.0, 4.0)
        assert set(known["images"]) <= {f"patient{k:02d}" for k in range(12)} - scored_on
        dataset, what = task.unseen(0)
        words = Outcome(task, collect(task), dataset, what, {}).markdown()
        assert "Tuned to the best PSNR on 8 of the true images" in words
        assert "trained on: Scaled by 1; no other method was" in words

    def test_images_are_needed(self, config, tmp_path):
        data = changed(config, {"data.count": 3})
        task = Comparison(data, [], tmp_path, 1)
        assert len(task.tuning()) == 3


class TestFolders:
    def test_another_configuration_is_refused(self, comparison, config):
        task = comparison(Scaled("one"))
        run(task)
        task.config = changed(config, {"physics.angles": 7})
        named = r"comparison of another configuration \(physics.angles: \d+ then, 7 now\)"
        with pytest.raises(UserError, match=named):
            run(task)

    @pytest.mark.parametrize("part", ["data.path", "data.validation"])
    def test_other_images_of_the_same_names_are_refused(self, config, tmp_path, part):
        folders = {"data.path": tmp_path / "a", "data.validation": tmp_path / "b"}
        for seed, folder in enumerate(folders.values()):
            folder.mkdir()
            for k in range(3):
                image = np.random.default_rng([seed, k]).random((16, 16))
                np.save(folder / f"x{k}.npy", image.astype(np.float32))
        tree = config.model_dump(mode="json")
        tree["data"] = {"kind": "images", "size": 16}
        tree["data"] |= {key.split(".")[1]: str(path) for key, path in folders.items()}
        task = Comparison(parse(tree, "test"), [Scaled("one")], tmp_path / "c", 1)
        run(task)
        run(task)
        np.save(folders[part] / "x1.npy", np.zeros((16, 16), np.float32))
        with pytest.raises(UserError, match=r"comparison on other data \(.*x1: other values\)"):
            run(task)

    def test_one_of_an_earlier_release_goes_on(self, comparison):
        """What that release did not know of has its default, and is no difference."""
        task = comparison(Scaled("one"))
        run(task)
        file = task.out / "config.yaml"
        tree = yaml.safe_load(file.read_text())
        for newer in ("left_out", "weighting"):
            del tree["objective"]["splitting"][newer]
        file.write_text(yaml.safe_dump(tree))
        said: list[str] = []
        run(task, say=said.append)
        assert not any(line.startswith("scored") for line in said)

    def test_it_is_no_run(self, config, tmp_path):
        other = changed(config, {"name": "b"})
        task = plan([config, other], tmp_path / "c", 1)
        write_whole(task.out / "config.yaml", task.text())
        with pytest.raises(UserError, match="holds 2 configurations, as a comparison does"):
            read_config(task.out)

    @pytest.mark.parametrize("text", ["", "- : [", "name: [1"])
    def test_a_damaged_one_is_said(self, comparison, text):
        task = comparison(Scaled("one"))
        run(task)
        (task.out / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml"):
            run(task)

    def test_what_is_no_comparison_is_left_alone(self, comparison):
        task = comparison(Scaled("one"))
        task.out.mkdir()
        (task.out / "mine.txt").write_text("mine")
        with pytest.raises(UserError, match="is not empty and no comparison"):
            run(task)
        assert [p.name for p in task.out.iterdir()] == ["mine.txt"]

    def test_images_of_the_first_seed_are_kept_for_the_page(self, comparison):
        task = comparison(Scaled("one"))
        run(task)
        kept = np.load(task.out / "scores" / "one.npy")
        dataset, _ = task.unseen(0)
        assert np.allclose(kept, dataset.scan.physics.A_adjoint(dataset.y)[:3].numpy())


class TestPlan:
    def test_several_configurations(self, config):
        other = changed(config, {"name": "b", "objective.equivariance.weight": 1.0})
        task = plan([config, other])
        assert [m.name for m in task.methods] == ["tiny", "b"]
        assert task.methods[1].configuration(config) == other
        with pytest.raises(UserError, match="share a name"):
            plan([config, config])
        with pytest.raises(UserError, match="differ in data, physics"):
            plan([config, changed(other, {"physics.angles": 9})])

    def test_names(self, config, tmp_path):
        with pytest.raises(UserError, match="no method is called nonsense here; there are fbp, "):
            plan([config], only=["nonsense"])
        with pytest.raises(UserError, match="zero_filled has no place in this comparison: "):
            plan([config], only=["zero_filled"])
        assert plan([config], tmp_path, 1, ["tv"]).asked()[0].name == "tv"

    def test_work_is_of_methods_and_seeds(self, comparison):
        task = comparison(Scaled("one"), Scaled("two"))
        jobs = Sweep(task, say=quiet).missing
        assert [(j.method.name, j.problem.seed) for j in jobs] == [
            ("one", 0),
            ("two", 0),
            ("one", 1),
            ("two", 1),
        ]
