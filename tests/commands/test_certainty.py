"""reconstruct --samples and evaluate --samples: what is written, said and shown."""

from __future__ import annotations

import json
from types import SimpleNamespace

import deepinv
import numpy as np
import pytest
import torch
from support import quiet, tiny, tiny_tree, torchrun
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.commands.doctor.prior import prior
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.train import train_run
from equipoise.comparison import bootstrap as module
from equipoise.comparison.bootstrap import Bootstrap
from equipoise.comparison.evaluation import evaluate
from equipoise.config import parse
from equipoise.data.formats import open_path
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.run import load_data, load_run

BOOTSTRAP = Bootstrap(samples=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train_run(tiny(folder, model={"test_max_steps": 30}), quiet)
    return folder


@pytest.fixture
def sinograms(folder, tmp_path):
    run = load_run(folder)
    y = run.scan.measurement_to_native(run.scan.physics.A(eq.phantoms(3, 16, 9)))
    data = tmp_path / "sinograms"
    data.mkdir()
    for i in range(3):
        # The noise is a share of the largest measurement: the same in all, it is that of each.
        np.save(data / f"s{i}.npy", (y[i, 0] / y[i].max() * y.max()).numpy())
    return data


def loaded(out, name):
    return np.load(out / f"{name}.npy").astype(float)


class TestReconstruct:
    def test_deviation_and_bounds_beside_each_image(self, folder, sinograms, tmp_path):
        out, said = tmp_path / "out", []
        solved = reconstruct(load_run(folder), sinograms, out, said.append, asked=BOOTSTRAP)
        report = json.loads((out / "report.json").read_text())
        for i, row in enumerate(report["images"]):
            x, std, lower, upper, measured, invented = (
                loaded(out, f"s{i}{word}")
                for word in ("", "_std", "_lower", "_upper", "_measured", "_invented")
            )
            assert np.allclose(x, solved.value[i, 0].numpy(), atol=1e-6)
            assert np.allclose((lower + upper) / 2, x, atol=1e-5)
            assert (upper > lower).all()
            assert np.allclose(measured + invented, x, atol=1e-5)
            rmse = np.sqrt(np.mean(std**2))
            assert row["predicted_psnr"] == pytest.approx(-20 * np.log10(rmse), abs=0.01)
            assert row["predicted_psnr_lower"] < row["predicted_psnr"]
            assert row["samples"] == 10
        assert said[0].startswith("10 samples of 3 image(s): 30 more solves, at most about")
        assert "s0_std.npy" in " ".join(said)
        assert (out / "uncertainty.png").stat().st_size > 1000
        assert "reading" in (out / "report.html").read_text()

    def test_a_file_alone_is_the_same_as_in_a_folder(self, folder, sinograms, tmp_path):
        run = load_run(folder)
        reconstruct(run, sinograms, tmp_path / "all", quiet, asked=BOOTSTRAP)
        reconstruct(run, sinograms / "s1.npy", tmp_path / "one", quiet, asked=BOOTSTRAP)
        for word in ("std", "lower"):
            assert np.array_equal(
                np.load(tmp_path / "all" / f"s1_{word}.npy"),
                np.load(tmp_path / "one" / f"s1_{word}.npy"),
            )

    def test_in_hounsfield_units_and_the_format_of_the_input(self, folder, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        volume = np.stack([eq.phantoms(1, 16, s)[0, 0].numpy() for s in range(2)], -1) * 1800 - 1000
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)), tmp_path / "v.nii")
        out = tmp_path / "out"
        solved = reconstruct(load_run(folder), tmp_path / "v.nii", out, quiet, asked=BOOTSTRAP)
        x, std, lower, upper = (
            nibabel.load(out / f"v{word}.nii") for word in ("", "_std", "_lower", "_upper")
        )
        values = x.get_fdata()
        assert np.allclose(values[..., 1], solved.value[1, 0].numpy() * 2000 - 1000, atol=0.01)
        half = (upper.get_fdata() - lower.get_fdata()) / 2
        assert np.allclose(lower.get_fdata() + half, values, atol=0.01)
        deviation = std.get_fdata()
        assert deviation.min() >= 0  # no offset of −1000
        assert 0.2 < np.median(half / deviation) < 3
        assert b"standard deviation" in std.header["descrip"].item()
        row = json.loads((out / "report.json").read_text())["images"][0]
        rmse = np.sqrt(np.mean(deviation[..., 0] ** 2)) / 2000
        assert row["predicted_rmse"] == pytest.approx(rmse, rel=1e-3)

    def test_dicom(self, folder, tmp_path):
        pydicom = pytest.importorskip("pydicom")
        from pydicom.dataset import FileDataset, FileMetaDataset

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID = meta.MediaStorageSOPClassUID
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.SeriesInstanceUID = "CT", "p", "1.2.3"
        data.Rows = data.Columns = 16
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.SeriesDescription = "Chest"
        hu = eq.phantoms(1, 16)[0, 0].numpy() * 1800 - 1000
        data.PixelData = hu.astype("<i2").tobytes()
        data.save_as(tmp_path / "slice.dcm", enforce_file_format=True)
        out = tmp_path / "out"
        said = []
        reconstruct(load_run(folder), tmp_path / "slice.dcm", out, said.append, asked=BOOTSTRAP)
        names = sorted(path.name for path in out.glob("*.dcm"))
        words = ("_invented", "_lower", "_measured", "_std", "_upper")
        assert names == ["slice.dcm", *(f"slice{word}.dcm" for word in words)]
        (image,) = open_path(out / "slice.dcm")
        half = open_path(out / "slice_upper.dcm")[0].array() - image.array()
        std = pydicom.dcmread(out / "slice_std.dcm")
        deviation = std.pixel_array * float(std.RescaleSlope) + float(std.RescaleIntercept)
        assert float(std.RescaleSlope) < 1  # a part of one Hounsfield unit matters
        assert 0.2 < np.median(half[half > 0] / deviation[half > 0]) < 4
        assert std.SeriesDescription == "Chest standard deviation"
        row = json.loads((out / "report.json").read_text())["images"][0]
        rmse = np.sqrt(np.mean(deviation**2)) / 2000
        assert row["predicted_rmse"] == pytest.approx(rmse, rel=1e-2)
        assert "HU" in (out / "report.html").read_text()

    def test_complex_images_by_their_magnitude(self, tmp_path):
        run_folder = tmp_path / "run"
        tree = tiny_tree(out=str(run_folder))
        tree["physics"] = {"kind": "mri", "acceleration": 2, "noise": 0.01}
        train_run(parse(tree, "test"), quiet)
        nibabel = pytest.importorskip("nibabel")
        head = eq.phantoms(2, 16)[:, 0].movedim(0, -1).numpy()
        nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), tmp_path / "head.nii")
        out = tmp_path / "out"
        reconstruct(load_run(run_folder), tmp_path / "head.nii", out, quiet, asked=BOOTSTRAP)
        x, lower, upper, measured, invented = (
            nibabel.load(out / f"head{word}.nii").get_fdata()
            for word in ("", "_lower", "_upper", "_measured", "_invented")
        )
        assert (x >= 0).all()
        assert (lower >= 0).all()
        assert (upper >= x).all()
        assert np.allclose(measured + invented, x, atol=1e-5)

    def test_a_factor_widens_all(self, folder, sinograms, tmp_path):
        run = load_run(folder)
        rows = {}
        for factor in (1.0, 2.0):
            out = tmp_path / f"out{factor}"
            reconstruct(run, sinograms / "s0.npy", out, quiet, asked=Bootstrap(10, factor=factor))
            report = json.loads((out / "report.json").read_text())
            assert report["factor"] == factor
            rows[factor] = report["images"][0]["predicted_rmse"], loaded(out, "s0_std")
        assert rows[2.0][0] == pytest.approx(2 * rows[1.0][0])
        assert np.allclose(rows[2.0][1], 2 * rows[1.0][1])
        with pytest.raises(UserError, match="--factor must be a finite number > 0"):
            Bootstrap(10, factor=0.0)

    @pytest.mark.parametrize(
        ("asked", "wanted"),
        [
            ({"samples": 9}, "samples must be at least 10"),
            ({"samples": 30, "level": 2.0}, r"level must be in \(0, 1\)"),
            ({"samples": 10, "group": "turns"}, "--group must be one of rotations"),
        ],
    )
    def test_what_is_asked_is_looked_at_before_any_work(self, asked, wanted):
        with pytest.raises(UserError, match=wanted):
            Bootstrap(**asked)

    def test_a_blind_group_is_said(self, folder, sinograms, tmp_path):
        said = []
        asked = Bootstrap(10, group="quarter_turns")
        out = tmp_path / "out"
        reconstruct(load_run(folder), sinograms, out, said.append, asked=asked)
        report = json.loads((out / "report.json").read_text())
        blind = [row["blind"] for row in report["images"]]
        assert blind == [True] * 3
        assert any("blind to the null space" in text for text in said)
        assert report["notes"] == [t.removeprefix("caution: ") for t in said if "caution" in t]

    @pytest.mark.slow
    def test_two_processes_write_the_same(self, folder, sinograms, tmp_path):
        arguments = ["reconstruct", folder, sinograms]
        one = torchrun(1, *arguments, tmp_path / "one", "--samples", 10, cwd=tmp_path)
        assert one.wait(300) == 0, one.stdout.read()
        two = torchrun(2, *arguments, tmp_path / "two", "--samples", 10, cwd=tmp_path)
        assert two.wait(300) == 0, two.stdout.read()
        names = sorted(path.name for path in (tmp_path / "one").glob("*.npy"))
        assert len(names) == 3 * 6
        for name in names:
            a, b = np.load(tmp_path / "one" / name), np.load(tmp_path / "two" / name)
            assert np.array_equal(a, b), name

    @pytest.mark.slow
    def test_two_processes_evaluate_alike(self, folder, tmp_path):
        """The table, the readings and the notes; one report, said once."""
        found = {}
        for count in (1, 2):
            process = torchrun(count, "evaluate", folder, "--samples", 10, cwd=tmp_path)
            said = process.communicate(timeout=300)[0]
            assert process.returncode == 0, said
            assert said.count("saved: ") == 1, said
            results = json.loads((folder / "evaluation-phantoms" / "results.json").read_text())
            found[count] = results
            (folder / "evaluation-phantoms" / "results.json").unlink()
        assert found[1] == found[2]

    def test_processes_share_the_images(self, folder, sinograms, monkeypatch):
        """What two of them find, zero where the other looks, adds up to what one finds."""
        run = load_run(folder)
        dataset = load_data(run.config, run.scan, sinograms)
        value = run.solve(dataset, batch=1).value
        whole = module.bootstrap(run, dataset, value, BOOTSTRAP)
        monkeypatch.setattr(module, "together", lambda fabric, values, how: values)
        shares = [
            module.bootstrap(
                run, dataset, value, BOOTSTRAP, fabric=SimpleNamespace(global_rank=k, world_size=5)
            )
            for k in range(5)  # more than there are images
        ]
        for name in ("std", "lower", "rmse", "sample_rmse", "status", "measured"):
            total = sum(getattr(share, name) for share in shares)
            assert torch.equal(total, getattr(whole, name)), name

    def test_processes_say_the_same_of_all_images(self, folder, sinograms, monkeypatch):
        """Each what one alone says, and not what it would say of its own share."""
        run = load_run(folder)
        dataset = load_data(run.config, run.scan, sinograms)
        value = run.solve(dataset, batch=1).value
        dataset.scan.physics.noise_model = deepinv.physics.ZeroNoise()
        value = 0.9 * value  # which leaves another share of each measurement
        value[0] *= 0.5
        alone = module.bootstrap(run, dataset, value, BOOTSTRAP).notes
        assert any("unexplained" in note for note in alone)
        monkeypatch.setattr(module, "together", lambda fabric, values, how: values)
        for k in range(2):
            fabric = SimpleNamespace(global_rank=k, world_size=2)
            assert module.bootstrap(run, dataset, value, BOOTSTRAP, fabric=fabric).notes == alone


