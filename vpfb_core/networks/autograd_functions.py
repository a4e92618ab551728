"""What torch must know about the layers that have their own derivatives (`torch.autograd.Function`).

torch.compile traces the backward pass of such a function as if it had no derivative. A training step that
differentiates twice would silently lose terms. A function that is marked here is not traced into: AOTAutograd runs it
as in eager mode, with both derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

_functions: list[Callable[..., Any]] = []
_told = False


def keep_signature(forward: F) -> F:
    """Keep the signature of the `forward` of a function that has a `setup_context`.

    torch binds the arguments of every call to the signature. `inspect.signature` constructs it anew each time unless it
    is kept, which doubles the time of the binding and matters in small networks.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def keep_whole(function: F) -> F:
    """Mark a function that torch.compile must not trace into. This alone does not load the compiler."""
    _functions.append(function)
    return function


def tell_compiler() -> None:
    """Tell torch.compile about the marked functions. Call it first; it loads the compiler, which takes seconds."""
    global _told
    for function in _functions:
        torch.compiler.allow_in_graph(function)
    _told = True


def traced_unprepared() -> bool:
    """Whether torch.compile is tracing before `tell_compiler`; layers then use torch's own operations instead."""
    return torch.compiler.is_compiling() and not _told
