"""Every operator through every command, what the doctor says, and data that do not fit into memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise import Stop, build, diagnosis, doctor, runs
from equipoise.config import load_config, parse
from equipoise.errors import UserError
from equipoise.imaging.mri import MASKS, birdcage
from equipoise.imaging.phantoms import phantoms

CUSTOM = '''
import deepinv

def physics(size):
    """Motion blur along the rows, seen through a mask."""
    blur = deepinv.physics.BlurFFT((1, size, size), filter=(1 / 3) * __import__("torch").ones(1, 1, 1, 3))
    mask = __import__("torch").ones(1, size, size)
    mask[:, ::4] = 0
    return deepinv.physics.Inpainting((1, size, size), mask=mask) * blur
'''
OPERATORS = {
    "parallel_beam": {"angles": 6},
    "fan_beam": {"angles": 10, "source_distance": 40, "detector_distance": 30, "curved": True},
    "mri": {"acceleration": 3, "center": 0.2},
    "multi_coil": {"kind": "mri", "mask": "poisson_disc", "coils": 3, "acceleration": 2.5, "center": 0.3},
    "radial": {"kind": "mri", "mask": "radial"},
    "dynamic_mri": {"frames": 2, "acceleration": 2.5, "center": 0.2},
    "non_cartesian_mri": {"shots": 8, "samples": 32},
    "inpainting": {},
    "blur": {},
    "super_resolution": {},
    "compressed_sensing": {},
    "poisson": {"kind": "blur", "photons": 500},
    "custom": {"file": "motion.py"},
}


def config(folder: Path, physics: dict, **sections):
    tree = {
        "out": str(folder / "run"),
        "data": {"size": 16, "count": 5, **sections.pop("data", {})},
        "physics": physics,
        "model": {"max_steps": 6, "adjoint_max_steps": 6, "test_max_steps": 6, "denoiser": "random", "channels": 4, "layers": 2},
        "objective": {"splitting": 0, "group": "rotations", **sections.pop("objective", {})},
        "learning": {"steps": 2, "batch": 2, **sections.pop("learning", {})},
    }
    return parse(tree, "test")


@pytest.mark.parametrize("name", ["parallel_beam", "fan_beam", "mri", "multi_coil", "super_resolution", "compressed_sensing"])
@pytest.mark.parametrize("stream", [False, True])
def test_double_precision_in_every_command(name, stream, tmp_path, monkeypatch):
    c = config(tmp_path, {"kind": name, **OPERATORS[name]}, data={"stream": stream})
    c.model.precision = "64"
    assert all(finding.verdict != "wrong" or finding.what.startswith(("fit", "range")) for finding in doctor.examine(c))
    assert runs.train_run(c, print)
    run = runs.load_run(tmp_path / "run")
    assert {p.dtype for p in run.model.parameters()} == {torch.float64}
    runs.evaluate(run, count=2)
    if name in ("fan_beam", "mri") and not stream:  # the fan is too short for a filtered backprojection, which is left out
        monkeypatch.setattr(diagnosis, "IMAGES", 1)
        monkeypatch.setattr(diagnosis, "Stop", lambda rtol, max_steps: Stop(rtol, 5))
        diagnosis.diagnose(run, [])


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_in_every_command(name, tmp_path):
    """simulate, doctor, train on what was simulated, reconstruct, evaluate."""
    options = dict(OPERATORS[name])
    if name == "non_cartesian_mri":
        pytest.importorskip("mrinufft")
    if name == "custom":
        (tmp_path / "motion.py").write_text(CUSTOM)
        options["file"] = str(tmp_path / "motion.py")
    c = config(tmp_path, {"kind": name, **options})
    paths = runs.simulate(c, tmp_path / "measured")
    count = 2 if name == "dynamic_mri" else 5
    assert len(paths) == count
    kinds = {finding.what.split(":")[0]: finding for finding in doctor.examine(c)}
    assert {"adjoint", "norm", "data", "fit", "range", "group", "step", "cost"} <= set(kinds)
    assert kinds["adjoint"].verdict == kinds["norm"].verdict == "ok"
    on_files = load_config(tmp_path / "measured" / "config.yaml", [f"out={tmp_path / 'run'}"])
    assert runs.train_run(on_files, print)
    run = runs.load_run(tmp_path / "run")
    solved = runs.reconstruct(run, tmp_path / "measured" / "measurements", tmp_path / "out", lambda line: None)
    assert solved.value.shape == (count, *run.physics.image_shape)
    assert solved.value.isfinite().all()
    truth = tmp_path / "truth.npy"
    np.save(truth, phantoms(3, 16).numpy()[:, 0])
    run.config.data.kind = "images"
    table = runs.evaluate(run, truth)
    assert len(table.scores["equipoise"]["psnr"]) == (1 if name == "dynamic_mri" else 3)


def test_simulated_measurements_are_those_that_training_would_make(tmp_path):
    c = config(tmp_path, {"kind": "parallel_beam", "angles": 6, "noise": 0})
    physics = build.build_physics(c.physics, 16)
    inside = build.build_problem(c, physics)
    runs.simulate(c, tmp_path / "measured")
    outside = build.build_problem(load_config(tmp_path / "measured" / "config.yaml"), physics)
    assert torch.allclose(inside.y, outside.y, atol=1e-6)
    assert outside.truth is None
    with pytest.raises(UserError, match="not empty; nothing was written"):
        runs.simulate(c, tmp_path / "measured")
    with pytest.raises(UserError, match="holds measurements already"):
        runs.simulate(load_config(tmp_path / "measured" / "config.yaml"), tmp_path / "again")


class TestStreaming:
    def trained(self, folder, workers, steps=3, stop_after=None):
        c = config(folder, {"kind": "parallel_beam", "angles": 6}, data={"stream": True}, learning={"workers": workers, "steps": 4})
        count = []
        runs.train_run(c, lambda line: None, count.append, lambda: len(count) == stop_after)
        return c, runs.checkpoint.read(c.folder / runs.checkpoint.FILE).tensors

    def test_workers_and_interruptions_change_nothing(self, tmp_path):
        _, alone = self.trained(tmp_path / "a", 0)
        _, helped = self.trained(tmp_path / "b", 2)
        c, _ = self.trained(tmp_path / "c", 2, stop_after=2)
        assert runs.train_run(c, lambda line: None)
        resumed = runs.checkpoint.read(c.folder / runs.checkpoint.FILE).tensors
        for other in (helped, resumed):
            assert all(torch.equal(alone[k], other[k]) for k in alone)

    def test_only_what_a_batch_needs_is_read(self, tmp_path, monkeypatch):
        """A mapped file far larger than what is touched."""
        y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (100_000, 6, 23))
        y[:50] = 1
        y.flush()
        c = config(tmp_path, {"kind": "parallel_beam", "angles": 6}, data={"stream": True, "path": str(tmp_path / "y.npy")})
        problem = build.build_problem(c, build.build_physics(c.physics, 16), stream=True)
        assert len(problem.y) == 100_000
        assert problem.y[3].shape == (1, 6, 23)
        assert "values" not in vars(problem.source)


class TestHoldingOut:
    def test_patients_are_kept_apart(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        hu = (np.random.default_rng(0).uniform(-900, 900, (8, 16, 16))).astype(np.int16)
        with h5py.File(tmp_path / "d.h5", "w") as f:
            f["hu"], f["patient"] = hu, [b"A", b"A", b"B", b"B", b"C", b"C", b"D", b"D"]
        data = {"path": str(tmp_path / "d.h5"), "holdout": 0.25}
        c = config(tmp_path, {"kind": "parallel_beam", "angles": 6}, data=data, learning={"validate_every": 1})
        said = []
        assert runs.train_run(c, said.append)
        assert any("holding out 2 of 8 measurements: patients " in line for line in said)
        table = runs.evaluate(runs.load_run(c.folder))
        assert len(table.names) == 2
        who = said[0].split()[-1]
        assert table.names == [f"d_{i:03d}" for i in range(8) if "ABCD"[i // 2] == who]
        with pytest.raises(UserError, match=r"leave out data.validation and data.stream"):
            config(tmp_path, {"kind": "mri"}, data={**data, "stream": True})


class TestRealKspace:
    def test_acquisitions_bring_their_own_operator(self, tmp_path):
        x = phantoms(2, 32, 0, ("brain",))[:, 0].to(torch.complex64)
        maps, dims = birdcage(3, 32, 32), (-2, -1)
        k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(maps * x[:, None], dims), norm="ortho"), dims)
        k = k + 1e-3 * torch.randn_like(k)
        np.save(tmp_path / "k.npy", (k * MASKS["radial"](32, 32, 2.5, 0.5, 0)).numpy())
        c = config(tmp_path, {"kind": "mri"}, data={"path": str(tmp_path / "k.npy"), "size": 32})
        assert runs.train_run(c, print)
        run = runs.load_run(c.folder)
        problem = build.build_problem(c, run.physics)
        assert problem.physics.coil_maps.shape == (2, 3, 32, 32)
        assert problem.y.shape == (2, 2, 3, 32, 32)
        assert runs.reconstruct(run, tmp_path / "k.npy", tmp_path / "out", lambda line: None).value.shape == (2, 2, 32, 32)
        np.save(tmp_path / "k.npy", torch.stack([k[0], 10 * k[0]]).numpy())
        both = build.build_problem(c, run.physics).y
        assert float(both[1].norm() / both[0].norm()) > 5  # slices keep their brightness, up to the noise that whitens them
        np.save(tmp_path / "k.npy", k.numpy())
        full = build.build_problem(c, run.physics)
        assert full.source.notes[-1] == "k-space is fully sampled; undersampled 4-fold by physics.mask"
        assert float((full.y[0, 0, 0] != 0).float().mean()) == pytest.approx(0.25, abs=0.02)


class TestCommands:
    def equipoise(self, *args, cwd):
        return subprocess.run([sys.executable, "-m", "equipoise", *args], capture_output=True, text=True, cwd=cwd, check=False)

    def test_simulate_and_doctor(self, tmp_path):
        (tmp_path / "c.yaml").write_text("data: {size: 16, count: 4}\nphysics: {angles: 8}\nmodel: {denoiser: random}\n")
        done = self.equipoise("simulate", "c.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "wrote 4 measurements" in done.stdout
        assert len(list((tmp_path / "simulated" / "c" / "measurements").iterdir())) == 4
        good = self.equipoise("doctor", "simulated/c/config.yaml", cwd=tmp_path)
        assert (good.returncode, good.stdout.count("ok")) == (0, 9), good.stdout + good.stderr
        bad = self.equipoise("doctor", "simulated/c/config.yaml", "objective.group=reflections", "physics.angles=9", cwd=tmp_path)
        assert bad.returncode == 1
        assert "does not fit the geometry, which measures (9, 23)" in bad.stdout
        assert "1 thing(s) to mend" in bad.stdout
        assert self.equipoise("doctor", "nowhere.yaml", cwd=tmp_path).returncode == 2


class TestDoctor:
    def verdicts(self, c):
        return {finding.what.split(":")[0]: finding for finding in doctor.examine(c)}

    def test_a_group_that_commutes(self, tmp_path):
        commutes = {"parallel_beam": "reflections", "mri": "shifts", "blur": "shifts"}
        for kind, group in commutes.items():
            options = {"angles": 8} if kind == "parallel_beam" else {}
            found = self.verdicts(config(tmp_path, {"kind": kind, **options}, objective={"group": group}))["group"]
            assert found.verdict == "wrong", kind
            assert "commutes" in found.remedy
        assert self.verdicts(config(tmp_path, {"kind": "parallel_beam", "angles": 4}))["group"].verdict == "ok"

    def test_a_wrong_adjoint(self, tmp_path):
        (tmp_path / "bad.py").write_text(
            "import deepinv\n"
            "def physics(size):\n"
            "    return deepinv.physics.LinearPhysics(A=lambda x: x.cumsum(-1) / size, A_adjoint=lambda y: y.cumsum(-1) / size)\n"
        )
        found = self.verdicts(config(tmp_path, {"kind": "custom", "file": str(tmp_path / "bad.py")}))
        assert found["adjoint"].verdict == "wrong"
        assert "transpose" in found["adjoint"].remedy

    def test_units_and_geometry(self, tmp_path):
        c = config(tmp_path, {"kind": "parallel_beam", "angles": 12})
        runs.simulate(c, tmp_path / "m")
        file = tmp_path / "m" / "measurements" / "phantom_000.npy"
        y = np.load(file)
        for path in file.parent.glob("*.npy"):
            np.save(path, 50 * np.load(path))
        on_files = load_config(tmp_path / "m" / "config.yaml")
        found = self.verdicts(on_files)
        assert (found["range"].verdict, found["fit"].verdict) == ("wrong", "ok")
        on_files.data.peak = 50
        assert self.verdicts(on_files)["range"].verdict == "ok"
        for path in file.parent.glob("*.npy"):
            np.save(path, np.random.default_rng(0).permutation(y.ravel()).reshape(y.shape))
        found = self.verdicts(on_files)["fit"]
        assert found.verdict == "wrong"
        assert "views, detectors" in found.remedy
        np.save(file, np.zeros((3, 3)))
        assert "does not fit the geometry" in self.verdicts(on_files)["the data cannot be read"].what

    def test_noise(self, tmp_path):
        c = config(tmp_path, {"kind": "parallel_beam", "angles": 12, "noise": 0.01})
        runs.simulate(c, tmp_path / "m")
        on_files = load_config(tmp_path / "m" / "config.yaml")
        assert self.verdicts(on_files)["noise"].verdict == "ok"
        on_files.physics.noise = 0.5
        found = self.verdicts(on_files)["noise"]
        assert found.verdict == "wrong"
        assert "set physics.noise to 0.0" in found.remedy

    def test_what_cannot_be_split(self, tmp_path):
        found = list(doctor.examine(config(tmp_path, {"kind": "blur"}, objective={"splitting": 1})))
        assert any(f.verdict == "wrong" and "cannot be split" in f.what for f in found)


class TestPhotons:
    def test_where_counts_make_no_sense(self, tmp_path):
        c = config(tmp_path, {"kind": "mri", "photons": 1e6})
        with pytest.raises(UserError, match="negative in places, counts are not"):
            build.build_problem(c, build.build_physics(c.physics, 16))
