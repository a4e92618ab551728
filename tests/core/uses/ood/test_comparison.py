"""An in-distribution set against others: the rows, the table of all scores, and the report."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from ood_models import count_evaluations, images_of, model_of, turning
from PIL import Image

from vpfb_core.data import ImageSet
from vpfb_core.uses.ood import comparison, fit_reference, score
from vpfb_core.uses.ood.comparison import scores_table
from vpfb_core.uses.ood.descriptors import LEVELS


def read(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def folder_of(*files: str) -> ImageSet:
    return ImageSet("folder", torch.zeros(len(files), 1, 8, 8, dtype=torch.uint8), files=files)


def test_names_survive_the_table() -> None:
    files = ("a,b.png", 'say "hi".png', "line\nbreak.png", "=1+2.png", "-x.png", "ü/ß.png", "a\r.png", "a\u00a0b.png")
    images = folder_of(*files)
    scores = {("folder", "out"): {"energy": torch.arange(8.0)}}
    names = [row[2] for row in read(scores_table({("folder", "out"): images}, scores))[1:]]
    assert names == list(files)


def test_the_table_has_one_row_per_image_and_one_column_per_score() -> None:
    array = ImageSet("x.npz", torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    sets = {("in", "in"): folder_of("a.png"), ("x.npz", "out"): array}
    scores = {
        ("in", "in"): {"energy": torch.tensor([1.5]), "gradient": torch.tensor([2.0])},
        ("x.npz", "out"): {"energy": torch.tensor([math.inf, -3.25]), "gradient": torch.tensor([0.0, 1.0])},
    }
    assert read(scores_table(sets, scores)) == [
        ["set", "role", "image", "energy", "gradient"],
        ["in", "in", "a.png", "1.5", "2"],
        ["x.npz", "out", "x.npz#0", "inf", "0"],
        ["x.npz", "out", "x.npz#1", "-3.25", "1"],
    ]


def test_every_pair_and_score_is_compared_with_the_in_distribution_scores() -> None:
    scores = {
        ("a", "in"): {"energy": torch.tensor([0.0, 1.0]), "gradient": torch.tensor([0.0, 1.0])},
        ("b", "out"): {"energy": torch.tensor([2.0]), "gradient": torch.tensor([-1.0])},
        ("c", "out"): {"energy": torch.tensor([0.5]), "gradient": torch.tensor([2.0])},
    }
    rows = comparison.compare_all(scores)
    assert [(row.out, row.score, row.detection.auroc) for row in rows] == [
        ("b", "energy", 1.0), ("b", "gradient", 0.0), ("c", "energy", 0.5), ("c", "gradient", 1.0),
    ]  # fmt: skip
    assert set(rows[0].document()) == {
        "out", "score", "auroc", "auroc_ci", "aupr_in", "aupr_out", "fpr95", "n_in", "n_out",
    }  # fmt: skip


def test_scores_that_need_the_same_descriptors_compute_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, names = model_of(turning), ["energy", "gradient", "typicality"]
    model.reference = fit_reference(model, images_of(60).clamp(0, 1))
    sets = {(name, name): ImageSet(name, (255 * images_of(5, seed)).byte()) for seed, name in enumerate(("in", "out"))}
    alone = {key: {name: score(model, images.data, name) for name in names} for key, images in sets.items()}
    multiscale = {key: score(model, images.data) for key, images in sets.items()}
    counts = count_evaluations(monkeypatch)
    together = comparison.score_sets(model, sets, ["multiscale", *names], batch_size=5)
    assert counts == {"energy_and_score": 2 * len(LEVELS)}
    for key in sets:
        torch.testing.assert_close(together[key].pop("multiscale"), multiscale[key])
        torch.testing.assert_close(together[key], alone[key])


def test_progress_runs_from_the_first_image_to_the_last() -> None:
    images = ImageSet("x", torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
    heard: list[float] = []
    sets = {("x", "in"): images, ("y", "out"): images}
    comparison.score_sets(model_of(), sets, ["energy", "gradient"], batch_size=3, on_progress=heard.append)
    assert heard == [0.3, 0.5, 0.8, 1.0]


def test_a_report_has_a_histogram_of_its_own_for_each_row(tmp_path: Path) -> None:
    sets = {(name, role): folder_of("0.png", "1.png") for name, role in (("in", "in"), ("a/b", "out"), ("a-b", "out"))}
    scores = {key: {"energy": torch.tensor([0.0, 1.0]) + index} for index, key in enumerate(sets)}
    rows = comparison.compare_all(scores)
    comparison.write_report(tmp_path / "report", {"seed": 3}, sets, scores, rows)
    written = {path.name: path for path in (tmp_path / "report").iterdir()}
    assert set(written) == {"scores.csv", "report.json", "a-b-1-energy.png", "a-b-2-energy.png"}
    report = json.loads(written["report.json"].read_text())
    assert (report["seed"], list(report["scores"])) == (3, ["energy"])
    assert len(read(written["scores.csv"].read_bytes())) == 1 + 6
    assert Image.open(written["a-b-1-energy.png"]).size[0] > 600
