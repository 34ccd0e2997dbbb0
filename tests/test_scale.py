"""Training that is left alone: killed at any moment, shared by processes, stopped early, validated without truth."""

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

from equipoise import runs
from equipoise.config import Config, parse
from equipoise.errors import UserError
from equipoise.learning import checkpoint

TINY = {
    "data": {"size": 16, "count": 6},
    "physics": {"angles": 6, "noise": 0.01},
    "model": {"max_steps": 6, "adjoint_max_steps": 6, "test_max_steps": 6, "denoiser": "random", "channels": 4, "layers": 2},
    "objective": {"parts": 2},
    "learning": {"steps": 4, "batch": 3, "checkpoint_every": 2, "validate_every": 2},
}


def tiny(folder: Path, data: dict | None = None, objective: dict | None = None, **learning) -> Config:
    tree = {**TINY, "out": str(folder), "learning": {**TINY["learning"], **learning}}
    tree["data"] = {**TINY["data"], **(data or {})}
    tree["objective"] = {**TINY["objective"], **(objective or {})}
    return parse(tree, "test")


def torchrun(count: int, *args: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone", "-m", "equipoise"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, args)], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


KILLED = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
from equipoise import runs
from equipoise.config import load_config
from lightning_fabric import Fabric
config, rng, kills = load_config(sys.argv[1]), random.Random(0), 0
while True:
    child = os.fork()
    if not child:
        runs.train_run(config, say=lambda s: None)
        os._exit(0)
    deadline, status = time.time() + rng.uniform(0.4, 2.0), 0
    while time.time() < deadline or kills >= 12:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(kills if status == 0 else f"failed with {status}")
            sys.exit(status != 0)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
"""


class TestKilled:
    def test_kill_9_at_random_moments_changes_nothing(self, tmp_path):
        """A real process, killed again and again, ends with the weights of one that was left alone, to the bit."""
        learning = {"steps": 40, "checkpoint_every": 3}
        for name in ("whole", "killed"):
            tree = {**TINY, "out": str(tmp_path / name), "learning": {**TINY["learning"], **learning}}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        once = (
            "import sys, torch; torch.set_num_threads(1); from equipoise import runs; from equipoise.config import load_config\n"
        )
        once += "runs.train_run(load_config(sys.argv[1]))"
        for code, name in ((once, "whole"), (KILLED, "killed")):
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / f"{name}.yaml")],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert int(done.stdout.split()[-1]) >= 3  # times it was killed
        for file in (checkpoint.FILE, runs.MODEL):
            a, b = (checkpoint.read(tmp_path / name / file).tensors for name in ("whole", "killed"))
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)


class TestProcesses:
    def test_two_processes_do_what_one_does(self, tmp_path):
        """The same losses in float64, whether one process has the batch, two share it, or one takes it in parts."""
        tree = {
            "data": {"size": 24, "count": 5},
            "physics": {"angles": 12},
            "model": {"precision": "64"},
            "objective": {"parts": 2},
        }
        tree |= {"learning": {"steps": 3, "batch": 5, "checkpoint_every": 2}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
        process = torchrun(2, "train", "c.yaml", "name=two", cwd=tmp_path)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        assert out.count("trained:") == 1
        for name, accumulate in (("one", 1), ("parts", 3)):
            tree["learning"]["accumulate"] = accumulate
            runs.train_run(parse({**tree, "out": str(tmp_path / "runs" / name)}, "t"), say=lambda s: None)
        one = log(tmp_path / "runs" / "one")
        assert len(one) == 3
        for name in ("two", "parts"):
            for a, b in zip(one, log(tmp_path / "runs" / name)):
                assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)
                assert b["gradient"] == pytest.approx(a["gradient"], rel=1e-5)
                assert b["parts"].keys() == a["parts"].keys()

    def test_a_process_that_dies_ends_the_run_and_fewer_go_on(self, tmp_path):
        tree = {
            **TINY,
            "name": "run",
            "learning": {**TINY["learning"], "steps": 400, "checkpoint_every": 1, "schedule": "constant"},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
        process = torchrun(2, "train", "c.yaml", cwd=tmp_path)
        folder = tmp_path / "runs" / "run"
        for _ in range(900):
            if (folder / "log.jsonl").exists() and len(log(folder)) > 4:
                break
            time.sleep(0.1)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        assert process.returncode != 0, out
        at = checkpoint.read(folder / checkpoint.FILE).state["step"]
        assert at >= 4
        config = parse({**tree, "out": str(folder), "name": "run"}, "t")
        said = []
        steps = []
        assert not runs.train_run(config, said.append, steps.append, lambda: len(steps) >= 2)
        assert f"continuing at step {at}" in said[-1]
        assert [r.step for r in steps] == [at + 1, at + 2]

    def test_reconstruction_is_shared(self, tmp_path):
        runs.train_run(tiny(tmp_path / "run", steps=1), say=lambda s: None)
        loaded = runs.load_run(tmp_path / "run")
        (tmp_path / "data").mkdir()
        for i in range(5):
            np.save(tmp_path / "data" / f"s{i}.npy", np.random.default_rng(i).random(loaded.physics.measurement_shape)[0])
        process = torchrun(2, "reconstruct", "run", "data", "two", cwd=tmp_path)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        runs.reconstruct(loaded, tmp_path / "data", tmp_path / "one", say=lambda s: None)
        assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
        for i in range(5):
            assert np.allclose(
                np.load(tmp_path / "one" / f"s{i}.npy"), np.load(tmp_path / "two" / f"s{i}.npy"), rtol=1e-4, atol=1e-5
            )
        a, b = (json.loads((tmp_path / name / "report.json").read_text())["images"] for name in ("one", "two"))
        assert [r["status"] for r in a] == [r["status"] for r in b]


class TestLoop:
    def test_validation_without_truth_and_early_stopping(self, tmp_path, monkeypatch):
        """Parts of the measurements that training never sees; what is kept is what predicts them best."""
        steps = []
        config = tiny(tmp_path / "run", {"keep_out": 0.34}, steps=60, validate_every=1, patience=3, lr=0.5, warmup=0, clip=100.0)
        assert runs.train_run(config, lambda s: None, steps.append)
        scores = [r.validation["held_out"] for r in steps]
        best = scores.index(min(scores))
        assert len(steps) == best + 1 + 3 < 60
        assert steps[-1].ended == f"no progress since step {best + 1}"
        saved = checkpoint.read(tmp_path / "run" / checkpoint.FILE)
        kept = checkpoint.read(tmp_path / "run" / runs.MODEL).tensors
        assert saved.state["best_step"] == best + 1
        assert all(torch.equal(kept[k.removeprefix("best.")], v) for k, v in saved.tensors.items() if k.startswith("best."))
        said = []
        assert runs.train_run(config, said.append)
        assert f"already no progress since step {best + 1}" in said[-1]

    def test_what_is_kept_out_is_not_trained_on(self, tmp_path, monkeypatch):
        seen = []
        trainer = runs.Trainer

        def spy(model, physics, y, *rest):
            seen.append((y.shape, physics.measurement_shape if hasattr(physics, "measurement_shape") else None))
            return trainer(model, physics, y, *rest)

        monkeypatch.setattr(runs, "Trainer", spy)
        runs.train_run(tiny(tmp_path / "run", {"keep_out": 0.34}, steps=2), say=lambda s: None)
        assert seen[0][0][2] == 4  # of six views

    def test_settings_that_ask_for_what_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"learning.patience needs measurements to validate on: set data.keep_out=0.1"):
            tiny(tmp_path, patience=3)
        with pytest.raises(UserError, match=r"objective.operators: all samples share one operator"):
            runs.train_run(tiny(tmp_path / "run", objective={"operators": 1.0}), say=lambda s: None)

    def test_every_objective_at_once(self, tmp_path):
        config = tiny(tmp_path / "run", objective={"sure": 1.0, "r2r": 1.0, "variation": 0.1, "draws": 2}, steps=2)
        steps = []
        assert runs.train_run(config, lambda s: None, steps.append)
        assert {"sure", "r2r", "variation", "splitting", "equivariance"} <= steps[0].parts.keys()
        assert all(np.isfinite(list(r.parts.values())).all() for r in steps)

    @pytest.mark.parametrize(
        "model",
        [
            *({"step": s} for s in ("red", "admm", "douglas_rachford", "primal_dual", "mirror")),
            {"denoiser": "unet", "invariant": "quarter_turns"},
            {"precision": "bf16", "learnable": True},
        ],
        ids=str,
    )
    def test_every_step_and_prior_as_configured(self, tmp_path, model):
        config = tiny(tmp_path / "run", steps=2)
        config.model = config.model.model_copy(update=model)
        assert runs.train_run(config, say=lambda s: None)
        loaded = runs.load_run(tmp_path / "run")
        problem = runs.unseen_phantoms(loaded.config, loaded.physics, 3)
        x = loaded.solve(problem).value
        assert x.isfinite().all()
        assert len(loaded.contraction(problem, x)["radius"]) == 3

    def test_bf16_is_close(self):
        from equipoise import GradientStep, load_denoiser

        step, x = GradientStep(load_denoiser()), torch.rand(2, 1, 32, 32)
        exact = step.denoise(x)
        step.precision = torch.bfloat16
        rough = step.denoise(x)
        assert rough.dtype == torch.float32
        assert 0 < float((rough - exact).norm() / exact.norm()) < 0.01

    def test_tensorboard(self, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        runs.train_run(tiny(tmp_path / "run", loggers=["tensorboard"]), say=lambda s: None)
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        values = events.Scalars("parts/splitting")
        assert [v.step for v in values] == [1, 2, 3, 4]
        assert values[2].value == pytest.approx(log(tmp_path / "run")[2]["parts"]["splitting"], rel=1e-5)

    def test_versions_tell_the_state_of_the_code(self, tmp_path):
        runs.train_run(tiny(tmp_path / "run", steps=1), say=lambda s: None)
        saved = json.loads((tmp_path / "run" / "versions.json").read_text())
        assert {"equipoise", "torch", "deepinv", "python"} <= saved.keys()
