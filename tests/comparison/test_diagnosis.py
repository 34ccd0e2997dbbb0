"""A diagnosis of whole runs: which networks stand in which column, and what is said where one
cannot be measured."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from support import quiet, tiny

from equipoise.assessment.network import MEASURES, _denoiser, measure_network
from equipoise.assessment.table import Missing
from equipoise.comparison import diagnosis
from equipoise.comparison.diagnosis import diagnose
from equipoise.config import changed
from equipoise.data.scan import Scan
from equipoise.equilibrium import Implicit, Stop
from equipoise.errors import UserError
from equipoise.imaging.groups import Rotations
from equipoise.reconstruction.denoisers import Invariant
from equipoise.reconstruction.denoisers.settings import RandomSettings
from equipoise.run import Run

#: Untrained networks are slow to solve for, and that is not what is tested.
LOOSE = {"images": 2, "forward": Stop(1e-4, 5), "adjoint": Stop(1e-3, 5), "say": quiet}


def run_of(folder, seed=0, changes=None):
    config = tiny(folder, name=folder.name, seed=seed)
    config = changed(config, changes or {})
    scan = Scan.planned(config.physics, config.data.size, config.seed).with_noise(0.01)
    model = config.model.make(scan.image_shape[0], scan.noise, seed=seed + 1)
    return Run(folder, config, scan, model.eval())


class Shrinking(torch.nn.Module):
    """D(x) = x / (1 + σ)."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, sigma):
        return self.one * x / (1 + sigma)


class TestColumns:
    @pytest.fixture(scope="class")
    def found(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs")
        run, other = run_of(folder / "one"), run_of(folder / "two", seed=1)
        odd = run_of(folder / "odd", changes={"learning.lr": 1e-3})
        weights = {k: v.clone() for k, v in run.model.state_dict().items()}
        gradient = run.model.gradient
        found = diagnose(run, [other, odd], folder=folder / "d", **LOOSE)
        assert run.model.gradient is gradient
        assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())
        return found

    def test_seeds_share_one(self, found):
        names = ["before training", "one", "one, averaged over quarter turns", "two", "odd"]
        assert list(found.networks) == names
        head = ["before training", "one, 2 seeds", "one, averaged over quarter turns", "odd"]
        assert found.table.head()[1:] == head
        values = [found.networks[name].table["psnr"] for name in ("one", "two")]
        cell = found.table.row("psnr").cells["one, 2 seeds"]
        assert cell.mean == pytest.approx(sum(values) / 2)
        assert cell.spread == pytest.approx(np.std(values, ddof=1))

    def test_every_measure_has_a_row(self, found):
        assert [row.key for row in found.table.rows] == list(MEASURES)
        for network in found.networks.values():
            assert network.table.keys() == MEASURES.keys()
        assert not found.table.failed

    def test_the_average_commutes_with_quarter_turns(self, found):
        curves = found.networks["one, averaged over quarter turns"].curves["commutes"]["turn"]
        assert max(max(v) for far, v in curves if far in (90.0, 180.0)) < 1e-5
        plain = found.networks["one"].curves["commutes"]["turn"]
        assert max(max(v) for far, v in plain if far in (90.0, 180.0)) > 1e-4

    def test_files(self, found):
        tree = json.loads((found.folder / "diagnosis.json").read_text())
        assert tree.keys() == {"about", "networks", "table"}
        assert tree["about"]["measures"]["psnr"] == "PSNR (dB)"
        one = tree["networks"]["one"]
        assert one.keys() == {"table", "curves", "residuals", "adjoint"}
        assert len(one["residuals"]) == 2
        assert (found.folder / "table.md").read_text().count("\n| ") == len(MEASURES) + 2
        page = (found.folder / "report.html").read_text()
        assert page.count('src="data:image/png;base64') == 2

    def test_solves_that_did_not_finish_are_counted(self, found):
        assert found.table.row("unfinished").cells["before training"].mean == 1.0


