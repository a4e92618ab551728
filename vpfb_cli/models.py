"""Which model a command works with, and that people are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpfb_cli import signals
from vpfb_core.model.runs import builtin_models, find_model

if TYPE_CHECKING:
    from vpfb_cli.output import Output
    from vpfb_core.model.trained import Model


def open_model(
    say: Output, model: str | None, device: str, threads: int | None, weights: str = "ema"
) -> tuple[Model, str]:
    """Load the model that is meant on the device that is meant; (model, the name to report it by)."""
    path = find_model(model)
    builtin = {str(file): name for name, file in builtin_models().items()}
    name = builtin.get(str(path), str(path))
    if model is None:
        say.note(f"model: {name} ({'built in' if str(path) in builtin else 'the newest run'})")
    with signals.importing():
        import torch

        from vpfb_core.model.loading import load
    if threads is not None:
        torch.set_num_threads(threads)
    return load(path, device=device, weights=weights), name
