"""What torch.compile has to know of the layers whose derivatives are written out.

It traces the backward pass of a `torch.autograd.Function` once, as something without a derivative of its own, so that a
training step, which differentiates it again, would silently lose terms. A function that is kept whole is left to
AOTAutograd, which runs it as eager mode does, with both derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])

_functions: list[Callable[..., object]] = []
_told = False


def keep_whole(function: F) -> F:
    """Mark a function that must not be traced into. It costs nothing until `tell_compiler`."""
    _functions.append(function)
    return function


def tell_compiler() -> None:
    """Tell torch.compile about the marked functions. Call it first; it loads the compiler, which takes seconds."""
    global _told
    for function in _functions:
        torch.compiler.allow_in_graph(function)
    _told = True


def traced_unprepared() -> bool:
    """Whether torch.compile is at work without having been told: layers then do the same in torch's own operations."""
    return torch.compiler.is_compiling() and not _told
