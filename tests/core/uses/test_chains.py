"""Guidance, interpolation, long runs and inpainting of a model, from images to images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import vpfb_model
from torch import Tensor, nn

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.dynamics.per_sample import rms_distance
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential

SHAPE = (1, 2, 2)
CLASSES = (ConditionGroup("class", ("zero", "one")),)
STD = 0.1  # of the pixels: five deviations fit into [0, 1]


class Shifted(nn.Module):
    """The exact N of z ~ N(0, I) in class 0 and without a class, and z ~ N(1, I) in class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(1))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        total = u.flatten(1).sum(1) * torch.cos(angle) - 0.5 * u[0].numel() * torch.sin(angle) * torch.cos(angle)
        return self.shift * total * (0.0 if condition is None else condition[:, 0].clamp(min=0).to(u.dtype))


def make(groups: tuple[ConditionGroup, ...] = CLASSES, *, has_null: bool = True) -> Model:
    potential = Potential(Shifted(), OT(sigma_min=0.01), 0.5)
    statistics = ImageStatistics((0.5,), STD)
    return vpfb_model(potential, statistics=statistics, shape=SHAPE, groups=groups, has_null=has_null)


def images(n: int, seed: int = 0) -> Tensor:
    return (0.5 + STD * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_guided_samples_are_shifted_by_the_weight() -> None:
    model = make()
    settings: dict[str, Any] = {"condition": "one", "method": "dopri5", "rtol": 1e-6}
    plain, guided = (model.sample(4, guidance=weight, **settings).images for weight in (None, 2.5))
    torch.testing.assert_close(guided - plain, torch.full_like(plain, 1.5 * STD), rtol=0, atol=1e-3)
    unconditional = model.sample(4, guidance=2.5, method="dopri5", rtol=1e-6).images
    torch.testing.assert_close(plain - unconditional, torch.full_like(plain, STD), rtol=0, atol=1e-3)


def test_guided_codes_come_back() -> None:
    model, pictures = make(), images(3)
    codes = model.encode(pictures, condition="one", guidance=3.0)
    torch.testing.assert_close(
        model.decode(codes, condition="one", guidance=3.0), pictures, rtol=0, atol=1e-3
    )  # fmt: skip
    assert (model.encode(pictures, condition="one") - codes).mean() == pytest.approx(2, abs=0.01)


def test_data_that_are_given_do_not_alternate_between_conditions() -> None:
    model, pictures, known = make(), images(3), torch.tensor([[[True, False], [True, True]]])
    codes = model.encode(pictures)
    of_data: dict[str, Callable[[list[str]], Tensor]] = {
        "density": lambda classes: model.log_density(pictures, condition=classes, method="ode"),
        "bits": lambda classes: model.bits_per_dim(pictures, condition=classes, method="ode"),
        "part": lambda classes: model.log_density(pictures, condition=classes, method="ode", first=1, seed=0),
        "encode": lambda classes: model.encode(pictures, condition=classes),
        "decode": lambda classes: model.decode(codes, condition=classes),
        "interpolate": lambda classes: model.interpolate(codes, codes.flip(0), 2, condition=classes),
        "long run": lambda classes: model.long_run(pictures, 2, condition=classes).images,
        "later": lambda classes: model.long_run(pictures, 2, first=1, condition=classes).images,
    }
    for use, call in of_data.items():
        ones, each = call(["one"]), call(["zero", "one", "one"])
        assert torch.equal(each[1:], ones[1:]), use
        assert not torch.equal(each[0], ones[0]), use
        for wrong in (["zero", "one"], ["one"] * 4):
            with pytest.raises(ConfigError, match=f"{len(wrong)} conditions were given for 3 data"):
                call(wrong)
    for drawn in (
        model.sample(3, condition=["zero", "one"]).images,
        model.inpaint(pictures[0], known, 3, levels=2, condition=["zero", "one"]).images,
    ):
        assert drawn.shape == pictures.shape, "samples alternate"


def test_both_evaluations_of_a_guided_gradient_are_counted() -> None:
    model, pictures, known = make(), images(3), torch.tensor([[[True, False], [True, True]]])
    network = next(module for module in model.field.modules() if isinstance(module, Shifted))
    evaluated: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: evaluated.append(len(inputs[0])))
    uses: dict[str, Callable[..., Tensor]] = {
        "sample": lambda **settings: model.sample(3, method="heun", nfe=8, **settings).nfe,
        "adaptive": lambda **settings: model.sample(1, method="dopri5", **settings).nfe,
        "long run": lambda **settings: model.long_run(pictures, 5, method="heun", nfe=8, **settings).nfe,
        "inpaint": lambda **settings: model.inpaint(pictures[0], known, 3, levels=4, **settings).nfe,
    }
    for use, nfe in uses.items():
        counts = {}
        for weight in (None, 1.0, 2.5):
            evaluated.clear()
            counts[weight] = nfe(condition="one", guidance=weight)
            assert int(counts[weight].sum()) == sum(evaluated), (use, weight)
        assert torch.equal(counts[1.0], counts[None])
        if use != "adaptive":
            assert torch.equal(counts[2.5], 2 * counts[None])


