"""The public interface: `Model`, `load` and `train`. Their parts are implemented in the packages below."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from vpfb_core.config import TrainConfig
from vpfb_core.model import model_file
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training import Progress, Result, prepare, run
from vpfb_core.uses import chains, composition, density, draw
from vpfb_core.uses.matching import tilting
from vpfb_core.uses.ood import scores


class Model(TrainedModel):
    """A trained model with methods for sampling, densities and scores.

    Each method is the function of the same name in `vpfb_core.uses`, where its arguments are documented. Images are
    tensors or NumPy arrays (N, C, H, W), uint8 or float in [0, 1], and rows of a table are (N, d). Seeds are whole
    numbers from 0 to 2⁶³ − 1. Sample i depends only on (seed, i). Results are on the CPU and detached.
    """

    sample = draw.sample
    encode = draw.encode
    decode = draw.decode
    interpolate = draw.interpolate
    compose = composition.compose
    long_run = chains.long_run
    inpaint = chains.inpaint
    log_density = density.log_density
    bits_per_dim = density.bits_per_dim
    blur = density.blur
    score = scores.score
    matched = tilting.matched
    save = model_file.save

    @classmethod
    def of(cls, trained: TrainedModel) -> Model:
        """The same model with the methods of this class. Nothing is copied."""
        return cls(**vars(trained))


def load(
    name: str | os.PathLike[str] | None = None, *, device: str | torch.device = "auto", weights: str = "ema"
) -> Model:
    """Load a model file, a run folder or a built-in model.

    Arguments and errors are those of `vpfb_core.model.model_file.load`.
    """
    return model_file.load(Model, name, device=device, weights=weights)


def train(
    config: TrainConfig,
    *,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result[Model]:
    """Train a model.

    Arguments and errors are those of `vpfb_core.training.prepare` and `vpfb_core.training.run`.
    """
    result = run(prepare(config), on_step=on_step, should_stop=should_stop)
    return Result(**vars(result) | {"model": Model.of(result.model)})
