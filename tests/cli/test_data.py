"""`vpfb data`: what has a name, what is here, and what it looks like; and the data options of `vpfb train`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image

from vpfb_core import data

KEYS = {"name", "available", "path", "images", "shape", "classes"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def vpfb(vpfb: Vpfb, root: Path, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs a command line in an empty folder, with a data root of its own."""
    monkeypatch.setenv("VPFB_DATA", str(root))
    return vpfb


def test_the_list_shows_the_available_sets_and_their_folders(vpfb: Vpfb, root: Path) -> None:
    miniatures.write_mnist(root)
    ran = vpfb("data", "--json")
    sets = {entry["name"]: entry for entry in ran.json["sets"]}
    assert set(sets) == set(data.SETS)
    assert all(set(entry) == KEYS for entry in sets.values())
    here = {name for name, entry in sets.items() if entry["available"]}
    built_in = {name for name, known in data.SETS.items() if known.files is None}
    assert {"digits", "shapes", "moons", "noise"} <= built_in
    assert here == {"mnist", *built_in}
    assert sets["digits"] == {
        "name": "digits", "available": True, "path": None, "images": 1797, "shape": [1, 8, 8],
        "classes": list("0123456789"),
    }  # fmt: skip
    assert sets["mnist"]["path"] == str(root / "MNIST" / "raw")
    assert (sets["svhn"]["shape"], sets["svhn"]["images"]) == ([3, 32, 32], 73_257)
    table = vpfb("data")
    assert table.code == 0
    lines = {line.split()[0]: line for line in table.out.splitlines()}
    assert "MNIST/raw" in lines["mnist"]
    assert f"data root: {root}" in table.err
    assert "absent" in lines["kmnist"]
    assert "shuffled:NAME" in table.err
    assert vpfb("data", "-q").err == ""


def test_an_incomplete_set_is_not_listed_as_available(vpfb: Vpfb, root: Path) -> None:
    miniatures.write_mnist(root)
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    assert "mnist" not in [entry["name"] for entry in vpfb("data", "--json").json["sets"] if entry["available"]]


def test_listing_and_reading_mnist_need_no_torchvision(root: Path) -> None:
    miniatures.write_mnist(root)
    program = (
        "import sys; from vpfb_cli.command_line import run; from vpfb_cli.app import build\n"
        "codes = [run(build(), ['data', '-q']), run(build(), ['data', 'mnist', '-q'])]\n"
        "assert codes == [0, 0] and not {'torchvision', 'scipy', 'safetensors'} & sys.modules.keys()"
    )
    environment = {**os.environ, "VPFB_DATA": str(root)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_a_set_is_described_and_shown(vpfb: Vpfb, root: Path) -> None:
    written = miniatures.write_mnist(root)["test"]
    ran = vpfb("data", "mnist:test", "--grid", "deep/grid.png", "-n", "4", "--json")
    (entry,) = ran.json["sets"]
    assert entry == {
        "name": "mnist:test", "available": True, "path": str(root / "MNIST" / "raw"), "images": 6,
        "shape": [1, 28, 28], "classes": list("0123456789"),
    }  # fmt: skip
    assert (ran.json["grid"], ran.json["skipped"]) == ("deep/grid.png", [])
    assert "6 grey images of 28x28" in ran.json["notes"]
    grid = np.asarray(Image.open("deep/grid.png"))
    tiles = {grid[y : y + 56 : 2, x : x + 56 : 2].tobytes() for y in (2, 60) for x in (2, 60)}
    assert len(tiles) == 4
    assert tiles < {image.tobytes() for image in written}
    assert vpfb("data", "mnist:test", "--grid", "again.png", "-n", "4").out == "again.png\n"
    assert Path("again.png").read_bytes() == Path("deep/grid.png").read_bytes()


def test_a_grid_of_a_sorted_set_shows_more_than_its_first_class(vpfb: Vpfb) -> None:
    grey = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 40)[:, None, None]
    np.save("sorted.npy", np.broadcast_to(grey, (1000, 8, 8)))
    assert vpfb("data", "sorted.npy", "--grid", "grid.png").code == 0
    assert len(np.unique(np.asarray(Image.open("grid.png")))) > 20


