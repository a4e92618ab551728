"""Samples that are drawn to have given statistics: the fit of the model, and the report of what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from vpfb_cli.output import Output
    from vpfb_core.api import Model
    from vpfb_core.model.tilt import Tilt
    from vpfb_core.uses.measuring.measures import Measures


class Reached:
    """The statistics of the samples that were drawn to have given means."""

    def __init__(self, measures: Measures, tilt: Tilt) -> None:
        self._measures, self._tilt = measures, tilt
        self._found: list[Tensor] = []

    @classmethod
    def of(cls, model: Model, targets: Mapping[str, float]) -> Reached | None:
        """Those of a model that was matched to these targets; None without targets."""
        from vpfb_core.uses.measuring.measures import Measures

        if not targets or model.tilt is None:
            return None
        return cls(Measures.of(model, targets), model.tilt)

    def add(self, images: Tensor) -> None:
        """Note the statistics of the next samples."""
        self._found.append(self._measures.measure(images))

    @property
    def found(self) -> Tensor:
        """The statistics of each sample, (n, statistics)."""
        import torch

        return torch.cat(self._found)

    def document(self) -> dict[str, dict[str, float]]:
        """The target and the mean of each statistic, with the effective sample size and the gain of the tilt."""
        found, tilt = self.found, self._tilt
        return {
            each.name: {
                "target": each.target, "reached": float(mean), "ess": tilt.ess * len(found), "nats": tilt.nats,
            }
            for each, mean in zip(tilt.statistics, found.mean(0), strict=True)
        }  # fmt: skip

    def in_words(self) -> str:
        """The same for people."""
        found, tilt = self.found, self._tilt
        # One sample has no standard deviation.
        errors = found.std(0) / len(found) ** 0.5 if len(found) > 1 else found.new_zeros(found.shape[1])
        lines = [
            f"{each.name}: target {each.target:.4g}, samples {mean:.4g}" + (f" +/- {error:.1g}" if error > 0 else "")
            for each, mean, error in zip(tilt.statistics, found.mean(0), errors, strict=True)
        ]
        weighted = f"{tilt.ess * len(found):.3g} of {len(found)}"
        rounds = f"; {tilt.rounds} further proposals per sample" if tilt.rounds else ""
        lines.append(f"{tilt.nats:.2g} nats per sample; weights in place of new samples would leave {weighted}{rounds}")
        return "\n".join(lines)


def matched(
    say: Output,
    model: Model,
    targets: Mapping[str, float],
    seed: int,
    settings: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    in_chains: bool,
) -> Model:
    """The model with a tilt that gives its samples these means."""
    from vpfb_core.machine import distributed
    from vpfb_core.uses.matching.tilting import fit

    if model.tilt is not None:
        say.note("--match takes the place of this tilt")
    with progress(say, "matching") as bar:
        tilt = distributed.group().from_first(
            lambda: fit(model, targets, seed=seed, on_progress=bar.update, **settings, **how)
        )
    if in_chains and tilt.unshifted:
        beside = ", ".join(each.name for each in tilt.unshifted)
        raise ConfigError(
            f"--langevin moves samples by energies, which do not contain {beside}",
            hint="leave --langevin out, or match linear statistics, such as brightness",
        )
    return model.with_tilt(tilt)
