"""The codes of all data of a source, their clusters, and the table and the montage that show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpfb_core import methods
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import Source
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.data.unreadable import readable
from vpfb_core.errors import ConfigError, DataError, FeatureError, counted
from vpfb_core.machine import noise
from vpfb_core.machine.csv_files import csv_lines
from vpfb_core.model.trained import DEFAULT_BATCH, TrainedModel
from vpfb_core.uses import draw, pictures

# The default for flows, in a quarter of the time of dopri5. Codes of the built-in digits, whose variance is 1, are then
# wrong by 0.023 (root mean square), and encoding and decoding change their images by 0.2 grey levels.
FLOW_SOLVER = {"method": "arc3", "nfe": 32}
AT_ONCE = 1024  # data that are in memory at once
RESTARTS = 8  # of k-means, of which the best is taken
ITERATIONS = 40
SHOWN = 16  # the largest number of images per row of a montage
NAMES = {ImageStatistics.kind: "file", TableStatistics.kind: "row"}


@dataclass(frozen=True)
class Codes:
    """The codes of some data.

    Attributes:
        names: the file of each datum, or the number of its row.
        rows: the row of each datum in its source, int64 (N,).
        values: the codes, float32 (N, D).
    """

    names: tuple[str, ...]
    rows: Tensor
    values: Tensor

    @classmethod
    def join(cls, parts: Sequence[Codes]) -> Codes:
        """The codes of several parts in one."""
        return cls(
            tuple(name for part in parts for name in part.names),
            torch.cat([part.rows for part in parts]),
            torch.cat([part.values for part in parts]),
        )


@dataclass(frozen=True)
class Clusters:
    """A division of data into clusters, of which cluster 0 is the largest.

    Attributes:
        labels: the cluster of each datum, int64 (N,).
        distance: its distance from the mean of the cluster, (N,).
    """

    labels: Tensor
    distance: Tensor

    @property
    def count(self) -> int:
        """The number of clusters."""
        return int(self.labels.max()) + 1


def by_model(model: TrainedModel, *, batch_size: int = DEFAULT_BATCH, **solver: Any) -> Callable[[Tensor], Tensor]:
    """What computes the codes of data by a model, for `encoded`.

    Args:
        model: a model with codes.
        batch_size: the number of data that are computed at once.
        solver: the settings of the solver of a flow, as in `draw.encode`; by default they are `FLOW_SOLVER`.
    Raises:
        ConfigError: the method of the model has no codes.
    """
    model.require("code", "encoding")
    if not solver and methods.gives(model.method.name, "flow"):
        solver = dict(FLOW_SOLVER)
    return partial(draw.encode, model, batch_size=batch_size, **solver)


def encoded(
    compute: Callable[[Tensor], Tensor],
    source: Source,
    *,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Codes]:
    """The codes of all data of a source, part by part. Unreadable files of a streamed folder are left out.

    Args:
        compute: maps data of the source (N, …) to their codes (N, …), such as `by_model` returns.
        source: the data.
        batch_size: the number of data that are computed at once.
        on_batch: called with the number of data that are done.
    Raises:
        ConfigError: the data do not fit the model.
        DataError: no datum could be read.
        FeatureError: a feature is not finite. The message names the first file.
        SolverError: a datum cannot be encoded.
    """
    count = 0
    for start in range(0, len(source), AT_ONCE):
        rows = torch.arange(start, min(start + AT_ONCE, len(source)))
        part = source.subset(rows)
        if part.files is None:
            names = tuple(f"{source.name}#{row}" for row in rows.tolist())
        else:
            names = part.files
            rows = readable(source, rows, part)
        values = []
        for first in range(0, len(part), batch_size):
            some = part.data[first : first + batch_size]
            try:
                values.append(compute(some).flatten(1))
            except FeatureError as error:
                raise error.of(names[first + error.row]) from error
            if on_batch is not None:
                on_batch(start + first + len(some))
        count += len(names)
        if values:
            yield Codes(names, rows, torch.cat(values))
    if not count:
        raise DataError(f"not one of {counted(len(source), source.noun)} of '{source.name}' could be read")


def cluster(codes: Tensor, count: int, seed: int = 0) -> Clusters:
    """Divide codes (N, D) into clusters by k-means, the best of several starts.

    Args:
        codes: the codes.
        count: the number of clusters.
        seed: the seed of the starts.
    Raises:
        ConfigError: there are fewer different codes than clusters.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    points = codes.double().numpy()
    different = len(np.unique(points, axis=0))
    if not 1 <= count <= different:
        raise ConfigError(
            f"{counted(different, 'different codes')} cannot be divided into {counted(count, 'clusters')}",
            hint="ask for fewer clusters",
        )
    if count == different:  # k-means has nothing to choose
        labels = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
        return _sorted_by_size(points, labels)
    best, least = None, math.inf
    for start in range(RESTARTS):
        draws = np.random.default_rng(noise.derive_seed(seed, "clusters", start))
        try:
            centres, labels = kmeans2(points, count, iter=ITERATIONS, minit="++", missing="raise", seed=draws)
        except ClusterError:  # a cluster became empty
            continue
        spread = float(np.square(points - centres[labels]).sum())
        if spread < least and len(np.unique(labels)) == count:
            best, least = labels, spread
    if best is None:
        raise ConfigError(f"no start of k-means led to {counted(count, 'clusters')}", hint="ask for fewer clusters")
    return _sorted_by_size(points, best)


