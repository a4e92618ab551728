"""The settings of the path from noise to data, which every method that trains on it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vpfb_core import names
from vpfb_core.methods.base import MethodSettings
from vpfb_core.methods.path import homotopy
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.homotopy import Homotopy
from vpfb_core.methods.step import DataShape
from vpfb_core.settings import setting


@dataclass(frozen=True)
class PathSettings(MethodSettings):
    """The settings of the path from noise to data, and of the angles at which training samples it."""

    schedule: str = setting("ot", help="Homotopy schedule from noise to data.", choices=names.SCHEDULES)
    floor: float | None = setting(
        None, help="Noise left at the data: sigma_min, or nu of the log-homotopy.", low=1e-6, high=0.5
    )
    data_std: float = setting(0.5, help="Standard deviation of the standardised data.", low=1e-3, high=1e3)
    angle_mean: float | None = setting(
        None, help="Mean of the log signal-to-noise ratio at which training draws.", low=-10, high=10
    )
    angle_std: float | None = setting(None, help="Standard deviation of that ratio.", low=1e-3, high=10)

    @property
    def homotopy(self) -> Homotopy:
        """The schedule."""
        parameters: dict[str, object] = {"name": self.schedule}
        if self.floor is not None:
            parameters["nu" if self.schedule == "log-homotopy" else "sigma_min"] = self.floor
        return homotopy.from_dict(parameters)

    @property
    def angles(self) -> AngleDistribution:
        """The distribution of the angles in training; where a value is not set, that of vectors of 64 numbers."""
        default = AngleDistribution()
        mean = default.mean if self.angle_mean is None else self.angle_mean
        return AngleDistribution(mean, default.std if self.angle_std is None else self.angle_std)

    def require_angles(self) -> None:
        """Raise ConfigError if training would draw almost no angles within the range of the schedule."""
        self.angles.truncation(self.homotopy.angle_range(self.data_std))


def path_defaults(data: DataShape) -> dict[str, Any]:
    """The default values of `angle_mean` and `angle_std` for data of this shape."""
    angles = AngleDistribution.for_shape(data.shape)
    return {"angle_mean": angles.mean, "angle_std": angles.std}
