"""The figures that `vpfb eval` knows: which way each is better, and what it needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpfb_core.errors import ConfigError
from vpfb_core.uses.evaluation import neighbours
from vpfb_core.uses.evaluation.features import INCEPTION

LOWER, HIGHER, HALF = "lower", "higher", "0.5"


@dataclass(frozen=True)
class Metric:
    """A figure of a model.

    Attributes:
        better: which way it is better.
        fewest: images that it takes.
        samples: whether it compares samples with real images by their features; else it is of real images alone.
    """

    better: str
    fewest: int = 1
    samples: bool = False


METRICS: dict[str, Metric] = {
    "fid": Metric(LOWER, 2, samples=True),
    "kid": Metric(LOWER, 2, samples=True),
    "frechet": Metric(LOWER, 2, samples=True),
    "kernel": Metric(LOWER, 2, samples=True),
    "precision": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "recall": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "density": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "coverage": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "1nn": Metric(HALF, neighbours.FEWEST, samples=True),
    "residual": Metric(LOWER),
    "bpd": Metric(LOWER),
    "bpd_flow": Metric(LOWER),
}
INCEPTION_ONLY = {"fid": "frechet", "kid": "kernel"}  # and what they are called over other features
COSTLY = ("bpd_flow",)  # computed only when asked for


def find(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics that are meant, each once; a name may hold several with commas.

    Raises:
        ConfigError: one is unknown, or none is left; with the nearest name and all of them.
    """
    wanted = [name.strip() for several in names for name in several.split(",") if name.strip()]
    for name in wanted:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"no metric {name!r}", hint=f"{guess}metrics: {', '.join(METRICS)}")
    if not wanted:
        raise ConfigError("no metric is named", hint=f"metrics: {', '.join(METRICS)}")
    return tuple(dict.fromkeys(wanted))


def defaults(extractor: str, *, calibrated: bool) -> tuple[str, ...]:
    """All that these features and this model allow, but the costly ones."""
    left_out = set(INCEPTION_ONLY.values() if extractor == INCEPTION else INCEPTION_ONLY)
    if not calibrated:
        left_out.add("bpd")
    return tuple(name for name in METRICS if name not in left_out and name not in COSTLY)


def check_features(names: Sequence[str], extractor: str) -> None:
    """Refuse to call FID what is not over Inception's features, and to call it otherwise where it is.

    Raises:
        ConfigError: with the name to ask for.
    """
    for name, elsewhere in INCEPTION_ONLY.items():
        if name in names and extractor != INCEPTION:
            raise ConfigError(
                f"{name} is of Inception's features, not of {extractor!r}",
                hint=f"over those ask for {elsewhere}, or leave --features out",
            )
        if elsewhere in names and extractor == INCEPTION:
            raise ConfigError(f"over Inception's features {elsewhere} is called {name}", hint=f"ask for {name}")
