"""Sinograms in files: their geometry, which views are used, binned detectors, and native units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.io
import torch
from pydantic import TypeAdapter
from support import DATA, real_data

from equipoise.commands.simulate import simulate
from equipoise.config import load_config, parse
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan, native_images
from equipoise.errors import UserError
from equipoise.imaging.settings import Physics
from equipoise.imaging.tomography.scanner import ScannerGeometry
from equipoise.run import described

SIZE = 16
#: A fan of 24 views (the first is taken again) and 42 detectors, as a file says it.
SCANNER = {
    "geometryType": "Cone",
    "distanceSourceOrigin": 60.0,
    "distanceSourceDetector": 90.0,
    "distanceUnit": "mm",
    "angles": np.linspace(0, 360, 25),
    "pixelSizePost": 0.9,
    "effectivePixelSizePost": 0.6,
}


def write(folder, name="scan", detectors=42, seed=0, **changes):
    rng = np.random.default_rng(seed)
    parameters = {**SCANNER, **changes}
    sinogram = rng.random((len(parameters["angles"]), detectors))
    scan = {"sinogram": sinogram, "parameters": parameters}
    scipy.io.savemat(folder / f"{name}.mat", {"CtDataFull": scan})
    return sinogram


def configured(path, physics=None, **data):
    tree = {
        "data": {"path": str(path), "size": SIZE, **data},
        "physics": {"kind": "fan_beam", "bin": 3, "noise": 0.01, **(physics or {})},
    }
    return described(parse(tree, "test"))


def loaded(path, physics=None, **data):
    config = configured(path, physics, **data)
    scan = Scan.planned(config.physics, config.data.size)
    return load_dataset(config.data, scan)


class TestWhatTheFileSays:
    def test_it_is_what_is_reconstructed_with(self, tmp_path):
        write(tmp_path)
        dataset = loaded(tmp_path)
        g = dataset.scan.physics.geometry
        pixel = 3 * 0.6  # the file's, for detectors that are binned threefold
        assert dataset.scan.physics.pixel == pytest.approx(pixel)
        assert g.source_distance == pytest.approx(60 / pixel)
        assert g.detector_distance == pytest.approx(30 / pixel)
        assert g.detector_pitch == pytest.approx(3 * 0.9 / pixel)
        assert (g.detectors, len(g.angles)) == (14, 25)
        assert g.angles[1] == pytest.approx(-15)
        assert any("source to axis 60 mm" in note for note in dataset.notes)

    def test_an_image_shows_what_the_detector_sees(self, tmp_path):
        """Where the file's own pixel would make it far too small, or too large."""
        write(tmp_path)
        seen = 42 * 0.9 * 60 / 90
        for size in (14, 16):
            config = configured(tmp_path, size=size)
            assert config.physics.setup(size).pixel == pytest.approx(1.8)
        for size, binned in ((16, 1), (64, 3), (9, 3)):
            config = configured(tmp_path, {"bin": binned}, size=size)
            assert config.physics.setup(size).pixel == pytest.approx(seen / size)
        config = configured(tmp_path, {"image_pixel": 0.25}, size=64)
        assert config.physics.setup(64).pixel == 0.25

    def test_the_configuration_stands_above_it_and_says_so(self, tmp_path):
        write(tmp_path)
        physics = {"source_to_axis": 61.0, "detector_pitch": 0.9, "axis_offset": 0.45, "bin": 1}
        dataset = loaded(tmp_path, {**physics, "angles": 25})
        pixel = dataset.scan.physics.pixel
        g = dataset.scan.physics.geometry
        assert g.source_distance == pytest.approx(61 / pixel)
        assert g.offset == pytest.approx(0.5)
        assert g.angles[1] == pytest.approx(360 / 25)
        said = [note for note in dataset.notes if "stand" in note]
        assert len(said) == 2  # what it says as the file does is no news
        assert "physics.source_to_axis=61 mm stands above 60 mm in the file" in said
        assert "physics.angles (25 views" in said[1]

    def test_a_run_keeps_what_was_read(self, tmp_path):
        """Its configuration makes the same operator where the file is not at hand."""
        write(tmp_path)
        config = configured(tmp_path, {"views": 2})
        again = TypeAdapter(Physics).validate_python(config.physics.model_dump(mode="json"))
        one, other = config.physics.make(SIZE, 0), again.make(SIZE, 0)
        assert one.geometry == other.geometry
        assert again == config.physics

    def test_another_file_brings_its_own(self, tmp_path):
        for name, distance in (("a", 60.0), ("b", 70.0)):
            (tmp_path / name).mkdir()
            write(tmp_path / name, distanceSourceOrigin=distance)
        config = configured(tmp_path / "a", {"views": "0:24:2"})
        scan = Scan.planned(config.physics, SIZE)
        dataset = load_dataset(config.data, scan, path=tmp_path / "b")
        pixel = dataset.scan.physics.pixel
        assert dataset.scan.physics.geometry.source_distance == pytest.approx(70 / pixel)
        assert "another geometry than that of scan.mat" in dataset.notes[0]
        assert "source_to_axis: 70.0 and 60.0" in dataset.notes[0]

    def test_files_that_disagree(self, tmp_path):
        write(tmp_path, "a")
        write(tmp_path, "b", distanceSourceOrigin=61.0)
        with pytest.raises(UserError, match=r"b.mat: another geometry than that of a.mat"):
            loaded(tmp_path)

    def test_another_kind_of_beam(self, tmp_path):
        write(tmp_path)
        with pytest.raises(UserError, match=r"its beam is fan.*set physics.kind=fan_beam"):
            loaded(tmp_path, {"kind": "parallel_beam"})

    def test_what_is_missing(self, tmp_path):
        np.save(tmp_path / "y.npy", np.zeros((25, 42)))
        for physics, missing in (
            ({}, "source_to_axis is missing, and no file says it"),
            ({"source_to_axis": 60}, "image_pixel is missing: source_to_axis is 60 mm"),
            ({"source_to_axis": 60, "image_pixel": 1}, "source_to_detector is missing"),
            (
                {"source_to_axis": 60, "source_to_detector": 50, "image_pixel": 1},
                r"must be at least source_to_axis \(60 mm\), got 50 mm",
            ),
        ):
            with pytest.raises(UserError, match=missing):
                loaded(tmp_path, physics)
        with pytest.raises(UserError, match="source_distance and source_to_axis say the same"):
            configured(tmp_path, {"source_to_axis": 60, "source_distance": 30})


