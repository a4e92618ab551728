"""The settings that are chosen for a run if none are given, and the settings that are refused."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.data import ImageSet
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError, MissingError
from vpfb_core.methods.vpfb.method import CONTRAST
from vpfb_core.names import METHODS
from vpfb_core.training import presets

CPU = torch.device("cpu")
TRAINING_PAGE = Path(vpfb.__file__).parents[1] / "docs" / "training.md"


@pytest.fixture(autouse=True)
def any_gpu_is_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))


def chosen(images: ImageSet, device: torch.device = CPU, **settings: Any) -> dict[str, Any]:
    """What a run on these images will do: path of a setting → value."""
    return presets.resolve(vpfb.TrainConfig(data="x", **settings), images, device).flat()


def image_set(size: int, channels: int = 1, flips: bool = False) -> ImageSet:
    return ImageSet("x", torch.zeros(4, channels, size, size, dtype=torch.uint8), flips=flips)


@pytest.mark.parametrize(("size", "preset"), [(8, "tiny"), (16, "tiny"), (28, "small"), (32, "small")])
def test_the_preset_follows_the_size_of_the_images(size: int, preset: str) -> None:
    assert chosen(image_set(size))["run.preset"] == preset


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_a_network_that_answers_in_the_shape_of_its_input_or_says_that_it_does_not(
    name: str,
) -> None:
    data = vpfb.data.load("moons", limit=20) if name == "mlp" else image_set(32, channels=3)
    config = presets.resolve(vpfb.TrainConfig(data="x", preset=name), data, CPU)
    network = vpfb.networks.build(presets.network_description(config, data))
    u = torch.randn(1, *data.shape)
    with torch.no_grad():
        assert network(u, torch.ones(1)).shape == ((1,) if network.scalar else u.shape)


@pytest.mark.parametrize(("size", "preset"), [(16, "tiny"), (28, "base"), (32, "base"), (64, "celeba64")])
def test_on_a_gpu_the_preset_is_larger(size: int, preset: str) -> None:
    assert presets.choose_preset((3, size, size), torch.device("cuda")) == preset


@pytest.mark.parametrize(("size", "attended"), [(16, (16,)), (28, (14,)), (32, (16,)), (64, (16,))])
def test_attention_is_at_the_largest_map_of_at_most_16_pixels(size: int, attended: tuple[int, ...]) -> None:
    assert chosen(image_set(size), preset="base")["network.attention"] == attended


def test_the_unet_has_a_position_embedding_and_the_angles_follow_the_size() -> None:
    few, many = (chosen(image_set(size)) for size in (8, 28))
    assert few["network.position_embedding"] and many["network.position_embedding"]
    assert (few["method.angle_mean"], few["method.angle_std"], few["method.uniform_angles"]) == (0.45, 1.2, 0.1)
    assert many["method.angle_mean"] == pytest.approx(0.45 - math.log(28 / 8))
    other = chosen(image_set(28), network="paper-unet", angle_mean=0.7)
    assert "network.position_embedding" not in other
    assert other["method.angle_mean"] == 0.7


def test_the_small_preset_sees_patches_and_attention_follows_them() -> None:
    def sees(**settings: Any) -> tuple[int, tuple[int, ...]]:
        found = chosen(image_set(28), **settings)
        return found["network.patch"], found["network.attention"]

    assert sees(preset="base") == (1, (14,))
    assert sees(preset="base", patch=2) == (2, (14,))
    assert sees()[0] == 2
    assert "network.patch" not in chosen(image_set(28), preset="small", network="paper-unet")


def test_best_weights_are_kept_on_tables_where_the_validation_figure_judges_all_that_is_trained() -> None:
    points = vpfb.data.load("moons", limit=50)

    def kept(**settings: Any) -> bool:
        found = presets.resolve(vpfb.TrainConfig(data="moons", **settings), points, CPU)
        return bool(found.optimiser.keep_best)

    assert kept()
    assert not kept(method="energy-matching"), "the residual does not see the well of the second phase"
    assert kept(method="energy-matching", keep_best=True), "whoever asks for it gets it"
    assert not kept(keep_best=False)


@pytest.mark.parametrize("length", [{"steps": 1_000}, {"time_budget": 60.0}])
def test_the_learning_rate_of_energy_matching_falls_within_its_second_phase(length: dict[str, Any]) -> None:
    found = chosen(image_set(8), method="energy-matching", **length)
    assert 0 < found["optimiser.decay"] < found["method.contrast_share"]
    assert chosen(image_set(8), **length)["optimiser.decay"] == 0.5
    assert chosen(image_set(8), method="energy-matching", decay=0.3, **length)["optimiser.decay"] == 0.3


def with_classes() -> ImageSet:
    groups = (ConditionGroup("class", ("a", "b")),)
    return dataclasses.replace(image_set(8), labels=torch.zeros(4, 1, dtype=torch.int64), groups=groups)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({}, CONTRAST), ({"contrast": 0.5}, 0.5), ({"objective": "official"}, 0.0)],
)
def test_conditions_are_contrasted_but_for_the_authors_loss(settings: dict[str, Any], weight: float) -> None:
    assert chosen(with_classes(), **settings)["method.contrast"] == weight
    assert chosen(image_set(8))["method.contrast"] == 0


@pytest.mark.parametrize(("groups", "settings"), [(False, {}), (True, {"decay": 0.0})])
def test_a_contrast_that_would_never_set_in_is_an_error(groups: bool, settings: dict[str, Any]) -> None:
    images = with_classes() if groups else image_set(8)
    assert chosen(images, **settings)["method.contrast"] == 0
    with pytest.raises(ConfigError, match="contrast"):
        chosen(images, contrast=0.1, **settings)


@pytest.mark.skipif(not TRAINING_PAGE.exists(), reason="the documents are not installed with the package")
@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("tiny", 16, 1), ("small", 28, 1), ("base", 32, 3), ("celeba64", 64, 3), ("paper", 32, 3)],
)
def test_the_presets_have_the_sizes_and_batch_sizes_of_the_training_page(name: str, size: int, channels: int) -> None:
    row = re.search(rf"^\| `{name}` \|.*?([\d.]+) M parameters.*\| (\d+) \|$", TRAINING_PAGE.read_text("utf-8"), re.M)
    assert row
    images = image_set(size, channels)
    config = presets.resolve(vpfb.TrainConfig(data="x", preset=name), images, CPU)
    with torch.device("meta"):
        network = vpfb.networks.build(presets.network_description(config, images))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(float(row[1]), rel=0.05)
    assert config.optimiser.batch_size == int(row[2])


def test_on_a_cpu_an_unbounded_run_ends_after_a_quarter_of_an_hour_at_most() -> None:
    def length(**settings: Any) -> tuple[float | None, int | None]:
        found = chosen(image_set(8), **settings)
        return found["optimiser.time_budget"], found["optimiser.steps"]

    assert length() == (900, presets.PRESETS["tiny"]["steps"])
    assert length(steps=5) == (None, 5)
    assert length(time_budget="5m") == (300, None)


@pytest.mark.parametrize(("groups", "dropout"), [(1, 0.1), (4, 0.5)])
def test_several_groups_of_conditions_are_dropped_so_that_one_class_is_often_seen_alone(
    groups: int, dropout: float
) -> None:
    names = tuple(ConditionGroup(f"group {i}", (f"a{i}", f"b{i}")) for i in range(groups))
    images = dataclasses.replace(image_set(8), groups=names, labels=torch.zeros(4, groups, dtype=torch.int64))
    for method in set(METHODS) - {"latent"}:  # which trains without classes
        assert chosen(images, method=method)["method.condition_dropout"] == dropout
        assert chosen(images, method=method, condition_dropout=0.0)["method.condition_dropout"] == 0.0


@pytest.mark.parametrize(
    ("settings", "device", "compiled"),
    [
        ({"steps": 10**6}, "cuda", "on"),
        ({"time_budget": "2h"}, "cuda", "on"),
        ({"steps": 10**6, "method": "flow-matching"}, "cuda", "on"),
        ({"steps": 10**6}, "cpu", "on"),
        ({"time_budget": "30m"}, "cpu", "on"),
        ({}, "cpu", "off"),
        ({"steps": 10**6}, "mps", "off"),
        ({"steps": 100}, "cuda", "off"),
        ({"time_budget": "5m"}, "cuda", "off"),
        ({"steps": 10**6, "objective": "official"}, "cuda", "off"),
        ({"steps": 100, "compile": "on"}, "cuda", "on"),
        ({"steps": 10**6, "compile": "off"}, "cuda", "off"),
        ({"steps": 10**6, "method": "energy-matching"}, "cuda", "off"),
        ({"steps": 100, "method": "energy-matching", "compile": "on"}, "cuda", "on"),
    ],
)
def test_long_runs_are_compiled(
    settings: dict[str, Any], device: str, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "compiler_fault", lambda _device: None)
    assert chosen(image_set(8), torch.device(device), precision="fp32", **settings)["machine.compile"] == compiled


@pytest.mark.parametrize(
    ("settings", "what"), [({"method": "latent"}, "method latent"), ({"objective": "official"}, "objective official")]
)
def test_a_step_of_which_nothing_is_compiled_is_not_said_to_be(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"the training step of the {what} cannot be compiled") as caught:
        chosen(image_set(8), compile="on", **settings)
    assert caught.value.hint == "use `compile=off`"
    assert chosen(image_set(8), steps=10**6, **settings)["machine.compile"] == "off"


def test_a_step_is_compiled_only_where_the_compiler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    torch.compiler.reset()
    assert chosen(image_set(8), time_budget="2h")["machine.compile"] == "off"
    with pytest.raises(MissingError, match=r"cannot be compiled: .*no-such-compiler"):
        chosen(image_set(8), compile="on")


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_float32(
    native: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch is asked about the device of the run, which need not be the current one."""
    capabilities = {0: (7, 5) if native else (8, 0), 1: (8, 0) if native else (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    assert chosen(image_set(8), torch.device("cuda:1"), compile="off")["machine.precision"] == precision


@pytest.mark.parametrize(
    ("preset", "method", "algorithm"),
    [
        ("tiny", "vpfb", "muon"),
        ("small", "vpfb", "muon"),
        ("small", "flow-matching", "muon"),
        ("small", "energy-matching", "adam"),
        ("small", "latent", "adam"),
        ("base", "vpfb", "adam"),
    ],
)
def test_preset_and_method_choose_the_optimiser(preset: str, method: str, algorithm: str) -> None:
    found = chosen(image_set(32), preset=preset, method=method)
    assert found["optimiser.algorithm"] == algorithm
    other = {"adam": "muon", "muon": "adam"}[algorithm]
    asked = chosen(image_set(32), preset=preset, method=method, algorithm=other)
    assert asked["optimiser.algorithm"] == other


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16"), (False, "fp32"), (None, "fp32")])
def test_a_cpu_trains_in_bf16_if_it_has_units_for_it(
    amx: bool | None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {"avx512_bf16": True} | ({} if amx is None else {"amx_bf16": amx})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert chosen(image_set(8))["machine.precision"] == precision
    assert chosen(image_set(8), precision="fp32")["machine.precision"] == "fp32"


@pytest.mark.parametrize(
    ("settings", "device", "at_once"),
    [
        ({"preset": "tiny"}, "cpu", 32),
        ({"preset": "tiny", "micro_batch": 5}, "cpu", 5),
        ({"preset": "tiny", "micro_batch": 500}, "cpu", 32),
        ({"preset": "base"}, "cpu", presets.CPU_MICRO_BATCH["base"]),
        ({"preset": "base", "objective": "official"}, "cpu", 128),
        ({"preset": "base"}, "cuda", 128),
    ],
)
def test_a_batch_is_computed_at_once_except_by_large_networks_on_a_cpu(
    settings: dict[str, Any], device: str, at_once: int
) -> None:
    found = chosen(image_set(32), torch.device(device), precision="fp32", **settings)
    assert found["machine.micro_batch"] == at_once


def test_given_settings_override_the_preset() -> None:
    found = chosen(image_set(8), preset="tiny", lr=5e-5, widths=[16])
    assert (found["optimiser.lr"], found["network.widths"], found["network.blocks"]) == (5e-5, (16,), 1)


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"objective": "official", "schedule": "vp"}, 8, "ot only"),
        ({"widths": [8, 8, 8, 8]}, 4, "halved 3 times"),
        ({"network": "paper-unet", "position_embedding": True}, 28, "paper-unet has no setting 'position_embedding'"),
        ({"network": "paper-unet", "patch": 2}, 28, "paper-unet has no setting 'patch'"),
        ({"network": "paper-unet", "prototypes": True}, 28, "paper-unet has no setting 'prototypes'"),
        ({"prototypes": True}, 28, "prototypes need classes, and this run has none"),
        ({"widths": (8, 8, 8), "patch": 4}, 12, "3x3 patches of 4x4 pixels cannot be halved 2 times"),
        ({"attention": [16]}, 28, r"attention at \[16\], but the feature maps have sizes \[14, 7, 4\]"),
        ({"augment": "flip"}, 8, "a mirrored image of"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings: dict[str, Any], size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen(image_set(size), **settings)
