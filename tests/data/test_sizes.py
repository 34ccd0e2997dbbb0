"""Images of different sizes: made to fit one, or each at its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.assessment.metrics import psnr, ssim
from equipoise.commands.simulate import simulate
from equipoise.config import parse
from equipoise.data.formats import open_path, write_images
from equipoise.data.load import load_dataset
from equipoise.data.pick import images_of
from equipoise.data.scan import Scan, native_images
from equipoise.data.settings import ImageSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings
from equipoise.imaging.splitting import split
from equipoise.learning.batching import batches_of_one_size
from equipoise.run import load_data

from .formats.make import arrays, hounsfield, make_dicom, make_nifti

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
SHAPES = {"a": (18, 22, 3), "b": (14, 24, 2), "c": (18, 22, 2)}


@pytest.fixture
def heads(tmp_path):
    folder = tmp_path / "heads"
    folder.mkdir()
    for k, (name, shape) in enumerate(SHAPES.items()):
        volume = 1 + np.random.default_rng(k).random(shape)
        make_nifti(folder / f"{name}.nii.gz", 100 * volume, AFFINE)
    return folder


def load(folder, seed: int = 0, stream: bool = False, coils: int = 1, **data):
    settings = MRISettings(acceleration=2, noise=1e-3, coils=coils)
    data = ImageSettings(path=folder, **data)
    return load_dataset(data, Scan.planned(settings, data.size), seed, stream=stream)


def test_others_are_padded_with_air_and_said(heads):
    dataset = load(heads, size=24)
    assert dataset.truth.shape == (7, 2, 24, 24)
    magnitude = dataset.truth.square().sum(1).sqrt()
    assert not magnitude[0, :3].any()
    assert float(magnitude[0, 3:21, 1:23].min()) > 0.3
    assert "images of 18×22 pixels are padded with air to 24×24 (data.fit)" in dataset.notes
    assert "images of 14×24 pixels are padded with air to 24×24 (data.fit)" in dataset.notes


def test_air_is_minus_a_thousand_in_hounsfield_units(tmp_path):
    make_dicom(tmp_path / "a.dcm", np.full((12, 16), 1024 + 40))
    (item,) = images_of(open_path(tmp_path), 16, "pad")
    scan = Scan.planned(parse({"physics": {"angles": 6}}, "t").physics, 16)
    image = scan.to_model(item)[0]
    assert torch.equal(image[:2], torch.zeros(2, 16))
    assert torch.allclose(image[2:14], torch.full((12, 16), 0.52))


def test_padded_first_then_averaged(tmp_path):
    pixels = hounsfield(size=24)[:16] + 1024
    make_dicom(tmp_path / "a.dcm", pixels)
    (item,) = images_of(open_path(tmp_path), 12, "pad")
    assert (item.frame.rows, item.frame.columns) == (24, 24)
    scan = Scan.planned(parse({"physics": {"angles": 6}}, "t").physics, 12)
    whole = np.full((24, 24), -1000.0)
    whole[4:20] = np.clip(pixels - 1024.0, -1000, 1000)
    wanted = (whole.reshape(12, 2, 12, 2).mean((1, 3)) + 1000) / 2000
    assert np.abs(scan.to_model(item)[0].numpy() - wanted).max() < 1e-6


def test_cropped_or_refused_where_asked(heads):
    dataset = load(heads, size=16, fit="crop")
    volume = nibabel.load(heads / "a.nii.gz").get_fdata()
    wanted = volume[1:17, 3:19, 0] / dataset.items[0].units.scale
    found = dataset.truth[0].square().sum(0).sqrt().numpy()
    assert np.abs(found - wanted).max() < 1e-5
    with pytest.raises(UserError, match=r"18×22 pixels, which data.size=16 would distort"):
        load(heads, size=16, fit="refuse")
    with pytest.raises(UserError, match=r"18×22 pixels, fewer than size=64; lower data.size"):
        load(heads, size=64)


@pytest.mark.parametrize("size", [24, (20, 24), "native"])
def test_volumes_go_back_at_their_own_size_and_place(heads, tmp_path, size):
    dataset = load(heads, size=size, fit="pad")
    native = native_images(dataset.truth, dataset.items, dataset.scan.physics)
    paths = write_images(dataset.items, native, tmp_path / "out")
    for path in paths:
        before, after = nibabel.load(heads / path.name), nibabel.load(path)
        assert after.shape == before.shape
        assert np.allclose(after.affine, before.affine)
        assert np.abs(after.get_fdata() - before.get_fdata()).max() < 1e-3


def test_smaller_volumes_keep_their_outer_corner(heads, tmp_path):
    """The padding counts: the corner of what was reconstructed lies outside of the original."""
    (item, *_), images = images_of(open_path(heads / "a.nii.gz"), 11, "pad"), np.ones((1, 11, 11))
    (path,) = write_images([item], images, tmp_path / "out")
    small = nibabel.load(path)
    for corner, there in (((-0.5, -0.5), (-2.5, -0.5)), ((10.5, 10.5), (19.5, 21.5))):
        found = small.affine @ [*corner, 0, 1]
        assert np.allclose(found, AFFINE @ [*there, 0, 1])


@pytest.mark.parametrize("coils", [1, 3])
def test_each_at_its_own_size_is_as_if_it_were_alone(heads, coils):
    """Images, measurements and the operator; whatever else is in the data set."""
    if coils > 1:
        pytest.importorskip("sigpy")
    together = load(heads, size="native", coils=coils)
    assert together.differs_in_size
    every = torch.arange(len(together))
    groups = together.by_size(every)
    assert [len(group) for group in groups] == [5, 2]
    for group in groups:
        y, physics, truth = together.own(group)
        assert truth.shape[-2:] == together.items[int(group[0])].shape
        assert not truth.isnan().any()
        scan = Scan.planned(together.scan.settings, tuple(truth.shape[-2:]))
        assert torch.equal(physics.mask, scan.physics.mask)
        noise = (y - physics.A(truth)).std() / physics.mask.mean().sqrt()
        assert float(noise) == pytest.approx(together.scan.noise, rel=0.1)


def test_the_operator_of_frames_obeys_its_laws(heads):
    dataset = load(heads, size="native")
    physics = dataset.scan.physics
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(dataset.truth.shape, generator=rng)
    y = torch.randn(dataset.y.shape, generator=rng)
    there, back = physics.A(x), physics.A_adjoint(y)
    assert float((there * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-4)
    some = torch.tensor([4, 0, 5])
    part = dataset.some(some)
    assert torch.allclose(part.scan.physics.A(x[some]), there[some])
    assert torch.equal(part.y, dataset.y[some])
    with pytest.raises(ValueError, match="different sizes"):
        dataset.own(some)
    outside = dataset.truth.isnan()
    assert not physics.A(torch.where(outside, x, 0)).any()
    noisy = physics(torch.zeros_like(x))
    assert not noisy[physics.A(torch.ones_like(x)) == 0].abs().max() > 10 * dataset.scan.noise


def test_streamed_data_are_those_in_memory(heads):
    once = load(heads, size="native", seed=3)
    streamed = load(heads, size="native", seed=3, stream=True)
    assert streamed.scan.noise == once.scan.noise
    assert torch.equal(streamed.measurements(), once.y)


def test_nothing_is_scored_outside_of_an_image(heads):
    dataset = load(heads, size="native")
    x = dataset.truth.nan_to_num(0) + 0.1
    own = torch.tensor([5, 6])
    inside = dataset.own(own).truth
    shifted = inside + 0.1
    for score in (psnr, ssim):
        assert torch.allclose(
            score(x, dataset.truth)[own].double(), score(shifted, inside).double(), atol=1e-5
        )


def test_parts_of_measurements_of_different_sizes(heads):
    dataset = load(heads, size="native")
    found = split(dataset.scan.physics, dataset.y, 3, 1)
    assert torch.equal(found.y + found.left_y, dataset.y)
    for group in dataset.by_size(torch.arange(len(dataset))):
        y, physics, _ = dataset.own(group)
        alone = split(physics, y, 3, 1)
        k = int(dataset.scan.physics.part[group[0]])
        assert torch.equal(dataset.scan.physics.measurement_out(found.y[group], k), alone.y)


def test_a_batch_is_of_one_size_and_an_epoch_sees_everything():
    groups = [torch.tensor([0, 2, 4, 6, 8]), torch.tensor([1, 3]), torch.tensor([5])]
    epoch = [batches_of_one_size(k, groups, 2, 7) for k in range(5)]
    assert all(len(batch) == 2 for batch in epoch)
    for batch in epoch:
        assert sum(bool(torch.isin(batch, group).all()) for group in groups) == 1
    assert set(torch.cat(epoch).tolist()) == {0, 1, 2, 3, 4, 5, 6, 8}
    again = [batches_of_one_size(k, groups, 2, 7) for k in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(epoch, again, strict=True))
    later = [batches_of_one_size(k, groups, 2, 7) for k in range(5, 10)]
    assert [b.tolist() for b in later] != [b.tolist() for b in epoch]


def test_subjects_are_on_one_side(heads):
    for size in (24, "native"):
        training, held = load(heads, size=size).hold_out(0.3)
        assert set(training.patients) | set(held.patients) == set(SHAPES)
        assert not set(training.patients) & set(held.patients)


def test_what_is_simulated_keeps_its_patients(heads, tmp_path):
    """Trained on, the same people are held out as of the images; one volume's slices are
    neighbours."""
    tree = {
        "data": {"path": str(heads), "kind": "images", "size": 24, "holdout": 0.3},
        "physics": {"kind": "mri", "acceleration": 2},
    }
    config = parse(tree, "test")
    simulate(config, tmp_path / "out")
    import yaml

    again = parse(yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()), "again")
    scan = Scan.planned(config.physics, 24)
    images, measured = load_data(config, scan), load_data(again, scan)
    assert measured.patients == images.patients
    assert [item.position for item in measured.items] == [item.position for item in images.items]
    assert torch.allclose(measured.y, images.y, atol=1e-6)
    assert measured.hold_out(0.3)[1].patients == images.hold_out(0.3)[1].patients
    tree["data"]["size"] = "native"
    with pytest.raises(UserError, match="different sizes; simulate writes measurements of one"):
        simulate(parse(tree, "test"), tmp_path / "native")


def test_patients_by_a_list_or_by_folders(tmp_path):
    for name in ("p1", "p2"):
        (tmp_path / name / "anat").mkdir(parents=True)
        for k in range(2):
            np.save(tmp_path / name / "anat" / f"scan{k}.npy", np.zeros((8, 8)))
    assert [item.patient for item in open_path(tmp_path)] == ["p1", "p1", "p2", "p2"]
    folder = tmp_path / "p1" / "anat"
    assert [item.patient for item in open_path(folder)] == ["scan0", "scan1"]
    # With the mark that spreadsheets put before "CSV UTF-8".
    text = "file,patient\nscan0.npy,X\nscan1,Y\n"
    (folder / "patients.csv").write_text(text, encoding="utf-8-sig")
    assert [item.patient for item in open_path(folder)] == ["X", "Y"]
    (folder / "patients.csv").write_text("file,patient\nscan0.npy,X\n")
    with pytest.raises(UserError, match=r"does not name scan1.npy; add a line for it"):
        open_path(folder)


def test_bids_folders(tmp_path):
    for subject in ("sub-01", "sub-02"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        make_nifti(tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz", np.ones((8, 8, 2)))
    items = images_of(open_path(tmp_path))
    assert [item.patient for item in items] == ["sub-01"] * 2 + ["sub-02"] * 2
    assert len(write_images(items, arrays(items), tmp_path / "out")) == 2


def test_those_of_one_size(heads):
    dataset = load(heads, size="native")
    part = dataset.of_one_size()
    assert part.names == ["a_000", "a_001", "a_002", "c_000", "c_001"]
    assert part.scan.image_shape == (2, 18, 22)
    noise = part.scan.physics.A(part.truth) - part.y
    assert float(noise.abs().max()) < 6 * dataset.scan.noise
    assert load(heads, size=24).of_one_size().names == load(heads, size=24).names
