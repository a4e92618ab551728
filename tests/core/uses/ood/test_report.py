"""Tables of scores, and which pictures of a folder belong least."""

from __future__ import annotations

import csv
import io
import math

import pytest
import torch
from ood_models import model_of

from vpfb_core.data import ImageSet
from vpfb_core.errors import DataError
from vpfb_core.model.trained import Model
from vpfb_core.uses.ood import report


def read(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def folder_of(*files: str) -> ImageSet:
    return ImageSet("folder", torch.zeros(len(files), 1, 8, 8, dtype=torch.uint8), files=files)


def test_strangers_among_digits_come_first(digits: tuple[Model, ImageSet]) -> None:
    model, held_out = digits
    strangers = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([held_out.images[:25], strangers, held_out.images[25:40]])
    files = tuple(f"{index:02}.png" for index in range(len(images)))
    judged = report.judge(model, ImageSet("folder", images, files=files), "multiscale")
    assert {one.file for one in judged[:5]} == {f"{index}.png" for index in range(25, 30)}
    assert [one.score for one in judged] == sorted((one.score for one in judged), reverse=True)
    assert [int(one.file[:2]) for one in judged] == [one.index for one in judged]


def test_an_uncalibrated_model_leaves_bits_empty_and_a_calibrated_one_fills_them(
    digits: tuple[Model, ImageSet],
) -> None:
    model, held_out = digits
    images = held_out.subset(torch.arange(3))
    rows = read(report.judged_table(report.judge(model, images, "energy")))
    assert rows[0] == ["file", "score", "energy", "bits_per_dim"]
    assert all((row[3] == "") == (model.normaliser is None) for row in rows[1:])
    assert all(row[1] == row[2] for row in rows[1:]), "the energy is the score that was asked for"


def test_names_survive_the_table() -> None:
    files = ("a,b.png", 'say "hi".png', "line\nbreak.png", "=1+2.png", "-x.png", "ü/ß.png")
    images = folder_of(*files)
    scores = {("folder", "out"): {"energy": torch.arange(6.0)}}
    names = [row[2] for row in read(report.scores_table({("folder", "out"): images}, scores))[1:]]
    assert names == ["a,b.png", 'say "hi".png', "line\nbreak.png", "./=1+2.png", "./-x.png", "ü/ß.png"]


def test_the_table_has_a_row_an_image_and_a_column_a_score() -> None:
    array = ImageSet("x.npz", torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    sets = {("in", "in"): folder_of("a.png"), ("x.npz", "out"): array}
    scores = {
        ("in", "in"): {"energy": torch.tensor([1.5]), "gradient": torch.tensor([2.0])},
        ("x.npz", "out"): {"energy": torch.tensor([math.inf, -3.25]), "gradient": torch.tensor([0.0, 1.0])},
    }
    assert read(report.scores_table(sets, scores)) == [
        ["set", "role", "image", "energy", "gradient"],
        ["in", "in", "a.png", "1.5", "2"],
        ["x.npz", "out", "x.npz#0", "inf", "0"],
        ["x.npz", "out", "x.npz#1", "-3.25", "1"],
    ]


def test_every_pair_and_score_is_compared_with_the_members() -> None:
    scores = {
        ("a", "in"): {"energy": torch.tensor([0.0, 1.0]), "gradient": torch.tensor([0.0, 1.0])},
        ("b", "out"): {"energy": torch.tensor([2.0]), "gradient": torch.tensor([-1.0])},
        ("c", "out"): {"energy": torch.tensor([0.5]), "gradient": torch.tensor([2.0])},
    }
    rows = report.compare_all(scores)
    assert [(row.out, row.score, row.detection.auroc) for row in rows] == [
        ("b", "energy", 1.0), ("b", "gradient", 0.0), ("c", "energy", 0.5), ("c", "gradient", 1.0),
    ]  # fmt: skip
    assert set(rows[0].document()) == {
        "out", "score", "auroc", "auroc_ci", "aupr_in", "aupr_out", "fpr95", "n_in", "n_out",
    }  # fmt: skip


def test_progress_runs_from_the_first_image_to_the_last_score() -> None:
    images = ImageSet("x", torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
    heard: list[float] = []
    sets = {("x", "in"): images, ("y", "out"): images}
    report.score_sets(model_of(), sets, ["energy", "gradient"], batch_size=5, on_progress=heard.append)
    assert heard == [0.25, 0.5, 0.75, 1.0]


def test_a_score_that_is_not_a_number_names_the_file() -> None:
    model = model_of(lambda u, angle: u.sum(1) * math.nan)
    images = ImageSet("x", torch.zeros(2, 1, 2, 2, dtype=torch.uint8), files=("a.png", "b.png"))
    with pytest.raises(DataError, match=r"a\.png is NaN"):
        report.judge(model, images, "energy")
