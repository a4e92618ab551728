"""Input that nobody wrote: random documents and damaged bytes, a few in every test run, many in the slow one."""

from __future__ import annotations

import contextlib
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def budget(few: int, many: int) -> pytest.MarkDecorator:
    """Runs a test with `examples` few, and, marked slow, with many others."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def explore(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> None:
    """Calls check with that many values. Few are the same ones every time, so that a test run says the same twice."""
    choice = settings(
        max_examples=examples, derandomize=examples < 1000, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    choice(given(strategy)(check))()


def damaged(content: bytes, examples: int, *, beginning: int = 256) -> Iterator[bytes]:
    """Content with a few bytes changed, removed, repeated or cut off; half of the time near its beginning."""
    for seed in range(examples):
        draw, found = random.Random(seed), bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 8))):
            end = len(found) if draw.random() < 0.5 else min(beginning, len(found))
            at, length = draw.randrange(end or 1), draw.choice((1, 1, 2, 4, 30))
            match draw.randrange(7):
                case 0 | 1:
                    found[at : at + 1] = bytes([draw.randrange(256)])
                case 2:
                    found[at : at + length] = draw.choice((b"\0", b"\xff", b"\x7f")) * length
                case 3:
                    del found[at : at + length]
                case 4:
                    found[at:at] = found[at : at + length]
                case 5:
                    found[at : at + length] = draw.randbytes(length)
                case 6:
                    del found[at + len(found) // 2 :]
        yield bytes(found)


@contextlib.contextmanager
def bounded(mebibytes: int, seconds: float) -> Iterator[None]:
    """What happens inside allocates no more than that (else MemoryError), and takes no longer."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + mebibytes * 2**20, limits[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - began < seconds


# What JSON and TOML can say, and what is found where a number or a word was expected.
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([-1, 0, 2**31, 2**63, 10**30, 10**400, 1e308, 1e-320, "", "\0", "../x", "nan", "\udcff"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
