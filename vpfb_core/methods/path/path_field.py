"""Fields on the path from noise to data."""

from __future__ import annotations

from vpfb_core.methods.fields import Field
from vpfb_core.methods.path import arc


class PathField(Field):
    """A field on the path: its points are u, of unit variance at every level, and its positions are angles φ."""

    def scales(self, level: float) -> tuple[float, float]:
        position = arc.ArcPosition.at_level(level)
        return position.sine, position.cosine

    def position(self, level: float) -> float:
        return arc.angle(level)

    def level(self, position: float) -> float:
        return arc.level(position)

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        return arc.grid(start, end, steps)
