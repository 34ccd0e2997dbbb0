"""Comparison and diagnosis of whole runs, at the size of a stamp."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from equipoise import build, compare, diagnosis, runs
from equipoise.config import parse
from equipoise.equilibrium import Stop
from equipoise.errors import UserError
from equipoise.imaging.data import split_by_patient
from equipoise.reconstruction.model import UntiedReconstructor

TINY = {
    "name": "tiny",
    "data": {"size": 16, "count": 6},
    "physics": {"angles": 6, "noise": 0.01},
    "model": {
        "max_steps": 6,
        "adjoint_max_steps": 6,
        "test_max_steps": 20,
        "denoiser": "random",
        "channels": 4,
        "layers": 2,
    },
    "objective": {"parts": 2},
    "learning": {"steps": 2, "batch": 2},
}
METHODS = ["fbp", "tv", "pnp", "red", "implicit", "untied_5", "supervised"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "tiny"
    first = compare.plan([parse(TINY, "tiny")], out, seeds=2, only=METHODS[1:])
    compare.compare(first, jobs=2, say=lambda text: None, elsewhere=True)
    task = compare.plan(
        [parse(TINY, "tiny")], out, seeds=2, only=METHODS[:1]
    )  # another, later: what was there is taken in
    compare.compare(task, say=lambda text: None)
    task.only = METHODS
    return task, compare.compare(task, say=lambda text: None, elsewhere=True)


class TestCompare:
    def test_every_method_and_image_is_scored(self, done):
        task, table = done
        assert list(table) == METHODS
        saved = json.loads((task.out / "results.json").read_text())
        for method in METHODS:
            row, scores = table[method], saved["scores"][method]
            assert row["seeds"] == 2
            assert len(scores[0]["psnr"]) == saved["about"]["images"] == 24
            means = [sum(s["psnr"]) / 24 for s in scores]
            assert row["psnr"] == pytest.approx(sum(means) / 2)
            if method != "implicit":
                difference = [
                    p - q
                    for s, a in zip(scores, saved["scores"]["implicit"])
                    for p, q in zip(s["psnr"], a["psnr"])
                ]
                assert row["difference"] == pytest.approx(sum(difference) / 48)
                assert row["low"] <= row["difference"] <= row["high"]
        assert table["untied_5"]["parameters"] == 5 * table["implicit"]["parameters"]
        assert table["supervised"]["memory_mb"] > 100
        assert table["red"]["setting"] == table["pnp"]["setting"]
        assert table["red"]["psnr"] == pytest.approx(
            table["pnp"]["psnr"], abs=0.2
        )  # one equilibrium, reached by other steps
        assert table["red"]["evaluations"] > table["pnp"]["evaluations"]
        tuned = json.loads((task.out / "scores" / "untied_5-tuning.json").read_text())
        assert (
            runs.read_config(task.run_folder("untied_5", 1)).model.strength
            == tuned["model.strength"]
        )
        assert (task.out / "table.md").read_text().count("\n| ") > len(METHODS) + 2
        assert (task.out / "report.html").read_text().count('src="data:image/png;base64') == 4
        found = task.generalise(lambda text: None)
        assert set(found) == {"views", "noise", "anatomy", "most iterations"}
        same = [
            found["views"]["6"]["implicit"],
            found["noise"]["0.01"]["implicit"],
            found["anatomy"]["as trained"]["implicit"],
        ]
        assert (
            same[0]
            == same[1]
            == same[2]
            == pytest.approx([sum(s["psnr"]) / 24 for s in saved["scores"]["implicit"]])
        )
        assert "untied_5" not in found["most iterations"]["10"]

    def test_what_is_there_is_not_repeated(self, done):
        task, table = done
        said: list[str] = []
        before = {p: p.stat().st_mtime_ns for p in (task.out / "scores").iterdir()}
        assert compare.compare(task, say=said.append, elsewhere=True) == table
        assert not any(line.startswith(("trained", "scored", "tuned", "tried")) for line in said)
        assert before == {p: p.stat().st_mtime_ns for p in (task.out / "scores").iterdir()}

    def test_another_configuration_is_refused(self, done):
        task, _ = done
        other = compare.changed(task.config, {"physics.angles": 7})
        with pytest.raises(UserError, match="comparison of another configuration"):
            compare.compare(compare.plan([other], task.out, 1), say=lambda text: None)

    def test_training_that_fails(self, done, tmp_path):
        """That it gave up is a result; an error is said, and tried again."""
        task, _ = done
        methods = {
            "tiny": task.config,
            "odd": compare.changed(task.config, {"model.denoiser": "nowhere.safetensors"}),
        }
        two, said = compare.Comparison(task.config, methods, [], tmp_path / "two", 1), []
        shutil.copytree(task.run_folder("implicit", 0), two.run_folder("tiny", 0))
        (two.out / "config.yaml").write_text(two.text())
        assert list(compare.compare(two, say=said.append)) == ["tiny"]
        assert any(
            line.startswith("not trained: odd, seed 0") and "nowhere.safetensors" in line
            for line in said
        )
        two.run_folder("odd", 0).mkdir()
        (two.run_folder("odd", 0) / "cost.json").write_text(
            json.dumps({"train_seconds": 1, "failed": f"20 {compare.STOPPED} (NaN)"})
        )
        table = compare.compare(two, say=said.append)
        assert compare.STOPPED in table["odd"]["failed"][0]
        assert "psnr" not in table["odd"]
        methods["odd"] = compare.changed(task.config, {"learning.lr": 1e-3})
        with pytest.raises(UserError, match="comparison of another configuration"):
            compare.compare(two, say=said.append)

    def test_nothing_to_score(self, done):
        task, _ = done
        none = compare.plan([task.config], task.out.with_name("none"), 1, ["zero_filled"])
        with pytest.raises(UserError, match="none of zero_filled could be scored"):
            compare.compare(none, say=lambda text: None)

    def test_two_configurations(self):
        a = parse(TINY, "a")
        b = compare.changed(a, {"name": "b", "objective.equivariance": 1.0})
        assert list(compare.plan([a, b], None, 3).methods) == ["tiny", "b"]
        both = compare.plan([a, compare.changed(b, {"name": "implicit"})], None, 3)
        assert both.reference({"tiny": [], "implicit": []}) == "tiny"
        with pytest.raises(UserError, match="share a name"):
            compare.plan([a, a], None, 3)
        with pytest.raises(UserError, match="differ in data, physics"):
            compare.plan([a, compare.changed(b, {"physics.angles": 9})], None, 3)
        with pytest.raises(UserError, match="no method is called nonsense here; there are fbp, "):
            compare.plan([a], None, 3, ["nonsense"])

    def test_what_the_learned_methods_learn_from(self):
        config = parse(TINY, "tiny")

        def terms(c):
            return {k: getattr(c.objective, k) for k in compare.TERMS if getattr(c.objective, k)}

        found = compare.learned(config)
        assert list(found) == [*compare.GRADIENTS, *compare.OBJECTIVES]
        assert terms(found["jacobian_free"]) == terms(config)
        assert terms(found["ei"]) == {
            k: getattr(config.objective, k) for k in ("consistency", "equivariance")
        }
        assert terms(found["supervised"]) == {"supervised": 1.0}
        noisy = compare.learned(
            compare.changed(
                config,
                {"objective.sure": 2.0, "objective.consistency": 0, "objective.splitting": 0},
            )
        )
        assert terms(noisy["consistency"]) == {"consistency": 1.0}
        assert terms(noisy["supervised"]) == {"supervised": 1.0}
        assert "splitting" not in noisy  # nothing can be split
        assert "sure_ei" not in noisy  # that is the configuration itself
        free = compare.learned(compare.changed(config, {"model.gradient": "jacobian_free"}))
        assert free["implicit"].model.gradient == free["supervised"].model.gradient == "implicit"


class TestDiagnosis:
    def test_of_a_run_beside_another(self, done, tmp_path, monkeypatch):
        task, _ = done
        run = runs.load_run(task.run_folder("implicit", 0))
        monkeypatch.setattr(diagnosis, "IMAGES", 2)
        monkeypatch.setattr(
            diagnosis, "Stop", lambda rtol, max_steps: Stop(rtol, 15)
        )  # untrained: slow, and not what is tested
        found = diagnosis.diagnose(run, [other := runs.load_run(run.folder)], folder=tmp_path / "d")
        assert list(found["networks"])[:3] == [
            "before training",
            "implicit",
            "implicit, averaged over quarter turns",
        ]
        assert found["networks"][other.folder.name] == found["networks"]["implicit"]
        head, psnr = (tmp_path / "d" / "table.md").read_text().splitlines()[2:5:2]
        assert head.split(" | ")[1:] == [
            "before training",
            "implicit, 2 seeds",
            "implicit, averaged over quarter turns |",
        ]
        assert psnr.split(" | ")[2].endswith("± 0")
        assert (
            diagnosis._cell([{"value": 1.0, "error": 9.0}, {"value": 3.0, "error": 9.0}]) == "2 ± 1"
        )
        for network in found["networks"].values():
            assert network["table"].keys() == diagnosis.ROWS.keys()
        averaged = found["networks"]["implicit, averaged over quarter turns"]["curves"]["commutes"][
            "turn"
        ]
        assert max(max(v) for far, v in averaged if far in (90.0, 180.0)) < 1e-5
        assert (tmp_path / "d" / "report.html").stat().st_size > 50_000
        assert not any(p.name == "diagnosis" for p in run.folder.iterdir())


def test_untied_reconstructor_of_one_weight_is_the_tied_one():
    config = parse({**TINY, "model": {"gradient": "unrolled", "depth": 4}}, "tiny")
    physics = build.build_physics(config.physics, 16)
    y = torch.rand(2, *physics.measurement_shape, generator=torch.Generator().manual_seed(0))
    tied = build.build_model(config.model, 1, 0.01)
    untied = build.build_model(compare.changed(config, {"model.untied": True}).model, 1, 0.01)
    assert isinstance(untied, UntiedReconstructor)
    assert torch.allclose(tied(y, physics), untied(y, physics), atol=1e-6)
    (a,), (b,) = (
        torch.autograd.grad(m(y, physics).sum(), m.step.denoiser.noise, retain_graph=True)[:1]
        for m in (tied, untied)
    )
    assert not torch.allclose(a, b)  # of all four steps, and of the last alone


def test_a_block_of_one_volume_is_held_out():
    kept, held = split_by_patient(["p"] * 40, 0.2)
    assert held == list(range(16, 24))
    assert min(abs(k - h) for k in kept for h in held) == 4
    with pytest.raises(UserError, match="too few to hold some out"):
        split_by_patient(["p"] * 5, 0.2)


def test_supervised_needs_images(tmp_path):
    config = parse({**TINY, "objective": {"supervised": 1}}, "tiny")
    config.out = tmp_path / "run"
    runs.simulate(config, tmp_path / "m")
    other = config.model_copy(deep=True)
    other.data.path, other.data.kind = tmp_path / "m" / "measurements", "measurements"
    with pytest.raises(UserError, match="needs images"):
        runs.train_run(other, say=lambda text: None)
    shutil.rmtree(tmp_path / "m")
