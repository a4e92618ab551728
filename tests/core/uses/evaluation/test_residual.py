"""The residual of `eval` is the validation residual of training: one quantity."""

from __future__ import annotations

import pytest
import torch
from models import vpfb_model

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.training.checks import Checks
from vpfb_core.uses.evaluation import Plan, evaluate
from vpfb_core.uses.evaluation.real import Real


def test_the_residual_of_eval_equals_that_of_training_on_the_same_images() -> None:
    images = vpfb.data.load("digits").subset(torch.arange(20))
    statistics = ImageStatistics.of(images.images)
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [8], "classes": []}
    built, draws = networks.build(network), torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws)
    model = vpfb_model(Potential(built, OT(sigma_min=0.01), 0.5), network=network, statistics=statistics)
    measured = Real(images.images, None, "train", images.images, None, "validation", "none", (), ())
    plan = Plan(("residual",), None, measured, by_class=False, flow_images=0, notes=(), warnings=())
    of_eval = evaluate(model, plan, seed=3, batch_size=7).metrics["residual"].value
    of_training = Checks(images, statistics, torch.device("cpu"), 3).validate(model, batch_size=5)["val_residual"]
    assert of_eval == pytest.approx(of_training, rel=1e-4)
