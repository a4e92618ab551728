"""vpfb: Variational Potential Flow Bayes in PyTorch.

The method trains one scalar potential Φ(x, t), whose gradient transports Gaussian noise to data (Loo et al. 2025,
arXiv 2504.16262).

    import vpfb_core as vpfb
    model = vpfb.load("digits")
    images = model.sample(64, seed=0).images

Names are imported when they are first used, so that `import vpfb_core` is fast and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vpfb_core import names

if TYPE_CHECKING:
    from vpfb_core import data, errors, networks
    from vpfb_core.api import Model, load, train
    from vpfb_core.config import TrainConfig
    from vpfb_core.methods.path import homotopy
    from vpfb_core.methods.vpfb import objectives
    from vpfb_core.methods.vpfb.potential import Potential

__version__ = names.VERSION

_MODULES = {
    "data": "data",
    "errors": "errors",
    "homotopy": "methods.path.homotopy",
    "networks": "networks",
    "objectives": "methods.vpfb.objectives",
}
_NAMES = {
    "Model": "api",
    "load": "api",
    "Potential": "methods.vpfb.potential",
    "TrainConfig": "config",
    "train": "api",
}

__all__ = [
    "Model",
    "Potential",
    "TrainConfig",
    "__version__",
    "data",
    "errors",
    "homotopy",
    "load",
    "networks",
    "objectives",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
