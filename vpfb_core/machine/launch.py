"""The rank of this process and the number of processes, from the variables that `torchrun` sets. torch is not used."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessRank:
    """The rank of a process in its job.

    Attributes:
        rank: the number of the process in the job, from 0.
        count: the number of processes in the job.
        local_rank: the number of the process on its machine, from 0.
        local_count: the number of processes of the job on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes files for all."""
        return self.rank == 0


def process_rank() -> ProcessRank:
    """The rank of this process. Unless a launcher has set all of its variables, the job has one process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if "MASTER_ADDR" not in os.environ or not all(value.isdecimal() for value in values):
        return ProcessRank()
    return ProcessRank(*map(int, values))
