"""What an evaluation will measure, on which images and by which features: decided before the long work begins."""

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

FLOW_IMAGES = 64  # of the likelihood by the flow, which is slow, unless a number is asked for
PUBLISHED_FID = 50_000  # samples that published FIDs take


@dataclass(frozen=True)
class Plan:
    """What is measured, and on what.

    Attributes:
        metrics: names from `metrics.METRICS`.
        extractor: of the features that are compared; None where none are.
        real: the images.
        flow_images: how many of them the likelihood by the flow is taken of, at most.
        notes, warnings: in plain words, for people.
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
    """Decide what is measured, and load what that takes.

    Args:
        source: the data: a name, perhaps with :train or :test, a folder or a file.
        wanted: metrics, as `metrics.find` returns them; None is all that these features and this model allow.
        n: images to compare; None as in `real.load`.
        extractor: "pixels", "classifier", "torchvision:ARCH" or "inception"; None as in `features.choose`.
        weights_path: of the extractor's weights.
        root, download: as in `data.load`; `download` also of Inception's weights.
    Raises:
        ConfigError: settings that do not exist or do not go together.
        MissingError: an extractor lacks its weights or package.
        DataError: the data cannot be read, or are too few.
        CheckpointError: damaged weights, or a model without a calibrated density where bpd is asked for.
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
        density.explicit_level(model, None)  # refuses a model that is not calibrated
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
        warnings.append(f"FID falls as images are added: at {count:,} it compares with none of {PUBLISHED_FID:,}")
    return Plan(names, found, images, n or FLOW_IMAGES, tuple(notes), tuple(warnings))
