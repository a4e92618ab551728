"""Training: from a configuration to a run folder that holds a model."""

from vpfb_core.training.loop import Progress, Result, run, train
from vpfb_core.training.plan import Plan, prepare

__all__ = ["Plan", "Progress", "Result", "prepare", "run", "train"]
