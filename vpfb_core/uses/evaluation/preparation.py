"""The plan of an evaluation: its metrics, images and features, which are determined before the long computation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vpfb_core import methods
from vpfb_core.data import catalogue
from vpfb_core.errors import ConfigError
from vpfb_core.uses import density
from vpfb_core.uses.evaluation import features, metrics, real
from vpfb_core.uses.evaluation.features import Extractor
from vpfb_core.uses.evaluation.metrics import METRICS
from vpfb_core.uses.evaluation.real import Real

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

FLOW_VALUES = 10_000  # the default number of values of a table for it, whose networks are small
FLOW_IMAGES = 64  # the default number of images for the likelihood of the flow, which is slow
PUBLISHED_FID = 50_000  # the usual number of samples of published FIDs


@dataclass(frozen=True)
class Plan:
    """The plan of an evaluation.

    Attributes:
        metrics: names from `metrics.METRICS`.
        extractor: the extractor of the features; None if no features are compared.
        real: the real images.
        by_class: whether samples and densities are those of the classes of the real images, because the unconditional
            field of the model was not trained.
        flow_images: the largest number of images for the likelihood of the flow.
        notes, warnings: sentences for the user.
    """

    metrics: tuple[str, ...]
    extractor: Extractor | None
    real: Real
    by_class: bool
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
        extractor: a name such as those of `features.NAMES`, for images; None as in `features.choose`.
        weights_path: the file of the extractor's weights.
        root, download: as in `data.load`. `download` also allows the download of the Inception weights.
    Raises:
        ConfigError: a setting does not exist, settings contradict each other, or the unconditional field of the model
            was not trained and some image has no class or one that is not calibrated.
        MissingError: the weights or a package of the extractor are not installed.
        DataError: the data cannot be read, or there are too few images.
        CheckpointError: weights are damaged, or bpd is requested of a model that is not calibrated.
    """
    identity, compared = catalogue.identity(source), wanted is None or any(METRICS[name].samples for name in wanted)
    if not compared and (extractor or weights_path):
        raise ConfigError(f"{', '.join(wanted or ())} compares no features", hint="leave `features` out")
    metrics.check_kind(wanted or (), model.statistics.kind)
    of_images, name = model.statistics.kind in metrics.IMAGES, extractor
    if not of_images:
        if extractor or weights_path:
            raise ConfigError("`features` and `weights_path` are for images, and the model is of a table")
        name = features.COLUMNS
    if name is None:
        fid_meant = any(each in metrics.INCEPTION_ONLY for each in wanted or ())
        name = features.choose(weights_path, identity, model.shape, fid_meant=fid_meant)
    if of_images:
        features.check_name(name)
    names = wanted or metrics.defaults(
        name, model.statistics.kind, calibrated=model.calibration is not None,
        flows=methods.gives(model.method.name, "flow"),
    )  # fmt: skip
    if compared:
        metrics.check_features(names, name)
    if "bpd" in names:
        density.explicit_level(model, None)  # raises an error if the model is not calibrated
    found = None
    if compared:
        found = (
            features.find(name, weights_path, identity, model.shape, model.device, download=download)
            if of_images
            else features.Extractor(features.COLUMNS, None, "none", model.statistics.features)
        )
    fewest = max(METRICS[each].fewest for each in names)
    images = real.load(model, source, n, fewest=fewest, root=root, download=download)

    notes, by_class = list(images.notes), not model.field.has_null
    if by_class:
        rows = _class_indices(images, source)
        notes.append(
            "the model was trained only with classes, so samples and densities are those of the images' classes"
        )
        calibration = model.calibration
        if "bpd" in names and calibration is not None and not all(map(calibration.knows, rows)):
            if wanted is not None:
                raise ConfigError("bpd is not calibrated for all classes of these images", hint="leave bpd out")
            names = tuple(name for name in names if name != "bpd")
    if found is not None:
        notes.append(f"features: {found.name}" + (f", weights {found.weights[:8]}" if found.weights else ""))
    if of_images and wanted is None and "bpd" not in names and methods.gives(model.method.name, "density"):
        notes.append("left out: bpd, which needs a calibrated model (vpfb info --calibrate MODEL)")
    warnings = list(images.warnings)
    count = len(images.images)
    if "fid" in names and count < PUBLISHED_FID:
        warnings.append(
            f"FID depends on the number of images: with {count:,} it is not comparable with FIDs of {PUBLISHED_FID:,}"
        )
    few = FLOW_IMAGES if of_images else max(FLOW_IMAGES, FLOW_VALUES // model.data_shape.dimension)
    return Plan(names, found, images, by_class, n or few, tuple(notes), tuple(warnings))


def _class_indices(images: Real, source: str) -> list[list[int]]:
    """The combinations of class indices that occur in the images.

    Raises:
        ConfigError: an image has no class, which a model without an unconditional field needs.
    """
    if images.labels is not None and images.unseen_labels is not None:
        rows: list[list[int]] = torch.cat([images.labels, images.unseen_labels]).unique(dim=0).tolist()
        if all(index >= 0 for row in rows for index in row):
            return rows
    raise ConfigError(
        f"{source!r} does not have the model's class of every image, and the model was trained only with classes "
        "(condition_dropout = 0)",
        hint="name data with these classes, or train with `condition_dropout=0.1`",
    )
