"""Evaluations: every row is what its name says, or says why it is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scans import DETECTORS, FAR, NEAR, PIXEL, SIZE, VIEWS, disc, write
from support import quiet, tiny, tiny_tree

from equipoise.assessment.metrics import misfit, psnr
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.train import train_run
from equipoise.comparison import classical
from equipoise.comparison.classical import Classical
from equipoise.comparison.evaluation import evaluate, evaluations
from equipoise.comparison.methods import METHODS, register
from equipoise.config import changed, parse
from equipoise.data.scan import Scan
from equipoise.learning.log import FILE
from equipoise.learning.search import Ladder
from equipoise.run import Run, load_run, unseen


def untrained_run(folder, physics=None, **sections):
    """A run that was not trained: its model is as it starts."""
    config = tiny(folder, model={"test_max_steps": 20}, **sections)
    if physics is not None:
        config = changed(config, {"physics": physics})
    scan = Scan.planned(config.physics, config.data.size, config.seed).with_noise(0.01)
    model = config.model.make(scan.image_shape[0], scan.noise, seed=1)
    model.stop = config.model.test_stop()
    return Run(folder, config, scan, model.eval())


@pytest.fixture
def registry():
    before = list(METHODS)
    yield METHODS
    METHODS[:] = before


def page_of(evaluation):
    return (evaluation.folder / "report.html").read_text()


class TestRows:
    def test_every_method_is_scored_on_the_same_images(self, tmp_path):
        run = untrained_run(tmp_path)
        found = evaluate(run, count=5)
        dataset, _ = unseen(run.config, run.scan, count=5)
        keys = ["fbp", "least_squares", "tv", "untrained", "equipoise"]
        assert [row.key for row in found.table.rows] == keys
        saved = json.loads((found.folder / "results.json").read_text())
        for key in keys:
            x, entry = found.images[key], saved["methods"][key]
            y, physics = dataset.y, dataset.scan.physics
            assert entry["psnr_per_image"] == pytest.approx(psnr(x, dataset.truth).tolist())
            assert entry["misfit_per_image"] == pytest.approx(misfit(x, y, physics).tolist())
            assert entry["psnr"] == pytest.approx(sum(entry["psnr_per_image"]) / 5)
            assert entry["psnr_std"] == pytest.approx(np.std(entry["psnr_per_image"]))
        assert saved.keys() == {"problem", "methods", "images", "conventions", "solve"}
        assert saved["images"] == dataset.names
        assert [row["name"] for row in saved["solve"]] == dataset.names
        solved = run.solve(dataset)
        assert torch.allclose(found.images["equipoise"], solved.value)
        assert not torch.allclose(found.images["untrained"], solved.value)

    def test_of_nothing_there_is_no_misfit(self, tmp_path):
        """And none is counted in the mean."""
        run = untrained_run(tmp_path / "run", physics={"kind": "parallel_beam", "angles": 6})
        y = np.random.default_rng(0).random((3, *run.scan.measurement_shape)).astype(np.float32)
        y[1] = 0
        np.save(tmp_path / "y.npy", y)
        found = evaluate(run, tmp_path / "y.npy")
        saved = json.loads((found.folder / "results.json").read_text())["methods"]["equipoise"]
        first, none, last = saved["misfit_per_image"]
        assert none is None
        assert saved["misfit"] == pytest.approx((first + last) / 2)
        assert "misfit without 1 image(s)" in found.table.row("equipoise").remark
        assert not found.table.failed
        reconstruct(run, tmp_path / "y.npy", tmp_path / "out", quiet)
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
        assert [row["misfit"] is None for row in rows] == [False, True, False]

    def test_where_there_is_no_backprojection(self, tmp_path):
        """Its row says why, and nothing stands in its place."""
        physics = {"kind": "fan_beam", "angles": [0.0, 10.0, 20.0]}
        physics |= {"source_distance": 40.0, "detector_distance": 20.0}
        run = untrained_run(tmp_path, physics={**physics, "noise": 0.01})
        found = evaluate(run, count=3)
        row = found.table.row("fbp")
        assert row.title == "FBP"
        assert row.cells == {}
        assert row.remarks().startswith("no filtered backprojection: ")
        assert not found.table.failed
        assert "zero_filled" not in [row.key for row in found.table.rows]
        assert "no filtered backprojection" in page_of(found)
        assert "no filtered backprojection" in found.table.terminal()
        saved = json.loads((found.folder / "results.json").read_text())
        assert saved["methods"]["fbp"]["psnr"] is None

    def test_an_operator_of_ones_own(self, tmp_path):
        """Without a backprojection: its row says so, beside Aᵀ y under its own name."""
        file = tmp_path / "mine.py"
        file.write_text(
            "import torch, deepinv\n"
            "def physics(size):\n"
            "    mask = torch.ones(1, size, size)\n"
            "    mask[:, ::3] = 0\n"
            "    return deepinv.physics.Inpainting((1, size, size), mask=mask)\n"
        )
        run = untrained_run(tmp_path / "run", physics={"kind": "custom", "file": str(file)})
        found = evaluate(run, count=3, folder=tmp_path / "out")
        assert "Inpainting has no method fbp" in found.table.row("fbp").remarks()
        assert found.table.row("zero_filled").remark == "Aᵀ y"

    def test_a_method_that_fails_has_a_row(self, tmp_path, registry):
        class Broken(Classical):
            name = "broken"
            label = "Broken"

            def reconstruct(self, y, physics, setting):
                raise RuntimeError("it fell over")

        class NotFinite(Classical):
            name = "not_finite"
            label = "Not finite"

            def reconstruct(self, y, physics, setting):
                return physics.A_adjoint(y) / 0

        register(Broken())
        register(NotFinite())
        found = evaluate(untrained_run(tmp_path), count=3)
        assert found.table.failed
        assert found.table.row("broken").remarks() == "RuntimeError: it fell over"
        assert "RuntimeError: it fell over" in page_of(found)
        assert found.table.row("not_finite").failed
        assert "of 3 of 3 images: not finite" in " ".join(found.table.notes())
        json.loads((found.folder / "results.json").read_text())

    def test_measurements_have_no_truth(self, tmp_path):
        run = untrained_run(tmp_path / "run")
        rng = np.random.default_rng(0)
        folder = tmp_path / "sinograms"
        folder.mkdir()
        for k in range(3):
            shape = run.scan.measurement_shape[1:]
            np.save(folder / f"s{k}.npy", rng.random(shape).astype(np.float32))
        found = evaluate(run, folder)
        saved = json.loads((found.folder / "results.json").read_text())
        entry = saved["methods"]["equipoise"]
        assert "psnr" not in entry
        assert len(entry["misfit_per_image"]) == 3
        assert "so there is no truth to compare with" in found.table.terminal()
        assert found.table.row("tv").remark == "weight 0.0001"
        assert saved["problem"]["tuning"] == "defaults"
        assert list(evaluations(run.folder)) == []
        assert not found.table.failed
        assert found.per_image().head()[0] == "misfit"


class TestWords:
    def test_a_supervised_run_is_not_called_self_supervised(self, tmp_path):
        off = {"consistency": 0.0, "splitting": 0.0, "equivariance": 0.0}
        run = untrained_run(tmp_path, objective={**off, "supervised": 1.0})
        text = page_of(evaluate(run, count=2))
        assert "measurements alone" not in text
        assert "Supervised: trained on measurements together with their true images." in text

    def test_a_run_from_measurements_alone(self, tmp_path):
        text = page_of(evaluate(untrained_run(tmp_path), count=2))
        assert "Trained from measurements alone" in text

    def test_solves_that_did_not_finish(self, tmp_path):
        run = untrained_run(tmp_path)
        run.model.stop = run.config.model.stop()  # six evaluations
        found = evaluate(run, count=4)
        assert "4 of 4 not converged" in found.table.row("equipoise").remark
        assert "4 of 4 not converged" in found.table.row("untrained").remark
        assert "100% of Equipoise" in " ".join(found.words)
        assert "Solves that stopped before they reached their tolerance" in page_of(found)

    def test_how_far_it_was_trained(self, tmp_path):
        tmp_path.mkdir(exist_ok=True)
        (tmp_path / FILE).write_text(json.dumps({"step": 2, "unsolved": 0.9}) + "\n")
        words = " ".join(evaluate(untrained_run(tmp_path), count=2).words)
        assert "Training took 2 of 4 steps" in words
        assert "90% of its solves" in words

    def test_data_that_it_was_trained_on(self, tmp_path):
        run = untrained_run(tmp_path / "run")
        for name in ("seen", "unseen"):
            np.save(tmp_path / f"{name}.npy", np.random.rand(2, 16, 16).astype(np.float32))
        data = {"kind": "images", "path": str(tmp_path / "seen.npy"), "size": 16}
        run.config = changed(run.config, {"data": data})
        said = {
            name: "the data that it was trained on"
            in " ".join(evaluate(run, tmp_path / f"{name}.npy").words)
            for name in ("seen", "unseen")
        }
        assert said == {"seen": True, "unseen": False}

    def test_what_it_was_trained_on_is_known_wherever_it_lies(self, tmp_path, monkeypatch):
        pictures = np.random.rand(5, 16, 16).astype(np.float32)
        np.save(tmp_path / "seen.npy", pictures[:3])
        (tmp_path / "elsewhere").mkdir()
        for name, count in (("copy", slice(0, 3)), ("some", slice(2, 5)), ("other", slice(3, 5))):
            np.save(tmp_path / "elsewhere" / f"{name}.npy", pictures[count])
        tree = tiny_tree(out=str(tmp_path / "run"), learning={"steps": 1})
        tree["data"] = {"kind": "images", "path": "seen.npy", "size": 16}
        monkeypatch.chdir(tmp_path)
        train_run(parse(tree, "test"), quiet)
        monkeypatch.chdir(tmp_path / "elsewhere")
        run = load_run(tmp_path / "run")
        found = {name: evaluate(run, Path(f"{name}.npy")) for name in ("copy", "some", "other")}
        said = {name: " ".join(each.words) for name, each in found.items()}
        told = {name: each.as_json()["problem"].get("trained_on") for name, each in found.items()}
        assert told["copy"] == "In its own favour: these are the data that it was trained on."
        assert told["other"] is None
        assert "favour: these are the data that it was trained on" in said["copy"]
        assert "at least 1 of these 3 are among the data that it was trained on" in said["some"]
        assert "In its own favour" not in said["other"]

    def test_an_unrolled_run_has_no_equilibrium_that_it_could_miss(self, tmp_path):
        run = untrained_run(tmp_path)
        run.config = changed(run.config, {"model.gradient": {"kind": "unrolled", "steps": 3}})
        run.model = run.config.model.make(1, 0.01)
        found = evaluate(run, count=2)
        assert found.table.row("equipoise").remark == "3 unrolled steps"
        words = " ".join(found.words)
        assert "has no equilibrium" in words
        assert "equilibria" not in words
        assert "converged" not in page_of(found)

    def test_what_the_classical_methods_were_tuned_on(self, tmp_path):
        found = evaluate(untrained_run(tmp_path), count=3)
        assert "the best for the first 3 of these very images" in found.problem["tuning"]


class TestFolders:
    def test_are_named_after_the_data(self, tmp_path, monkeypatch):
        for name in ("ITERATIONS", "WEIGHTS"):  # nothing to tune
            default = getattr(classical, name).default
            monkeypatch.setattr(classical, name, Ladder((default,), None, default))
        run = untrained_run(tmp_path / "run")
        assert evaluate(run, count=2).folder == run.folder / "evaluation-phantoms"
        assert evaluate(run, count=3).folder == run.folder / "evaluation-phantoms"
        for parent in ("one", "two"):
            (tmp_path / parent).mkdir()
            np.save(tmp_path / parent / "data.npy", np.random.rand(2, 16, 16).astype(np.float32))
        images = {"kind": "images", "path": str(tmp_path / "one" / "data.npy"), "size": 16}
        run.config = changed(run.config, {"data": images})
        first = evaluate(run, tmp_path / "one" / "data.npy").folder
        second = evaluate(run, tmp_path / "two" / "data.npy").folder
        assert [first.name, second.name] == ["evaluation-data", "evaluation-data-2"]
        monkeypatch.chdir(tmp_path / "one")
        assert evaluate(run, Path("data.npy")).folder == first
        monkeypatch.chdir(tmp_path / "two")
        assert evaluate(run, Path("data.npy")).folder == second
        found = [folder.name for folder, _ in evaluations(run.folder)]
        assert found == ["evaluation-data", "evaluation-data-2", "evaluation-phantoms"]


class TestScansWithoutTruth:
    """Scored by the views that nobody used."""

    @pytest.fixture(scope="class")
    def evaluation(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("scans")
        write(folder, ["a", "b", "c"])
        tree = tiny_tree(
            data={"path": str(folder), "size": SIZE, "peak": 0.05, "holdout": ["c"]},
            out=str(folder / "run"),
        )
        tree["physics"] = {
            "kind": "fan_beam",
            "bin": 4,
            "views": "0:90:9",
            "image_pixel": PIXEL,
            "noise": 0.002,
        }
        tree["data"].pop("count")
        tree["model"]["denoiser"] = "shipped"
        tree["learning"] = {"steps": 1, "batch": 2}
        assert train_run(parse(tree, "test"), quiet)
        return evaluate(load_run(folder / "run"))

    def test_every_method_has_three_measures(self, evaluation):
        assert [c.key for c in evaluation.table.columns] == [
            "unseen",
            "to_least_squares",
            "to_fbp",
            "misfit",
        ]
        keys = [row.key for row in evaluation.table.rows]
        assert keys == ["fbp", "least_squares", "tv", "pnp", "untrained", "equipoise"]
        for scores in evaluation.scores.values():
            assert 0 < scores["unseen"][0] < 0.5
            assert scores["to_least_squares"][0] > 10
            assert scores["to_fbp"][0] > 10
        assert evaluation.names == ["c"]

    def test_the_order_is_that_of_the_true_error(self, evaluation):
        true = disc(SIZE, 0.9)[None, None] / 0.05
        errors = {k: float((x - true).square().mean()) for k, x in evaluation.images.items()}
        unseen = {k: scores["unseen"][0] for k, scores in evaluation.scores.items()}
        assert (errors["tv"] < errors["fbp"]) == (unseen["tv"] < unseen["fbp"])
        assert unseen["pnp"] < unseen["fbp"]

    def test_it_says_by_what(self, evaluation):
        words = " ".join(evaluation.words)
        assert "There is no truth" in words
        assert "the best for the unseen views of up to 8 scans that were trained on" in words
        assert "dB from each other" in words
        assert "predicts the unseen views to" in words
        assert "unseen misfit" in evaluation.as_json()["conventions"]
        assert "so there is no truth to compare with" not in evaluation.table.terminal()

    def test_who_was_not_tuned_is_said_not_to_be(self, tmp_path):
        """Of a run on phantoms there are no scans to tune on."""
        write(tmp_path, ["c"])
        tree = tiny_tree(data={"size": SIZE, "count": 2}, out=str(tmp_path / "run"))
        tree["physics"] = {
            "kind": "fan_beam",
            "angles": [-4.0 * i for i in range(VIEWS + 1)],
            "views": "0:90:9",
            "bin": 4,
            "detectors": DETECTORS,
            "detector_pitch": 0.5,
            "source_to_axis": NEAR,
            "source_to_detector": FAR,
            "image_pixel": PIXEL,
        }
        tree["learning"] = {"steps": 1, "batch": 2}
        assert train_run(parse(tree, "test"), quiet)
        found = evaluate(load_run(tmp_path / "run"), tmp_path / "c.mat")
        assert "unseen" in found.scores["tv"]
        assert found.problem["tuning"] == "defaults"
        assert "default settings" in " ".join(found.words)
        assert "scans that were trained on" not in " ".join(found.words)
