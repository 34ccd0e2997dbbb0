"""Whole runs: training, interruption, resuming, reconstruction, evaluation, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import equipoise as eq
from equipoise import build, demo, runs
from equipoise.cli import app, main
from equipoise.config import Config, dump, load_config, options, parse
from equipoise.errors import UserError
from equipoise.export import export
from equipoise.learning import checkpoint

TINY = {
    "data": {"size": 16, "count": 6},
    "physics": {"angles": 6, "noise": 0.01},
    "model": {"max_steps": 6, "adjoint_max_steps": 6, "test_max_steps": 6, "denoiser": "random", "channels": 4, "layers": 2},
    "objective": {"parts": 2},
    "learning": {"steps": 4, "batch": 3, "checkpoint_every": 2, "validate_every": 2},
}


def tiny(folder: Path, **learning) -> Config:
    tree = {**TINY, "out": str(folder), "learning": {**TINY["learning"], **learning}}
    return parse(tree, "test")


def equipoise(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "equipoise", *map(str, args)], capture_output=True, text=True, cwd=cwd, check=False
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / checkpoint.FILE).tensors


class TestConfig:
    def test_examples_are_valid(self, monkeypatch):
        root = Path(__file__).parents[1]
        monkeypatch.chdir(root)
        for path in sorted((root / "configs").glob("*.yaml")):
            assert parse(yaml.safe_load(path.read_text()), str(path)).name == path.stem

    def test_overrides_and_defaults(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_text("learning: {lr: 1e-4}\n")
        config = load_config(path, ["learning.steps=500", "physics.angles=[0, 45, 90]", "learning.ema=9e-1"])
        assert (config.name, config.learning.steps, config.learning.lr, config.learning.ema) == ("a", 500, 1e-4, 0.9)
        assert config.physics.angles == [0, 45, 90]
        assert parse(yaml.safe_load(dump(config)), "dump") == config

    @pytest.mark.parametrize(
        ("text", "overrides", "message"),
        [
            ("learnin: {}", [], r"learnin: unknown key \(value \{\}\); allowed here are data, learning, model, name"),
            (
                "learning: {setps: 5}",
                [],
                r"learning.setps: unknown key \(value 5\); allowed here are accumulate, batch, checkpoint_every",
            ),
            ("learning: {steps: many}", [], r"learning.steps: .*integer.*got 'many'"),
            ("learning: {steps: 0}", [], r"learning.steps: .*greater than or equal to 1, got 0"),
            ("learning: {steps: true}", [], "steps must be a number, not True"),
            ("learning: {lr: .inf}", [], "learning.lr: .*finite number"),
            ("model: {step: newton}", [], r"model.step: .*'primal_dual' or 'mirror', got 'newton'"),
            ("data: {path: nowhere.h5}", [], r"data.path: nowhere.h5 does not exist"),
            ("a: [", [], "not YAML"),
            ("", ["learning"], "written section.key=value"),
            ("", ["learning.step=3"], "learning.step: unknown key"),
        ],
    )
    def test_errors_name_key_value_and_what_is_allowed(self, tmp_path, text, overrides, message):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(tmp_path / "c.yaml", overrides)


class TestTraining:
    def test_resuming_is_exact(self, tmp_path):
        """N steps, and k + (N − k) steps across an interruption, give bit-equal weights, optimiser and averages."""
        runs.train_run(tiny(tmp_path / "whole", steps=5), say=lambda s: None)
        steps = []
        assert not runs.train_run(tiny(tmp_path / "parts", steps=5), lambda s: None, steps.append, lambda: len(steps) >= 3)
        assert runs.train_run(tiny(tmp_path / "parts", steps=5), lambda s: None, steps.append)
        assert [r.step for r in steps] == [1, 2, 3, 4, 5]
        a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(k.startswith("optimizer.") for k in a)

    def test_training_moves_the_weights_and_writes_the_run(self, tmp_path):
        config = tiny(tmp_path / "run")
        assert runs.train_run(config, say=lambda s: None)
        for name in (
            "config.yaml",
            "log.jsonl",
            "checkpoint.safetensors",
            "model.safetensors",
            "curves.html",
            "curves.png",
            "README.txt",
        ):
            assert (tmp_path / "run" / name).stat().st_size > 0
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert [r["step"] for r in log] == [1, 2, 3, 4]
        assert set(log[0]["parts"]) == {"consistency", "splitting", "equivariance", "contraction"}
        assert all(r["forward"] > 0 and r["adjoint"] > 0 for r in log)
        trained = runs.load_run(tmp_path / "run").model.state_dict()
        start = build.build_model(config.model, 1, 0.01, config.seed).state_dict()
        assert any(not torch.equal(trained[k], start[k]) for k in start)

    def test_training_never_sees_the_truth(self, tmp_path, monkeypatch):
        """The images are poisoned once they have been measured."""
        measured = build.measure

        def poison(images, *args):
            out = measured(images, *args)
            images.fill_(float("nan"))
            return out

        monkeypatch.setattr(build, "measure", poison)
        assert runs.train_run(tiny(tmp_path / "run"), say=lambda s: None)
        assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())

    def test_another_configuration_is_refused(self, tmp_path):
        runs.train_run(tiny(tmp_path / "run"), say=lambda s: None)
        before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
        with pytest.raises(UserError, match=r"another configuration \(learning.lr: 0.0002 then, 0.1 now\); nothing was changed"):
            runs.train_run(tiny(tmp_path / "run", lr=0.1), say=lambda s: None)
        assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def test_a_foreign_folder_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(UserError, match="no run of Equipoise; nothing was written"):
            runs.train_run(tiny(tmp_path), say=lambda s: None)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_folder_with_a_file_of_that_name_is_refused(self, tmp_path):
        (tmp_path / "config.yaml").write_text("mine: true  # and commented")
        with pytest.raises(UserError, match="no run of Equipoise; nothing was written"):
            runs.train_run(tiny(tmp_path), say=lambda s: None)
        assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]

    def test_what_cannot_be_trained_is_told_before_anything_is_written(self, tmp_path):
        config = tiny(tmp_path / "run")
        config.objective.parts = 7
        with pytest.raises(UserError, match=r"objective.parts=7: cannot split 6 views into 7 parts"):
            runs.train_run(config, say=lambda s: None)
        config = tiny(tmp_path / "run")
        (tmp_path / "d.safetensors").write_bytes(b"cut short")
        config.model.denoiser = str(tmp_path / "d.safetensors")
        with pytest.raises(UserError, match="not a denoiser made by `equipoise pretrain`, or it is cut short"):
            runs.train_run(config, say=lambda s: None)
        assert not (tmp_path / "run").exists()

    def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(self, tmp_path):
        folder = tmp_path / "run"
        runs.train_run(tiny(folder), say=lambda s: None)
        latest = folder / checkpoint.FILE
        whole = latest.read_bytes()
        flipped = bytearray(whole)
        flipped[-3] ^= 4
        for damaged in (whole[: len(whole) // 2], bytes(flipped), b""):
            latest.write_bytes(damaged)
            with pytest.raises(UserError, match=r"cut short or damaged|checksum"):
                checkpoint.read(latest)
            said = []
            found, remark = checkpoint.load_latest(folder)
            assert found.state["step"] == 2
            assert "damaged" in remark
        assert runs.train_run(tiny(folder), said.append)
        assert any("going on from the one before" in s for s in said)
        latest.write_bytes(b"")
        (folder / checkpoint.PREVIOUS).write_bytes(b"")
        with pytest.raises(UserError, match="nothing was changed: restore one from a backup"):
            runs.train_run(tiny(folder), say=lambda s: None)
        assert latest.read_bytes() == b""


class TestUse:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs") / "tiny"
        runs.train_run(tiny(folder), say=lambda s: None)
        return folder

    def test_measurements_in_images_out(self, run, tmp_path):
        loaded = runs.load_run(run)
        x = eq.phantoms(3, 16, 9)
        y = loaded.physics.A(x) / loaded.physics.gain
        folder = tmp_path / "sinograms"
        folder.mkdir()
        for i in range(3):
            np.save(folder / f"s{i}.npy", y[i, 0].numpy())
        solved = runs.reconstruct(loaded, folder, tmp_path / "out", say=lambda s: None)
        for i in range(3):
            assert np.allclose(np.load(tmp_path / "out" / f"s{i}.npy"), solved.value[i, 0].numpy())
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
        assert [r["name"] for r in rows] == ["s0", "s1", "s2"]
        assert {"residual", "status", "steps", "misfit"} <= rows[0].keys()
        assert (tmp_path / "out" / "preview.png").stat().st_size > 1000

    def test_evaluate_scores_every_image(self, run):
        loaded = runs.load_run(run)
        table = runs.evaluate(loaded)
        saved = json.loads((run / "evaluation-phantoms" / "results.json").read_text())
        for method in ("fbp", "least_squares", "tv", "untrained", "equipoise"):
            entry = saved["methods"][method]
            assert len(entry["psnr_per_image"]) == len(table.names)
            assert entry["psnr"] == pytest.approx(sum(entry["psnr_per_image"]) / len(table.names))
            assert 5 < entry["psnr"] < 60
        assert 'src="data:image/png;base64' in (run / "evaluation-phantoms" / "report.html").read_text()

    def test_evaluation_is_not_of_the_training_data(self, run):
        loaded = runs.load_run(run)
        trained_on = build.build_problem(loaded.config, loaded.physics)
        scored_on = runs.unseen_phantoms(loaded.config, loaded.physics, 6)
        assert not torch.allclose(trained_on.truth, scored_on.truth)
        loaded.config.data.path = Path("somewhere.h5")
        with pytest.raises(UserError, match="name the data to score on"):
            runs.evaluate(loaded)

    def test_damaged_model(self, run, tmp_path):
        for name in ("config.yaml", "README.txt"):
            (tmp_path / name).write_bytes((run / name).read_bytes())
        (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:200])
        with pytest.raises(UserError, match="cut short or damaged"):
            runs.load_run(tmp_path)
        with pytest.raises(UserError, match="no run of Equipoise there"):
            runs.load_run(tmp_path / "nowhere")


class TestCommandLine:
    def test_bad_input_is_one_paragraph_and_exit_code_2(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "c.yaml").write_text("data: {pth: x}\n")
        r = equipoise("train", tmp_path / "c.yaml", cwd=tmp_path)
        assert r.returncode == 2
        assert "data.pth: unknown key (value 'x')" in r.stderr
        assert "Traceback" not in r.stderr
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

    def test_interrupt_and_continue(self, tmp_path):
        tree = {**TINY, "name": "long", "learning": {**TINY["learning"], "steps": 2000, "checkpoint_every": 1000}}
        (tmp_path / "long.yaml").write_text(yaml.safe_dump(tree))
        command = [sys.executable, "-m", "equipoise", "train", "long.yaml"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log = tmp_path / "runs" / "long" / "log.jsonl"
        for _ in range(600):
            if log.exists() and log.read_text().count("\n") >= 3:
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130, out
        assert "the same command continues" in out
        step = checkpoint.read(tmp_path / "runs" / "long" / checkpoint.FILE).state["step"]
        assert step >= 3
        r = equipoise("train", "long.yaml", f"learning.steps={step + 1}", cwd=tmp_path)
        assert r.returncode == 2  # the schedule would be another one
        assert "learning.steps: 2000 then" in r.stderr

    def test_demo(self, tmp_path, monkeypatch):
        monkeypatch.setattr(demo, "UNSEEN", 4)  # a smaller one: `make demo` runs the whole
        monkeypatch.setitem(demo.CONFIGS["mri"], "data", {"size": 48, "count": 16})
        r = CliRunner().invoke(app, ["demo", "mri", "--steps", "1", "--out", str(tmp_path / "demo")])
        assert r.exit_code == 0, r.output
        results = json.loads((tmp_path / "demo" / "results.json").read_text())
        assert {"zero_filled", "tv", "equipoise"} <= results["methods"].keys()
        assert results["methods"]["equipoise"]["psnr"] > results["methods"]["zero_filled"]["psnr"]
        for name in ("grid.png", "report.html", "curves.html", "model.safetensors"):
            assert (tmp_path / "demo" / name).stat().st_size > 0
        assert "Total variation" in r.stdout
        (tmp_path / "demo" / "thesis.tex").write_text("precious")
        with pytest.raises(UserError, match=r"holds thesis.tex beside an earlier demo; nothing was written"):
            demo.demo(demo.demo_config("mri", tmp_path / "demo", 1, 0))
        assert (tmp_path / "demo" / "results.json").exists()


class TestExport:
    def test_travels(self, tmp_path):
        runs.train_run(tiny(tmp_path / "run"), say=lambda s: None)
        run = runs.load_run(tmp_path / "run")
        runs.evaluate(run)
        export(run, tmp_path / "out", "bsd-3-clause", program=True)
        model = eq.EquilibriumReconstructor.from_pretrained(tmp_path / "out")
        y = build.build_problem(run.config, run.physics).y
        with torch.no_grad():
            assert torch.equal(model(y, run.physics), run.model(y, run.physics))
            program = torch.export.load(tmp_path / "out" / "denoiser.pt2").module()
            x = torch.rand(5, 1, 16, 16)
            assert torch.allclose(program(x), run.model.step.denoiser(x, run.model.step.sigma), atol=1e-6)
        card = (tmp_path / "out" / "README.md").read_text()
        assert "dB PSNR" in card
        assert "license: bsd-3-clause" in card
        with pytest.raises(UserError, match="not empty"):
            export(run, tmp_path / "out")

    def test_damaged(self, tmp_path):
        with pytest.raises(UserError, match="holds no model made by `equipoise export`"):
            eq.EquilibriumReconstructor.from_pretrained(tmp_path)
        runs.train_run(tiny(tmp_path / "run"), say=lambda s: None)
        out = export(runs.load_run(tmp_path / "run"), tmp_path / "out")
        weights = out / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
        with pytest.raises(UserError, match="damaged"):
            eq.EquilibriumReconstructor.from_pretrained(out)

    def test_overview_and_options(self, tmp_path):
        runs.train_run(tiny(tmp_path / "some" / "run"), say=lambda s: None)
        (row,) = runs.overview(tmp_path)
        assert row[1:3] == ("trained, 4/4 steps", "parallel_beam 16²")
        names = [name for name, _, _ in options()]
        assert {"seed", "data.path", "physics.mri.acceleration", "model.step", "learning.steps"} <= set(names)
        assert all(meaning for _, _, meaning in options())