class TestCommandLine:
    def test_samples_may_stand_alone(self, folder, sinograms, tmp_path):
        counts = {}
        for name, words in (("alone", ["--samples"]), ("number", ["--samples", "12"])):
            out = tmp_path / name
            arguments = ["reconstruct", str(folder), str(sinograms / "s0.npy"), str(out), *words]
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
            (row,) = json.loads((out / "report.json").read_text())["images"]
            counts[name] = row["samples"]
        assert counts == {"alone": 30, "number": 12}
        first = ["reconstruct", "--samples", str(folder), str(sinograms / "s0.npy")]
        done = CliRunner().invoke(app, [*first, str(tmp_path / "first")])
        assert done.exit_code == 0, done.output

    def test_options_without_samples_are_refused(self, folder, sinograms, tmp_path):
        out = tmp_path / "out"
        arguments = ["reconstruct", str(folder), str(sinograms), str(out), "--level", "0.5"]
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError)
        assert "add --samples" in str(done.exception)
        assert not out.exists()


class TestEvaluate:
    def test_says_whether_it_is_true(self, folder, tmp_path):
        said = []
        asked = Bootstrap(samples=20)
        run = load_run(folder)
        found = evaluate(run, folder=tmp_path, count=4, asked=asked, say=said.append)
        assert "20 samples of 4 image(s)" in said[0]
        keys = ["bootstrap", "corrected", "calibrated", "calibrated_on_measurements"]
        table = found.sure.table
        assert [row.key for row in table.rows] == keys
        saved = json.loads((tmp_path / "results.json").read_text())["reliability"]
        raw = saved["curves"]["bootstrap"]
        u, truth = found.sure.uncertainty, found.dataset.truth
        inside = ((truth >= u.lower) & (truth <= u.upper)).double().mean()
        assert saved["methods"]["bootstrap"]["coverage"] == pytest.approx(float(inside), abs=1e-3)
        assert raw["levels"] == [0.9, 0.5, 0.6, 0.7, 0.8, 0.95]
        ordered = [raw["coverage"][k] for k in (1, 2, 3, 4, 0, 5)]
        assert ordered == sorted(ordered)
        error = (found.images["equipoise"] - truth).square().mean((1, 2, 3)).sqrt()
        assert raw["true_rmse"] == pytest.approx(error.tolist(), rel=1e-4)
        calibrated = saved["methods"]["calibrated"]["coverage"]
        assert abs(calibrated - 0.9) <= abs(float(inside) - 0.9) + 0.05
        page = (tmp_path / "report.html").read_text()
        assert "How sure? Bounds beside the truth" in page
        assert "Predicted against true errors" in page
        assert not found.table.failed

    def test_without_truth_it_says_what_it_can(self, folder, sinograms, tmp_path):
        found = evaluate(load_run(folder), sinograms, tmp_path / "e", asked=BOOTSTRAP, say=quiet)
        cells = found.sure.table.row("bootstrap").cells
        assert cells["predicted"].mean > 0
        assert "no truth to compare with" in cells["coverage"].reason
        assert "factor" in found.sure.table.row("calibrated_on_measurements").remark
        json.loads((tmp_path / "e" / "results.json").read_text())


def test_key_belongs_to_the_name(tmp_path):
    from equipoise.comparison.bootstrap import key_of

    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.float32))
    first, second = open_path(tmp_path / "a.npy")[0].along_first_axis()
    assert key_of(first) != key_of(second)
    assert key_of(first) == key_of(first)
    assert torch.tensor(key_of(first)) >= 0


@pytest.mark.parametrize(("keep", "verdict"), [(0.9, "ok"), (0.25, "note")])
def test_the_doctor_says_where_the_prior_supplies_more_than_the_data(keep, verdict):
    tree = tiny_tree()
    tree["physics"] = {"kind": "inpainting", "keep": keep, "noise": 0.01}
    config = parse(tree, "test")
    scan = Scan.planned(config.physics, 16)
    (found,) = prior(config, load_data(config, scan).spread(2))
    assert found.verdict == verdict
    share = float(found.what.split(":")[1].split("%")[0])
    assert share == pytest.approx(100 * (1 - keep), abs=20)
    assert ("supplies more than the data" in found.remedy) == (verdict == "note")
