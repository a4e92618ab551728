"""The options of features of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vpfb_cli.options import file_option, path_option
from vpfb_core.errors import ConfigError
from vpfb_core.names import SCORES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vpfb_core.model.trained import TrainedModel
    from vpfb_core.uses.training_set import TrainingSet


@dataclass(frozen=True)
class OwnFeatures:
    """A frozen network whose features are used: a further kind of evidence of `score`, and the codes of `encode`."""

    features: Annotated[
        str | None,
        path_option(
            "--features NAME",
            "Features of your own",
            "A frozen network whose features are used: torchvision:ARCH, or PATH.pt2 of torch.export.",
        ),
    ] = None
    weights_path: Annotated[
        Path | None,
        file_option(
            "--weights-path FILE",
            "Features of your own",
            "Weights of torchvision:ARCH, .pth or .safetensors.",
            show_default="the cache of torch hub",
        ),
    ] = None

    def require_usable(self, scores: Collection[str] = SCORES) -> None:
        """Raise ConfigError if the options contradict each other, or no score uses features.

        Args:
            scores: the scores that are computed.
        """
        if self.features is None and self.weights_path is not None:
            raise ConfigError("--weights-path is for --features torchvision:ARCH", hint="add it")
        if self.features is not None and SCORES[0] not in scores:
            raise ConfigError(f"--features is for the score {SCORES[0]}", hint=f"add --score {SCORES[0]}")

    def find(self, device: torch.device) -> Callable[[Tensor], Tensor] | None:
        """The function from images to features (`own_features.find`); None without features."""
        from vpfb_core.uses.ood import own_features

        return None if self.features is None else own_features.find(self.features, self.weights_path, device)

    def add_to(self, model: TrainedModel, training: TrainingSet) -> None:
        """Add the features to the reference of a model. Nothing happens without features."""
        from vpfb_core.uses.ood import own_features

        if (compute := self.find(model.device)) is not None:
            own_features.add(model, compute, training)
