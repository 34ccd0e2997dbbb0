"""fastMRI's files: which lines were measured, different sizes, and what is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.assessment.fastmri import center_crop, uniform_ssim, volume_scores
from equipoise.comparison.fastmri import fastmri_table
from equipoise.data.formats import open_path, write_beside, write_images
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan, native_images
from equipoise.data.settings import AutoSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings

from .formats.make import complex_array
from .scanners import complex_noise, head, make_fastmri, root_sum_of_squares, to_kspace

h5py = pytest.importorskip("h5py")
pytest.importorskip("sigpy")


def load(path, acceleration=2.0, center=0.4, **data):
    scan = Scan.planned(MRISettings(acceleration=acceleration, center=center), 64)
    return load_dataset(AutoSettings(path=path, **data), scan)


def mask_of(columns: int, every: int = 2, centre: int = 16) -> np.ndarray:
    line = np.arange(columns)
    return (line % every == 0) | (abs(line - columns // 2) < centre // 2)


def test_the_mask_decides_and_not_the_zeros(tmp_path):
    """k-space is not zero beside the mask, and zero at one measured line."""
    make_fastmri(tmp_path / "f.h5", slices=1)
    with h5py.File(tmp_path / "f.h5", "a") as stored:
        mask = mask_of(44)
        stored["mask"] = mask.astype(np.float32)
        k = stored["kspace"][()]
        k[..., 8] = 0
        stored["kspace"][...] = k
        stored.attrs["acceleration"] = 2
    dataset = load(tmp_path / "f.h5")
    wanted = mask.copy()
    wanted[[0, 1, 42, 43]] = False  # beyond the encoding limits
    assert wanted[8]
    found = dataset.scan.physics.mask[0, 0, 0].numpy() > 0
    assert np.array_equal(found, wanted)
    assert not dataset.y[..., ~wanted].any()
    assert not any("undersampled 2-fold" in note for note in dataset.notes)
    text = f"its mask has {wanted.sum()} of 44 lines (acceleration 2)"
    assert any(text in note for note in dataset.notes)


def test_a_mask_that_does_not_fit(tmp_path):
    make_fastmri(tmp_path / "f.h5", slices=1, mask=np.ones(44))
    with h5py.File(tmp_path / "f.h5", "a") as stored:
        del stored["mask"]
        stored["mask"] = np.ones(40)
    with pytest.raises(UserError, match="its mask has 40 values, its k-space 44 lines"):
        open_path(tmp_path / "f.h5")


def test_padding_is_by_the_limits_and_is_not_sampled(tmp_path):
    """What stands beyond the limits was not measured, be it zero or not."""
    make_fastmri(tmp_path / "f.h5", slices=1)
    with h5py.File(tmp_path / "f.h5", "a") as stored:
        k = stored["kspace"][()]
        k[..., 0] = 1e-6
        stored["kspace"][...] = k
    dataset = load(tmp_path / "f.h5")
    mask = dataset.scan.physics.mask[0, 0, 0]
    assert not mask[:2].any()
    assert not mask[-2:].any()
    assert int(mask.sum()) == 20  # half of the 40 lines
    assert any("zero padding: of 44 phase encodings" in note for note in dataset.notes)
    assert any("fully sampled; undersampled 2-fold" in note for note in dataset.notes)


@pytest.mark.parametrize("coils", [1, 4])
def test_the_truth_is_the_reconstruction_in_the_files_own_units(tmp_path, coils):
    """Weighted by the coils, the magnitude of the truth is the target of the file."""
    _, rss = make_fastmri(tmp_path / "f.h5", coils=coils, noise=2e-4)
    dataset = load(tmp_path / "f.h5")
    assert dataset.y.shape[-2:] == (32, 44)
    table = fastmri_table(dataset, {"truth": dataset.truth}, {"truth": "Truth"})
    (row,) = table.rows
    assert row.cells["nmse"].mean < (1e-10 if coils == 1 else 3e-3)
    assert row.cells["psnr"].mean > (90 if coils == 1 else 30)
    assert np.allclose(dataset.items[1].kspace.target(), rss[1], rtol=1e-5)


def test_what_is_written_is_what_the_challenge_wants(tmp_path):
    """Of the truth: a file for each volume, whose ``reconstruction`` is the target."""
    (tmp_path / "in").mkdir()
    for name, columns in (("a", 44), ("b", 48)):
        make_fastmri(tmp_path / "in" / f"{name}.h5", coils=1, columns=columns)
    dataset = load(tmp_path / "in")
    images = native_images(dataset.truth, dataset.items, dataset.scan.physics)
    paths = write_images(dataset.items, images, tmp_path / "out")
    assert [path.name for path in paths] == ["a.h5", "b.h5"]
    paths += write_beside(dataset.items, images, tmp_path / "out", "std", "deviation")
    assert [path.name for path in paths[2:]] == ["a_std.h5", "b_std.h5"]
    for path in paths:
        original = tmp_path / "in" / path.name.replace("_std", "")
        with h5py.File(path) as made, h5py.File(original) as given:
            target = given["reconstruction_esc"][()]
            assert made["reconstruction"].dtype == np.float32
            assert made["reconstruction"].shape == target.shape
            assert np.abs(made["reconstruction"][()] - target).max() < 1e-5 * target.max()


def test_without_a_target_all_lines_are_the_target(tmp_path):
    _, rss = make_fastmri(tmp_path / "f.h5", target=False, slices=1)
    dataset = load(tmp_path / "f.h5")
    target = dataset.items[0].kspace.target()
    assert np.abs(target - rss[0]).max() < 1e-3 * rss.max()


def test_a_test_file_without_target_cannot_be_scored(tmp_path):
    mask = mask_of(44)
    make_fastmri(tmp_path / "f.h5", target=False, mask=mask, slices=1)
    dataset = load(tmp_path / "f.h5")
    assert dataset.truth is None
    images = {"zero": dataset.scan.physics.A_adjoint(dataset.y)}
    with pytest.raises(UserError, match="compare with reconstruction_rss"):
        fastmri_table(dataset, images, {"zero": "Zero"})


def test_volumes_of_different_sizes(tmp_path):
    """Each at its own: as if it were alone."""
    sizes = {"a": (64, 44, 4), "b": (64, 48, 4), "c": (64, 44, 6)}
    for name, (rows, columns, coils) in sizes.items():
        make_fastmri(tmp_path / f"{name}.h5", coils, rows, columns)
    together = load(tmp_path)
    assert together.differs_in_size
    assert len(together) == 6
    assert together.truth is not None
    groups = together.by_size(torch.arange(6))
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3], [4, 5]]
    for name, group in zip(sizes, groups, strict=True):
        alone = load(tmp_path / f"{name}.h5")
        own = together.own(group)
        assert torch.equal(own.y, alone.y)
        assert torch.allclose(own.truth, alone.truth)
        assert torch.equal(own.physics.mask, alone.scan.physics.mask)
        assert torch.equal(own.physics.coil_maps, alone.scan.physics.coil_maps)
        scores = [
            fastmri_table(dataset, {"x": dataset.truth.nan_to_num(0)}, {"x": "x"}).rows[0]
            for dataset in (together, alone)
        ]
        volumes = [row.more["volumes"][str(tmp_path / f"{name}.h5")] for row in scores]
        assert volumes[0] == pytest.approx(volumes[1])
    assert any("sizes (coils × rows × columns): 4×32×44, 4×32×48" in n for n in together.notes)


def test_scans_keep_their_own_noise_and_brightness(tmp_path):
    """Two scans whose scale differs a thousandfold are both near 1."""
    make_fastmri(tmp_path / "a.h5", slices=1)
    make_fastmri(tmp_path / "b.h5", slices=1)
    with h5py.File(tmp_path / "b.h5", "a") as stored:
        stored["kspace"][...] = 1000 * stored["kspace"][()]
        stored["reconstruction_rss"][...] = 1000 * stored["reconstruction_rss"][()]
    dataset = load(tmp_path)
    tops = dataset.truth.square().sum(1).sqrt().flatten(1).amax(1)
    assert float(tops.min()) > 0.5 * float(tops.max())
    table = fastmri_table(dataset, {"x": dataset.truth}, {"x": "x"})
    volumes = list(table.rows[0].more["volumes"].values())
    assert volumes[0]["psnr"] == pytest.approx(volumes[1]["psnr"], abs=0.01)


def test_scores_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    target = rng.random((3, 20, 20))
    images = target + 0.1 * rng.normal(size=target.shape)
    found = volume_scores(torch.from_numpy(images), torch.from_numpy(target))
    peak = target.max()
    assert found.psnr == pytest.approx(
        metrics.peak_signal_noise_ratio(target, images, data_range=peak)
    )
    similar = [
        metrics.structural_similarity(a, b, data_range=peak)
        for a, b in zip(target, images, strict=True)
    ]
    each = uniform_ssim(torch.from_numpy(images), torch.from_numpy(target), peak)
    assert each.tolist() == pytest.approx(similar)
    assert found.ssim == pytest.approx(np.mean(similar))
    assert found.nmse == pytest.approx(((images - target) ** 2).sum() / (target**2).sum())


def test_the_crop_is_the_middle():
    image = torch.arange(30.0).reshape(5, 6)
    assert torch.equal(center_crop(image, (3, 2)), image[1:4, 2:4])
    assert torch.equal(center_crop(image, (7, 6))[1:6], image)
    assert center_crop(image, (7, 6))[0].abs().sum() == 0


def test_complex_numbers_without_a_header(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as stored:
        stored["kspace"] = complex_array(1, 3, 16, 16)
    (item,) = open_path(tmp_path / "k.h5")
    assert item.kspace.sampled is None
    assert item.kspace.lines is None


def test_rows_of_zeros_were_not_measured_whatever_the_mask_says(tmp_path):
    """Padding along the readout, or an echo that was not read whole; a single zero is a number."""
    k = to_kspace(head(4, 64, 44)) + complex_noise((4, 64, 44), 1e-3 * np.eye(4), 0)
    k[:, :12] = 0
    k[:, 32, 22] = 0
    with h5py.File(tmp_path / "f.h5", "w") as stored:
        stored["kspace"] = k.astype(np.complex64)[None]
        stored["mask"] = mask_of(44).astype(np.float32)
    dataset = load(tmp_path / "f.h5")
    mask = dataset.scan.physics.mask[0, 0]
    assert not mask[:12].any()
    assert bool((mask[12:] == mask[12]).all())
    assert bool(mask[32, 22])
    assert dataset.scan.physics.coil_maps.any()


def test_the_same_kspace_is_the_same_image_in_whichever_file(tmp_path):
    """Coils of different noise: whitened for the model, and not in what is written."""
    mixing = np.diag([1.0, 5.0, 2.0, 0.3])
    k = to_kspace(head(4, 48, 48)) + 0.02 * complex_noise((4, 48, 48), mixing, 0)
    k = (k * mask_of(48)).astype(np.complex64)
    np.save(tmp_path / "k.npy", k)
    with h5py.File(tmp_path / "k.h5", "w") as stored:
        stored["kspace"] = k[None]
    images = []
    for suffix in ("npy", "h5"):
        dataset = load(tmp_path / f"k.{suffix}")
        x = dataset.scan.physics.A_adjoint(dataset.y)
        out = tmp_path / f"out-{suffix}"
        write_images(dataset.items, native_images(x, dataset.items), out)
        images.append(np.load(out / "k.npy") if suffix == "npy" else read(out / "k.h5"))
    assert np.allclose(images[0], images[1].reshape(48, 48), rtol=1e-5)
    whole = root_sum_of_squares(head(4, 48, 48))
    inside = whole > 0.3
    assert np.median(images[0][inside] / whole[inside]) == pytest.approx(1, abs=0.3)


def read(path):
    with h5py.File(path) as stored:
        return stored["reconstruction"][()]