class TestMissing:
    def test_a_network_that_fails_keeps_its_column(self, tmp_path, monkeypatch):
        run = run_of(tmp_path / "one")

        def measure(model, *args):
            if isinstance(model.step.denoiser, Invariant):
                raise RuntimeError("it fell over")
            return measure_network(model, *args)

        monkeypatch.setattr(diagnosis, "measure_network", measure)
        found = diagnose(run, [], **LOOSE)
        assert found.table.failed
        column = "one, averaged over quarter turns"
        assert all(r.cells[column].reason == "RuntimeError: it fell over" for r in found.table.rows)
        for file in ("table.md", "report.html", "diagnosis.json"):
            assert "RuntimeError: it fell over" in (found.folder / file).read_text()

    def test_measurements_have_no_truth(self, tmp_path, monkeypatch):
        monkeypatch.setattr(RandomSettings, "make", lambda self, seed=0: Shrinking())
        run = run_of(tmp_path / "one", changes={"model.invariant": "quarter_turns"})
        folder = tmp_path / "sinograms"
        folder.mkdir()
        for k in range(2):
            y = np.random.default_rng(k).random(run.scan.measurement_shape[1:])
            np.save(folder / f"s{k}.npy", y.astype(np.float32))
        found = diagnose(run, [], folder, **LOOSE)
        assert not found.table.failed
        missing = {
            row.key
            for row in found.table.rows
            if any(isinstance(c, Missing) for c in row.cells.values())
        }
        of_errors = {"psnr", "error_range", "error_null", "null_missing"}
        of_priors = {"prior_noisy", "prior_denoised", "prior_artefact"}
        measures = ("asymmetry", "smallest", "norm")
        of_places = {f"{m}_{place}" for m in measures for place in ("clean", "between")}
        assert missing == of_errors | of_priors | of_places
        assert all("true images" not in MEASURES[key].title for key in MEASURES.keys() - missing)
        assert "so there is no truth" in (found.folder / "table.md").read_text()
        assert found.table.head()[1:] == ["before training", "one"]  # it is invariant already


class TestRefused:
    def test_unrolled_runs(self, tmp_path):
        unrolled = {"model.gradient": {"kind": "unrolled"}}
        with pytest.raises(UserError, match="is unrolled, so there is no equilibrium"):
            diagnose(run_of(tmp_path / "one", changes=unrolled), [])

    def test_a_run_that_is_named_twice(self, tmp_path):
        """Or by another name: one network is not two seeds."""
        run = run_of(tmp_path / "one")
        (tmp_path / "link").symlink_to(tmp_path / "one")
        for again in (tmp_path / "one", tmp_path / "link"):
            with pytest.raises(UserError, match="is named twice, and would count as two seeds"):
                diagnose(run, [run_of(tmp_path / "two", seed=1), run_of(again)])

    def test_runs_on_other_data(self, tmp_path):
        other = run_of(tmp_path / "two", changes={"physics.angles": 7})
        with pytest.raises(UserError, match="differ in data or physics"):
            diagnose(run_of(tmp_path / "one"), [other])


