"""Every operator through every command, in both precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import quiet

from equipoise import Stop
from equipoise.commands.doctor import examine
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.simulate import simulate
from equipoise.commands.train import train_run
from equipoise.comparison import diagnosis
from equipoise.comparison.evaluation import evaluate
from equipoise.config import changed, load_config, parse
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.imaging.mri import MASKS, birdcage
from equipoise.imaging.phantoms import phantoms
from equipoise.run import load_data, load_run

CUSTOM = '''
import deepinv
import torch

def physics(size):
    """Motion blur along the rows, seen through a mask."""
    blur = deepinv.physics.BlurFFT((1, size, size), filter=(1 / 3) * torch.ones(1, 1, 1, 3))
    mask = torch.ones(1, size, size)
    mask[:, ::4] = 0
    return deepinv.physics.Inpainting((1, size, size), mask=mask) * blur
'''
OPERATORS = {
    "parallel_beam": {"angles": 6},
    "fan_beam": {"angles": 10, "source_distance": 40, "detector_distance": 30, "curved": True},
    "mri": {"acceleration": 3, "center": 0.2},
    "multi_coil": {
        "kind": "mri",
        "mask": "poisson_disc",
        "coils": 3,
        "acceleration": 2.5,
        "center": 0.3,
    },
    "radial": {"kind": "mri", "mask": "radial"},
    "own_masks": {"kind": "mri", "masks": "each", "acceleration": 2, "center": 0.5},
    "own_masks_of_coils": {
        "kind": "mri",
        "masks": "each",
        "coils": 3,
        "acceleration": 2,
        "center": 0.5,
    },
    "dynamic_mri": {"frames": 2, "acceleration": 2.5, "center": 0.2},
    "own_masks_of_frames": {
        "kind": "dynamic_mri",
        "masks": "each",
        "frames": 2,
        "acceleration": 2.5,
        "center": 0.2,
    },
    "non_cartesian_mri": {"shots": 8, "samples": 32},
    "inpainting": {},
    "blur": {},
    "super_resolution": {},
    "compressed_sensing": {},
    "poisson": {"kind": "blur", "photons": 500},
    "custom": {"file": "motion.py"},
}


SLOW_IN_DOUBLE = ("fan_beam", "multi_coil", "super_resolution", "compressed_sensing")


def operator_config(folder: Path, physics: dict, data: dict | None = None, **model):
    tree = {
        "out": str(folder / "run"),
        "data": {"size": 16, "count": 5, **(data or {})},
        "physics": physics,
        "model": {
            "max_steps": 6,
            "test_max_steps": 6,
            "denoiser": {"kind": "random", "channels": 4, "layers": 2},
            "gradient": {"kind": "implicit", "max_steps": 20},
            **model,
        },
        "objective": {"splitting": 0} if physics["kind"] == "super_resolution" else {},
        "learning": {"steps": 2, "batch": 2},
    }
    return parse(tree, "test")


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "parallel_beam",
        "mri",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_IN_DOUBLE),
    ],
)
def test_double_precision_in_every_command(name, stream, tmp_path):
    physics = {"kind": name, **OPERATORS[name]}
    config = operator_config(tmp_path, physics, {"stream": stream}, precision="64")
    for finding in examine(config):
        assert finding.verdict != "wrong" or finding.what.startswith(("fit", "range"))
    assert train_run(config, quiet)
    run = load_run(tmp_path / "run")
    assert {p.dtype for p in run.model.parameters()} == {torch.float64}
    evaluate(run, count=2)
    # The fan is too short for a filtered backprojection, which is left out.
    if name in ("fan_beam", "mri") and not stream:
        stop = Stop(1e-4, 5)
        diagnosis.diagnose(run, [], say=quiet, images=1, forward=stop, adjoint=stop)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_in_every_command(name, tmp_path):
    """simulate, doctor, train on what was simulated, reconstruct, evaluate."""
    options = dict(OPERATORS[name])
    if name == "non_cartesian_mri":
        pytest.importorskip("mrinufft")
    if name == "custom":
        (tmp_path / "motion.py").write_text(CUSTOM)
        options["file"] = str(tmp_path / "motion.py")
    config = operator_config(tmp_path, {"kind": name, **options})
    paths = simulate(config, tmp_path / "measured")
    is_sequence = config.physics.kind == "dynamic_mri"
    count = 2 if is_sequence else 5
    assert len(paths) == count
    kinds = {finding.what.split(":")[0]: finding for finding in examine(config)}
    assert {"adjoint", "norm", "data", "fit", "range", "group", "step", "cost"} <= set(kinds)
    assert kinds["adjoint"].verdict == kinds["norm"].verdict == "ok"
    on_files = load_config(tmp_path / "measured" / "config.yaml", [f"out={tmp_path / 'run'}"])
    assert train_run(on_files, quiet)
    run = load_run(tmp_path / "run")
    data = tmp_path / "measured" / "measurements"
    solved = reconstruct(run, data, tmp_path / "out", quiet)
    assert solved.value.shape == (count, *run.scan.image_shape)
    assert solved.value.isfinite().all()
    truth = tmp_path / "truth.npy"
    np.save(truth, phantoms(3, 16).numpy()[:, 0])
    run.config = changed(run.config, {"data": {"kind": "images", "path": str(truth), "size": 16}})
    evaluation = evaluate(run, truth)
    images = 1 if is_sequence else 3
    assert len(evaluation.scores["equipoise"]["psnr"]) == images


def test_simulated_measurements_are_those_that_training_would_make(tmp_path):
    physics = {"kind": "parallel_beam", "angles": 6, "noise": 0}
    config = operator_config(tmp_path, physics)
    scan = Scan.planned(config.physics, 16)
    inside = load_data(config, scan)
    simulate(config, tmp_path / "measured")
    on_files = load_config(tmp_path / "measured" / "config.yaml")
    outside = load_data(on_files, scan)
    assert torch.allclose(inside.y, outside.y, atol=1e-6)
    assert outside.truth is None
    with pytest.raises(UserError, match="not empty; nothing was written"):
        simulate(config, tmp_path / "measured")
    with pytest.raises(UserError, match="holds measurements already"):
        simulate(on_files, tmp_path / "again")


def test_only_what_a_batch_needs_is_read(tmp_path):
    """A mapped file far larger than what is touched."""
    shape = (20_000, 6, 23)
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, shape)
    y[:50] = 1
    y.flush()
    data = {"path": str(tmp_path / "y.npy"), "size": 16}
    config = parse({"data": data, "physics": {"angles": 6}}, "test")
    dataset = load_dataset(config.data, Scan.planned(config.physics, 16), stream=True)
    assert len(dataset) == 20_000
    assert dataset.y[3].shape == (1, 6, 23)
    assert dataset.streamed


class TestRealKspace:
    def test_acquisitions_bring_their_own_operator(self, tmp_path):
        x = phantoms(2, 32, 0, ("brain",))[:, 0].to(torch.complex64)
        maps, dims = birdcage(3, 32, 32), (-2, -1)
        spectrum = torch.fft.fft2(torch.fft.ifftshift(maps * x[:, None], dims), norm="ortho")
        k = torch.fft.fftshift(spectrum, dims)
        k = k + 1e-3 * torch.randn_like(k)
        np.save(tmp_path / "k.npy", (k * MASKS["radial"](32, 32, 2.5, 0.5, 0)).numpy())
        config = operator_config(tmp_path, {"kind": "mri"})
        data = {"path": str(tmp_path / "k.npy"), "size": 32}
        config = changed(config, {"data": data})
        assert train_run(config, quiet)
        run = load_run(config.folder)
        dataset = load_data(config, run.scan)
        assert dataset.scan.physics.coil_maps.shape == (2, 3, 32, 32)
        assert dataset.y.shape == (2, 2, 3, 32, 32)
        solved = reconstruct(run, tmp_path / "k.npy", tmp_path / "out", quiet)
        assert solved.value.shape == (2, 2, 32, 32)
        np.save(tmp_path / "k.npy", torch.stack([k[0], 10 * k[0]]).numpy())
        both = load_data(config, run.scan).y
        # Slices keep their brightness, up to the noise that whitens them.
        assert float(both[1].norm() / both[0].norm()) > 5
        np.save(tmp_path / "k.npy", k.numpy())
        full = load_data(config, run.scan)
        note = "k-space is fully sampled; undersampled 4-fold by physics.mask"
        assert note in full.notes
        measured = float((full.y[0, 0, 0] != 0).float().mean())
        assert measured == pytest.approx(0.25, abs=0.02)


def test_photons_where_counts_make_no_sense(tmp_path):
    config = operator_config(tmp_path, {"kind": "mri", "photons": 1e6})
    with pytest.raises(UserError, match="negative in places, counts are not"):
        load_data(config, Scan.planned(config.physics, 16))
