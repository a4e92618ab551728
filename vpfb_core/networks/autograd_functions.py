"""What the subclasses of `torch.autograd.Function` in this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def keep_signature(forward: F) -> F:
    """Keep the signature of the `forward` of a function that has a `setup_context`.

    torch binds the arguments of every call to the signature. `inspect.signature` constructs it anew each time unless it
    is kept, which doubles the time of the binding and matters in small networks.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward
