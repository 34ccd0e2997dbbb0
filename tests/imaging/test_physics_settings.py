"""The settings of the operators and the groups, and what they make."""

from __future__ import annotations

import deepinv
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging import settings as rooms
from equipoise.imaging.group_settings import GroupChoice
from equipoise.imaging.operators import normalized

PHYSICS = TypeAdapter(rooms.Physics)
GROUP = TypeAdapter(GroupChoice)
KINDS = {
    "parallel_beam": {"angles": 6},
    "fan_beam": {"angles": 10, "source_distance": 40, "detector_distance": 30, "curved": True},
    "mri": {"acceleration": 3, "center": 0.2},
    "dynamic_mri": {"frames": 2, "acceleration": 2.5, "center": 0.2},
    "non_cartesian_mri": {"shots": 8, "samples": 32},
    "inpainting": {},
    "blur": {},
    "super_resolution": {},
    "compressed_sensing": {},
}


def made(tree, size=16, seed=0):
    settings = PHYSICS.validate_python(tree)
    return normalized(settings.make(size, seed), size, settings.frames)


class TestPhysics:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_makes_an_operator_of_norm_one(self, kind):
        if kind == "non_cartesian_mri":
            pytest.importorskip("mrinufft")
        found = made({"kind": kind, **KINDS[kind]})
        x = torch.rand(2, *found.image_shape)
        y = found.physics.A(x)
        assert y.shape == (2, *found.measurement_shape)
        v = torch.rand_like(y)
        gap = ((y * v).sum() - (x * found.physics.A_adjoint(v)).sum()).abs()
        assert gap < 1e-4 * y.norm() * v.norm()
        largest = float(found.physics.compute_sqnorm(x[:1], max_iter=500, tol=1e-7, verbose=False))
        assert largest == pytest.approx(1, abs=0.02)

    def test_options_reach_the_operator(self):
        options = {"angles": [0.0, 10.0, 70.0], "detectors": 9, "pixel": 0.5, "offset": 0.25}
        parallel = made(options).physics
        other = eq.ParallelBeam(16, [0.0, 10.0, 70.0], 9, 0.5, offset=0.25, normalize=True)
        assert parallel.geometry == other.geometry
        assert parallel.scale == other.scale
        fan = made({"kind": "fan_beam", **KINDS["fan_beam"], "pitch": 2.0, "offset": 1.5}).physics
        assert (fan.geometry.source_distance, fan.geometry.detector_distance) == (40, 30)
        assert (fan.geometry.detector_pitch, fan.geometry.offset) == (2, 1.5)
        assert fan.geometry.curved

    def test_masks_follow_the_seed(self):
        options = {"kind": "mri", "acceleration": 4, "center": 0.1}
        first = made(options, 32, 0).physics
        assert torch.equal(first.mask, made(options, 32, 0).physics.mask)
        assert not torch.equal(first.mask, made(options, 32, 1).physics.mask)
        frames = made({"kind": "dynamic_mri", "frames": 2, "center": 0.1}, 32, 0).physics.mask[0, 0]
        assert torch.equal(frames[0], first.mask[0, 0])
        assert not torch.equal(frames[0], frames[1])
        coils = made({"kind": "mri", "coils": 3, "center": 0.1}, 32).physics
        assert coils.coil_maps.shape == (1, 3, 32, 32)

    def test_other_options(self):
        assert float(made({"kind": "inpainting", "keep": 0.2}, 64).physics.mask.mean()) < 0.25
        assert made({"kind": "super_resolution", "factor": 4}).measurement_shape == (1, 4, 4)
        assert made({"kind": "compressed_sensing", "ratio": 0.5}).measurement_shape == (128,)

    def test_the_blur_is_as_wide_as_high(self):
        point = torch.zeros(1, 1, 33, 33)
        point[..., 16, 16] = 1
        y = made({"kind": "blur", "width": 1.5}, 33).physics.A(point)[0, 0]
        assert torch.allclose(y, y.T, atol=1e-7)
        far = torch.arange(33.0) - 16
        assert float((y.sum(0) * far**2).sum() / y.sum()) == pytest.approx(1.5**2, rel=0.05)

    @pytest.mark.parametrize("width", [0.3, 1, 1.9, 2.1, 3, 5, 8, 40, 1e9])
    @pytest.mark.parametrize("size", [16, 17, (16, 24)])
    def test_the_blur_is_periodic_however_wide_it_is(self, size, width):
        found = made({"kind": "blur", "width": width}, size)
        rows, columns = found.image_shape[1:]
        point = torch.zeros(1, 1, rows, columns)
        point[..., 3, 5] = 1
        y = found.physics.A(point)[0, 0].double() / found.gain
        sides = []
        for side, place in ((rows, 3), (columns, 5)):
            around = side * torch.arange(-2000, 2001)
            away = torch.arange(side)[:, None] - place + around
            wide = min(width, 10 * side)
            part = (-0.5 * (away.double() / wide) ** 2).exp().sum(1)
            sides.append(part / part.sum())
        expected = torch.outer(*sides)
        assert (y - expected).norm() < 2e-3 * expected.norm()
        assert found.gain == pytest.approx(1, abs=3e-3)

    def test_a_section_without_kind_is_a_parallel_beam(self):
        assert isinstance(PHYSICS.validate_python({}), rooms.ParallelBeamSettings)
        assert isinstance(PHYSICS.validate_python("blur"), rooms.BlurSettings)
        with pytest.raises(ValidationError, match="angels"):
            PHYSICS.validate_python({"angels": 3})
        with pytest.raises(ValidationError, match=r"does not match any"):
            PHYSICS.validate_python({"kind": "x_ray"})

    @pytest.mark.parametrize(
        ("kind", "option", "inside", "outside"),
        [
            ("blur", "noise", [0, 2.5], [-1e-9, True, "much"]),
            ("blur", "photons", [1e-9], [0]),
            ("blur", "width", [1e-9], [0]),
            ("parallel_beam", "angles", [1, [3.5]], [0, [], 2.5]),
            ("parallel_beam", "detectors", [1, None], [0]),
            ("parallel_beam", "pixel", [1e-9], [0]),
            ("fan_beam", "angles", [1, [3.5]], [0, []]),
            ("fan_beam", "source_distance", [1e-9], [0]),
            ("fan_beam", "detector_distance", [0], [-1e-9]),
            ("fan_beam", "detectors", [1, None], [0]),
            ("fan_beam", "pitch", [1e-9, None], [0]),
            ("mri", "mask", ["lines", "poisson_disc", "radial"], ["spiral"]),
            ("mri", "acceleration", [1], [0.999]),
            ("mri", "center", [1e-9, 1], [0, 1.001]),
            ("mri", "coils", [1], [0]),
            ("dynamic_mri", "frames", [2], [1]),
            ("dynamic_mri", "acceleration", [1], [0.999]),
            ("non_cartesian_mri", "trajectory", ["radial", "spiral"], ["lines"]),
            ("non_cartesian_mri", "shots", [1], [0]),
            ("non_cartesian_mri", "samples", [2], [1]),
            ("inpainting", "keep", [1e-9, 0.999], [0, 1]),
            ("super_resolution", "factor", [2], [1]),
            ("compressed_sensing", "ratio", [1e-9, 1], [0, 1.001]),
        ],
    )
    def test_bounds(self, kind, option, inside, outside):
        options = {"kind": kind, **KINDS[kind]}
        for value in inside:
            assert getattr(PHYSICS.validate_python({**options, option: value}), option) == value
        for value in outside:
            with pytest.raises(ValidationError, match=option):
                PHYSICS.validate_python({**options, option: value})

    def test_frames(self):
        assert PHYSICS.validate_python({"kind": "dynamic_mri", "frames": 5}).frames == 5
        assert all(
            PHYSICS.validate_python({"kind": kind, **options}).frames is None
            for kind, options in KINDS.items()
            if kind != "dynamic_mri"
        )

    def test_what_does_not_fit_is_the_users_to_mend(self):
        for tree in (
            {"kind": "mri", "acceleration": 8, "center": 0.9},
            {"kind": "fan_beam", "source_distance": 5, "detector_distance": 5},
            {"detectors": 3, "offset": 1000},
            {"kind": "super_resolution", "factor": 5},
            {"kind": "super_resolution", "factor": 40},
            {"kind": "inpainting", "keep": 1e-9},
        ):
            with pytest.raises(UserError, match=r"^physics: .*(; |: give |set |lower |raise )"):
                PHYSICS.validate_python(tree).make(16, 0)

    def test_a_filter_that_is_larger_than_the_image_is_refused(self):
        """deepinv would use a part of it."""
        for kernel in (torch.rand(1, 1, 17, 3), torch.rand(1, 1, 3, 20)):
            physics = deepinv.physics.BlurFFT((1, 16, 16), filter=kernel)
            with pytest.raises(UserError, match=r"more than its images of 16×16: crop the filter"):
                normalized(physics, 16)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("def physic(size): pass", "has no function physics"),
            ("import nothing_of_that_name", "cannot be run: ModuleNotFoundError"),
            ("def physics(size): return nothing", "cannot be run: NameError"),
            ("def physics(): return 3", "cannot be run: TypeError"),
            ("def physics(size): return 3", "no deepinv.physics.LinearPhysics"),
        ],
    )
    def test_bad_files(self, tmp_path, text, message):
        (tmp_path / "op.py").write_text(text)
        with pytest.raises(UserError, match=message):
            made({"kind": "custom", "file": str(tmp_path / "op.py")})


