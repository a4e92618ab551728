"""The plan of an evaluation: its metrics, images and features, which are determined before the long computation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_core import methods
from vpfb_core.errors import ConfigError
from vpfb_core.uses import density
from vpfb_core.uses.evaluation import features, metrics, real
from vpfb_core.uses.evaluation.features import Extractor
from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.real import Real
from vpfb_core.uses.ood import choice

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

FLOW_IMAGES = 64  # the default number of images for the likelihood of the flow, which is slow
PUBLISHED_FID = 50_000  # the usual number of samples of published FIDs


@dataclass(frozen=True)
class Plan:
    """The plan of an evaluation.

    Attributes:
        metrics: names from `metrics.METRICS`.
        extractor: the extractor of the features; None if no features are compared.
        real: the real images.
        flow_images: the largest number of images for the likelihood of the flow.
        notes, warnings: sentences for the user.
    """

    metrics: tuple[str, ...]
    extractor: Extractor | None
    real: Real
    flow_images: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare(
    model: TrainedModel,
    source: str,
    wanted: tuple[str, ...] | None = None,
    *,
    n: int | None = None,
    extractor: str | None = None,
    weights_path: Path | None = None,
    root: Path | None = None,
    download: bool = True,
) -> Plan:
    """Plan an evaluation, and load its images and its extractor.

    Args:
        model: the model.
        source: the data: the name of a data set, possibly with :train or :test, a folder or a file.
        wanted: the metrics, as `metrics.find` returns them; None is all that the features and the model allow.
        n: the number of images; None as in `real.load`.
        extractor: "pixels", "classifier", "torchvision:ARCH" or "inception"; None as in `features.choose`.
        weights_path: the file of the extractor's weights.
        root, download: as in `data.load`. `download` also allows the download of the Inception weights.
    Raises:
        ConfigError: a setting does not exist, or settings contradict each other.
        MissingError: the weights or a package of the extractor are not installed.
        DataError: the data cannot be read, or there are too few images.
        CheckpointError: weights are damaged, or bpd is requested of a model that is not calibrated.
    """
    identity, compared = choice.identity(source), wanted is None or any(METRICS[name].samples for name in wanted)
    if not compared and (extractor or weights_path):
        raise ConfigError(f"{', '.join(wanted or ())} compares no features", hint="leave --features out")
    name = extractor
    if name is None:
        fid_meant = any(each in metrics.INCEPTION_ONLY for each in wanted or ())
        name = features.choose(weights_path, identity, model.shape, fid_meant=fid_meant)
    features.check_name(name)
    names = wanted or metrics.defaults(name, calibrated=model.calibration is not None)
    if compared:
        metrics.check_features(names, name)
    if "bpd" in names:
        density.explicit_level(model, None)  # raises an error if the model is not calibrated
    found = None
    if compared:
        found = features.find(name, weights_path, identity, model.shape, model.device, download=download)
    fewest = max(METRICS[each].fewest for each in names)
    images = real.load(model, source, n, fewest=fewest, root=root, download=download)

    notes = list(images.notes)
    if found is not None:
        notes.append(f"features: {found.name}" + (f", weights {found.weights[:8]}" if found.weights else ""))
    if wanted is None and "bpd" not in names and methods.gives(model.method.name, "energy"):
        notes.append("left out: bpd, which needs a calibrated model (vpfb info --calibrate MODEL)")
    warnings = list(images.warnings)
    count = len(images.images)
    if "fid" in names and count < PUBLISHED_FID:
        warnings.append(
            f"FID depends on the number of images: with {count:,} it is not comparable with FIDs of {PUBLISHED_FID:,}"
        )
    return Plan(names, found, images, n or FLOW_IMAGES, tuple(notes), tuple(warnings))
