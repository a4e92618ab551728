"""The parts of training: the average, the rate, the log, the presets."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.data import ImageSet
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError
from vpfb_core.methods.vpfb.method import CONTRAST
from vpfb_core.training import ema, log, presets

CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_average_has_the_profile_of_the_paper(width: float) -> None:
    """Karras et al. 2024: weights t^γ over the run, whose standard deviation relative to its length is `width`."""
    exponent, steps = ema.power_exponent(width), 2000
    average = [torch.zeros(steps, dtype=torch.float64)]
    for step in range(1, steps + 1):
        one_hot = torch.zeros(steps, dtype=torch.float64)
        one_hot[step - 1] = 1
        ema.update(average, [one_hot], step, exponent)
    weights, times = average[0].numpy(), np.arange(1, steps + 1) / steps
    assert weights.sum() == pytest.approx(1)
    mean = (weights * times).sum()
    assert math.sqrt((weights * (times - mean) ** 2).sum()) == pytest.approx(width, rel=0.02)


def test_the_log_is_cut_back_to_the_step_a_run_resumes_at(tmp_path: Path) -> None:
    path, names = tmp_path / "log.csv", log.columns(["val_residual", "val_energy"])
    log.cut(path, names, 0)
    figures = dict.fromkeys(names, 1.0)
    for step in (1, 5, 9):
        log.append(path, names, figures | {"step": step, "loss": math.nan})
    with path.open("a") as file:
        file.write("10,half a li")
    log.cut(path, names, 5)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("step,seconds,loss,val_residual,val_energy,sample_accuracy")
    assert [line.split(",")[:4] for line in lines[1:]] == [["1", "1", "", "1"], ["5", "1", "", "1"]]


def image_set(size: int, channels: int = 1, flips: bool = False) -> ImageSet:
    return ImageSet("x", torch.zeros(4, channels, size, size, dtype=torch.uint8), flips=flips)


@pytest.mark.parametrize(("size", "preset"), [(8, "tiny"), (16, "tiny"), (28, "small"), (32, "small")])
def test_the_preset_follows_the_size_of_the_images(size: int, preset: str) -> None:
    assert presets.resolve(vpfb.TrainConfig(data="x"), image_set(size), CPU).preset == preset


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_and_answers_in_the_shape_of_its_input(name: str) -> None:
    images = image_set(32, channels=3)
    config = presets.resolve(vpfb.TrainConfig(data="x", preset=name), images, CPU)
    network = vpfb.networks.build(presets.network_description(config, images))
    u = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert network(u, torch.ones(1)).shape == u.shape


@pytest.mark.parametrize(("size", "preset"), [(16, "tiny"), (28, "base"), (32, "base"), (64, "celeba64")])
def test_on_a_gpu_the_preset_is_larger(size: int, preset: str) -> None:
    assert presets.choose_preset(size, torch.device("cuda")) == preset


@pytest.mark.parametrize(("size", "attended"), [(16, (16,)), (28, (14,)), (32, (16,)), (64, (16,))])
def test_attention_is_at_the_largest_map_of_at_most_16_pixels(size: int, attended: tuple[int, ...]) -> None:
    assert presets.resolve(vpfb.TrainConfig(data="x", preset="base"), image_set(size), CPU).attention == attended


def test_the_unet_knows_places_and_the_angles_follow_the_size() -> None:
    few, many = (presets.resolve(vpfb.TrainConfig(data="x"), image_set(size), CPU) for size in (8, 28))
    assert few.position_embedding and many.position_embedding
    assert (few.angle_mean, few.angle_std) == (1.0, 1.2)
    assert many.angle_mean is not None and many.angle_mean < 0.5
    other = presets.resolve(vpfb.TrainConfig(data="x", network="paper-unet", angle_mean=0.7), image_set(28), CPU)
    assert other.position_embedding is False
    assert other.angle_mean == 0.7


def test_the_small_preset_sees_patches_and_attention_follows_them() -> None:
    whole, patched = (
        presets.resolve(vpfb.TrainConfig(data="x", preset=name, patch=patch), image_set(28), CPU)
        for name, patch in (("base", None), ("base", 2))
    )
    assert (whole.patch, whole.attention) == (1, (14,))
    assert (patched.patch, patched.attention) == (2, (14,))
    assert presets.resolve(vpfb.TrainConfig(data="x"), image_set(28), CPU).patch == 2
    paper = vpfb.TrainConfig(data="x", preset="small", network="paper-unet")
    assert presets.resolve(paper, image_set(28), CPU).patch == 1


def with_classes() -> ImageSet:
    groups = (ConditionGroup("class", ("a", "b")),)
    return dataclasses.replace(image_set(8), labels=torch.zeros(4, 1, dtype=torch.int64), groups=groups)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({}, CONTRAST), ({"contrast": 0.5}, 0.5), ({"objective": "official"}, 0.0)],
)
def test_conditions_are_contrasted_but_for_the_authors_loss(settings: dict[str, Any], weight: float) -> None:
    assert presets.resolve(vpfb.TrainConfig(data="x", **settings), with_classes(), CPU).contrast == weight
    assert presets.resolve(vpfb.TrainConfig(data="x"), image_set(8), CPU).contrast == 0


@pytest.mark.parametrize(("groups", "settings"), [(False, {}), (True, {"decay": 0.0})])
def test_a_contrast_that_would_never_set_in_is_an_error(groups: bool, settings: dict[str, Any]) -> None:
    images = with_classes() if groups else image_set(8)
    assert presets.resolve(vpfb.TrainConfig(data="x", **settings), images, CPU).contrast == 0
    with pytest.raises(ConfigError, match="contrast"):
        presets.resolve(vpfb.TrainConfig(data="x", contrast=0.1, **settings), images, CPU)


def test_the_sizes_of_the_presets_are_what_they_are_said_to_be() -> None:
    def millions(name: str, size: int, channels: int) -> float:
        images = image_set(size, channels)
        config = presets.resolve(vpfb.TrainConfig(data="x", preset=name), images, CPU)
        network = vpfb.networks.build(presets.network_description(config, images))
        return sum(parameter.numel() for parameter in network.parameters()) / 1e6

    assert millions("tiny", 16, 1) < 0.5
    assert 0.5 < millions("small", 28, 1) < 2
    assert 10 < millions("base", 32, 3) < 15


def test_on_a_cpu_an_unbounded_run_ends_after_a_quarter_of_an_hour_at_most() -> None:
    resolved = presets.resolve(vpfb.TrainConfig(data="x"), image_set(8), CPU)
    assert (resolved.time_budget, resolved.steps) == (900, presets.PRESETS["tiny"]["steps"])
    asked = presets.resolve(vpfb.TrainConfig(data="x", steps=5), image_set(8), CPU)
    assert (asked.time_budget, asked.steps) == (None, 5)


@pytest.mark.parametrize(("groups", "dropout"), [(1, 0.1), (4, 0.5)])
def test_several_groups_of_conditions_are_dropped_so_that_one_class_is_often_seen_alone(
    groups: int, dropout: float
) -> None:
    names = tuple(ConditionGroup(f"group {i}", (f"a{i}", f"b{i}")) for i in range(groups))
    images = dataclasses.replace(image_set(8), groups=names, labels=torch.zeros(4, groups, dtype=torch.int64))
    assert presets.resolve(vpfb.TrainConfig(data="x"), images, CPU).condition_dropout == dropout
    assert presets.resolve(vpfb.TrainConfig(data="x", condition_dropout=0.0), images, CPU).condition_dropout == 0.0


@pytest.mark.parametrize(
    ("settings", "device", "compiled"),
    [
        ({"steps": 10**6}, "cuda", "on"),
        ({"time_budget": "2h"}, "cuda", "on"),
        ({"steps": 10**6, "method": "flow-matching"}, "cuda", "on"),
        ({"steps": 10**6}, "cpu", "off"),
        ({"steps": 100}, "cuda", "off"),
        ({"time_budget": "5m"}, "cuda", "off"),
        ({"steps": 10**6, "objective": "official"}, "cuda", "off"),
        ({"steps": 100, "compile": "on"}, "cuda", "on"),
        ({"steps": 10**6, "compile": "off"}, "cuda", "off"),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(
    settings: dict[str, Any], device: str, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "find_spec", lambda _name: object())
    monkeypatch.setattr(presets.shutil, "which", lambda name: name)
    asked = vpfb.TrainConfig(data="x", precision="fp32", **settings)
    assert presets.resolve(asked, image_set(8), torch.device(device)).compile == compiled


def test_what_was_asked_for_stands_above_the_preset() -> None:
    resolved = presets.resolve(vpfb.TrainConfig(data="x", preset="tiny", lr=5e-5, widths=[16]), image_set(8), CPU)
    assert (resolved.lr, resolved.widths, resolved.blocks) == (5e-5, (16,), presets.COMMON["blocks"])


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"objective": "official", "schedule": "vp"}, 8, "ot only"),
        ({"widths": [8, 8, 8, 8]}, 4, "halved 3 times"),
        ({"network": "paper-unet", "position_embedding": True}, 28, "paper-unet has no position embedding"),
        ({"network": "paper-unet", "patch": 2}, 28, "paper-unet takes no patches"),
        ({"network": "paper-unet", "prototypes": True}, 28, "paper-unet has no prototypes"),
        ({"prototypes": True}, 28, "prototypes are of classes, and this run has none"),
        ({"widths": (8, 8, 8), "patch": 4}, 12, "3×3 patches of 4×4 pixels cannot be halved 2 times"),
        ({"attention": [16]}, 28, r"attention at \[16\], but the levels have \[14, 7, 4\]"),
        ({"augment": "flip"}, 8, "not themselves when flipped"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings: dict[str, Any], size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        presets.resolve(vpfb.TrainConfig(data="x", **settings), image_set(size), CPU)
