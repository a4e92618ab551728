"""The errors of vpfb: each says what was wrong, with the value, and what to do about it.

The command line turns them into one or two lines and an exit code; a library user catches `VPFBError`.
"""

from __future__ import annotations


class VPFBError(Exception):
    """What every error of vpfb derives from.

    Args:
        message: what is wrong, with the value that was wrong.
        hint: what to do about it, if anything can be done.
    """

    kind = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(VPFBError):
    """A setting, name or device that does not exist or does not fit."""

    kind = "config"


class MissingError(VPFBError):
    """Something optional that is not on this machine: a package of an extra, or weights that are not ours to ship."""

    kind = "missing"


class DataError(VPFBError):
    """Input that cannot be read, or output that cannot be written."""

    kind = "data"


class CheckpointError(VPFBError):
    """A model or state file that is missing, damaged, foreign, too new or does not fit."""

    kind = "checkpoint"


class DivergedError(VPFBError):
    """Training produced a non-finite loss or gradient."""

    kind = "diverged"


class SolverError(VPFBError):
    """An ODE solve did not reach its end for some sample."""

    kind = "solver"


class StepTooLargeError(VPFBError):
    """A step did not fit into the memory."""

    kind = "memory"


class LostProcessError(VPFBError):
    """One of several processes on a job has died without a word."""

    kind = "process"


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's, known by its class name, and the plain RuntimeError of its CPU and MPS allocators, by its words."""
    if isinstance(error, MemoryError) or any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
