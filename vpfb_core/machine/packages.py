"""The package torchvision, which only some data sets and features need."""

from __future__ import annotations

import importlib

from vpfb_core.errors import MissingError


def require_torchvision() -> None:
    """Import torchvision, before the work that needs it.

    A torchvision that was built for another torch is found like any other, but its import fails, with an error of
    nearly any class.

    Raises:
        MissingError: it is not installed, or it cannot be imported.
    """
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "torchvision"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingError(
            "the package torchvision is not installed" if absent else f"torchvision cannot be imported: {reason}",
            hint="pip install --upgrade torch torchvision gets two versions that fit each other",
        ) from error
