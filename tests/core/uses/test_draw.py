"""Samples, prior points and the way between: from images to images."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from models import vpfb_model
from present import present

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.dynamics.ode import Status
from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.machine.devices import place_network
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential


def make(noise: float = 0.02) -> Model:
    """A small model with random weights everywhere."""
    network = {"name": "unet", "channels": 3, "size": 6, "widths": [8], "classes": []}
    built, draws = networks.build(network), torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=draws)
    place_network(built, torch.device("cpu"))
    potential = Potential(built, OT(sigma_min=0.01))
    return vpfb_model(potential, network=network, statistics=ImageStatistics((0.3, 0.5, 0.6), 0.2), shape=(3, 6, 6))


def broken() -> Model:
    """A model whose velocity is NaN everywhere."""
    model = make()
    next(model.field.parameters()).data.fill_(float("nan"))
    return model


def test_an_unknown_argument_is_named_with_those_that_exist() -> None:
    model = make()
    codes = torch.zeros(1, 3, 6, 6)
    for use in (
        lambda: model.sample(1, solver="heun"), lambda: model.encode(codes, solver="heun"),
        lambda: model.decode(codes, solver="heun"), lambda: model.log_density(codes, solver="heun"),
        lambda: model.log_density(codes, method="ode", solver="heun"), lambda: model.long_run(codes, 1, solver="heun"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="unknown setting 'solver'") as refused:
            use()
        assert refused.value.hint == "settings: method, nfe, rtol, atol"


def test_samples_are_images_that_depend_on_seed_and_index_alone() -> None:
    model = make()
    images = model.sample(5, seed=3).images
    assert (images.shape, images.dtype) == ((5, 3, 6, 6), torch.float32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.allclose(model.sample(5, seed=3, batch_size=2).images, images, atol=1e-5)
    assert torch.allclose(model.sample(3, seed=3, first=2).images, images[2:], atol=1e-5)
    assert not torch.allclose(model.sample(5, seed=4).images, images, atol=1e-2)


def test_adaptive_samples_do_not_depend_on_the_batch_either() -> None:
    model = make(noise=0.1)
    drawn = model.sample(2, method="dopri5", rtol=1e-3)
    alone = torch.cat([model.sample(1, first=i, method="dopri5", rtol=1e-3).images for i in range(2)])
    assert torch.allclose(alone, drawn.images, atol=1e-4)
    assert drawn.status.tolist() == [Status.SUCCESS] * 2
    assert drawn.nfe.shape == (2,)
    assert drawn.require_success() is drawn


def test_a_path_leads_from_the_prior_points_to_the_images_whatever_the_batch() -> None:
    model = make()
    drawn = model.sample(5, method="heun", nfe=8, keep_path=True, batch_size=2)
    assert drawn.path is not None
    assert drawn.path.shape == (5, 5, 3, 6, 6), "four steps of two evaluations"
    assert drawn.nfe.tolist() == [8] * 5
    assert torch.equal(drawn.path[-1], drawn.images)
    codes = model.statistics.restore(present(drawn.solution.path)[0])
    assert torch.equal(drawn.path[0], codes)
    assert model.sample(2).path is None


def test_a_sample_that_goes_astray_has_a_status_and_is_an_error_only_when_success_is_required() -> None:
    model = broken()
    drawn = model.sample(3)
    assert drawn.status.tolist() == [Status.NON_FINITE] * 3
    assert drawn.images.isfinite().all(), "the last finite state"
    with pytest.raises(SolverError, match="3 of 3"):
        drawn.require_success()


def test_codes_and_decoded_images_that_go_astray_are_errors() -> None:
    model, images = broken(), torch.full((2, 3, 6, 6), 0.5)
    for call in (lambda: model.encode(images), lambda: model.decode(images)):
        with pytest.raises(SolverError, match="2 of 2"):
            call()


def test_encoding_and_decoding_are_inverse() -> None:
    model = make()
    images = 0.2 + 0.6 * torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    codes = model.encode(images, rtol=1e-6)
    assert torch.allclose(model.decode(codes, rtol=1e-6), images, atol=1e-4)
    assert torch.allclose(model.encode((images * 255).round().to(torch.uint8)), codes, atol=0.1)


def test_no_images_have_no_codes() -> None:
    assert make().encode(torch.zeros(0, 3, 6, 6)).shape == (0, 3, 6, 6)


def test_images_of_another_shape_and_counts_below_one_are_refused() -> None:
    model = make()
    with pytest.raises(ConfigError, match=r"\(2, 1, 6, 6\)"):
        model.encode(torch.zeros(2, 1, 6, 6))
    with pytest.raises(ConfigError, match="n = 0"):
        model.sample(0)
    with pytest.raises(ConfigError, match="batch size 0"):
        model.sample(2, batch_size=0)


def test_counts_that_are_not_whole_and_codes_of_another_shape_are_refused() -> None:
    model, images = make(), torch.full((2, 3, 6, 6), 0.5)
    codes = model.encode(images, nfe=2, method="heun")
    assert torch.equal(model.decode(codes.double().numpy(), nfe=2), model.decode(codes, nfe=2))
    calls: dict[str, Callable[[], object]] = {
        "n = 1.5": lambda: model.sample(cast(int, 1.5)),
        "n = '2'": lambda: model.sample(cast(int, "2")),
        "first = 0.5": lambda: model.sample(1, first=cast(int, 0.5)),
        "batch_size = 1.5": lambda: model.sample(2, batch_size=cast(int, 1.5)),
        "nfe = 4.5": lambda: model.sample(2, nfe=4.5),
        "frames = 2.5": lambda: model.interpolate(codes, codes, cast(int, 2.5)),
        "steps = 2.5": lambda: model.long_run(images, cast(int, 2.5)),
        "codes of dtype torch.int64": lambda: model.decode(codes.long()),
        r"codes of dtype torch.float32 and shape \(2, 3, 6\)": lambda: model.decode(codes[..., 0]),
        "codes of type int": lambda: model.decode(cast(torch.Tensor, 3)),
        "2 codes to start from, and 1 to end at": lambda: model.interpolate(codes, codes[:1], 3),
    }
    for words, call in calls.items():
        with pytest.raises(ConfigError, match=words):
            call()


def test_built_in_digits_are_what_a_classifier_of_real_digits_takes_them_for() -> None:
    """A nearest-neighbour classifier fitted on real digits recognises the requested classes."""
    from sklearn.neighbors import KNeighborsClassifier

    real = vpfb.data.load("digits", conditional=True)
    assert real.labels is not None
    reader = KNeighborsClassifier(3).fit(real.images.flatten(1).numpy() / 255, real.labels[:, 0].numpy())
    drawn = vpfb.load("digits", device="cpu").sample(100, condition=list("0123456789"))
    read = reader.predict(drawn.images.flatten(1).numpy())
    assert (torch.from_numpy(read) == torch.arange(100) % 10).double().mean() > 0.9