def test_the_common_options_are_obeyed(vpfb: Vpfb) -> None:
    common = ["--device", "cpu", "--threads", "1", "--seed"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert vpfb("data", "digits", "--grid", f"{name}.png", "-n", "9", *common, seed).code == 0
    shown = [Path(f"{name}.png").read_bytes() for name in ("a", "b", "c")]
    assert shown[0] == shown[1] != shown[2]
    assert vpfb("data", *common, "0", "--json").code == 0
    absent = vpfb("data", "digits", "--device", "cuda:99")
    assert (absent.code, "devices here: " in absent.err) == (2, True)


@pytest.mark.parametrize("size", ["8", "16"])
def test_size_and_channels_are_obeyed(size: str, vpfb: Vpfb) -> None:
    (entry,) = vpfb("data", "digits", "--size", size, "--channels", "3", "--json").json["sets"]
    assert entry["shape"] == [3, int(size), int(size)]


def test_a_folder_is_shown_in_the_size_that_training_chooses(vpfb: Vpfb, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    for i in range(4):
        Image.fromarray(miniatures.pixels(90, 90, 3, seed=i)).save(tmp_path / "large" / f"{i}.png")
    planned = vpfb("train", "--data", "large", "--dry-run", "--json").json["config"]
    (entry,) = vpfb("data", "large", "--json").json["sets"]
    assert entry["shape"] == [3, planned["data"]["size"], planned["data"]["size"]]


def test_a_folder_is_described_with_its_classes_and_its_unreadable_files(vpfb: Vpfb, tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(miniatures.pixels(10, 10, 3, seed=i)).save(tmp_path / "pets" / kind / f"{i}.png")
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"")
    ran = vpfb("data", "pets", "--json")
    assert ran.json["sets"][0]["classes"] == ["cat", "dog"]
    assert ran.json["sets"][0]["path"] == "pets"
    assert ran.json["skipped"] == [{"file": "cat/broken.png", "reason": "empty file"}]
    assert "cat/broken.png: empty file" in vpfb("data", "pets").out
    flat = vpfb("data", "pets/dog", "--json").json
    assert (flat["sets"][0]["classes"], flat["sets"][0]["images"]) == ([], 20)


def test_controls_can_be_looked_at(vpfb: Vpfb) -> None:
    for name in ("noise", "constant", "shuffled:digits"):
        assert vpfb("data", name, "--grid", "grid.png", "-n", "9").code == 0
        assert Image.open("grid.png").size[0] > 100


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("data cifr", 3, "did you mean 'cifar'"),
        ("data ./absent", 3, "./absent"),
        ("data mnist:valid", 3, "has no split 'valid'"),
        ("data svhn --no-download", 3, "train_32x32.mat"),
        ("data cifar:test --no-download", 3, "cifar-10-batches-py/test_batch"),
        ("data svhn --no-download --data-root elsewhere", 3, "elsewhere"),
        ("data digits --grid grid.jpg", 2, ".png"),
        ("data --grid grid.png", 2, "none is named"),
        ("data digits --grid grid.png -n 0", 2, "0"),
        ("data digits --size 2", 2, "size 2"),
        ("data digits --channels 2", 2, "channels 2"),
        ("train --data svhn --no-download", 3, "train_32x32.mat"),
        ("train --data svhn --no-download --data-root elsewhere", 3, "elsewhere"),
    ],
)
def test_an_error_has_at_most_two_lines_and_its_exit_code(line: str, code: int, words: str, vpfb: Vpfb) -> None:
    ran = vpfb(*line.split(), "-q")
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) <= 2
    assert vpfb(*line.split(), "--json").json["error"]["exit_code"] == code
    assert not Path("elsewhere").exists()


def test_training_reads_a_named_set_from_the_root_that_counts_most(vpfb: Vpfb, root: Path, tmp_path: Path) -> None:
    miniatures.write_mnist(root, count=12)
    miniatures.write_mnist(tmp_path / "other", count=10)
    Path("c.toml").write_text(f'data = "mnist"\ndata_root = "{tmp_path / "nowhere"}"\n')
    base = ["train", "--data", "mnist", "--no-download", "--dry-run", "--json", "--threads", "1"]
    ran = vpfb(*base)
    assert "data: 12 grey images of 28x28" in ran.err
    settings = ran.json["config"]["data"]
    assert (settings["data_root"], settings["download"]) == (str(root), False)
    assert "data: 12 " in vpfb(*base, "--config", "c.toml").err, "the environment goes before the file"
    assert "data: 10 " in vpfb(*base, "--data-root", str(tmp_path / "other")).err