class TestNoise:
    def test_gaussian(self):
        settings = PHYSICS.validate_python({"noise": 0.1})
        clean = torch.tensor([-4.0, 2.0])
        assert settings.noise_level(clean, gain=0.3) == pytest.approx(0.4)
        model = settings.noise_model(0.4, gain=0.3)
        assert isinstance(model, deepinv.physics.GaussianNoise)
        assert float(model.sigma) == pytest.approx(0.4)

    def test_counts(self):
        """The level is the standard deviation of what the model adds, on average over the data."""
        settings = PHYSICS.validate_python({"photons": 50})
        clean = torch.full((4, 5000), 0.6)
        sigma = settings.noise_level(clean, gain=0.2)
        noise = settings.noise_model(sigma, gain=0.2)(clean) - clean
        assert float(noise.std()) == pytest.approx(sigma, rel=0.03)
        rounded = settings.noise_model(sigma, gain=0.2)(torch.tensor([-1e-7]))
        assert float(rounded) == 0  # what rounding made negative counts as none
        with pytest.raises(UserError, match="negative in places, counts are not"):
            settings.noise_level(torch.tensor([-1.0, 1.0]), gain=1)


class TestGroups:
    def test_names(self):
        rotations = GROUP.validate_python("rotations").make()
        assert isinstance(rotations, eq.Rotations)
        assert rotations.multiples is None
        assert GROUP.validate_python("quarter_turns").make().multiples == 90
        assert isinstance(GROUP.validate_python({"kind": "reflections"}).make(), eq.Reflections)
        assert isinstance(GROUP.validate_python("shifts").make(), eq.Shifts)
        with pytest.raises(ValidationError):
            GROUP.validate_python("translations")

    def test_draws(self):
        for name in ("rotations", "quarter_turns", "reflections", "shifts"):
            assert GROUP.validate_python(name).make(draws=3).n_trans == 3
