"""Evaluation of a model: comparison of samples with real images by features, and figures of real images.

plan = evaluation.prepare(model, "mnist")
report = evaluation.evaluate(model, plan)
report.metrics["precision"].value
"""

from vpfb_core.uses.evaluation.measurement import evaluate
from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.preparation import Plan, prepare
from vpfb_core.uses.evaluation.results import Figure, Gaps, Report

__all__ = ["METRICS", "Figure", "Gaps", "Plan", "Report", "evaluate", "prepare"]
