"""Whole training runs: what they write, how they go on, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from support import equipoise, quiet, read_lines, tiny, tiny_tree, torchrun

from equipoise.cli import GAVE_UP
from equipoise.commands import train as train_command
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.simulate import simulate
from equipoise.commands.train import _tell_about_data, train_run
from equipoise.config import Config, load_config, parse
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.learning import checkpoint
from equipoise.machine import DRAFT, alone
from equipoise.run import MODEL, load_run


def weights(folder):
    return checkpoint.read(folder / checkpoint.FILE).tensors


class TestTraining:
    def test_resuming_is_exact(self, tmp_path):
        """N steps, and k + (N − k) steps across an interruption, give bit-equal weights, optimiser
        and averages."""
        steps = []
        train_run(tiny(tmp_path / "whole", learning={"steps": 5}), quiet)
        config = tiny(tmp_path / "parts", learning={"steps": 5})
        assert not train_run(config, quiet, steps.append, lambda: len(steps) >= 3)
        assert train_run(config, quiet, steps.append)
        assert [report.step for report in steps] == [1, 2, 3, 4, 5]
        a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert any(name.startswith("optimizer.") for name in a)

    def test_training_moves_the_weights_and_writes_the_run(self, tmp_path):
        config = tiny(tmp_path / "run")
        assert train_run(config, quiet)
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
        log = read_lines(tmp_path / "run")
        assert [row["step"] for row in log] == [1, 2, 3, 4]
        terms = {"consistency", "splitting", "equivariance", "contraction"}
        assert set(log[0]["parts"]) == terms
        assert all(row["forward"] > 0 and row["adjoint"] > 0 for row in log)
        trained = load_run(tmp_path / "run").model.state_dict()
        start = config.model.make(1, 0.01, config.seed).state_dict()
        assert any(not torch.equal(trained[name], start[name]) for name in start)

    def test_training_never_sees_the_truth(self, tmp_path, monkeypatch):
        """The images are poisoned once they have been measured."""
        measure = Scan.measure

        def poison(self, images, *args):
            measured = measure(self, images, *args)
            images.fill_(float("nan"))
            return measured

        monkeypatch.setattr(Scan, "measure", poison)
        assert train_run(tiny(tmp_path / "run"), quiet)
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())

    def test_versions_tell_the_state_of_the_code(self, tmp_path):
        train_run(tiny(tmp_path / "run", learning={"steps": 1}), quiet)
        saved = json.loads((tmp_path / "run" / "versions.json").read_text())
        assert {"equipoise", "torch", "deepinv", "python"} <= saved.keys()

    def test_supervised_needs_images(self, tmp_path):
        config = tiny(tmp_path / "run", objective={"supervised": 1})
        simulate(config, tmp_path / "m")
        data = {"kind": "measurements", "path": str(tmp_path / "m" / "measurements"), "size": 16}
        tree = {**tiny_tree(objective={"supervised": 1}), "data": data, "out": str(tmp_path / "r")}
        with pytest.raises(UserError, match="holds measurements, so there is no truth"):
            train_run(parse(tree, "test"), quiet)

    @pytest.mark.parametrize(
        "model",
        [
            {"step": "red"},
            {"step": "admm"},
            {"step": "douglas_rachford"},
            {"step": "primal_dual"},
            {"step": "mirror"},
            {"denoiser": "unet", "invariant": "quarter_turns"},
            {"precision": "bf16", "step": {"kind": "proximal", "learnable": True}},
        ],
        ids=str,
    )
    def test_every_step_and_prior_as_configured(self, tmp_path, model):
        from equipoise.run import unseen_phantoms

        config = tiny(tmp_path / "run", model=model, learning={"steps": 2})
        assert train_run(config, quiet)
        run = load_run(tmp_path / "run")
        dataset = unseen_phantoms(run.config, run.scan, 3)
        x = run.solve(dataset).value
        assert x.isfinite().all()
        assert len(run.contraction(dataset, x)["radius"]) == 3

    def test_every_objective_at_once(self, tmp_path):
        objective = {"sure": 1.0, "r2r": 1.0, "variation": 0.1, "equivariance": {"draws": 2}}
        config = tiny(tmp_path / "run", objective=objective, learning={"steps": 2})
        steps = []
        assert train_run(config, quiet, steps.append)
        terms = {"sure", "r2r", "variation", "splitting", "equivariance"}
        assert terms <= steps[0].parts.keys()
        assert all(np.isfinite(list(report.parts.values())).all() for report in steps)

    def test_a_run_of_skipped_steps_alone_says_so(self, tmp_path):
        """Measurements so large that no gradient is finite."""
        data = {"path": str(tmp_path / "y.npy"), "kind": "measurements", "size": 16}
        tree = {**tiny_tree(learning={"steps": 2}), "data": data, "out": str(tmp_path / "run")}
        config = parse(tree, "test")
        shape = Scan.planned(config.physics, config.data.size).measurement_shape
        np.save(tmp_path / "y.npy", np.full((4, *shape[1:]), 1e15, np.float32))
        said = []
        assert train_run(config, said.append)
        (told,) = [text for text in said if "skipped" in text]
        assert told.startswith("warning: each of the 2 steps was skipped (")
        assert "the model is the one that training began with" in told

    @pytest.mark.slow
    def test_giving_up_is_an_outcome_with_a_code_of_its_own(self, tmp_path):
        """Steps so long that nothing has an equilibrium any more."""
        tree = tiny_tree(
            name="wild",
            model={"step": "gradient", "max_steps": 2},
            learning={"steps": 60, "lr": 1e6, "warmup": 0, "clip": 1e9},
        )
        (tmp_path / "wild.yaml").write_text(yaml.safe_dump(tree))
        done = equipoise("train", "wild.yaml", cwd=tmp_path)
        assert done.returncode == GAVE_UP, done.stderr
        assert "steps in a row were skipped" in done.stderr


class TestWhatWasLearnt:
    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            (0.2, 0.1, "measurements that were left out are predicted to 10.000% (before"),
            (0.1, 0.2, "warning: .*learning did not get ahead of its start"),
            (1.4, 1.3, "warning: .*predicted to 130.000%.*no better than by nothing at all"),
            (math.nan, 0.1, "warning: whether learning got ahead of its start is not known"),
        ],
    )
    def test_it_is_judged_by_what_was_left_out(self, tmp_path, before, after, told):
        settings = tiny(tmp_path).model
        misfits = iter([math.log(before), math.log(after)])
        judge = SimpleNamespace(
            given=SimpleNamespace(scan=SimpleNamespace(image_shape=(1, 16, 16), noise=0.01)),
            score=lambda model: next(misfits),
        )
        weights = settings.make(1, 0.01, 0).state_dict()
        trainer, said = SimpleNamespace(final_weights=lambda: weights), []
        train_command._say_what_was_learnt(0, settings, judge, trainer, said.append)
        (line,) = said
        assert re.match(told.replace("(", r"\("), line)


class TestWhatIsThereAlready:
    def test_a_run_that_was_moved_goes_on_where_it_stands(self, tmp_path):
        """Whatever its configuration says of where it began; with another name it is another."""
        began, now = tmp_path / "began", tmp_path / "now"
        steps = []
        assert not train_run(tiny(began), quiet, steps.append, lambda: len(steps) >= 2)
        began.rename(now)
        config = load_config(now / "config.yaml")
        assert config.folder == now
        assert train_run(config, quiet, steps.append)
        assert [report.step for report in steps] == [1, 2, 3, 4]
        assert not began.exists()
        assert load_config(now / "config.yaml", ["name=b"]).folder == Path("runs/b")
        elsewhere = load_config(now / "config.yaml", [f"out={began}"])
        assert elsewhere.folder == began

    def test_another_configuration_is_refused(self, tmp_path):
        train_run(tiny(tmp_path / "run"), quiet)
        before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
        message = (
            r"another configuration \(learning.lr: 0.0002 then, 0.1 now\); nothing was changed"
        )
        with pytest.raises(UserError, match=message):
            train_run(tiny(tmp_path / "run", learning={"lr": 0.1}), quiet)
        assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def test_one_process_trains_in_a_folder(self, tmp_path):
        config = tiny(tmp_path / "run")
        with alone(tmp_path / "elsewhere" / ".." / "run") as nobody_else:
            assert nobody_else
            with pytest.raises(UserError, match="another process is training there"):
                train_run(config, quiet)
        assert not (tmp_path / "run").exists()
        assert train_run(config, quiet)

    @pytest.mark.parametrize("is_finished", [False, True])
    def test_other_data_of_the_same_names_are_refused(self, tmp_path, is_finished):
        scans, folder = tmp_path / "scans", tmp_path / "run"
        scans.mkdir()
        y = np.random.default_rng(0).random((3, 8, 23)).astype(np.float32)
        for k in range(3):
            np.save(scans / f"s{k}.npy", y[k])
        tree = tiny_tree(out=str(folder), learning={"steps": 2})
        tree["data"] = {"path": str(scans), "kind": "measurements", "size": 16, "peak": 1.0}
        tree["physics"] = {"kind": "parallel_beam", "angles": 8}
        config = parse(tree, "test")
        steps = []
        train_run(config, quiet, steps.append, lambda: not is_finished and len(steps) >= 1)
        np.save(scans / "s1.npy", y[0])
        with pytest.raises(UserError, match=r"learnt from other data \(s1: other values\)"):
            train_run(config, quiet)
        np.save(scans / "s1.npy", y[1])
        assert train_run(config, quiet)

    def test_a_foreign_folder_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(UserError, match="no run of Equipoise; nothing was written"):
            train_run(tiny(tmp_path), quiet)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_folder_with_a_file_of_that_name_is_refused(self, tmp_path):
        (tmp_path / "config.yaml").write_text("mine: true  # and commented")
        with pytest.raises(UserError, match="no run of Equipoise; nothing was written"):
            train_run(tiny(tmp_path), quiet)
        assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_a_run_that_was_killed_while_its_folder_was_made_begins_anew(
        self, tmp_path, monkeypatch, n
    ):
        """After the n-th file: README, versions, configuration."""
        whole, written = train_command.write_whole, []

        def killed(file, text):
            written.append(file.name)
            if len(written) == n:
                file.parent.mkdir(parents=True, exist_ok=True)
                (file.parent / f"{file.name}.1-2{DRAFT}").write_text("half")
                raise KeyboardInterrupt
            whole(file, text)

        with monkeypatch.context() as patch:
            patch.setattr(train_command, "write_whole", killed)
            with pytest.raises(KeyboardInterrupt):
                train_run(tiny(tmp_path / "run"), quiet)
        assert train_run(tiny(tmp_path / "run"), quiet)

    def test_left_overs_of_killed_checkpoints_are_removed(self, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "checkpoint.safetensors.4711.tmp").write_bytes(b"half")
        checkpoint.write(folder / checkpoint.FILE, {"a": torch.zeros(2)}, {})
        assert [path.name for path in folder.iterdir()] == [checkpoint.FILE]

    def test_what_cannot_be_trained_is_told_before_anything_is_written(self, tmp_path):
        config = tiny(tmp_path / "run", objective={"splitting": {"parts": 7}})
        with pytest.raises(UserError, match=r"parts=7: cannot split 6 views into 7 parts"):
            train_run(config, quiet)
        (tmp_path / "d.safetensors").write_bytes(b"cut short")
        config = tiny(tmp_path / "run", model={"denoiser": str(tmp_path / "d.safetensors")})
        with pytest.raises(UserError, match="not a denoiser made by `equipoise pretrain`, or it"):
            train_run(config, quiet)
        config = tiny(tmp_path / "run", objective={"operators": 1.0})
        with pytest.raises(UserError, match=r"objective.operators: all samples share one operator"):
            train_run(config, quiet)
        config = tiny(tmp_path / "run", learning={"accumulate": 4})
        message = r"learning.batch=3 cannot be shared by 1 processes in 4 part\(s\) each; raise it"
        with pytest.raises(UserError, match=message):
            train_run(config, quiet)
        assert not (tmp_path / "run").exists()

    def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(self, tmp_path):
        folder = tmp_path / "run"
        train_run(tiny(folder), quiet)
        latest = folder / checkpoint.FILE
        whole = latest.read_bytes()
        flipped = bytearray(whole)
        flipped[-3] ^= 4
        for damaged in (whole[: len(whole) // 2], bytes(flipped), b""):
            latest.write_bytes(damaged)
            with pytest.raises(UserError, match=r"cut short or damaged|checksum"):
                checkpoint.read(latest)
            found, remark = checkpoint.load_latest(folder)
            assert found.state["step"] == 2
            assert "damaged" in remark
        said = []
        assert train_run(tiny(folder), said.append)
        assert any("going on from the one before" in line for line in said)
        latest.write_bytes(b"")
        (folder / checkpoint.PREVIOUS).write_bytes(b"")
        with pytest.raises(
            UserError, match="nothing was changed: restore one from a backup, or move"
        ):
            train_run(tiny(folder), quiet)
        assert latest.read_bytes() == b""


class TestValidation:
    def test_without_truth_and_early_stopping(self, tmp_path):
        """Parts of the measurements that training never sees; what is kept predicts them best."""
        learning = {"steps": 60, "validate_every": 1, "patience": 3}
        learning |= {"lr": 0.5, "warmup": 0, "clip": 100.0}
        config = tiny(tmp_path / "run", data={"keep_out": 0.34}, learning=learning)
        steps = []
        assert train_run(config, quiet, steps.append)
        scores = [report.validation["held_out"] for report in steps]
        best = scores.index(min(scores))
        assert len(steps) == best + 1 + 3 < 60
        assert steps[-1].ended == f"no progress since step {best + 1}"
        saved = checkpoint.read(tmp_path / "run" / checkpoint.FILE)
        final = checkpoint.read(tmp_path / "run" / MODEL).tensors
        assert saved.state["best_step"] == best + 1
        best_weights = {k: v for k, v in saved.tensors.items() if k.startswith("best.")}
        assert best_weights
        for name, tensor in best_weights.items():
            assert torch.equal(final[name.removeprefix("best.")], tensor)
        said = []
        assert train_run(config, said.append)
        assert f"already no progress since step {best + 1}" in said[-1]

    def test_what_is_kept_out_is_not_trained_on(self, tmp_path, monkeypatch):
        shapes = []
        trainer = train_command.Trainer

        def spy(model, dataset, *rest):
            shapes.append(tuple(dataset.y.shape))
            return trainer(model, dataset, *rest)

        monkeypatch.setattr(train_command, "Trainer", spy)
        config = tiny(tmp_path / "run", data={"keep_out": 0.34}, learning={"steps": 2})
        train_run(config, quiet)
        assert shapes[0][2] == 4  # of six views

    def test_patience_needs_something_to_validate_on(self, tmp_path):
        message = r"learning.patience needs measurements to validate on: set data.keep_out=0.1"
        with pytest.raises(UserError, match=message):
            tiny(tmp_path, learning={"patience": 3})

    def test_patients_are_kept_apart(self, tmp_path):
        from equipoise.comparison.evaluation import evaluate

        h5py = pytest.importorskip("h5py")
        hu = np.random.default_rng(0).uniform(-900, 900, (8, 16, 16)).astype(np.int16)
        with h5py.File(tmp_path / "d.h5", "w") as f:
            f["hu"] = hu
            f["patient"] = [b"A", b"A", b"B", b"B", b"C", b"C", b"D", b"D"]
        data = {"path": str(tmp_path / "d.h5"), "holdout": 0.25, "size": 16}
        tree = tiny_tree(out=str(tmp_path / "run"), learning={"validate_every": 1})
        config = parse({**tree, "data": data}, "test")
        said = []
        assert train_run(config, said.append)
        assert any("holding out 2 of 8 measurements: patients " in line for line in said)
        evaluation = evaluate(load_run(config.folder))
        patient = said[0].split()[-1]
        assert evaluation.names == [f"d_{i:03d}" for i in range(8) if "ABCD"[i // 2] == patient]
        with pytest.raises(UserError, match=r"leave out data.validation and data.stream"):
            parse({**tree, "data": {**data, "stream": True}}, "test")


class TestStreaming:
    def trained(self, folder, workers, stop_after=None):
        config = tiny(folder, data={"stream": True}, learning={"workers": workers})
        steps = []
        train_run(config, quiet, steps.append, lambda: len(steps) == stop_after)
        return config, weights(config.folder)

    def test_workers_and_interruptions_change_nothing(self, tmp_path):
        _, alone = self.trained(tmp_path / "a", 0)
        _, helped = self.trained(tmp_path / "b", 2)
        config, _ = self.trained(tmp_path / "c", 2, stop_after=2)
        assert train_run(config, quiet)
        for other in (helped, weights(config.folder)):
            assert all(torch.equal(alone[name], other[name]) for name in alone)


def test_interrupt_and_continue(tmp_path):
    tree = tiny_tree(name="long", learning={"steps": 2000, "checkpoint_every": 1000})
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(tree))
    process = subprocess.Popen(
        [sys.executable, "-m", "equipoise", "train", "long.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder = tmp_path / "runs" / "long"
    log = folder / "log.jsonl"
    # A busy machine may take minutes to begin.
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 130, out
    assert "the same command continues" in out
    step = checkpoint.read(folder / checkpoint.FILE).state["step"]
    assert step >= 3
    again = equipoise("train", "long.yaml", f"learning.steps={step + 1}", cwd=tmp_path)
    assert again.returncode == 2  # the schedule would be another one
    assert "learning.steps: 2000 then" in again.stderr


ONCE = """
import sys, torch
torch.set_num_threads(1)
from equipoise.commands.train import train_run
from equipoise.config import load_config
train_run(load_config(sys.argv[1]))
"""
KILLED = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from equipoise.commands.train import train_run
from equipoise.config import load_config
from lightning_fabric import Fabric

config, rng, kills = load_config(sys.argv[1]), random.Random(0), 0
log = config.folder / "log.jsonl"

def steps_logged():
    return log.read_text().count(chr(10)) if log.exists() else 0

while True:
    child = os.fork()
    if not child:
        train_run(config, say=lambda text: None)
        os._exit(0)
    wanted, status = steps_logged() + rng.randint(1, 6), 0
    while steps_logged() < wanted:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(kills if status == 0 else f"failed with {status}")
            sys.exit(status != 0)
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))  # somewhere within a step
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path):
    """A real process, killed again and again, ends with the weights of one that was left alone, to
    the bit."""
    for name in ("whole", "killed"):
        learning = {"steps": 40, "checkpoint_every": 3}
        tree = tiny_tree(out=str(tmp_path / name), learning=learning)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    for code, name in ((ONCE, "whole"), (KILLED, "killed")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{name}.yaml")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 3  # times it was killed
    for file in (checkpoint.FILE, MODEL):
        a, b = (checkpoint.read(tmp_path / name / file).tensors for name in ("whole", "killed"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


class TestProcesses:
    def test_two_processes_do_what_one_does(self, tmp_path):
        """The same losses in float64, whether one process has the batch, two share it, or one takes
        it in parts."""
        tree = {
            "data": {"size": 16, "count": 5},
            "physics": {"angles": 8},
            "model": {"precision": "64", "denoiser": "shipped"},
            "objective": {"splitting": {"parts": 4}},  # each has its equilibria
            "learning": {"steps": 2, "batch": 5, "checkpoint_every": 1, "warmup": 50},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
        process = torchrun(2, "train", "c.yaml", "name=two", cwd=tmp_path)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
        assert out.count("trained:") == 1
        for name, accumulate in (("one", 1), ("parts", 3)):
            tree["learning"]["accumulate"] = accumulate
            train_run(parse({**tree, "out": str(tmp_path / "runs" / name)}, "t"), quiet)
        one = read_lines(tmp_path / "runs" / "one")
        assert len(one) == 2
        for name in ("two", "parts"):
            for a, b in zip(one, read_lines(tmp_path / "runs" / name), strict=True):
                assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)
                assert b["gradient"] == pytest.approx(a["gradient"], rel=1e-5)
                assert b["parts"].keys() == a["parts"].keys()
                assert a["unsolved"] == b["unsolved"] == 0

    @pytest.mark.slow
    def test_a_process_that_dies_ends_the_run_and_fewer_go_on(self, tmp_path):
        learning = {"steps": 400, "checkpoint_every": 1, "schedule": "constant"}
        tree = tiny_tree(name="run", learning=learning)
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
        process = torchrun(2, "train", "c.yaml", cwd=tmp_path)
        folder = tmp_path / "runs" / "run"
        for _ in range(900):
            if (folder / "log.jsonl").exists() and len(read_lines(folder)) > 4:
                break
            time.sleep(0.1)
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
        out, _ = process.communicate(timeout=600)
        assert process.returncode != 0, out
        at = checkpoint.read(folder / checkpoint.FILE).state["step"]
        assert at >= 4
        config = parse({**tree, "out": str(folder), "name": "run"}, "t")
        said, steps = [], []
        assert not train_run(config, said.append, steps.append, lambda: len(steps) >= 2)
        assert any(f"continuing at step {at}" in line for line in said)
        assert [report.step for report in steps] == [at + 1, at + 2]

    @pytest.mark.slow
    def test_reconstruction_is_shared(self, tmp_path):
        train_run(tiny(tmp_path / "run", learning={"steps": 1}), quiet)
        run = load_run(tmp_path / "run")
        (tmp_path / "data").mkdir()
        for i in range(5):
            y = np.random.default_rng(i).random(run.scan.measurement_shape)[0]
            np.save(tmp_path / "data" / f"s{i}.npy", y)
        process = torchrun(2, "reconstruct", "run", "data", "two", cwd=tmp_path)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
        reconstruct(run, tmp_path / "data", tmp_path / "one", quiet)
        one, two = tmp_path / "one", tmp_path / "two"
        assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
        for i in range(5):
            a, b = np.load(one / f"s{i}.npy"), np.load(two / f"s{i}.npy")
            assert np.allclose(a, b, rtol=1e-4, atol=1e-5)
        reports = [json.loads((d / "report.json").read_text())["images"] for d in (one, two)]
        statuses = [[row["status"] for row in rows] for rows in reports]
        assert statuses[0] == statuses[1]


def test_what_is_noted_of_data_is_said():
    said = []
    dataset = SimpleNamespace(notes=["a slice is missing", "two coils are alike"])
    _tell_about_data(dataset, None, Config(), said.append)
    assert said == ["note: a slice is missing", "note: two coils are alike"]