def test_an_unconditional_model_is_not_guided() -> None:
    model, pictures = make(groups=()), images(1)
    known = torch.tensor([[[True, False], [True, True]]])
    for call in (
        lambda: model.sample(1, guidance=2.0),
        lambda: model.encode(pictures, guidance=2.0),
        lambda: model.decode(pictures, guidance=2.0),
        lambda: model.long_run(pictures, 1, guidance=2.0),
        lambda: model.inpaint(pictures[0], known, 1, guidance=2.0),
    ):
        with pytest.raises(ConfigError, match="unconditional"):
            call()


def test_uses_of_an_untrained_unconditional_model_are_refused() -> None:
    model, pictures, known = make(has_null=False), images(2), torch.tensor([[[True, False], [True, True]]])
    with_class: dict[str, Callable[..., object]] = {
        "sampling": lambda **settings: model.sample(2, **settings),
        "encoding": lambda **settings: model.encode(pictures, **settings),
        "decoding": lambda **settings: model.decode(pictures, **settings),
        "a long run": lambda **settings: model.long_run(pictures, 1, **settings),
        "inpainting": lambda **settings: model.inpaint(pictures[0], known, 2, levels=2, **settings),
    }
    for use, call in with_class.items():
        call(condition="one")
        call(condition=torch.tensor([[0], [1]]), guidance=1.0)
        for settings in ({}, {"condition": torch.tensor([[1], [-1]])}):
            with pytest.raises(ConfigError, match=f"{use} without a class needs the unconditional model") as caught:
                call(**settings)
            assert "condition_dropout" in str(caught.value.hint)
        with pytest.raises(ConfigError, match="guidance needs the unconditional model"):
            call(condition="one", guidance=2.0)


def test_of_several_groups_each_must_have_a_class_where_nothing_else_was_trained() -> None:
    model = make((*CLASSES, ConditionGroup("size", ("small", "large"))), has_null=False)
    model.sample(1, condition="one,large")
    with pytest.raises(ConfigError, match="sampling without a class of each group"):
        model.sample(1, condition="one")


# --- interpolation ----------------------------------------------------------------------------------------------------


def test_interpolation_runs_from_image_to_image() -> None:
    model, first, last = make(), images(3), images(3, seed=1)
    condition = ["zero", "one", "zero"]
    start, end = (model.encode(pictures, condition=condition) for pictures in (first, last))
    rows = model.interpolate(start, end, 5, condition=condition, batch_size=4)
    assert rows.shape == (3, 5, *SHAPE)
    torch.testing.assert_close(rows[:, 0], first, rtol=0, atol=1e-3)
    torch.testing.assert_close(rows[:, -1], last, rtol=0, atol=1e-3)
    alone = model.interpolate(start[1:2], end[1:2], 5, condition="one")
    torch.testing.assert_close(alone[0], rows[1], rtol=0, atol=1e-5)


# --- long runs --------------------------------------------------------------------------------------------------------


def test_a_long_run_stays_in_its_class_and_returns_its_statistics() -> None:
    model = make()
    seen: list[float] = []
    drawn = model.sample(100).images
    run = model.long_run(drawn, 60, seed=1, condition="one", batch_size=40, level=1.0,
                         on_progress=seen.append)  # fmt: skip
    assert run.images.shape == (100, *SHAPE)
    assert abs(run.images.mean() - (0.5 + STD)) < 4 * STD / math.sqrt(400)
    assert (run.images - drawn).square().flatten(1).mean(1).sqrt() == pytest.approx(run.moved, abs=1e-6)
    assert 0.4 < run.acceptance < 0.75
    assert len(run.energy) == 61
    # −log ρ but for its constant is ½‖u − sin φ‖²: 2 on average in four dimensions, with a variance of 2.
    assert abs(run.energy[-20:].mean() - 2) < 4 * math.sqrt(2 / 100)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    # Neighbours are independent: their mean square distance is 2 STD² per pixel.
    assert run.apart == pytest.approx(STD * math.sqrt(2), rel=0.15)


