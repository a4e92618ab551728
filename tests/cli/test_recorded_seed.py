"""The seed of a command in the files that it writes, which are the same bytes for the same seed, wherever they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_core.data.own_files import is_own_picture
from vpfb_core.machine.origin import Origin
from vpfb_core.uses.plotting import model_plot

FEW = ("--nfe", "2", "--solver", "euler", "-n", "2", "--seed", "7")
LEVELS = ("-n", "2", "--levels", "2", "--mcmc", "none", "--seed", "7")


def recorded(path: str) -> dict[str, str]:
    """What a picture says of its origin."""
    with Image.open(path) as picture:
        if picture.format == "GIF":
            return dict(part.rsplit(" ", 1) for part in picture.info["comment"].decode().split(", ")[1:])
        return {str(name): text for name, text in picture.info.items() if isinstance(text, str)}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A few different pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    for i, one in enumerate(pixels):
        path = tmp_path / "photos" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(one).save(path)
    return "photos"


@pytest.mark.parametrize("name", ["grid.png", "way.gif", "all.npz", "folder/"])
def test_samples_record_model_and_seed_and_are_the_same_bytes_in_every_folder(vpfb: Vpfb, name: str) -> None:
    for place in ("here", "there"):
        ran = vpfb("sample", "-m", "digits", *FEW, "-o", f"{place}/{name}")
        assert ran.code == 0, ran.err
        assert "seed 7" in ran.err
    files = sorted(path for path in Path("here").rglob("*") if path.is_file())
    assert files
    for path in files:
        content = path.read_bytes()
        assert content == Path("there", *path.parts[1:]).read_bytes()
        assert str(Path.cwd()).encode() not in content
        if path.suffix == ".npz":
            assert int(np.load(path)["seed"]) == 7
        else:
            assert {"model": "digits", "seed": "7"}.items() <= recorded(str(path)).items()
            assert is_own_picture(path)


def test_other_pictures_record_the_seed_as_well(vpfb: Vpfb, folder: str) -> None:
    lines = {
        "way.png": ("interpolate", "-m", "digits", "--rows", "1", *FEW),
        "way.gif": ("interpolate", "-m", "digits", "--rows", "1", *FEW),
        "both.png": ("compose", "3 | 8", "-m", "digits", *LEVELS),
        "groups.png": ("encode", folder, "-m", "digits", "--clusters", "2", "--seed", "7", "--montage"),
        "look.png": ("data", folder, "--seed", "7", "--grid"),
        "outliers.png": ("score", folder, "--seed", "7", "--montage"),
    }
    for name, line in lines.items():
        ran = vpfb(*line, name) if line[-1] in ("--montage", "--grid") else vpfb(*line, "-o", name)
        assert ran.code == 0, ran.err
        assert recorded(name)["seed"] == "7", name
    assert recorded("way.png")["model"] == "digits"
    found = ("ood", "--in", "digits", "--out", "noise", "-m", "digits", "--limit", "4", "--score", "energy")
    assert vpfb(*found, "--seed", "7", "-o", "report").code == 0
    assert {"model": "digits", "seed": "7"}.items() <= recorded("report/noise-energy.png").items()
    assert '"seed": 7' in Path("report/report.json").read_text()


def test_a_page_records_the_seed(vpfb: Vpfb, folder: str) -> None:
    assert vpfb("score", folder, "--seed", "7", "--html", "report.html").code == 0
    assert '<meta name="generator" content="vpfb, seed 7">' in Path("report.html").read_text()


def test_tables_cannot_record_it_so_that_the_note_and_the_document_do(vpfb: Vpfb, folder: str) -> None:
    encode, score = ("encode", folder, "-m", "digits", *FEW[:4], "--seed", "7"), ("score", folder, "--seed", "7")
    for line in (encode, score):
        ran = vpfb(*line)
        assert ran.code == 0, ran.err
        assert "seed 7" in ran.err
        assert vpfb(*line, "--json").json["seed"] == 7
    assert vpfb("compose", "3 | 8", "-m", "digits", *LEVELS, "--json").json["seed"] == 7


def test_the_document_of_a_command_states_the_seed_that_its_file_records(vpfb: Vpfb, folder: str) -> None:
    ends = ("interpolate", "-m", "digits", "--rows", "1", *FEW)
    pair = ("ood", "--in", "digits", "--out", "noise", "-m", "digits", "--limit", "4", "--score", "energy")
    for line in (ends, (*pair, "--seed", "7"), ("data", folder, "--seed", "7", "--grid", "look.png")):
        ran = vpfb(*line, "--json")
        assert ran.json["seed"] == 7, line


def test_plots_record_the_model_and_the_seed(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 20, "PATHS": 3, "GRID": 8, "FRAMES": 2, "POINTS": 5}.items():
        monkeypatch.setattr(model_plot, name, value)
    tiny = ("--steps", "2", "--set", "width=8", "--set", "depth=1", "--batch-size", "16", "--threads", "1")
    assert vpfb("train", "--data", "moons", "--val-fraction", "0.02", *tiny, "--seed", "5", "--out", "run").code == 0
    for name in ("plot.png", "plot.gif"):
        assert vpfb("plot", "run", "--seed", "7", "-o", name, "--json").json["seed"] == 7
        assert {"model": "run", "seed": "7"}.items() <= recorded(name).items()


def test_names_of_any_script_are_recorded_without_their_folders() -> None:
    assert Origin.of(3, "runs/caf\udce9/model.safetensors", None, "/a/模型.safetensors").texts() == {
        "Software": "vpfb", "model": "caf\\xe9, 模型", "seed": "3",
    }  # fmt: skip
    assert Origin().comment() == "vpfb"
    assert Origin.of(0, None).comment() == "vpfb, seed 0"
