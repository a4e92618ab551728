"""Statistics of images and rows against numpy, and the gap table against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import vpfb_model
from PIL import Image
from problems import ExactNetwork, ring
from scipy import stats

from vpfb_core import data
from vpfb_core.api import Model
from vpfb_core.data import InMemory
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses.measuring.gaps import gaps
from vpfb_core.uses.measuring.measures import Measures

GROUPS = ("brightness", "channels", "regions", "contrast", "histogram", "edges")


def of_colour(shape: tuple[int, ...] = (3, 5, 6)) -> Model:
    """A model of images of this shape, whose network is not used."""
    potential = Potential(ExactNetwork(ring()), OT())
    return vpfb_model(potential, statistics=ImageStatistics((0.5,) * shape[0], 0.25), shape=shape)


def colours(n: int = 7, shape: tuple[int, ...] = (3, 5, 6)) -> np.ndarray:
    return np.random.default_rng(0).random((n, *shape)).astype(np.float32)


def test_statistics_of_images_are_those_of_numpy() -> None:
    images = colours()
    measures = Measures.of(of_colour())
    found = dict(zip(measures.columns, measures.measure(torch.from_numpy(images), batch_size=3).T.numpy(), strict=True))
    down, across = np.diff(images, axis=2), np.diff(images, axis=3)
    grey = images.reshape(7, -1)
    expected = {
        "brightness": grey.mean(1), "red": images[:, 0].mean((1, 2)), "green": images[:, 1].mean((1, 2)),
        "blue": images[:, 2].mean((1, 2)), "top": images[:, :, :2].mean((1, 2, 3)),
        "bottom": images[:, :, 3:].mean((1, 2, 3)), "left": images[..., :3].mean((1, 2, 3)),
        "right": images[..., 3:].mean((1, 2, 3)), "centre": images[:, :, 1:4, 1:5].mean((1, 2, 3)),
        "contrast": grey.std(1), "edges": ((down**2).mean((1, 2, 3)) + (across**2).mean((1, 2, 3))) / 2,
    }  # fmt: skip
    for centre in (0, 0.25, 0.5, 0.75, 1):
        expected[f"histogram:{centre:g}"] = np.exp(-0.5 * ((grey - centre) / 0.12) ** 2).mean(1)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_uint8_and_float_images_have_the_same_statistics() -> None:
    images = (torch.from_numpy(colours()) * 255).round()
    measures = Measures.of(of_colour())
    of_bytes = measures.measure(images.to(torch.uint8))
    torch.testing.assert_close(of_bytes, measures.measure(images / 255), rtol=1e-6, atol=0)


def test_a_linear_statistic_is_the_sum_of_its_template_times_the_values() -> None:
    images, measures = torch.from_numpy(colours()), Measures.of(of_colour())
    templates = measures.templates()
    assert set(templates) == {"brightness", "red", "green", "blue", "top", "bottom", "left", "right", "centre"}
    found = measures.measure(images)
    for name, template in templates.items():
        sums = np.tensordot(images.double().numpy(), template.numpy(), axes=3)
        np.testing.assert_allclose(found[:, measures.columns.index(name)], sums, rtol=1e-12)


def test_names_are_of_columns_or_of_groups_in_the_order_that_was_asked_for() -> None:
    model = of_colour()
    assert Measures.of(model, ["edges", "channels", "red"]).columns == ("edges", "red", "green", "blue")
    images = torch.from_numpy(colours())
    both = Measures.of(model, ["contrast", "brightness"]).measure(images)
    assert torch.equal(both[:, [1]], Measures.of(model, ["brightness"]).measure(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brightnes", "did you mean 'brightness'"),
        ("histogramm:1", "did you mean 'histogram"),
        ("qqqq", "brightness, channels (red, green, blue)"),
        ("classes", "needs a conditional model"),
    ],
)
def test_an_unknown_statistic_is_refused_with_the_names_that_exist(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Measures.of(of_colour(), [name])
    assert words in f"{refusal.value.message} {refusal.value.hint}"


def test_grey_images_have_no_channels() -> None:
    with pytest.raises(ConfigError, match="unknown statistic 'red'"):
        Measures.of(of_colour((1, 8, 8)), ["red"])


def test_the_brightness_in_a_mask_is_the_mean_of_its_white_pixels(tmp_path: Path) -> None:
    inside = np.random.default_rng(2).random((5, 6)) < 0.4
    Image.fromarray(255 * inside.astype(np.uint8)).save(tmp_path / "mask.png")
    name, images = f"brightness:{tmp_path}/mask.png", colours()
    measures = Measures.of(of_colour(), ["contrast", name])
    found = measures.measure(torch.from_numpy(images))
    np.testing.assert_allclose(found[:, 1], images[:, :, inside].mean((1, 2)), rtol=1e-6)
    assert measures.columns == ("contrast", name)
    assert set(measures.templates()) == {name}
    assert measures.limits()[1].tolist() == [1, 1]


def test_grey_levels_and_colours_of_a_mask_are_weights(tmp_path: Path) -> None:
    levels = np.random.default_rng(3).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "template.png")
    found = Measures.of(of_colour(), [f"brightness:{tmp_path}/template.png"]).measure(torch.from_numpy(colours()))
    expected = np.average(colours().reshape(7, -1), axis=1, weights=levels.transpose(2, 0, 1).ravel())
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "level", "words"),
    [((6, 6), 255, "has 6x6 pixels, but the images of the model have 6x5"), ((6, 5), 0, "is black everywhere")],
)
def test_a_mask_of_another_size_or_without_white_is_refused(
    tmp_path: Path, size: tuple[int, int], level: int, words: str
) -> None:
    Image.new("L", size, level).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=words):
        Measures.of(of_colour(), [f"brightness:{tmp_path}/mask.png"])


def test_a_mask_that_does_not_exist_is_named() -> None:
    with pytest.raises(DataError, match=r"no image .absent\.png"):
        Measures.of(of_colour(), ["brightness:absent.png"])


def test_classes_are_those_that_the_densities_of_the_model_tell(digits: tuple[Model, InMemory]) -> None:
    model, held_out = digits
    measures = Measures.of(model, ["classes"])
    assert measures.columns == tuple(f"class:{digit}" for digit in range(10))
    shares = measures.measure(held_out.images)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    labels = data.load("digits", conditional=True).labels
    assert labels is not None
    pictures = data.load("digits").images
    rows = [int((pictures == image).flatten(1).all(1).nonzero()[0]) for image in held_out.images]
    assert (shares.argmax(1) == labels[rows, 0]).float().mean() > 0.95


def test_columns_of_a_table_have_means_and_spreads() -> None:
    rows = torch.tensor(np.random.default_rng(0).normal([2, -1], [3, 0.5], (50, 2)))
    statistics = TableStatistics.of(rows, ["age", "height"])
    model = vpfb_model(Potential(ExactNetwork(ring()), OT()), statistics=statistics, shape=(2,))
    measures = Measures.of(model)
    assert measures.columns == ("age", "height", "spread:age", "spread:height")
    expected = np.hstack([rows.numpy(), np.abs(rows.numpy() - rows.numpy().mean(0))])
    np.testing.assert_allclose(measures.measure(rows).numpy(), expected, rtol=1e-12)
    assert set(measures.templates()) == {"age", "height"}


def test_the_gap_in_standard_errors_is_welchs_statistic() -> None:
    draws = np.random.default_rng(1)
    samples, real = draws.normal([1, 0, 2], [2, 1, 0.1], (40, 3)), draws.normal([0, 0, 2], 1, (90, 3))
    found = gaps(["a", "b", "c"], torch.tensor(samples), torch.tensor(real))
    welch = stats.ttest_ind(samples, real, equal_var=False)
    np.testing.assert_allclose([gap.gap_se for gap in found], welch.statistic)
    np.testing.assert_allclose([gap.gap_sd for gap in found], (samples.mean(0) - real.mean(0)) / real.std(0, ddof=1))
    assert [gap.name for gap in found] == ["a", "b", "c"]


def test_a_statistic_that_does_not_vary_has_no_gap_in_deviations() -> None:
    (gap,) = gaps(["a"], torch.ones(5, 1, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64))
    assert (gap.real, gap.samples) == (0, 1)
    assert np.isnan(gap.gap_sd)
    assert np.isnan(gap.gap_se)
