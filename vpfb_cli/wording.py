"""Durations, sizes and lists of names as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """8.2 s, 40 s, 2 min 5 s, 1 h 30 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else whole, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def byte_count(count: float) -> str:
    """870 MiB, 1.2 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def one_of(names: Sequence[object]) -> str:
    """a, b or c."""
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last