class TestMillimetres:
    @pytest.mark.parametrize("kind", ["parallel_beam", "fan_beam"])
    def test_they_are_pixels_times_the_pixel(self, kind):
        """The same scan in millimetres and in pixels is the same operator."""
        pixel = 0.31
        common = {"kind": kind, "angles": 7, "detectors": 40, "bin": 2}
        pixels = {"pitch": 0.8, "offset": 1.3, "pixel": pixel}
        lengths = {"detector_pitch": 0.8 * pixel, "image_pixel": pixel}
        lengths["axis_offset"] = 1.3 * 0.8 * pixel
        if kind == "fan_beam":
            pixels |= {"source_distance": 50.0, "detector_distance": 20.0}
            lengths |= {"source_to_axis": 50 * pixel, "source_to_detector": 70 * pixel}
        made = []
        for part in (pixels, lengths):
            settings = TypeAdapter(Physics).validate_python({**common, **part})
            made.append(settings.make(SIZE, 0))
        x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
        assert torch.allclose(made[0].A(x), made[1].A(x), rtol=1e-6)
        assert made[0].gain == pytest.approx(made[1].gain, rel=1e-6)

    @pytest.mark.parametrize("binned", [1, 2, 3, 4, 5])
    def test_a_binned_detector_measures_the_mean_of_its_parts(self, binned):
        """Exactly, with a ray for each of them, whatever is left over at the ends."""
        common = {"angles": 5, "detectors": 23, "pitch": 0.7, "offset": 0.4, "pixel": 0.5}
        for kind in (
            {"kind": "parallel_beam"},
            {"kind": "fan_beam", "source_distance": 50.0, "detector_distance": 20.0},
        ):
            fine = TypeAdapter(Physics).validate_python({**common, **kind})
            coarse = fine.model_copy(update={"bin": binned, "rays": binned})
            x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
            A, B = fine.make(SIZE, 0), coarse.make(SIZE, 0)
            count, first = 23 // binned, (23 % binned) // 2
            y = (A.A(x) / A.gain)[..., first : first + count * binned]
            means = y.unflatten(-1, (count, binned)).mean(-1)
            assert torch.allclose(B.A(x) / B.gain, means, rtol=1e-5)

    def test_native_values(self, tmp_path):
        """A disc of 0.02/mm comes back as 0.02/mm, or as water in Hounsfield units."""
        config = configured_disc(tmp_path)
        for more, expected, name in (
            ({}, 0.02, "1/mm"),
            ({"water": 0.02}, 0.0, "HU"),
            ({"water": 0.01}, 1000.0, "HU"),
        ):
            data = config.data.model_copy(update=more)
            dataset = load_dataset(data, Scan.planned(config.physics, data.size))
            x = dataset.scan.physics.fbp(dataset.y)
            (image,) = native_images(x, dataset.items)
            middle = image[24:40, 24:40].mean()
            scale = 0.02 if name == "1/mm" else 1000
            assert abs(middle - expected) < 0.02 * scale
            assert dataset.items[0].units.name == name


def configured_disc(folder):
    """The exact line integrals of a disc of 0.02/mm and 20 mm radius, in a fan."""
    size, pixel = 64, 1.0
    n, pitch, near, far = 200, 0.5, 200.0, 300.0
    t = (np.arange(n) - (n - 1) / 2) * pitch
    distance = near * np.sin(np.arctan(t / far))
    chord = 2 * np.sqrt(np.clip(20.0**2 - distance**2, 0, None))
    np.save(folder / "disc.npy", np.tile(0.02 * chord, (180, 1)))
    tree = {
        "data": {"path": str(folder), "size": size, "peak": 0.05},
        "physics": {
            "kind": "fan_beam",
            "angles": 180,
            "detectors": n,
            "bin": 2,
            "detector_pitch": pitch,
            "source_to_axis": near,
            "source_to_detector": far,
            "image_pixel": pixel,
        },
    }
    return parse(tree, "test")


class TestViews:
    @pytest.mark.parametrize(
        ("views", "chosen"),
        [
            (None, range(25)),
            (12, [0, 12, 24]),
            ("0:24:6", [0, 6, 12, 18]),
            ("3:8", [3, 4, 5, 6, 7]),
            ("::-5", [24, 19, 14, 9, 4]),
            ([7, 2, 11], [7, 2, 11]),
        ],
    )
    def test_which_are_used(self, tmp_path, views, chosen):
        chosen = list(chosen)
        sinogram = write(tmp_path)
        dataset = loaded(tmp_path, {"views": views})
        binned = sinogram[chosen].reshape(len(chosen), 14, 3).mean(-1)
        native = dataset.y[0, 0].double().numpy() / dataset.scan.gain
        assert np.allclose(native, binned, rtol=1e-5)
        angles = np.array(dataset.scan.physics.geometry.angles)
        assert np.allclose(angles, -SCANNER["angles"][chosen])

    def test_those_that_are_not_used_are_there_to_judge(self, tmp_path):
        """Their data and their operator, in the same units; not those that repeat a used one."""
        sinogram = write(tmp_path)
        dataset = loaded(tmp_path, {"views": "0:24:6"}, peak=0.5)
        unseen = dataset.unseen()
        left = [i for i in range(24) if i % 6]  # not 24, which is 0 again
        binned = sinogram[left].reshape(len(left), 14, 3).mean(-1)
        native = unseen.y[0, 0].double().numpy() / dataset.scan.gain * 0.5
        assert np.allclose(native, binned, rtol=1e-5)
        whole = loaded(tmp_path, {}, peak=0.5).scan
        x = torch.rand(2, 1, SIZE, SIZE)
        all_views = whole.physics.A(x) / whole.gain
        assert torch.allclose(
            unseen.scan.physics.A(x) / dataset.scan.gain, all_views[:, :, left], rtol=1e-4
        )
        assert unseen.scan.measurement_shape == (1, len(left), 14)
        assert unseen.names == dataset.names
        assert loaded(tmp_path).unseen() is None

    def test_files_of_the_used_views_alone(self, tmp_path):
        np.save(tmp_path / "y.npy", np.random.default_rng(0).random((4, 10)))
        tree = {
            "data": {"path": str(tmp_path), "size": SIZE},
            "physics": {"angles": 8, "views": 2, "detectors": 20, "bin": 2},
        }
        config = parse(tree, "test")
        dataset = load_dataset(config.data, Scan.planned(config.physics, SIZE))
        assert dataset.y.shape == (1, 1, 4, 10)
        assert any("holds the 4 views of 10 detectors" in note for note in dataset.notes)
        with pytest.raises(UserError, match=r"y.npy: holds the used views alone"):
            dataset.unseen()

    @pytest.mark.parametrize(
        ("views", "message"),
        [
            (26, r"every k-th of 25 views for k in \[1, 25\], got 26"),
            ("30:40", r"views=30:40 leaves none of 25 views"),
            ("every second", "views must be every how many, a range"),
            ("0:20:0", "views must be every how many, a range"),
            ([3, 25], "names view 25, but there are 25, numbered from 0 to 24"),
            ([3, 4, 3], "names view 3 twice"),
        ],
    )
    def test_wrong_ones(self, tmp_path, views, message):
        write(tmp_path)
        with pytest.raises(UserError, match=message):
            loaded(tmp_path, {"views": views})

    def test_sense_and_first_view(self, tmp_path):
        write(tmp_path)
        there = configured(tmp_path).physics
        back = there.model_copy(update={"sense": -1})
        assert back.setup(SIZE).angles == pytest.approx(SCANNER["angles"])
        turned = there.model_copy(update={"start": 90.0, "views": 5})
        setup = turned.setup(SIZE)
        used = [setup.angles[view] for view in setup.chosen]
        assert used == pytest.approx(90 - SCANNER["angles"][::5])

    def test_a_turned_start_turns_the_image(self):
        """By a quarter exactly, so that either first view can be told."""
        tree = {"angles": 12, "detectors": 23}
        plain = TypeAdapter(Physics).validate_python(tree).make(SIZE, 0)
        turned = TypeAdapter(Physics).validate_python({**tree, "start": 90}).make(SIZE, 0)
        x = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
        assert torch.allclose(turned.A(x), plain.A(torch.rot90(x, -1, (-2, -1))), atol=1e-6)


