"""The metrics of `vpfb eval`: in which direction each is better, and what it needs."""

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
    """A metric.

    Attributes:
        better: the better direction, or the best value.
        fewest: the least number of images.
        samples: whether it compares features of samples and real images; otherwise it needs only real images.
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
INCEPTION_ONLY = {"fid": "frechet", "kid": "kernel"}  # metrics of Inception → their names with other features
COSTLY = ("bpd_flow",)  # computed only if requested


def find(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names of metrics. A string may contain several, separated by commas.

    Raises:
        ConfigError: a metric is unknown (the hint suggests the nearest one), or none is given.
    """
    wanted = [name.strip() for several in names for name in several.split(",") if name.strip()]
    for name in wanted:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"unknown metric {name!r}", hint=f"{guess}metrics: {', '.join(METRICS)}")
    if not wanted:
        raise ConfigError("no metric is given", hint=f"metrics: {', '.join(METRICS)}")
    return tuple(dict.fromkeys(wanted))


def defaults(extractor: str, *, calibrated: bool) -> tuple[str, ...]:
    """All metrics that these features and this model allow, except the costly ones."""
    left_out = set(INCEPTION_ONLY.values() if extractor == INCEPTION else INCEPTION_ONLY)
    if not calibrated:
        left_out.add("bpd")
    return tuple(name for name in METRICS if name not in left_out and name not in COSTLY)


def check_features(names: Sequence[str], extractor: str) -> None:
    """Raise ConfigError unless the metrics fit the features: FID and KID are defined for Inception only.

    Raises:
        ConfigError: a metric has another name with these features; the hint gives it.
    """
    for name, elsewhere in INCEPTION_ONLY.items():
        if name in names and extractor != INCEPTION:
            raise ConfigError(
                f"{name} needs the features of Inception, not {extractor!r}",
                hint=f"use {elsewhere} with these features, or leave --features out",
            )
        if elsewhere in names and extractor == INCEPTION:
            raise ConfigError(f"with the features of Inception {elsewhere} is called {name}", hint=f"use {name}")
