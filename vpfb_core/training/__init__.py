"""Training: from a configuration to a run folder with a model."""

from vpfb_core.training.plan import Plan, prepare
from vpfb_core.training.progress import Progress, Result
from vpfb_core.training.session import run

__all__ = ["Plan", "Progress", "Result", "prepare", "run"]