def _sorted_by_size(points: np.ndarray, labels: np.ndarray) -> Clusters:
    """Clusters in the order of their sizes, the largest first."""
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    labels = number[labels]
    means = np.stack([points[labels == each].mean(0) for each in range(len(sizes))])
    distance = np.linalg.norm(points - means[labels], axis=1)
    return Clusters(torch.from_numpy(labels).long(), torch.from_numpy(distance))


# --- the table --------------------------------------------------------------------------------------------------------


def header(kind: str, dimension: int, *, clustered: bool) -> bytes:
    """The names of the columns of a table of codes.

    Args:
        kind: the kind of data, one of `NAMES`.
        dimension: how many numbers a code has.
        clustered: whether there is a column of clusters.
    """
    codes = [f"code_{i}" for i in range(dimension)]
    return csv_lines([[NAMES[kind], *codes, *(["cluster"] if clustered else [])]])


def table_rows(codes: Codes, clusters: Clusters | None = None) -> bytes:
    """The rows of a table of codes."""
    lines = (
        [name, *(f"{value:.6g}" for value in row)] for name, row in zip(codes.names, codes.values.tolist(), strict=True)
    )
    if clusters is None:
        return csv_lines(lines)
    return csv_lines([*line, label] for line, label in zip(lines, clusters.labels.tolist(), strict=True))


def is_code_table(first_line: str) -> bool:
    """Whether a file begins with the names of the columns of a table of codes."""
    return any(first_line == f"{name},code_0" or first_line.startswith(f"{name},code_0,") for name in NAMES.values())


# --- the montage ------------------------------------------------------------------------------------------------------


def require_montage(count: int, shape: Sequence[int]) -> None:
    """Check that a picture can hold a montage of that many clusters. Errors are those of `pictures.require_grid`."""
    pictures.require_grid(count * SHOWN, shape, columns=SHOWN, instead="ask for fewer clusters")


def montage(source: Source, codes: Codes, clusters: Clusters) -> Tensor:
    """A picture, float32 (C, height, width) in [0, 1], with one row of images per cluster.

    In each row the image nearest to the mean of the cluster is the first.
    """
    largest = int(clusters.labels.bincount().max())
    columns = min(SHOWN, largest)
    order = clusters.distance.argsort(stable=True)
    tiles = torch.ones(clusters.count, columns, *source.shape)
    for each in range(clusters.count):
        members = order[clusters.labels[order] == each][:columns]
        # The rows are read in their order, since a source may leave out a file that has become unreadable.
        images = source.subset(codes.rows[members]).data
        tiles[each, : len(images)] = images.float() / 255
    return pictures.tile(tiles.flatten(0, 1), columns=columns)
