"""The kinds of data by the description of their statistics in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.statistics import Statistics
from vpfb_core.data.table_statistics import TableStatistics

KINDS: dict[str, type[Statistics]] = {kind.kind: kind for kind in (ImageStatistics, TableStatistics)}


def read_statistics(document: Mapping[str, Any]) -> Statistics:
    """The statistics that `Statistics.to_dict` described. A description without a kind is that of images.

    Raises:
        KeyError, TypeError, ValueError: the document does not describe statistics.
    """
    return KINDS[document.get("kind", ImageStatistics.kind)].from_dict(document)