def test_projections_that_are_cut_off_are_said(tmp_path):
    """In words that name the circle which every view sees; not where the object is inside."""
    for detectors, cut in ((17, True), (41, False)):
        physics = TypeAdapter(Physics).validate_python({"angles": 9, "detectors": detectors})
        rows = torch.arange(32.0) - 15.5
        x = (rows[:, None] ** 2 + rows[None] ** 2 < 13**2).float()[None, None]
        beam = physics.make(32, 0)
        folder = tmp_path / str(detectors)
        folder.mkdir()
        np.save(folder / "y.npy", (beam.A(x) / beam.gain)[0, 0].numpy())
        tree = {"path": str(folder), "size": 32}
        config = parse({"data": tree, "physics": {"angles": 9, "detectors": detectors}}, "test")
        notes = load_dataset(config.data, Scan.planned(physics, 32)).notes
        said = [note for note in notes if "cut off" in note]
        assert bool(said) == cut
        if cut:
            assert "every view sees 8.5 units of physics.pixel around the axis" in said[0]


class TestOtherConventions:
    def test_skimage_writes_detectors_first(self, tmp_path):
        y = np.random.default_rng(0).random((16, 9))
        np.save(tmp_path / "y.npy", y)
        tree = {
            "data": {"path": str(tmp_path), "size": SIZE},
            "physics": {"angles": 9, "detectors": 16, "convention": "skimage"},
        }
        config = parse(tree, "test")
        scan = Scan.planned(config.physics, SIZE)
        dataset = load_dataset(config.data, scan)
        assert np.allclose(dataset.y[0, 0].numpy() / dataset.scan.gain, y.T, rtol=1e-5)

    def test_what_is_simulated_for_it_is_read_again(self, tmp_path):
        """Where there are as many views as detectors, too."""
        physics = {"angles": 16, "detectors": 16, "convention": "skimage"}
        tree = {"data": {"size": SIZE, "count": 2}, "physics": physics, "name": "s"}
        config = parse(tree, "test")
        paths = simulate(config, tmp_path / "out")
        scan = Scan.planned(config.physics, SIZE)
        made = load_dataset(config.data, scan)
        read = load_dataset(load_config(tmp_path / "out" / "config.yaml").data, scan)
        assert len(paths) == 2
        assert torch.allclose(made.y, read.y, rtol=1e-5)


def test_geometries_are_compared():
    one = ScannerGeometry(source="a", beam="fan", angles=(0.0, 1.0), source_to_axis=40.0)
    same = one.model_copy(update={"source": "b", "source_to_axis": 40.0 * (1 + 1e-9)})
    assert one.same_as(same)
    other = one.model_copy(update={"angles": (0.0, 2.0)})
    assert one.differences(other) == ["angles: 2 views, 0° … 1° and 2 views, 0° … 2°"]
    assert math.isclose(one.source_to_axis, 40)


@real_data
def test_a_real_disc_has_the_organisers_attenuation():
    """Helsinki Tomography Challenge, scan 01a: 0.0332 per millimetre inside, by their FBP."""
    file = DATA / "ct" / "htc2022" / "htc2022_01a_full.mat"
    config = configured(file, {"bin": 4, "views": 4}, size=128)
    scan = Scan.planned(config.physics, 128)
    dataset = load_dataset(config.data, scan)
    (image,) = native_images(scan.physics.fbp(dataset.y), dataset.items)
    disc = image > 0.0166
    assert image[disc].mean() == pytest.approx(0.0332, rel=0.01)
    assert dataset.items[0].units.name == "1/mm"
    area = disc.sum() * scan.physics.pixel**2
    assert math.sqrt(area / math.pi) == pytest.approx(35, abs=1)  # millimetres, with its holes
