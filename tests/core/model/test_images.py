"""Images that are no images are refused by dtype and range, wherever a model takes images."""

from __future__ import annotations

from collections.abc import Callable

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
USES: dict[str, Callable[[Model, Tensor], object]] = {
    "standardise": lambda model, images: model.standardise(images),
    "encode": lambda model, images: model.encode(images),
    "log_density": lambda model, images: model.log_density(images, method="ode"),
    "score": lambda model, images: model.score(images, "energy"),
    "long_run": lambda model, images: model.long_run(images, 1),
    "inpaint": lambda model, images: model.inpaint(images[-1], KNOWN, 1),
}


@pytest.fixture(scope="module")
def model() -> Model:
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [8], "classes": []}
    return vpfb_model(Potential(networks.build(network), OT(sigma_min=0.01), 0.5), network=network)


def grey(n: int = 2) -> Tensor:
    return torch.full((n, 1, 8, 8), 0.5)


@pytest.mark.parametrize("use", USES)
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
def test_other_dtypes_and_ranges_are_refused_with_what_was_found(
    model: Model, use: str, images: Tensor, found: str
) -> None:
    with pytest.raises(ConfigError, match=found) as refused:
        USES[use](model, images)
    assert refused.value.hint == "images are uint8 in 0 to 255, or floats in 0 to 1"


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
