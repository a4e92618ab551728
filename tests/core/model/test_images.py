"""Images that are no images are refused by dtype and range, wherever a model takes images."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from models import vpfb_model
from torch import Tensor

from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential

KNOWN = torch.tensor([True, False]).repeat(8, 4)[None]
USES: dict[str, Callable[[Model, Any], Any]] = {
    "standardise": lambda model, images: model.standardise(images),
    "encode": lambda model, images: model.encode(images),
    "log_density": lambda model, images: model.log_density(images, method="ode", nfe=4),
    "score": lambda model, images: model.score(images, "energy"),
    "long_run": lambda model, images: model.long_run(images, 1),
    "inpaint": lambda model, images: model.inpaint(images[-1], KNOWN, 1, levels=2),
}


@pytest.fixture(scope="module")
def model() -> Model:
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [4], "classes": []}
    return vpfb_model(Potential(networks.build(network), OT(sigma_min=0.01), 0.5), network=network)


def grey(n: int = 2) -> Tensor:
    return torch.full((n, 1, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (grey() * 255, "torch.float32 have values from 127.5 to 127.5"),
        (grey().double() - 0.6, "torch.float64 have values from -0.1 to -0.1"),
        (torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 1.01)])[[0, 1]], "to 1.01"),
        (grey() * torch.nan, "NaN or infinite"),
        (grey() / 0, "NaN or infinite"),
        (grey().to(torch.int16), "torch.int16"),
        (grey().to(torch.int64), "torch.int64"),
        (grey() > 0, "torch.bool"),
    ],
)
def test_other_dtypes_and_ranges_are_refused_with_what_was_found(model: Model, images: Tensor, found: str) -> None:
    for use in USES.values():
        with pytest.raises(ConfigError, match=found) as refused:
            use(model, images)
        assert refused.value.hint == "images are uint8 in 0 to 255, or floats in 0 to 1"


@pytest.mark.parametrize("use", USES)
def test_arrays_are_taken_like_tensors_and_other_types_are_refused(model: Model, use: str) -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    as_bytes, array = (255 * images).round().byte(), images.numpy().copy()
    array.setflags(write=False)
    for given, same in ((as_bytes.numpy(), as_bytes), (array, images), (array.astype(">f8"), images.double())):
        found, expected = (USES[use](model, each) for each in (given, same))
        for one, other in ((found, expected),) if isinstance(found, Tensor) else ((found.images, expected.images),):
            assert torch.equal(one, other)
    for wrong in ([[0.5]], "image.png", np.array([["a"]])):
        with pytest.raises(ConfigError, match=r"images (of type|have dtype)"):
            USES[use](model, wrong)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("context", [torch.inference_mode, lambda: default_dtype(torch.float64)])
def test_results_do_not_depend_on_the_mode_or_the_default_dtype_of_the_program(
    model: Model, use: str, context: Callable[[], AbstractContextManager[None]]
) -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = USES[use](model, images)
    with context():
        found = USES[use](model, images)
    for one, other in ((found, expected),) if isinstance(found, Tensor) else ((found.images, expected.images),):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", USES)
@pytest.mark.filterwarnings("error")
def test_images_may_require_gradients(model: Model, use: str) -> None:
    USES[use](model, grey().requires_grad_())


@pytest.mark.parametrize("use", [use for use in USES if use != "inpaint"])
def test_a_wrong_shape_is_named_as_it_was_given(model: Model, use: str) -> None:
    for wrong, advice in ((grey()[0], "one image is images[None]"), (grey()[:, 0], "(N, channels, height, width)")):
        with pytest.raises(ConfigError, match=re.escape(f"images of shape {tuple(wrong.shape)} do not fit")) as refused:
            USES[use](model, wrong)
        assert advice in str(refused.value.hint)


def test_the_order_of_the_axes_in_an_archive_is_refused_with_a_way_out(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"\(2, 8, 8, 1\)") as refused:
        model.encode(np.zeros((2, 8, 8, 1), np.uint8))
    assert "transpose (0, 3, 1, 2)" in str(refused.value.hint)


def test_one_wrong_pixel_in_the_last_image_is_found_before_anything_is_computed(model: Model) -> None:
    images = grey(5)
    images[-1, 0, -1, -1] = torch.nan
    done: list[int] = []
    with pytest.raises(ConfigError, match="NaN"):
        model.score(images, "energy", batch_size=1, on_batch=done.append)
    assert not done


def test_rounding_and_dequantisation_may_leave_the_range_by_half_a_grey_level(model: Model) -> None:
    edges = torch.tensor([-0.5 / 255, -1e-6, 1 + 1e-6, 1 + 0.5 / 255]).repeat(16).view(1, 1, 8, 8)
    torch.testing.assert_close(model.standardise(edges), (edges - 0.5) / 0.25)
    for images in (edges.half(), torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), grey(0)):
        assert model.standardise(images).shape == images.shape
