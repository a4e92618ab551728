"""What `vpfb score` leads to besides its table: the page to look at, and files that are moved or copied."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from PIL import Image
from torch import Tensor

import vpfb_core as vpfb_package
from vpfb_core.data import Source, split
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses import ood, training_set

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in model with a reference of few images whose rows are known, and without a calibrated density."""
    digits, model = vpfb_package.data.load("digits"), vpfb_package.load("digits", device="cpu")
    rows, _ = split(digits, 0.1, 0)
    model.reference = ood.fit_reference(model, digits.images[rows], count=80, rows=rows, steps=0)
    model.calibration = None
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    model.save(path)
    return str(path)


@pytest.fixture
def mixed(vpfb: Vpfb) -> Path:
    """Twelve digits in a folder, and three outliers in its sub-folder."""
    folder = Path("mixed")
    (folder / "odd").mkdir(parents=True)
    digits = vpfb_package.data.load("digits")
    for index, digit in enumerate(digits.images[split(digits, 0.1, 0)[1]][:12, 0].numpy()):
        Image.fromarray(digit).save(folder / f"{index:02}.png")
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "odd" / f"outlier, {index}.png")
    return folder


OUTLIERS = {f"odd/outlier, {index}.png" for index in range(3)}


def document(page: Path) -> dict[str, Any]:
    """The document in a page."""
    return json.loads(page.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_picture_with_what_stood_out_and_its_nearest_training_pictures(
    vpfb: Vpfb, model: str, mixed: Path
) -> None:
    ran = vpfb("score", str(mixed), "-m", model, "--html", "report.html")
    assert ran.code == 0
    assert "page: report.html" in ran.err
    found = document(Path("report.html"))
    with Path("scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [picture["name"] for picture in found["pictures"]] == [row["file"] for row in rows]
    assert [picture["flagged"] for picture in found["pictures"]] == [row["flagged"] == "true" for row in rows]
    assert [column["label"] for column in found["columns"]] == ["Score", "p-value", "Energy"]
    assert found["pictures"][0]["path"] == str((mixed / rows[0]["file"]).resolve())
    assert found["neighbours"]["label"] == "Nearest training pictures"
    for thumbnail, name in found["pictures"][-1]["nearest"]:
        shown = Image.open(io.BytesIO(base64.b64decode(found["thumbnails"][thumbnail]))).convert("L")
        row = int(name.removeprefix("digits#"))
        assert np.array_equal(np.asarray(shown), vpfb_package.data.load("digits").images[row, 0].numpy())
    for picture in found["pictures"]:
        assert bool(picture["stood_out"]) >= picture["flagged"]
        assert len(picture["nearest"]) == 3
        assert all(0 <= thumbnail < len(found["thumbnails"]) for thumbnail, _ in picture["nearest"])


def test_a_page_replaces_a_page_and_nothing_else_in_the_folder_that_is_read(
    vpfb: Vpfb, model: str, mixed: Path
) -> None:
    page = mixed / "report.html"
    argv = ["score", str(mixed), "-m", model, "--html", str(page)]
    assert vpfb(*argv).code == 0
    assert vpfb(*argv).code == 0
    page.write_text("<!doctype html><p>notes")
    assert vpfb(*argv).code == 2
    assert page.read_text() == "<!doctype html><p>notes"


# --- flagged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["move", "copy"])
def test_flagged_files_are_moved_or_copied_after_a_dry_run_that_changes_nothing(
    vpfb: Vpfb, model: str, mixed: Path, action: str
) -> None:
    done = {"move": "moved", "copy": "copied"}[action]
    before = files(mixed)
    argv = ["score", str(mixed), "-m", model, f"--{action}-to", "new/outliers", "--html", "report.html", "--json"]
    dry = vpfb(*argv, "--dry-run")
    assert dry.code == 0
    assert f"would {action} 3 files to new/outliers" in dry.err
    assert dry.json[done]["dry_run"] is True
    assert {entry["file"]: entry["to"] for entry in dry.json[done]["files"]} == {
        name: f"new/outliers/{name}" for name in OUTLIERS
    }
    assert not Path("new").exists()
    assert files(mixed) == before

    ran = vpfb(*argv)
    assert ran.code == 0
    assert ran.json[done] == {**dry.json[done], "dry_run": False}
    assert files(Path("new/outliers")) == OUTLIERS
    assert files(mixed) == (before - OUTLIERS if action == "move" else before)
    for picture in document(Path("report.html"))["pictures"]:
        assert Path(picture["path"]).is_file(), "the page leads to the files where they are now"


def test_without_flagged_files_none_is_moved(vpfb: Vpfb, model: str, mixed: Path) -> None:
    ran = vpfb("score", str(mixed), "-m", model, "--move-to", "new", "--flag", "0", "--json")
    assert ran.code == 0
    assert ran.json["moved"]["files"] == []
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["digits", "--move-to", "new"], "'digits' is none"),
        (["shuffled:./mixed", "--move-to", "new"], "'shuffled:./mixed' is none"),
        (["images.npz", "--copy-to", "new"], "'images.npz' is none"),
        (["mixed", "--move-to", "mixed/new"], "is in mixed"),
        (["mixed", "--copy-to", "mixed"], "is in mixed"),
        (["mixed", "--move-to", "a", "--copy-to", "b"], "exclude each other"),
        (["mixed", "--dry-run"], "--dry-run is for"),
        (["mixed", "--move-to", "new", "--score", "energy"], "--score energy flags none"),
        (["mixed", "--html", "page.txt"], "--html is a .html or .htm file"),
    ],
)
def test_what_cannot_be_moved_or_written_is_refused_before_the_work(
    vpfb: Vpfb, model: str, mixed: Path, argv: list[str], words: str
) -> None:
    np.savez("images.npz", images=np.zeros((4, 8, 8), np.uint8))
    before = files(Path())
    ran = vpfb("score", *argv, "-m", model)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert files(Path()) == before


