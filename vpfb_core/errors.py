"""The errors of vpfb, and what their messages share. Each says what is wrong, with the value, and what to do about it.

The command line prints an error in one or two lines and turns it into an exit code. A program that uses the library
catches `VPFBError`.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable


class VPFBError(Exception):
    """The base class of every error of vpfb.

    Args:
        message: what is wrong, with the value.
        hint: what to do about it, if anything can be done.
    Attributes:
        kind: one word for the kind of error, which JSON output contains.
    """

    kind = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Without this, pickle would call a class with the message alone, whatever its arguments are.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigError(VPFBError):
    """A setting, a name or a device does not exist or does not fit."""

    kind = "config"


class MissingError(VPFBError):
    """Something optional is not installed: a package of an extra, or weights that vpfb may not distribute."""

    kind = "missing"


class DataError(VPFBError):
    """Input cannot be read, or output cannot be written."""

    kind = "data"


class CheckpointError(VPFBError):
    """A model file or a saved state is missing, damaged, of another program, too new, or does not fit."""

    kind = "checkpoint"


class FeatureError(CheckpointError):
    """A network gives an image features that are not finite.

    Args:
        network: the name of the network.
        row: the row of the first such image in its batch.
    """

    def __init__(self, network: str, row: int, image: str | None = None) -> None:
        super().__init__(
            f"the features of {network!r} are not finite for {image or f'image {row}'}",
            hint="its weights may be damaged, or it is not made for such images",
        )
        self.network, self.row = network, row

    def of(self, image: str) -> FeatureError:
        """The same error with the name of the image."""
        return FeatureError(self.network, self.row, image)


class DivergedError(VPFBError):
    """A loss or a gradient in training is not finite."""

    kind = "diverged"


class SolverError(VPFBError):
    """An ODE solve or a Markov chain failed for some sample."""

    kind = "solver"


class NoStepError(VPFBError):
    """A run ended before its first training step."""

    kind = "budget"


class StepTooLargeError(VPFBError):
    """A training step does not fit into the memory."""

    kind = "memory"


class LostProcessError(VPFBError):
    """Another process of a distributed job has died."""

    kind = "process"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a hint that names the nearest of the names that exist; "" if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean '{near[0]}'? " if near else ""


_SINGULAR = {"classes": "class", "copies": "copy", "data": "datum", "processes": "process"}


def counted(count: int, noun: str) -> str:
    """A number with a noun, which is given in the plural: 1 image, 1,000 images."""
    return f"{count:,} {singular(noun) if count == 1 else noun}"


def singular(noun: str) -> str:
    """The singular of a noun in the plural, which adjectives may precede: grey image, from grey images."""
    adjectives, space, last = noun.rpartition(" ")
    return f"{adjectives}{space}{_SINGULAR.get(last, last.removesuffix('s'))}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    torch's own class is recognised by its name, so that torch need not be imported. Its allocators for the CPU and for
    MPS raise a plain RuntimeError, which is recognised by its text.
    """
    if isinstance(error, MemoryError) or any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
