"""Command lines run in this process, and what they leave on their streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Vpfb = Callable[..., "Ran"]


class Ran:
    """What a command left on its streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)
