"""The metrics of `vpfb eval`: in which direction each is better, and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.uses.evaluation import neighbours
from vpfb_core.uses.evaluation.features import INCEPTION

LOWER, HIGHER, HALF, NEAREST = "lower", "higher", "0.5", "0"
IMAGES, TABLE = (ImageStatistics.kind,), (TableStatistics.kind,)
BOTH = IMAGES + TABLE


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        better: the better direction, or the best value.
        fewest: the least number of images.
        samples: whether it compares features of samples and real data; otherwise it needs only real data.
        kinds: the kinds of data that it is defined for.
    """

    better: str
    fewest: int = 1
    samples: bool = False
    kinds: tuple[str, ...] = BOTH


METRICS: dict[str, Metric] = {
    "fid": Metric(LOWER, 2, samples=True, kinds=IMAGES),
    "kid": Metric(LOWER, 2, samples=True, kinds=IMAGES),
    "frechet": Metric(LOWER, 2, samples=True),
    "kernel": Metric(LOWER, 2, samples=True),
    "sliced": Metric(LOWER, 2, samples=True, kinds=TABLE),
    "precision": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "recall": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "density": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "coverage": Metric(HIGHER, neighbours.FEWEST, samples=True),
    "1nn": Metric(HALF, neighbours.FEWEST, samples=True),
    "residual": Metric(LOWER),
    "bpd": Metric(LOWER, kinds=IMAGES),
    "bpd_flow": Metric(LOWER, kinds=IMAGES),
    "nll": Metric(LOWER, kinds=TABLE),
    "statistics": Metric(NEAREST, 2),
}
INCEPTION_ONLY = {"fid": "frechet", "kid": "kernel"}  # metrics of Inception → their names with other features
ON_REQUEST = ("bpd_flow", "statistics")  # the first is slow, and the second is a table of its own


def find(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names of metrics. A string may contain several, separated by commas.

    Raises:
        ConfigError: a metric is unknown (the hint suggests the nearest one), or none is given.
    """
    wanted = [name.strip() for several in names for name in several.split(",") if name.strip()]
    for name in wanted:
        if name not in METRICS:
            hint = f"{did_you_mean(name, METRICS)}metrics: {', '.join(METRICS)}"
            raise ConfigError(f"unknown metric {name!r}", hint=hint)
    if not wanted:
        raise ConfigError("no metric is given", hint=f"metrics: {', '.join(METRICS)}")
    return tuple(dict.fromkeys(wanted))


def draws_samples(names: Iterable[str]) -> bool:
    """Whether some metric needs samples of the model."""
    return any(METRICS[name].samples or name == "statistics" for name in names)


def defaults(extractor: str, kind: str, *, calibrated: bool, flows: bool = True) -> tuple[str, ...]:
    """All metrics that these features and a model allow, except those of `ON_REQUEST`.

    Args:
        extractor: the name of the features.
        kind: the kind of data of the model.
        calibrated: whether the model is calibrated.
        flows: whether it has a flow.
    """
    left_out = set(INCEPTION_ONLY.values() if extractor == INCEPTION else INCEPTION_ONLY)
    if not calibrated:
        left_out.add("bpd")
    left_out |= {"nll"} if not flows else set()
    return tuple(
        name for name, metric in METRICS.items() if kind in metric.kinds and name not in {*left_out, *ON_REQUEST}
    )


def check_kind(names: Sequence[str], kind: str) -> None:
    """Raise ConfigError if a metric is not defined for a kind of data."""
    if wrong := [name for name in names if kind not in METRICS[name].kinds]:
        known = [name for name, metric in METRICS.items() if kind in metric.kinds]
        raise ConfigError(
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not defined for a model of "
            f"{'images' if kind in IMAGES else 'a table'}",
            hint=f"metrics: {', '.join(known)}",
        )


def check_features(names: Sequence[str], extractor: str) -> None:
    """Raise ConfigError unless the metrics fit the features: FID and KID are defined for Inception only.

    Raises:
        ConfigError: a metric has another name with these features; the hint gives it.
    """
    for name, elsewhere in INCEPTION_ONLY.items():
        if name in names and extractor != INCEPTION:
            raise ConfigError(
                f"{name} needs the features of Inception, not {extractor!r}",
                hint=f"use {elsewhere} with these features, or leave `features` out",
            )
        if elsewhere in names and extractor == INCEPTION:
            raise ConfigError(f"with the features of Inception {elsewhere} is called {name}", hint=f"use {name}")
