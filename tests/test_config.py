"""Configurations: what they say, what is wrong with them, and those of the release before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support import ROOT

from equipoise.config import changed, dump, load_config, options, parse
from equipoise.errors import UserError
from equipoise.run import read_config
from equipoise.settings import read_yaml, read_yaml_parts, write_yaml


def test_examples_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        assert parse(yaml.safe_load(path.read_text()), str(path)).name == path.stem


def test_overrides_and_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning: {lr: 1e-4}\n")
    overrides = ["learning.steps=500", "physics.angles=[0, 45, 90]", "learning.ema=9e-1"]
    config = load_config(path, overrides)
    learning = config.learning
    assert (config.name, learning.steps, learning.lr, learning.ema) == ("a", 500, 1e-4, 0.9)
    assert config.physics.angles == [0, 45, 90]
    assert parse(yaml.safe_load(dump(config)), "dump") == config


def test_ranges_are_not_numbers_to_base_60(tmp_path):
    """Which YAML 1.1 makes of them: 1:50:5 would be 6605."""
    path = tmp_path / "a.yaml"
    path.write_text("physics: {angles: 90, views: 1:50:5, noise: 0.5}\n")
    assert load_config(path).physics.views == "1:50:5"
    assert load_config(path, ["physics.views=2:40"]).physics.views == "2:40"
    assert load_config(path, ["physics.views=2"]).physics.views == 2
    assert load_config(path).physics.noise == 0.5
    config = load_config(path, ["physics.views=2:40"])
    assert parse(yaml.safe_load(dump(config)), "dump") == config


def test_sizes(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("")
    assert load_config(path, ["data.size=[106, 127]"]).data.size == (106, 127)
    config = load_config(path, ["data.size=[20, 30]"])
    assert parse(yaml.safe_load(dump(config)), "dump") == config
    for wrong in ("7", "[7, 9]", "[30, 30, 30]", "large", "4097"):
        with pytest.raises(UserError, match=r"data.size"):
            load_config(path, [f"data.size={wrong}"])


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "learnin: {}",
            [],
            r"learnin: unknown key \(value \{\}\); allowed here are data, learning, model, name",
        ),
        (
            "learning: {setps: 5}",
            [],
            r"learning.setps: unknown key \(value 5\); allowed here are accumulate, batch, check",
        ),
        ("learning: {steps: many}", [], r"learning.steps: .*integer.*got 'many'"),
        ("learning: {steps: 0}", [], r"learning.steps: .*greater than or equal to 1, got 0"),
        ("learning: {steps: true}", [], "steps must be a number, not True"),
        ("learning: {lr: .inf}", [], "learning.lr: .*finite number"),
        (
            "model: {step: newton}",
            [],
            "model.step.kind: must be one of proximal, .*mirror.*, got 'newton'",
        ),
        ("data: {path: nowhere.h5}", [], r"data.path: nowhere.h5 does not exist"),
        ("a: [", [], "not YAML"),
        ("", [], "is empty; equipoise init DATA"),
        ("# nothing yet", [], "is empty"),
        (
            "physics: {offset: 2}\ndata: {size: 16}\nphysics: {noise: 0.1}",
            [],
            "physics stands there twice; join them",
        ),
        ("learning: {lr: 1e-3, steps: 3, lr: 1e-4}", [], "lr stands there twice"),
        ("? [a, b]\n: 1", [], "not YAML"),
        ("seed: 18446744073709551616", [], "seed: .*less than"),
        ("", ["learning"], "written section.key=value"),
        ("", ["learning.step=3"], "learning.step: unknown key"),
        ("", ["name.of=3"], "name is a value, not a section|name.of"),
        (
            "model: {step: {kind: gradient, strength: 0.1}}",
            [],
            r"model.step.strength: does not apply to gradient \(it belongs to .*proximal",
        ),
        ("", ["data.peak=3"], r"data.peak: does not apply to phantoms \(it belongs to meas"),
        ("physics: {kind: mir}", [], "physics.kind: must be one of parallel_beam, .* got 'mir'"),
        ("physics: {kind: fan_beam}", [], "physics.source_distance: missing; this kind needs it"),
        ("", ["objective.splitting.parts=1"], "objective.splitting.parts: .*2, got 1"),
        ("", ["objective.equivariance.group=circles"], "objective.equivariance.group.kind: must"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(tmp_path, text, overrides, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "c.yaml", overrides)


class TestKinds:
    def test_short_and_long_say_the_same(self, tmp_path):
        short, long = tmp_path / "c.yaml", tmp_path / "d" / "c.yaml"
        long.parent.mkdir()
        short.write_text("model: {step: red, denoiser: unet}\nobjective: {splitting: 0.5}\n")
        long.write_text(
            "model: {step: {kind: red}, denoiser: {kind: unet}}\n"
            "objective: {splitting: {weight: 0.5}}\n"
        )
        assert load_config(short) == load_config(long)
        inside = load_config(short, ["objective.splitting.parts=3", "model.step.strength=0.1"])
        assert (inside.objective.splitting.weight, inside.objective.splitting.parts) == (0.5, 3)
        assert (inside.model.step.kind, inside.model.step.strength) == ("red", 0.1)

    def test_another_kind_takes_what_was_chosen_along(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("model: {step: {kind: proximal, strength: 0.01}}\n")
        assert load_config(path, ["model.step=admm"]).model.step.strength == 0.01
        with pytest.raises(UserError, match="strength: does not apply to gradient"):
            load_config(path, ["model.step=gradient"])
        (tmp_path / "all.yaml").write_text(dump(load_config(path, ["model.step.strength=null"])))
        assert load_config(tmp_path / "all.yaml", ["model.step=gradient"]).model.step.step_size == 1

    def test_a_weight_leaves_the_other_options_alone(self):
        config = parse({"objective": {"splitting": {"parts": 7}}}, "c")
        new = changed(config, {"objective.splitting": 0.0, "model.gradient": "jacobian_free"})
        assert (new.objective.splitting.weight, new.objective.splitting.parts) == (0, 7)
        assert new.model.gradient.kind == "jacobian_free"
        assert config.model.gradient.kind == "implicit"
        config = parse({"objective": {"equivariance": {"weight": 1, "draws": 3}}}, "c")
        moved = changed(config, {"objective.equivariance": "auto"}).objective.equivariance
        assert (moved.weight, moved.draws) == ("auto", 3)

    def test_every_option_is_explained(self):
        rows = options()
        names = [name for name, _, _ in rows]
        assert len(names) == len(set(names))
        wanted = {"seed", "data.auto.path", "physics.mri.acceleration", "model.step"}
        wanted |= {"learning.steps", "model.step.proximal.strength", "objective.splitting.parts"}
        wanted |= {"objective.equivariance.group", "model.gradient.unrolled.steps"}
        assert wanted <= set(names)
        assert all(meaning for _, _, meaning in rows)


def test_names_of_digits_are_held_out():
    tree = {"path": "scans", "kind": "images", "holdout": [101, "102", 103]}
    assert parse({"data": tree}, "c").data.holdout == ["101", "102", "103"]


class TestAPathThatIsEmpty:
    """Whoever writes ``path:`` has data, and forgot to name them: phantoms are not meant."""

    @pytest.mark.parametrize("tree", [{"path": None}, {"path": None, "kind": "auto"}])
    def test_it_is_an_error(self, tree):
        with pytest.raises(UserError, match=r"data\.path: is empty; name a file"):
            parse({"data": {**tree, "size": 16}}, "c")

    def test_a_kind_of_files_needs_one(self):
        with pytest.raises(UserError, match=r"data\.path: missing"):
            parse({"data": {"kind": "auto", "size": 16}}, "c")

    def test_runs_of_then_said_so_of_phantoms(self):
        saved = {"data": {"kind": "auto", "path": None, "size": 16}}
        assert parse(saved, "c", is_saved=True).data.kind == "phantoms"


class TestRelease01:
    """Keys that stood side by side then stand with what they belong to now."""

    def test_every_key_is_understood(self):
        tree = {
            "model": {
                "step": "red",
                "strength": 0.3,
                "learnable": True,
                "denoiser": "random",
                "channels": 5,
                "layers": 3,
                "gradient": "implicit",
                "adjoint_rtol": 0.1,
                "adjoint_max_steps": 7,
                "adjoint_inexact": 2,
                "solver": "broyden",
            },
            "objective": {"parts": 3, "floor": 0.1, "group": "shifts", "draws": 2, "bound": 0.5},
        }
        tree["objective"] |= {"renoise": False, "stop_gradient": False, "operators": 0.5}
        config = parse(tree, "c")
        model, objective = config.model, config.objective
        assert (model.step.kind, model.step.strength, model.step.learnable) == ("red", 0.3, True)
        assert (model.denoiser.channels, model.denoiser.layers) == (5, 3)
        adjoint = model.gradient
        assert (adjoint.rtol, adjoint.max_steps, adjoint.inexact) == (0.1, 7, 2)
        assert model.solver.kind == "broyden"
        assert objective.splitting.parts == 3
        assert objective.splitting.floor == objective.consistency.floor == 0.1
        assert objective.equivariance.group.kind == "shifts"
        assert objective.equivariance.draws == 2
        assert not objective.equivariance.renoise
        assert not objective.operators.renoise
        assert objective.operators.weight == 0.5
        assert not objective.equivariance.stop_gradient
        assert objective.contraction.bound == 0.5

    @pytest.mark.parametrize("old", ["group=shifts", "bound=0.9", "floor=1e-3", "parts=3"])
    def test_an_old_name_changes_nothing_else(self, tmp_path, old):
        """Such as how exact solves are; runs of then did not say it, and keep their ways."""
        path = tmp_path / "c.yaml"
        path.write_text("data: {size: 64}\n")
        usual, config = load_config(path), load_config(path, [f"objective.{old}"])
        assert config.objective.exact == usual.objective.exact
        key, value = old.split("=")
        saved = {"objective": {key: value if key == "group" else float(value)}}
        objective = parse(saved, "c", is_saved=True).objective
        assert not objective.exact
        assert objective.splitting.shared is False
        assert objective.equivariance.stop_gradient is True

    @pytest.mark.parametrize(
        ("given", "shared", "stop_gradient"),
        [
            ({}, False, True),
            ({"splitting": 0.5, "equivariance": 0.3}, False, True),
            ({"splitting": {"shared": True}}, True, True),
            ({"equivariance": {"stop_gradient": False}}, False, False),
            ({"equivariance": {"stop_gradient": "auto"}}, False, "auto"),
        ],
    )
    def test_a_run_keeps_what_its_losses_looked_at(self, tmp_path, given, shared, stop_gradient):
        (tmp_path / "log.jsonl").write_text("")
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"objective": given}))
        for config in (read_config(tmp_path), load_config(path)):
            objective = config.objective
            assert objective.splitting.shared is shared
            assert objective.equivariance.stop_gradient == stop_gradient
            if isinstance(given.get("splitting"), float):
                assert (objective.splitting.weight, objective.equivariance.weight) == (0.5, 0.3)

    def test_what_did_not_apply_is_an_error_now(self):
        with pytest.raises(UserError, match=r"strength.*gradient"):
            parse({"model": {"step": "gradient", "strength": 0.3}}, "c")
        saved = {"model": {"step": "gradient", "strength": 0.3}}
        assert parse(saved, "c", is_saved=True).model.step.kind == "gradient"

    def test_a_new_name_on_the_command_line_wins_over_an_old_one_in_the_file(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("model: {strength: 0.3}\nobjective: {floor: 0.1, parts: 7}\n")
        overrides = ["model.step.strength=0.02", "objective.splitting.floor=0.5"]
        config = load_config(path, overrides)
        assert config.model.step.strength == 0.02
        assert config.objective.splitting.floor == 0.5
        assert config.objective.consistency.floor == 0.1
        assert config.objective.splitting.parts == 7

    def test_what_did_not_apply_is_told_with_the_file(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("model: {depth: 5}\n")
        with pytest.raises(UserError, match=r"c.yaml: model.depth=5 does not apply"):
            load_config(path)
        assert load_config(path, ["model.gradient=unrolled"]).model.gradient.steps == 5

    def test_overrides_by_the_old_name(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("objective: {splitting: {parts: 4, weight: 2}}\n")
        overrides = ["objective.parts=3", "model.strength=0.01", "model.step=admm"]
        config = load_config(path, overrides)
        assert (config.objective.splitting.parts, config.objective.splitting.weight) == (3, 2)
        assert (config.model.step.kind, config.model.step.strength) == ("admm", 0.01)


def test_a_path_is_looked_for_beside_the_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scans").mkdir()
    (tmp_path / "a" / "c.yaml").write_text("data: {path: scans}\n")
    config = load_config(tmp_path / "a" / "c.yaml")
    assert config.data.path == tmp_path / "a" / "scans"
    assert isinstance(config.folder, Path)


def test_a_name_that_no_folder_can_have_says_where_it_is_from(tmp_path):
    (tmp_path / "my run.yaml").write_text("data: {size: 16}\n")
    with pytest.raises(UserError, match=r"name: letters, digits.*got 'my run'.*set name="):
        load_config(tmp_path / "my run.yaml")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("030", "030"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("1:50:5", "1:50:5"),
        ("0", 0),
        ("30", 30),
        ("-3", -3),
        ("1e-4", 1e-4),
        ("2E+3", 2e3),
        ("'1e-4'", "1e-4"),
        ("1e5x", "1e5x"),
        ("0x10", 16),
        ("1_000", 1000),
        ("true", True),
        ("null", None),
    ],
)
def test_what_stands_in_yaml_is_what_it_looks_like(text, means):
    found = read_yaml(f"a: {text}")["a"]
    assert found == means
    assert type(found) is type(means)


def test_names_and_numbers_may_begin_with_zeros():
    config = parse({"name": read_yaml("007"), "data": {"path": read_yaml("010")}}, "test")
    assert (config.name, str(config.data.path)) == ("007", "010")
    config = parse(read_yaml("{physics: {kind: parallel_beam, angles: 030}}"), "test")
    assert config.physics.angles == 30
    assert not parse(read_yaml("objective: {exact: off}"), "test").objective.exact
    assert read_yaml_parts(yaml.safe_dump({"name": "010"})) == [{"name": "010"}]
    size = parse(read_yaml("{data: {size: [032, 016]}}"), "test").data.size
    assert size == (32, 16)


@pytest.mark.parametrize("name", ["1e3", "1.50", "010", "12", "true", "off", "null", "2024-01-01"])
def test_names_that_look_like_something_else_come_back(name):
    """A run is called as it was called, also when its configuration is read again."""
    config = parse({"name": name, "data": {"path": name, "holdout": [name]}}, "test")
    assert parse(read_yaml(dump(config)), "test") == config
    assert read_yaml(write_yaml(name, one_line=True)) == name


def test_a_number_where_a_name_is_wanted_says_what_to_do():
    with pytest.raises(UserError, match=r"name: was read as the number 1000\.0; put quotes"):
        parse(read_yaml("name: 1e3"), "test")
    with pytest.raises(UserError, match=r"data\.path: was read as the number 1\.5; put quotes"):
        parse(read_yaml("data: {path: 1.5}"), "test")
