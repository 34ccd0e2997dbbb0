"""One registry for all methods; what has no place beside the others says why."""

from __future__ import annotations

import pytest
from fake_methods import Scaled
from support import quiet

from equipoise.comparison.compare import compare
from equipoise.comparison.methods import (
    METHODS,
    classical_methods,
    load_methods,
    methods_for,
    register,
)
from equipoise.comparison.sweep import plan
from equipoise.comparison.trained import Trained, weights_of
from equipoise.config import changed
from equipoise.errors import UserError

NAMES = [
    "fbp",
    "zero_filled",
    "least_squares",
    "tv",
    "pnp",
    "equivariant_pnp",
    "red",
    "implicit",
    "jacobian_free",
    "phantom",
    "unrolled_5",
    "unrolled_10",
    "untied_5",
    "consistency",
    "ei",
    "sure_ei",
    "splitting",
    "supervised",
]


@pytest.fixture
def registry():
    """What a test registers is forgotten after it."""
    before = list(METHODS)
    yield METHODS
    METHODS[:] = before


class TestRegistry:
    def test_names_and_labels(self):
        assert [m.name for m in METHODS] == NAMES
        assert len({m.label for m in METHODS}) == len(METHODS)

    def test_a_method_of_ones_own(self, registry, config, tmp_path):
        register(Scaled("mine", 0.5))
        task = plan([config], tmp_path / "compare", 1, ["mine", "fbp"])
        table = compare(task, say=quiet)
        assert [row.key for row in table.rows] == ["fbp", "mine"]
        assert table.row("mine").cells["psnr"].mean > 5
        with pytest.raises(UserError, match="a method is called 'mine' already"):
            register(Scaled("mine"))

    def test_in_a_file_of_ones_own(self, registry, config, tmp_path):
        """The example of the module's own documentation, as it stands there."""
        from equipoise.comparison import methods

        lines = methods.__doc__.splitlines()
        code = [line[4:] for line in lines if line.startswith("    ")]
        file = tmp_path / "mine.py"
        file.write_text("\n".join(code))
        load_methods(file)
        task = plan([config], tmp_path / "compare", 1, ["halved"])
        table = compare(task, say=quiet)
        assert not table.failed
        assert table.row("halved").title == "Half the backprojection"
        with pytest.raises(UserError, match="no such file of methods"):
            load_methods(tmp_path / "nowhere.py")

    @pytest.mark.parametrize(
        ("code", "wanted"),
        [
            ("x = (", "cannot be run: SyntaxError"),
            ("import sys; sys.exit(3)", "cannot be run: SystemExit: 3"),
            ("x = 1", r"registers no method; end it with .*register\("),
        ],
    )
    def test_a_file_that_is_none_of_methods(self, registry, tmp_path, code, wanted):
        (tmp_path / "own.py").write_text(code)
        with pytest.raises(UserError, match=rf"own\.py: {wanted}"):
            load_methods(tmp_path / "own.py")

    def test_a_network_of_ones_own(self, registry, config):
        register(Trained("wide", "Wide", {"model.denoiser.channels": 8}))
        methods, _ = methods_for(config)
        assert methods[-1].configuration(config).model.denoiser.channels == 8


class TestPlaces:
    def names(self, config):
        return [m.name for m in methods_for(config)[0]]

    def test_of_rays_and_of_samples(self, config):
        assert "fbp" in self.names(config)
        assert "zero_filled" not in self.names(config)
        mri = changed(config, {"physics": {"kind": "mri"}})
        assert "zero_filled" in self.names(mri)
        assert "fbp" not in self.names(mri)
        assert "is for rays" in methods_for(mri)[1]["fbp"]

    def test_evaluations_have_the_classical_ones(self, config):
        assert [m.name for m in classical_methods(config)] == ["fbp", "least_squares", "tv"]

    def test_nothing_to_split(self, config):
        without = changed(config, {"objective.splitting.weight": 0.0})
        assert "splitting" not in self.names(without)
        assert "objective.splitting is 0" in methods_for(without)[1]["splitting"]

    def test_another_one_again(self, config):
        changes = {"sure": 2.0, "equivariance": 0.2, "consistency": 0.0, "splitting": 0.0}
        same = changed(config, {f"objective.{k}.weight": v for k, v in changes.items()})
        assert "sure_ei" not in self.names(same)
        assert methods_for(same)[1]["sure_ei"] == "with this configuration it is implicit again"


class TestWhatIsLearntFrom:
    def configuration(self, config, name):
        (method,) = (m for m in METHODS if m.name == name)
        return method.configuration(config)

    def terms(self, config):
        return {name: weight for name, weight in weights_of(config).items() if weight}

    def test_gradients_have_the_objective_of_the_configuration(self, config):
        for name in ("implicit", "jacobian_free", "phantom", "unrolled_5", "untied_5"):
            assert self.terms(self.configuration(config, name)) == self.terms(config)
        for name in ("unrolled_5", "unrolled_10", "untied_5"):
            found = self.configuration(config, name)
            assert found.objective.contraction.weight == 0
            assert found.model.gradient.kind == "unrolled"
            assert found.model.gradient.steps == int(name.split("_")[1])
            assert found.model.gradient.untied == name.startswith("untied")

    def test_objectives_have_some_of_the_terms(self, config):
        weights = self.terms(config)
        ei = {name: weights[name] for name in ("consistency", "equivariance")}
        assert self.terms(self.configuration(config, "ei")) == ei
        assert self.terms(self.configuration(config, "supervised")) == {"supervised": 1.0}
        splitting = {"splitting": weights["splitting"]}
        assert self.terms(self.configuration(config, "splitting")) == splitting

    def test_a_term_that_the_configuration_lacks_has_weight_one(self, config):
        without = changed(config, {"objective.consistency.weight": 0.0})
        assert self.terms(self.configuration(without, "consistency")) == {"consistency": 1.0}

    def test_the_reference_is_implicit_whatever_the_configuration(self, config):
        free = changed(config, {"model.gradient": {"kind": "jacobian_free"}})
        for name in ("implicit", "supervised"):
            assert self.configuration(free, name).model.gradient.kind == "implicit"
        tight = changed(config, {"model.gradient": {"kind": "implicit", "rtol": 1e-4}})
        assert self.configuration(tight, "implicit").model.gradient.rtol == 1e-4