# --- features of one's own --------------------------------------------------------------------------------------------


class Mean(torch.nn.Module):
    """The mean brightness of each half of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 3)).reshape(-1, 2, 4).mean(2)


@pytest.fixture
def network(vpfb: Vpfb) -> str:
    program = torch.export.export(Mean(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, "network.pt2")
    return "network.pt2"


def test_features_of_a_network_are_a_column_of_evidence(
    vpfb: Vpfb, model: str, mixed: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, loaded = training_set.training_data, []

    def counted(model: TrainedModel, **options: Any) -> tuple[Source, Tensor | None]:
        loaded.append(model)
        return honest(model, **options)

    monkeypatch.setattr(training_set, "training_data", counted)
    ran = vpfb("score", str(mixed), "-m", model, "--features", network, "--html", "report.html")
    assert ran.code == 0, ran.err
    assert len(loaded) == 1, "for the features and the page"
    with Path("scores.csv").open(newline="") as file:
        assert all(0 < float(row["network"]) <= 1 for row in csv.DictReader(file))
    assert "network" in document(Path("report.html"))["kinds"]
    compared = vpfb(
        "ood", "--in", "digits", "--out", "noise", "-m", model, "--limit", "9", "--features", network, "--json"
    )
    assert compared.code == 0, compared.err
    without = vpfb("ood", "--in", "digits", "--out", "noise", "-m", model, "--limit", "9", "--json")
    assert compared.json["results"][0]["auroc"] >= without.json["results"][0]["auroc"] - 0.1


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--features", "nowhere.pt2"], 2, "no file nowhere.pt2"),
        (["--features", "broken.pt2"], 4, "broken.pt2 is damaged"),
        (["--features", "torchvision:resnet18"], 2, "needs its weights"),
        (["--features", "torchvision:resnet18", "--weights-path", "broken.pt2"], 4, "no file of weights"),
        (["--features", "torchvision:resnet-18"], 2, "did you mean 'torchvision:resnet18'"),
        (["--features", "pixels"], 2, "unknown features 'pixels'"),
        (["--features", "x.pt2", "--score", "energy"], 2, "--features is for the score multiscale"),
        (["--weights-path", "x.pth"], 2, "--weights-path is for --features"),
    ],
)
def test_features_that_cannot_be_computed_are_an_error_with_what_to_do(
    vpfb: Vpfb, model: str, mixed: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], code: int, words: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", "torch")
    Path("broken.pt2").write_bytes(b"broken")
    ran = vpfb("score", str(mixed), "-m", model, *argv)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
