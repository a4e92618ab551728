"""Out of distribution: scores of images, and how well they tell strangers from members."""

from vpfb_core.ood.metrics import Detection, compare
from vpfb_core.ood.scores import DEFAULT_SCORE, SCORES, Score, score
from vpfb_core.reference import Reference, fit_reference

__all__ = ["DEFAULT_SCORE", "SCORES", "Detection", "Reference", "Score", "compare", "fit_reference", "score"]
