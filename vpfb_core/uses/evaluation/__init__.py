"""How good a model is: samples against real images by their features, and real images under the model.

plan = evaluation.prepare(model, "mnist")
report = evaluation.evaluate(model, plan)
report.metrics["precision"].value
"""

from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.plan import Plan, prepare
from vpfb_core.uses.evaluation.report import Figure, Report, evaluate

__all__ = ["METRICS", "Figure", "Plan", "Report", "evaluate", "prepare"]
