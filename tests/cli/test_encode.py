"""`vpfb encode`: tables of codes, clusters, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from cli_runner import Vpfb
from PIL import Image

QUICK = ("--solver", "euler", "--nfe", "2", "--threads", "1")


@pytest.fixture
def pictures(vpfb: Vpfb) -> Path:
    """Six small pictures in the current folder."""
    assert vpfb("sample", "-m", "digits", "-n", "6", "--nfe", "2", "-o", "pictures/").code == 0
    for path in Path("pictures").iterdir():
        Image.open(path).save(Path("pictures") / f"n{path.stem}.bmp")
        path.unlink()
    return Path("pictures")


def read(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def test_every_image_of_a_folder_gets_its_code(vpfb: Vpfb, pictures: Path) -> None:
    ran = vpfb("encode", str(pictures), "-m", "digits", "-o", "codes.csv", *QUICK, "--json")
    assert (ran.code, ran.json) == (
        0, {"model": "digits", "output": "codes.csv", "n": 6, "dimension": 64, "clusters": None, "seed": 0},
    )  # fmt: skip
    columns, *rows = read("codes.csv")
    assert columns == ["file", *(f"code_{i}" for i in range(64))]
    assert [row[0] for row in rows] == sorted(path.name for path in pictures.iterdir())
    values = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    assert 0.5 < values.std() < 2


def test_clusters_are_a_column_and_a_montage(vpfb: Vpfb, pictures: Path) -> None:
    line = ("encode", str(pictures), "-m", "digits", "--clusters", "2", "--montage", "groups.png", *QUICK)
    ran = vpfb(*line, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["clusters"] == 2
    columns, *rows = read("codes.csv")
    assert columns[-1] == "cluster"
    labels = [int(row[-1]) for row in rows]
    assert labels.count(0) >= labels.count(1) >= 1
    assert Image.open("groups.png").size == (2 + 66 * labels.count(0), 2 + 66 * 2)
    again = vpfb(*line, "-o", "-", "-q")
    assert again.out.splitlines() == Path("codes.csv").read_text().splitlines()


def test_rows_of_a_table_are_encoded_by_their_numbers(vpfb: Vpfb) -> None:
    Path("table.csv").write_text("a,b\n" + "".join(f"{i},{i * i / 7}\n" for i in range(30)))
    train = ("train", "--data", "table.csv", "--steps", "2", "--set", "width=8", "--set", "depth=1", "--out", "run")
    assert vpfb(*train, "--threads", "1", "-q").code == 0
    ran = vpfb("encode", "table.csv", "-m", "run", *QUICK, "--json")
    assert (ran.json["n"], ran.json["dimension"], ran.json["clusters"]) == (30, 2, None)
    columns, *rows = read("codes.csv")
    assert (columns, [row[0] for row in rows]) == (["row", "code_0", "code_1"], [str(i) for i in range(1, 31)])
    refused = vpfb("encode", "table.csv", "-m", "run", "--clusters", "2", "--montage", "groups.png", *QUICK)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--montage is for images" in refused.err


class Halves(torch.nn.Module):
    """The mean brightness of each half of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 3)).reshape(-1, 2, 4).mean(2)


@pytest.fixture
def network(vpfb: Vpfb) -> str:
    program = torch.export.export(Halves(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, "network.pt2")
    return "network.pt2"


def test_the_density_of_the_features_of_a_network_is_learned_from_a_table_of_codes(vpfb: Vpfb, network: str) -> None:
    Path("pictures").mkdir()
    draws = torch.Generator().manual_seed(0)
    means = 60 + 20 * torch.rand(60, 2, generator=draws)
    means[7] = torch.tensor([250.0, 0.0])  # the only one that is not almost grey
    for i, pair in enumerate(means.round().byte()):
        Image.fromarray(pair.repeat_interleave(4)[:, None].repeat(1, 8).numpy()).save(f"pictures/{i:02d}.png")
    ran = vpfb("encode", "pictures", "--features", network, "-o", "codes.csv", "--json")
    assert (ran.code, ran.json) == (
        0, {"model": None, "output": "codes.csv", "n": 60, "dimension": 2, "clusters": None, "seed": 0},
    )  # fmt: skip
    columns, *rows = read("codes.csv")
    assert columns == ["file", "code_0", "code_1"]
    assert [row[0] for row in rows] == [f"{i:02d}.png" for i in range(60)]
    found = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    assert torch.allclose(found, means.round() / 255, atol=1e-4)
    train = ("train", "--data", "codes.csv", "--steps", "60", "--set", "width=16", "--set", "depth=1", "--out", "run")
    assert vpfb(*train, "--threads", "1", "-q").code == 0
    ran = vpfb("score", "codes.csv", "-m", "run", "-o", "-", "-q", "--density", "explicit")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[1].startswith("8,")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("pictures --features network.pt2 -m digits", 2, "--features and --model exclude each other"),
        ("pictures --features network.pt2 --nfe 4", 2, "--features and --nfe exclude each other"),
        ("moons --features torchvision:resnet18", 2, "weights"),
        ("pictures -m digits --weights-path w.pth", 2, "--weights-path is for --features"),
        ("digits -m digits --montage groups.png", 2, "--montage needs --clusters K"),
        ("pictures -m digits --clusters 0", 2, "0 is not at least 1"),
        ("pictures -m digits --clusters 7", 2, "--clusters 7 is too many for 6 images"),
        ("pictures -m digits -o codes.png", 2, "-o is a .csv or .txt file"),
        ("pictures -m digits --clusters 2 --montage groups.gif", 2, "--montage is a .png file"),
        ("pictures -m digits --solver nosuch", 2, "nosuch"),
        ("absent -m digits", 3, "absent"),
        ("pictures -m absent", 4, "absent"),
    ],
)
def test_a_wrong_line_is_refused_in_a_sentence_and_writes_nothing(
    line: str, code: int, words: str, vpfb: Vpfb, pictures: Path
) -> None:
    before = sorted(Path().rglob("*"))
    ran = vpfb("encode", *line.split())
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert sorted(Path().rglob("*")) == before


def test_a_table_of_codes_may_replace_an_older_one_in_the_folder_and_nothing_else(vpfb: Vpfb, pictures: Path) -> None:
    line = ("encode", str(pictures), "-m", "digits", "-o", str(pictures / "codes.csv"), *QUICK)
    assert vpfb(*line).code == 0
    assert vpfb(*line).code == 0
    (pictures / "codes.csv").write_text("my own table\n")
    ran = vpfb(*line)
    assert (ran.code, "would replace a file" in ran.err) == (2, True)
