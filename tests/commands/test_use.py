"""What is done with a trained run: reconstruct, evaluate, list, export, and the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support import equipoise, quiet, tiny, tiny_tree
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app, main
from equipoise.commands import demo
from equipoise.commands.export import export
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.runs import list_runs
from equipoise.commands.simulate import simulate
from equipoise.commands.slices import WholeScan
from equipoise.commands.train import train_run
from equipoise.comparison.bootstrap import Bootstrap
from equipoise.comparison.evaluation import evaluate
from equipoise.config import changed, parse
from equipoise.errors import UserError
from equipoise.run import load_data, load_run, unseen_phantoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train_run(tiny(folder), quiet)
    return folder


def of_images(folder, data):
    """The run, as if it were of images, which are measured first."""
    run = load_run(folder)
    images = {"kind": "images", "path": str(data), "size": 16, "units": "1.0"}
    run.config = changed(run.config, {"data": images})
    return run


class Full:
    """A disk that is full at the n-th array, then not any more."""

    def __init__(self, monkeypatch, n):
        self.left, self.save = n, np.save
        monkeypatch.setattr(np, "save", self)

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise OSError("No space left on device")
        self.save(*args, **kwargs)


class TestFullDisk:
    """The same command goes on, or begins anew; nothing of a half is in its way."""

    def test_reconstruct_of_images(self, folder, tmp_path, monkeypatch):
        data, out = tmp_path / "images", tmp_path / "out"
        data.mkdir()
        run = of_images(folder, data)
        for i in range(2):
            np.save(data / f"i{i}.npy", eq.phantoms(1, 16, i)[0, 0].numpy())
        Full(monkeypatch, 2)
        with pytest.raises(OSError, match="No space"):
            reconstruct(run, data, out, quiet)
        assert not any(path.is_file() for path in out.iterdir())
        reconstruct(run, data, out, quiet)
        names = {path.name for path in out.iterdir()}
        assert names == {"i0.npy", "i1.npy", "preview.png", "report.json"}

    def test_simulate(self, tmp_path, monkeypatch):
        config, out = tiny(tmp_path / "run"), tmp_path / "sims"
        Full(monkeypatch, 2)
        with pytest.raises(OSError, match="No space"):
            simulate(config, out)
        paths = simulate(config, out)
        assert paths
        assert all(np.load(path).size for path in paths)
        assert {path.name for path in out.iterdir()} == {"measurements", "config.yaml"}

    def test_the_report_of_a_scan_comes_before_its_progress_goes(
        self, folder, tmp_path, monkeypatch
    ):
        run = load_run(folder)
        y = run.scan.measurement_to_native(run.scan.physics.A(eq.phantoms(3, 16, 9)))
        np.save(tmp_path / "s.npy", y[:, 0].numpy())

        def killed(scan):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(WholeScan, "finish", killed)
            with pytest.raises(KeyboardInterrupt):
                reconstruct(run, tmp_path / "s.npy", tmp_path / "out", quiet)
        report = (tmp_path / "out" / "report.json").read_text()
        assert len(json.loads(report)["images"]) == 3
        reconstruct(run, tmp_path / "s.npy", tmp_path / "out", quiet)
        assert (tmp_path / "out" / "report.json").read_text() == report
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names >= {"report.json", "preview.png"}
        assert not any("progress" in name or "rows" in name for name in names)

    def test_what_is_written_beside_an_image_is_no_other_image_s(self, folder, tmp_path):
        data = tmp_path / "s"
        data.mkdir()
        for name in ("scan", "scan_lower"):
            np.save(data / f"{name}.npy", eq.phantoms(1, 16, 3)[0, 0].numpy())
        asked = Bootstrap(4, 0.7)
        with pytest.raises(UserError, match=r"scan_lower.*rename one of them"):
            reconstruct(of_images(folder, data), data, tmp_path / "o", quiet, asked=asked)


class TestUse:
    def test_measurements_in_images_out(self, folder, tmp_path):
        run = load_run(folder)
        y = run.scan.measurement_to_native(run.scan.physics.A(eq.phantoms(3, 16, 9)))
        data = tmp_path / "sinograms"
        data.mkdir()
        for i in range(3):
            np.save(data / f"s{i}.npy", y[i, 0].numpy())
        solved = reconstruct(run, data, tmp_path / "out", quiet)
        for i in range(3):
            image = np.load(tmp_path / "out" / f"s{i}.npy")
            assert np.allclose(image, solved.value[i, 0].numpy())
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
        assert [row["name"] for row in rows] == ["s0", "s1", "s2"]
        assert {"residual", "status", "steps", "misfit"} <= rows[0].keys()
        assert (tmp_path / "out" / "preview.png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("factor", "told"),
        [
            (1, None),
            (1000, r"[89]\d\d times as large as those the run learnt from"),
            (0.01, r"0.00[89]\d+ times as large as those the run learnt from"),
            (-1, "negative where those the run learnt from are positive"),
        ],
    )
    def test_what_is_unlike_what_was_learnt_from_is_told(self, folder, tmp_path, factor, told):
        run = load_run(folder)
        y = run.scan.measurement_to_native(run.scan.physics.A(eq.phantoms(2, 16, 9)))
        data = tmp_path / "sinograms"
        data.mkdir()
        for i in range(2):
            np.save(data / f"s{i}.npy", factor * y[i, 0].numpy())
        said: list[str] = []
        reconstruct(run, data, tmp_path / "out", said.append)
        notes = json.loads((tmp_path / "out" / "report.json").read_text())["data_notes"]
        assert [f"note: {note}" for note in notes] == [s for s in said if s.startswith("note")]
        assert len([note for note in notes if "the run learnt from" in note]) == (told is not None)
        assert told is None or re.search(told, " ".join(notes))
        warned = any("no better than an empty image" in text for text in said)
        assert factor not in (1, 0.01) or warned == (factor == 0.01)
        if factor == -1:
            evaluation = evaluate(run, data, tmp_path / "evaluation", say=quiet)
            scored = json.loads((tmp_path / "evaluation" / "results.json").read_text())
            assert scored["problem"]["data_notes"] == notes
            assert f"Data: {notes[-1]}." in evaluation.words

    def test_evaluate_scores_every_image(self, folder):
        evaluation = evaluate(load_run(folder))
        saved = json.loads((folder / "evaluation-phantoms" / "results.json").read_text())
        for method in ("fbp", "least_squares", "tv", "untrained", "equipoise"):
            entry = saved["methods"][method]
            assert len(entry["psnr_per_image"]) == len(evaluation.names)
            assert entry["psnr"] == pytest.approx(
                sum(entry["psnr_per_image"]) / len(evaluation.names)
            )
            assert 5 < entry["psnr"] < 60
        page = (folder / "evaluation-phantoms" / "report.html").read_text()
        assert 'src="data:image/png;base64' in page

    def test_evaluation_is_not_of_the_training_data(self, folder):
        run = load_run(folder)
        trained_on = load_data(run.config, run.scan)
        scored_on = unseen_phantoms(run.config, run.scan, 6)
        assert not torch.allclose(trained_on.truth, scored_on.truth)
        run.config = tiny(folder, data={"kind": "images", "path": "somewhere.h5", "count": 200})
        with pytest.raises(UserError, match="name the data to score on"):
            evaluate(run)

    def test_damaged_model(self, folder, tmp_path):
        for name in ("config.yaml", "README.txt"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        part = (folder / "model.safetensors").read_bytes()[:200]
        (tmp_path / "model.safetensors").write_bytes(part)
        with pytest.raises(UserError, match="cut short or damaged"):
            load_run(tmp_path)
        with pytest.raises(UserError, match="no run of Equipoise there"):
            load_run(tmp_path / "nowhere")

    def test_list(self, folder):
        (row,) = list_runs(folder.parent)
        assert (row.state, row.problem) == ("trained, 4/4 steps", "parallel_beam 16²")

    def test_a_damaged_model_is_listed_as_one(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "damaged")
        weights = tmp_path / "damaged" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
        (row,) = list_runs(tmp_path)
        assert row.state == "model.safetensors is damaged, 4/4 steps"


class TestExport:
    def test_travels(self, folder, tmp_path):
        run = load_run(folder)
        evaluate(run)
        export(run, tmp_path / "out", "bsd-3-clause", with_program=True)
        model = eq.EquilibriumReconstructor.from_pretrained(tmp_path / "out")
        y = load_data(run.config, run.scan).y
        with torch.no_grad():
            assert torch.equal(model(y, run.scan.physics), run.model(y, run.scan.physics))
            program = torch.export.load(tmp_path / "out" / "denoiser.pt2").module()
            x = torch.rand(5, 1, 16, 16)
            step = run.model.step
            assert torch.allclose(program(x), step.denoiser(x, step.sigma), atol=1e-6)
        card = (tmp_path / "out" / "README.md").read_text()
        assert "dB PSNR" in card
        assert "license: bsd-3-clause" in card
        with pytest.raises(UserError, match="not empty"):
            export(run, tmp_path / "out")

    def test_a_licence_of_any_words_is_yaml(self, folder, tmp_path):
        export(load_run(folder), tmp_path / "out", 'a: b"c')
        card = (tmp_path / "out" / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["license"] == 'a: b"c'

    def test_damaged(self, folder, tmp_path):
        with pytest.raises(UserError, match="holds no model made by `equipoise export`"):
            eq.EquilibriumReconstructor.from_pretrained(tmp_path)
        out = export(load_run(folder), tmp_path / "out")
        weights = out / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
        with pytest.raises(UserError, match="damaged"):
            eq.EquilibriumReconstructor.from_pretrained(out)

    def test_the_card_of_a_run_on_real_kspace_describes_no_simulated_scan(self, folder, tmp_path):
        run = load_run(folder)
        assert not run.learnt_from["is_kspace"]
        assert run.learnt_from["shape"] == list(run.scan.measurement_shape)
        run.learnt_from |= {"is_kspace": True, "shape": [2, 4, 48, 40]}
        out = export(run, tmp_path / "out")
        card = " ".join((out / "README.md").read_text().split())
        assert (
            "each with its own mask, coils and noise; a measurement has the shape 2 × 4 ×" in card
        )
        assert "whitened among the coils" in card
        assert "angles" not in card
        assert json.loads((out / "config.json").read_text())["measurement_shape"] == [2, 4, 48, 40]

    def test_the_card_says_what_measurements_are_multiplied_by(self, tmp_path):
        plain = eq.ParallelBeam(16, 6)
        y = 0.04 * plain.A(eq.phantoms(3, 16))
        (tmp_path / "in").mkdir()
        for k, one in enumerate(y):
            np.save(tmp_path / "in" / f"{k}.npy", one[0].numpy())
        tree = tiny_tree(out=str(tmp_path / "run"), learning={"steps": 1}, physics={"angles": 6})
        tree["data"] = {"path": str(tmp_path / "in"), "size": 16, "peak": 0.04}
        train_run(parse(tree, "test"), quiet)
        run = load_run(tmp_path / "run")
        reconstruct(run, tmp_path / "in", tmp_path / "images", quiet)
        out = export(run, tmp_path / "exported")
        about = json.loads((out / "config.json").read_text())
        factor = about["gain"] / about["peak"]
        assert f"a scanner's values times {factor:.6g}" in " ".join(
            (out / "README.md").read_text().split()
        )
        model = eq.EquilibriumReconstructor.from_pretrained(out)
        x = about["peak"] * model(y * factor, eq.ParallelBeam(16, 6, normalize=True))
        for k, one in enumerate(x.detach()):
            image = np.load(tmp_path / "images" / f"{k}.npy")
            assert np.allclose(image, one[0], atol=1e-4 * about["peak"])


class TestCommandLine:
    def test_bad_input_is_one_paragraph_and_exit_code_2(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "c.yaml").write_text("data: {pth: x}\n")
        done = equipoise("train", tmp_path / "c.yaml", cwd=tmp_path)
        assert done.returncode == 2
        assert "data.pth: unknown key (value 'x')" in done.stderr
        assert "Traceback" not in done.stderr
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sinograms").mkdir()
        (tmp_path / "c.yaml").write_text("data: {path: sinograms}\n")
        monkeypatch.setattr(sys, "argv", ["equipoise", "train", "c.yaml"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert "no file in this folder can be read" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()
        monkeypatch.setattr(sys, "argv", ["equipoise", "--debug", "train", "c.yaml"])
        with pytest.raises(UserError):
            main()

    def test_demo(self, tmp_path, monkeypatch):
        monkeypatch.setattr(demo, "UNSEEN", 4)  # a smaller one: `make demo` runs the whole
        monkeypatch.setitem(demo.DEMOS["mri"], "data", {"size": 32, "count": 8})
        out = tmp_path / "demo"
        done = CliRunner().invoke(app, ["demo", "mri", "--steps", "1", "--out", str(out)])
        assert done.exit_code == 0, done.output
        methods = json.loads((out / "results.json").read_text())["methods"]
        assert {"zero_filled", "tv", "equipoise"} <= methods.keys()
        assert methods["equipoise"]["psnr"] > methods["zero_filled"]["psnr"]
        for name in ("grid.png", "report.html", "curves.html", "model.safetensors"):
            assert (out / name).stat().st_size > 0
        assert "Total variation" in done.stdout
        (out / "thesis.tex").write_text("precious")
        message = r"holds thesis.tex beside an earlier demo; nothing was written"
        with pytest.raises(UserError, match=message):
            demo.demo(demo.demo_config("mri", out, 1, 0))
        assert (out / "results.json").exists()
        assert Path(out / "thesis.tex").read_text() == "precious"
