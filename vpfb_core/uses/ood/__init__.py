"""Out-of-distribution detection: scores of images, and measures of how well the scores work."""

from vpfb_core.model.reference import Reference
from vpfb_core.uses.ood.detection import Detection, compare
from vpfb_core.uses.ood.fit import fit_reference
from vpfb_core.uses.ood.scores import DEFAULT_SCORE, SCORES, Score, score

__all__ = ["DEFAULT_SCORE", "SCORES", "Detection", "Reference", "Score", "compare", "fit_reference", "score"]
