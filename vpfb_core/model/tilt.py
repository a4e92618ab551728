"""The tilt of a model: what changes its samples so that their statistics have given means.

The density p of the samples becomes p(x) exp(λ·T(x))/Z for statistics T. The part of the linear statistics is known
exactly at every noise level, as a direction in the space of the data. The other part acts on samples only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core.machine.container import finite_number

MOST = 4096  # statistics of a tilt, and conditions with a constant


@dataclass(frozen=True)
class TiltedStatistic:
    """A statistic of a tilt.

    Attributes:
        name: its name.
        target: the mean that samples should have.
        weight: its λ, in nats per unit of the statistic.
        shifted: whether it is part of the direction of the tilt, and otherwise of the rounds.
    """

    name: str
    target: float
    weight: float
    shifted: bool


@dataclass(frozen=True, eq=False)
class Tilt:
    """A tilt of a model.

    Attributes:
        statistics: the statistics.
        direction: the weights of the standardised data in the exponent, of the shape of a datum; zero without a linear
            statistic.
        log_partitions: log E exp(direction·z) in nats under each condition whose densities stay calibrated. A condition
            is the class index in each condition group, −1 for none.
        rounds: the number of proposals after the first sample, for the statistics that are not in the direction.
        ess: the effective sample size of weighted samples in place of samples of the tilted model, as a share of their
            number.
        nats: λ·t − log Z for the targets t, the divergence KL of the tilted density from the density.
    """

    statistics: tuple[TiltedStatistic, ...]
    direction: Tensor
    log_partitions: Mapping[tuple[int, ...], float]
    rounds: int = 0
    ess: float = 1.0
    nats: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the statistics."""
        return tuple(each.name for each in self.statistics)

    @property
    def unshifted(self) -> tuple[TiltedStatistic, ...]:
        """The statistics that are not in the direction, and act on samples only."""
        return tuple(each for each in self.statistics if not each.shifted)

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `from_dict` returns this tilt with its direction."""
        return {
            "statistics": [asdict(each) for each in self.statistics],
            "log_partitions": [{"condition": list(key), "value": value} for key, value in self.log_partitions.items()],
            "rounds": self.rounds,
            "ess": self.ess,
            "nats": self.nats,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], direction: Tensor) -> Tilt:
        """The tilt that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: the document or the direction does not describe a tilt.
        """
        entries, partitions = document["statistics"], document["log_partitions"]
        if max(len(entries), len(partitions)) > MOST:
            raise ValueError(f"a tilt has at most {MOST} statistics")
        statistics = tuple(
            TiltedStatistic(
                _typed(each["name"], str),
                finite_number(each["target"]),
                finite_number(each["weight"]),
                _typed(each["shifted"], bool),
            )
            for each in entries
        )
        log_partitions = {
            tuple(_typed(index, int) for index in each["condition"]): finite_number(each["value"])
            for each in partitions
        }
        if not direction.is_floating_point() or not bool(direction.isfinite().all()):
            raise ValueError("the direction of a tilt is finite numbers")
        rounds = _typed(document["rounds"], int)
        if not 0 <= rounds <= MOST:
            raise ValueError(f"a tilt has at most {MOST} rounds")
        if rounds and all(each.shifted for each in statistics):
            raise ValueError("a tilt with rounds has a statistic that is not shifted")
        ess, nats = (finite_number(document[name]) for name in ("ess", "nats"))
        return cls(statistics, direction, log_partitions, rounds, ess, nats)

    @classmethod
    def along(cls, direction: Tensor) -> Tilt:
        """The tilt of a direction alone, without constants."""
        return cls((), direction, {})

    @property
    def shifts(self) -> bool:
        """Whether the direction is not zero."""
        return bool(torch.any(self.direction != 0))


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} in the tilt is no {kind.__name__}")
    return value
