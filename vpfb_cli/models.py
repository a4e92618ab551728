"""The model of a command: finding it by its name, and loading it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli import signals
from vpfb_core.errors import ConfigError
from vpfb_core.model.runs import builtin_models, find_model, model_name

if TYPE_CHECKING:
    from vpfb_cli.options import Machine
    from vpfb_cli.output import Output
    from vpfb_core.api import Model
    from vpfb_core.model.tilt import Tilt


def find(say: Output, model: str | None) -> Path:
    """The path of the model of that name, or of the default model. A note says what could be meant instead.

    Errors are those of `find_model`.
    """
    path = find_model(model)
    if model is None:
        name = model_name(path)
        say.note(f"model: {name} ({'built in' if name in builtin_models() else 'the newest run'})")
    else:
        note_namesake(say, model)
    return path


def note_namesake(say: Output, model: str) -> None:
    """Say that a name is that of a built-in model, if a file or a folder beside has the same name."""
    if model in builtin_models() and Path(model).exists():
        say.note(f"'{model}' is the built-in model of that name; './{model}' is the folder or file")


def open_model(say: Output, model: str | None, machine: Machine, weights: str = "ema") -> tuple[Model, str]:
    """Load the model of that name, or the default model (`find`).

    Returns:
        The model, and its name for reports.
    """
    path = find(say, model)
    use_threads(machine)
    with signals.importing():
        from vpfb_core.api import load
    loaded = load(path, device=machine.device, weights=weights)
    if loaded.tilt is not None:
        say.note(_about_tilt(loaded.tilt))
    return loaded, model_name(path)


def _about_tilt(tilt: Tilt) -> str:
    """What a person must know of the tilt of a model."""
    known = f"the model has a tilt that gives its samples {', '.join(tilt.names)}"
    if tilt.unshifted:
        beside = ", ".join(each.name for each in tilt.unshifted)
        known += f"\nenergies, densities, chains and compositions are those without {beside}"
    return known


def require_images(model: Model, option: str) -> None:
    """Refuse an option that is for images if the model is of other data.

    Raises:
        ConfigError: the model is not of images.
    """
    if model.statistics.noun != "images":
        raise ConfigError(f"{option} is for images, and the model is of {model.statistics.noun} of a table")


def use_threads(machine: Machine) -> None:
    """Compute with the number of CPU threads that the user chose, or with the default number."""
    with signals.importing():
        import torch

        from vpfb_core.machine.devices import default_threads
    torch.set_num_threads(machine.threads or default_threads())
