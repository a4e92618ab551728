"""Which of how many processes this is, as `torchrun` says in the environment. Knows no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A process among those of a job.

    Attributes:
        rank: its number among all.
        count: how many there are.
        local_rank: its number on its machine.
        local_count: how many are on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the process that speaks and writes for all."""
        return self.rank == 0


def place() -> Place:
    """The place of this process; that of one alone unless a launcher has set all of its variables."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if "MASTER_ADDR" not in os.environ or not all(value.isdecimal() for value in values):
        return Place()
    return Place(*map(int, values))
