"""Settings: their types, limits, names and precedence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpfb_core import names
from vpfb_core.config import TrainConfig, merge_levels, parse_duration, parse_setting, read_file, to_toml
from vpfb_core.errors import ConfigError


def test_a_configuration_comes_back_from_toml_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(
        data='odd "name"\\ü', widths=[32, 64], attention=[], time_budget="1h30m", lr=3, conditional=True
    )
    (tmp_path / "config.toml").write_text(to_toml(config.to_dict()), "utf-8")
    assert TrainConfig(**read_file(tmp_path / "config.toml")) == config


@given(st.text())
def test_any_data_name_survives_toml(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_text(to_toml({"data": {"source": name}}), "utf-8", newline="")
    assert read_file(path)["data.source"] == name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": "fast"}, "lr = 'fast': expected a number"),
        ({"size": 3.5}, "expected a whole number"),
        ({"size": float("nan")}, "expected a whole number"),
        ({"lr": float("nan")}, "out of range"),
        ({"lr": -1}, "out of range"),
        ({"batch_size": 0}, "out of range"),
        ({"steps": True}, "expected a whole number"),
        ({"channels": 2}, "channels = 2 is not possible"),
        ({"preset": "tinny"}, "unknown preset 'tinny'"),
        ({"conditional": 1}, "true or false"),
        ({"widths": [32, "64"]}, "list of positive whole numbers"),
        ({"widths": 3}, "list of positive whole numbers"),
        ({"network": "paper-unet", "widths": [-1]}, "list of positive whole numbers"),
        ({"blocks": 0}, "out of range"),
        ({"time_budget": "soon"}, "time_budget: 'soon' is not a duration"),
        ({"time_budget": "0"}, "out of range"),
        ({"data": None}, "data = None: expected a word"),
        ({"seed": None}, "seed = None: expected a whole number"),
        ({"data": "a\0b"}, "data = .*: expected UTF-8 text"),
        ({"data": "caf\udce9"}, "data = .*: expected UTF-8 text, as settings are saved"),
        ({"match": ["mask:caf\udce9.png"]}, "match = .*: expected UTF-8 text"),
        ({"method": None}, "method = None: expected a word"),
        ({"method": {"name": None}}, "method = None: expected a word"),
        ({"method": 3}, "method = 3: expected a word"),
        ({"network": ["unet"]}, r"network = \['unet'\]: expected a word"),
        ({"optimiser": None}, "optimiser = None: expected a section of settings"),
        ({"run": 3}, "run = 3: expected a section of settings"),
    ],
)
def test_a_wrong_value_is_refused_with_the_expected_type(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**settings)


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(batchsize=3)
    assert error.value.hint == "did you mean 'batch_size'?"
    (tmp_path / "c.toml").write_text("stepz = 3")
    with pytest.raises(ConfigError, match=r"unknown setting 'stepz' in .*c\.toml"):
        read_file(tmp_path / "c.toml")
    with pytest.raises(ConfigError) as error:
        TrainConfig(schedule="of")
    assert "ot" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            {"optimizer": {"lr": 1e-3}},
            "unknown section 'optimizer'",
            "did you mean 'optimiser'? sections: data, network",
        ),
        ({"optimizer.lr": 1e-3}, "unknown section 'optimizer'", "did you mean 'optimiser'?"),
        ({"training": {"lr": 1e-3}}, "unknown section 'training'", "sections: data, network, method, optimiser"),
        ({"optimiser": {"warmupp": 3}}, "unknown setting 'optimiser.warmupp'", "did you mean 'optimiser.warmup'?"),
        ({"run": {"lr": 1e-3}}, "unknown setting 'run.lr'", "did you mean 'optimiser.lr'?"),
        ({"run.xyz": 1}, "unknown setting 'run.xyz'", "settings of run: preset, seed"),
    ],
)
def test_an_unknown_section_and_a_setting_of_another_section_bring_the_nearest(
    settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**settings)
    assert error.value.message == message
    assert (error.value.hint or "").startswith(hint)


def test_limits_are_written_as_people_write_numbers() -> None:
    for settings, limits in (({"steps": 0}, "between 1 and 1,000,000,000,000"), ({"lr": 0}, "between 1e-12 and 10")):
        with pytest.raises(ConfigError) as error:
            TrainConfig(**settings)
        assert error.value.hint == f"use a value {limits}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lr=5e-4", ("lr", 5e-4)), ("widths=[8, 16]", ("widths", [8, 16])), ("augment=none", ("augment", "none")),
     ("time_budget=10m", ("time_budget", "10m")), ("data=a=b", ("data", "a=b"))],
)  # fmt: skip
def test_a_setting_is_read_as_toml_or_as_a_word(text: str, expected: tuple[str, Any]) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("content", ["= 3", "\x00", "[lr]\nx=1"])
def test_a_file_that_is_not_a_configuration_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(content)
    with pytest.raises(ConfigError):
        TrainConfig(**read_file(tmp_path / "c.toml"))
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path / "absent.toml")


def test_a_setting_of_an_earlier_version_that_changed_no_result_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("checkpoint_activations = true\nsteps = 3\n")
    assert read_file(tmp_path / "c.toml") == {"optimiser.steps": 3}


def test_a_higher_level_overrides_and_a_length_replaces_the_other_kind_of_length() -> None:
    merged = merge_levels([{"lr": 1, "steps": 10}, {"lr": 2, "time_budget": "5m"}, {"lr": None, "seed": 3}])
    assert merged == {"optimiser.lr": 2, "optimiser.time_budget": "5m", "run.seed": 3}


def test_a_setting_has_one_value_by_its_name_its_path_and_its_section(tmp_path: Path) -> None:
    flat = TrainConfig(data="x", lr=0.1, seed=3, method="flow-matching", schedule="vp", network="mlp")
    by_path = {
        "data.source": "x", "optimiser.lr": 0.1, "run.seed": 3, "method.name": "flow-matching",
        "method.schedule": "vp", "network.name": "mlp",
    }  # fmt: skip
    nested = {
        "data": {"source": "x"}, "optimiser": {"lr": 0.1}, "run": {"seed": 3}, "network": {"name": "mlp"},
        "method": {"name": "flow-matching", "schedule": "vp"},
    }  # fmt: skip
    assert flat == TrainConfig(**by_path) == TrainConfig(**nested)
    (tmp_path / "flat.toml").write_text('data = "x"\nlr = 0.1\nseed = 3\nmethod = "flow-matching"\n')
    (tmp_path / "nested.toml").write_text(to_toml(nested))
    assert read_file(tmp_path / "nested.toml") == by_path
    assert read_file(tmp_path / "flat.toml").items() <= by_path.items()


def test_a_setting_of_another_method_is_refused_with_the_settings_that_exist() -> None:
    with pytest.raises(ConfigError, match="the method flow-matching has no setting 'contrast'") as error:
        TrainConfig(method="flow-matching", contrast=0.1)
    assert "schedule" in (error.value.hint or "")
    with pytest.raises(ConfigError, match="unknown method 'flow-machine'") as error:
        TrainConfig(method="flow-machine")
    assert error.value.hint == f"did you mean 'flow-matching'? methods: {', '.join(names.METHODS)}"


def test_another_method_keeps_the_settings_that_it_has() -> None:
    config = TrainConfig(schedule="vp", contrast=0.5, lr=0.1).replace(method="flow-matching")
    assert config == TrainConfig(method="flow-matching", schedule="vp", lr=0.1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), (" 2M ", 120), ("1h2m3s", 3723), (7, 7)],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