def test_the_chain_of_an_image_is_the_same_in_every_batch() -> None:
    model, pictures, classes = make(), images(5), ["zero", "one", "zero", "one", "zero"]
    whole = model.long_run(pictures, 20, seed=3, condition=classes)
    parts = [model.long_run(pictures[i:j], 20, seed=3, first=i, condition=classes[i:j]) for i, j in [(0, 2), (2, 5)]]
    torch.testing.assert_close(torch.cat([part.images for part in parts]), whole.images, rtol=0, atol=1e-4)
    split = model.long_run(pictures, 20, seed=3, condition=classes, batch_size=2)
    torch.testing.assert_close(split.images, whole.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(split.energy, whole.energy, rtol=1e-3, atol=1e-3)
    assert split.acceptance == pytest.approx(whole.acceptance, abs=0.02)


@pytest.mark.parametrize(("steps", "points"), [(1, 2), (30, 31), (200, 50)])
def test_the_energy_trace_is_thinned_to_fifty_points_with_both_ends(steps: int, points: int) -> None:
    run = make().long_run(images(1), steps)
    trace = run.energy_trace()
    assert len(trace) == points
    assert (trace[0], trace[-1]) == (float(run.energy[0]), float(run.energy[-1]))
    assert math.isnan(run.apart), "one image has no neighbour"


# --- inpainting -------------------------------------------------------------------------------------------------------


def test_pixels_are_filled_in_n_ways_around_those_that_are_known() -> None:
    model, image = make(), torch.tensor([[[7, 200], [90, 255]]], dtype=torch.uint8)
    seen: list[float] = []
    known = torch.tensor([[[True, False], [False, True]]])
    found = model.inpaint(image, known, 40, condition="one", batch_size=25, levels=12, on_progress=seen.append)
    assert torch.equal(found.images[:, known], (image[known] / 255).expand(40, 2))
    free = found.images[:, ~known]
    assert abs(free.mean() - (0.5 + STD)) < 4 * STD / math.sqrt(80)
    assert free.std() == pytest.approx(STD, rel=0.25)
    exact = (free - image[~known] / 255).square().mean(1).sqrt()
    torch.testing.assert_close(found.moved, exact)
    assert (seen == sorted(seen), seen[-1]) == (True, pytest.approx(1))
    assert (len(found.energy), found.nfe.tolist()) == (12, [12 * (2 + 6 + 21)] * 40)
    later = model.inpaint(image, known, 2, first=30, condition="one", levels=12)
    torch.testing.assert_close(later.images, found.images[30:32], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (torch.ones(1, 2, 2, dtype=torch.bool), "every pixel"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), "no pixel"),
        (torch.ones(1, 3, 2, dtype=torch.bool), r"\(1, 3, 2\)"),
        (torch.ones(3, 2, 2, dtype=torch.bool), r"\(3, 2, 2\)"),
        (torch.ones(1, 1, 2, 2, dtype=torch.bool), r"\(1, 1, 2, 2\)"),
        (torch.ones(1, 2, 2), "float32"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(known: Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make().inpaint(images(1)[0], known, 1)


def test_impossible_counts_and_shapes_are_refused() -> None:
    model, known = make(), torch.tensor([[[True, False], [True, True]]])
    with pytest.raises(ConfigError, match="n = 0"):
        model.inpaint(images(1)[0], known, 0)
    with pytest.raises(ConfigError, match=r"\(1, 3, 3\)"):
        model.inpaint(torch.zeros(1, 3, 3), known, 1)
    with pytest.raises(ConfigError, match="batch size 0"):
        model.long_run(images(2), 3, batch_size=0)
    with pytest.raises(ConfigError, match="no images to begin chains from"):
        model.long_run(images(0), 3)


# --- the built-in digits ----------------------------------------------------------------------------------------------


def digits(n: int) -> tuple[Model, Tensor]:
    """The built-in model, and n real digits in [0, 1]."""
    real = vpfb.data.load("digits")
    return vpfb.load("digits", device="cpu"), real.images[:n].float() / 255


def distance_to_real(images: Tensor) -> Tensor:
    """RMS distance of each image to the nearest real digit, (N,)."""
    _, real = digits(1797)
    return torch.cdist(images.flatten(1), real.flatten(1)).min(1).values / 8


@pytest.mark.slow
def test_real_digits_come_back_from_their_codes() -> None:
    model, real = digits(2)
    error = rms_distance(model.decode(model.encode(real)), real)
    assert error.square().mean().sqrt() < 0.01


@pytest.mark.slow
def test_long_runs_from_digits_move_and_stay_digits() -> None:
    model, _ = digits(0)
    drawn = model.sample(12).images
    run = model.long_run(drawn, 100)
    assert run.moved.mean() > 0.1
    assert distance_to_real(run.images).mean() < distance_to_real(drawn).mean() + 0.02
    assert distance_to_real(torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))).mean() > 0.4


@pytest.mark.slow
def test_after_a_thousand_steps_digits_have_moved_and_are_still_digits() -> None:
    model, _ = digits(0)
    drawn = model.sample(32).images
    run = model.long_run(drawn, 1000)
    assert run.moved.mean() > 0.4 * run.apart
    assert 0.4 < run.acceptance < 0.75
    assert distance_to_real(run.images).mean() < distance_to_real(drawn).mean() + 0.02


@pytest.mark.slow
def test_half_a_digit_is_completed_plausibly_in_more_than_one_way() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    real = vpfb.data.load("digits", conditional=True)
    assert real.labels is not None
    reader = KNeighborsClassifier(3).fit(real.images.flatten(1).numpy() / 255, real.labels[:, 0].numpy())
    model, known = vpfb.load("digits", device="cpu"), torch.zeros(1, 8, 8, dtype=torch.bool)
    known[:, :4] = True
    completed = model.inpaint(real.images[3], known, 24)  # the upper half of a three
    assert distance_to_real(completed.images).mean() < distance_to_real(model.sample(24).images).mean() + 0.03
    assert len(set(reader.predict(completed.images.flatten(1).numpy()).tolist())) > 1
    assert completed.apart > 0.15