class TestMeasureNetwork:
    """A network whose answers are known: D(x) = x / (1 + σ) in a proximal step."""

    @pytest.fixture(scope="class")
    def measured(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs") / "one"
        run = run_of(folder, changes={"model.precision": "64", "model.sigma": 0.25})
        run.model.step.denoiser = Shrinking().double()
        run.model.stop, run.model.gradient = Stop(1e-7, 100), Implicit(stop=Stop(1e-7, 100))
        physics = run.scan.double().physics
        rng = torch.Generator().manual_seed(0)
        truth = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=rng)
        y = physics.A(truth)
        return measure_network(run.model, physics, y, truth), run, physics, y, truth

    def test_the_denoiser(self, measured):
        table = measured[0].table
        for where in ("clean", "between", "solution"):
            assert table[f"smallest_{where}"]["value"] == pytest.approx(0.8)
            assert table[f"norm_{where}"]["value"] == pytest.approx(0.8)
            assert table[f"asymmetry_{where}"]["value"] == pytest.approx(0, abs=1e-12)
        assert table["commutes_flip"] == pytest.approx(0, abs=1e-12)
        assert table["commutes_turn"] == pytest.approx(0, abs=1e-12)
        assert table["path_dependence"]["value"] == pytest.approx(0, abs=1e-9)

    def test_no_gradient_is_left_behind(self, measured):
        assert all(p.grad is None for p in measured[1].model.parameters())

    def test_where_its_jacobian_is_taken(self):
        """Of D(u) = u² / 4 the Jacobian is u / 2: its ends are those of the image."""
        rng = torch.Generator().manual_seed(1)
        clean = torch.rand(2, 1, 5, 5, dtype=torch.float64, generator=rng)
        x = torch.rand(2, 1, 5, 5, dtype=torch.float64, generator=rng)
        table = _denoiser(lambda u: u.square() / 4, clean, x)
        for where, u in (("clean", clean), ("between", (clean + x) / 2), ("solution", x)):
            assert table[f"norm_{where}"]["value"] == pytest.approx(float(u.max()) / 2)
            assert table[f"smallest_{where}"]["value"] == pytest.approx(float(u.min()) / 2)

    def test_the_prior(self, measured):
        """φ and its envelope are quadratic: e(x) = ½ (1 − 0.8) ‖x‖²."""
        found, _, _, _, truth = measured
        rng = torch.Generator().manual_seed(0)
        noise = 0.05 * torch.randn(truth.shape, generator=rng, dtype=torch.float64)
        sizes = truth.square().flatten(1).sum(1)
        rise = ((truth + noise).square().flatten(1).sum(1) - sizes) / sizes
        assert found.table["prior_noisy"]["value"] == pytest.approx(float(rise.mean()))
        assert found.table["prior_denoised"]["value"] == pytest.approx(float(rise.mean()))
        assert found.table["prior_flip"]["value"] == pytest.approx(0, abs=1e-9)

    def test_the_network(self, measured):
        """y ↦ A (AᵀA + λ s)⁻¹ Aᵀ y with s = 1 − 0.8 is symmetric, between 0 and 1."""
        found, run, _, _, _ = measured
        strength = float(run.model.step.strength())
        assert found.table["network_asymmetry"]["value"] == pytest.approx(0, abs=1e-5)
        largest = 1 / (1 + 0.2 * strength)
        # Many eigenvalues are close to the largest; Lanczos iteration is below, and near it.
        assert largest - 2e-3 < found.table["network_norm"]["value"] < largest + 1e-6
        assert found.table["network_smallest"]["value"] > -1e-5
        assert found.table["radius"] == pytest.approx(0.8, abs=0.01)  # where A does not see

    def test_solves_and_errors(self, measured):
        found, run, physics, y, truth = measured
        x = run.model(y, physics).detach()
        assert found.table["unfinished"] == 0
        assert len(found.residuals) == len(found.adjoint) == 2
        assert found.residuals[0][-1] <= 1e-7
        total = float((x - truth).square().mean())
        parts = found.table["error_range"] + found.table["error_null"]
        assert parts == pytest.approx(total, rel=1e-3)
        assert found.table["psnr"] == pytest.approx(
            float((-10 * (x.clamp(0, 1) - truth).square().flatten(1).mean(1).log10()).mean())
        )

    def test_it_moves_what_it_says(self, measured):
        found, run, physics, _, _ = measured
        curve = dict(found.curves["gap"]["turn"])
        x = run.model(measured[3], physics).detach()
        moved = Rotations().transform(x, theta=torch.full((2,), 30.0))
        again = run.model(physics.A(moved), physics).detach()
        gap = (moved - again).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
        assert curve[30.0] == pytest.approx(gap.tolist(), rel=1e-4)
        assert all(math.isfinite(v) for _, values in found.curves["gap"]["flip"] for v in values)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "table.md").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no diagnosis"):
        diagnose(run_of(tmp_path / "run"), [], folder=tmp_path / "mine", **LOOSE)
    assert (tmp_path / "mine" / "table.md").read_text() == "mine"
