"""Comparison of an in-distribution set with out-of-distribution sets: scores, their measures, and a report folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.own_files import is_own_picture
from vpfb_core.errors import ConfigError, singular
from vpfb_core.machine import distributed
from vpfb_core.machine.csv_files import csv_lines
from vpfb_core.machine.file_names import label
from vpfb_core.machine.files import write_together
from vpfb_core.machine.origin import UNKNOWN, Origin
from vpfb_core.uses.ood.detection import Detection, compare
from vpfb_core.uses.ood.scores import DEFAULT_BATCH, SCORES, Batch, in_batches, require_ready
from vpfb_core.uses.ood.tables import cell, image_name
from vpfb_core.uses.plotting.histogram import histogram

if TYPE_CHECKING:
    from vpfb_core.model.trained import TrainedModel

Key = tuple[str, str]  # the name of a set and its role, "in" or "out"
Sets = Mapping[Key, InMemory]
REPORT, TABLE = "report.json", "scores.csv"
_LONGEST_LABEL = 60  # characters of the name of a set in the name of a file
_ELSEWHERE = "choose another folder with -o"

Scores = Mapping[Key, Mapping[str, Tensor]]  # the scores of the images of each set, by the name of the score


@dataclass(frozen=True)
class Row:
    """The result for one out-of-distribution set and one score."""

    out: str
    score: str
    detection: Detection

    def document(self) -> dict[str, Any]:
        """The row as JSON values."""
        found = self.detection
        return {
            "out": self.out,
            "score": self.score,
            "auroc": found.auroc,
            "auroc_ci": list(found.auroc_ci),
            "aupr_in": found.aupr_in,
            "aupr_out": found.aupr_out,
            "fpr95": found.fpr95,
            "n_in": found.n_in,
            "n_out": found.n_out,
        }


def score_sets(
    model: TrainedModel,
    sets: Sets,
    names: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_progress: Callable[[float], None] | None = None,
) -> dict[Key, dict[str, Tensor]]:
    """The scores of all images of all sets. What several scores need is computed once for each batch of images.

    The processes of a job divide the images. The first process gets the scores, the others none. Arguments and errors
    that are not listed here are those of `scores.score`.

    Args:
        model: the model.
        sets: the images of each set.
        names: the names of the scores.
        on_progress: called with the share of the work that is done, in [0, 1].
    """
    chosen = {name: require_ready(model, name) for name in names}
    total, done = sum(map(len, sets.values())), 0
    found: dict[Key, dict[str, Tensor]] = {key: {} for key in sets}
    group = distributed.group()

    def compute(batch: Batch) -> dict[str, Tensor]:
        return {name: each.compute(batch).float().cpu() for name, each in chosen.items()}

    def report(n: int) -> None:
        if on_progress is not None:
            on_progress((done + n * group.count) / total)

    for key, images in sets.items():

        def scored(rows: range, images: InMemory = images) -> list[dict[str, Tensor]]:
            return in_batches(compute, model, images.data[rows.start : rows.stop], seed, rows.start, batch_size, report)

        if (parts := group.sharded(len(images), scored)) is not None:
            batches = [batch for part in parts for batch in part]
            found[key] = {name: torch.cat([torch.empty(0), *(batch[name] for batch in batches)]) for name in chosen}
        done += len(images)
    return found


def compare_all(scores: Scores) -> list[Row]:
    """One row per out-of-distribution set and score, in the given order. Errors are those of `detection.compare`."""
    (in_scores,) = (found for (_, role), found in scores.items() if role == "in")
    return [
        Row(name, each, compare(in_scores[each], found[each]))
        for (name, role), found in scores.items()
        if role == "out"
        for each in found
    ]


def older_report(folder: Path, outs: Sequence[str], names: Sequence[str]) -> list[Path]:
    """The files of the report that is in a folder, which may be missing.

    Args:
        folder: the folder.
        outs: the names of the out-of-distribution sets of the report that will be written there.
        names: the names of its scores.
    Raises:
        ConfigError: a file of the new report would replace one that vpfb did not write.
    """
    try:
        ours = {"in", "model", "results"} <= json.loads((folder / REPORT).read_bytes()).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        ours = False
    tables = [path for path in (folder / REPORT, folder / TABLE) if path.exists()]
    for path in [] if ours else tables:
        raise ConfigError(f"{path} would be overwritten, and vpfb did not write it", hint=_ELSEWHERE)
    older = [path for path in folder.glob("*.png") if path.stem.rpartition("-")[2] in SCORES and is_own_picture(path)]
    for path in (folder / _picture(out, name) for out in _file_names(outs).values() for name in names):
        if path.exists() and path not in older:
            raise ConfigError(f"{path} would be overwritten, and vpfb did not write it", hint=_ELSEWHERE)
    return tables + (older if ours else [])


def write_report(
    folder: Path,
    document: Mapping[str, Any],
    sets: Sets,
    scores: Scores,
    rows: Sequence[Row],
    origin: Origin = UNKNOWN,
) -> None:
    """Write scores.csv, report.json and one histogram per row to a folder, in place of an older report there.

    Args:
        folder: the folder, which is created if it is missing.
        document: JSON values for report.json, to which the descriptions of the scores are added.
        sets: the images.
        scores: the scores of the images.
        rows: the results.
        origin: the origin that is recorded in the histograms.
    Raises:
        ConfigError: a file that vpfb did not write is in the way.
        DataError: the folder cannot be written.
    """
    outs = [name for name, role in scores if role == "out"]
    names, older = _file_names(outs), older_report(folder, outs, list(next(iter(scores.values()))))
    summaries = {row.score: f"{SCORES[row.score].summary}; higher means more out-of-distribution" for row in rows}
    text = json.dumps({**document, "scores": summaries}, indent=1, allow_nan=False)
    written = {folder / TABLE: scores_table(sets, scores), folder / REPORT: f"{text}\n".encode()}

    (inside,) = (name for name, role in scores if role == "in")
    for row in rows:
        labels = _label(inside), _label(row.out)
        written[folder / _picture(names[row.out], row.score)] = histogram(
            scores[inside, "in"][row.score],
            scores[row.out, "out"][row.score],
            names=labels,
            axis=row.score,
            title=f"{labels[0]} against {labels[1]}: AUROC {row.detection.auroc:.4f}",
            origin=origin,
        )
    write_together(written)
    for path in set(older).difference(written):
        path.unlink(missing_ok=True)


def _picture(out: str, score: str) -> str:
    """The file name of a histogram, from the file name of the set and the name of the score."""
    return f"{out}-{score}.png"


def _label(source: str) -> str:
    """The name of a source in a plot, with only the last part of a path."""
    kind, colon, path = source.rpartition(":") if source.startswith("shuffled:") else ("", "", source)
    return f"{kind}{colon}{Path(path).name or path}"


def _file_names(sources: Sequence[str]) -> dict[str, str]:
    """A unique file name for each source, such as shuffled-mnist for shuffled:mnist."""
    plain = {source: label(source[-_LONGEST_LABEL:], _LONGEST_LABEL) or "out" for source in sources}
    taken = Counter(plain.values())
    return {
        source: name if taken[name] == 1 else f"{name}-{number}"  # such as a/b and a-b
        for number, (source, name) in enumerate(plain.items(), start=1)
    }


def scores_table(sets: Sets, scores: Scores) -> bytes:
    """A CSV file with one row per datum: its set, its role (in or out), its name, and one column per score."""
    names = list(next(iter(scores.values())))
    header = ["set", "role", singular(next(iter(sets.values())).noun), *names]
    rows = (
        [name, role, image_name(images, index), *map(cell, values)]
        for (name, role), images in sets.items()
        for index, values in enumerate(zip(*(scores[name, role][each].tolist() for each in names), strict=True))
    )
    return csv_lines([header, *rows])
