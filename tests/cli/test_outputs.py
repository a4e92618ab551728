"""What commands write: checked before the work, never over what the user has, and nothing mixed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Vpfb
from PIL import Image

from vpfb_cli import image_writer, models, writers
from vpfb_cli.app import build
from vpfb_core.api import Model
from vpfb_core.uses.drawn import Drawn

LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is of Linux")
RUN = ["train", "--data", "digits", "--steps", "2", "--set", "widths=[4]", "--batch-size", "4"]


@pytest.fixture
def idle(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> Vpfb:
    """Runs commands that may load no model."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(models, "find_model", fail)
    return vpfb


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """A folder with pictures, labels, and a note."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 90).save(folder / name)
    (folder / "attributes.csv").write_text("file,nice\na.png,1\nb.png,0\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- where a run goes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".", "thesis", "thesis/", "./thesis", "thesis/../thesis"])
def test_a_run_does_not_begin_in_a_folder_with_files_of_the_user(vpfb: Vpfb, tmp_path: Path, out: str) -> None:
    (tmp_path / "thesis").mkdir()
    for name in ("README.md", "log.csv", "samples"):
        (tmp_path / "thesis" / name).write_text("my thesis")
    before = contents(tmp_path)
    for resume in ("never", "auto"):
        ran = vpfb(*RUN, "--out", out, "--resume", resume)
        assert ran.code == 2
        assert "is not empty" in ran.err
        assert contents(tmp_path) == before


def test_the_files_in_the_way_are_named(vpfb: Vpfb, tmp_path: Path) -> None:
    for name in ("a\nb", "é", "c", "d"):
        (tmp_path / name).touch()
    assert "a\\nb, c, d and 1 more" in vpfb(*RUN, "--out", ".").err


@pytest.mark.parametrize("left", [[], [".lock"], [".DS_Store"], [".vpfb-0123.part", ".lock"]])
def test_a_folder_in_which_nothing_has_been_put_is_free(vpfb: Vpfb, tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).touch()
    assert vpfb(*RUN, "--out", "run", "--dry-run").code == 0


@LINUX
@pytest.mark.parametrize(("out", "code"), [("/proc/run", 3), ("note.txt", 3), ("note.txt/run", 3), ("x" * 300, 3)])
def test_a_run_folder_that_cannot_be_made_is_an_error_before_the_data_are_read(
    vpfb: Vpfb, tmp_path: Path, out: str, code: int
) -> None:
    (tmp_path / "note.txt").touch()
    ran = vpfb("train", "--data", "no-such-data", "--out", out)
    assert ran.code == code
    assert "cannot write" in ran.err or "too long" in ran.err


def test_runs_that_cannot_be_made_are_an_error_before_the_data_are_read(vpfb: Vpfb) -> None:
    Path("runs").touch()
    assert "cannot write to runs" in vpfb("train", "--data", "no-such-data").err


# --- empty values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--data", ""], ["train", "--data=digits", "--out="], ["train", "--resume", ""], ["train", "--init="],
        ["train", "--config", ""], ["train", "--data-root", ""], ["train", "--set", "out="],
        ["train", "--set", "out=''"],
        ["sample", "-o", ""], ["sample", "--out="], ["sample", "-m", ""], ["sample", "--known", "", "--mask", "x"],
        ["interpolate", "--from", "", "--to", "b"], ["interpolate", "-o", ""], ["compose", ""],
        ["compose", "3", "-o", ""],
        ["ood", "--in", "", "--out", "noise"], ["ood", "--in", "digits", "--out", ""],
        ["ood", "--in", "digits", "--out", "noise", "-o", ""], ["score", ""], ["score", "x", "-o", ""],
        ["score", "x", "--montage="], ["eval", "--data", ""], ["eval", "--data", "digits", "--weights-path", ""],
        ["info", ""], ["info", "--calibrate", "--data", ""], ["data", ""], ["data", "digits", "--grid", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_value_is_a_usage_error_and_no_name_of_this_folder(
    idle: Vpfb, tmp_path: Path, argv: list[str]
) -> None:
    ran = idle(*argv)
    assert ran.code == 2
    assert "empty" in ran.err
    assert list(tmp_path.iterdir()) == []


# --- before the work --------------------------------------------------------------------------------------------------

WRITERS = {
    "sample": ["sample", "-n", "600", "-o"],
    "compose": ["compose", "3", "-o"],
    "interpolate": ["interpolate", "-o"],
    "score": ["score", "imgs", "-o"],
    "montage": ["score", "imgs", "--montage"],
    "ood": ["ood", "--in", "digits", "--out", "noise", "-o"],
    "grid": ["data", "digits", "--grid"],
}
WRONG = {
    "sample": ["/proc/x.png", "/proc/x.npz", "/proc/folder/", "/dev/null", "/dev/stdout", "note.txt/x.png", "x.jpg",
               "note", "x.csv", "d.png", f"{'x' * 300}.png"],
    "compose": ["/proc/x.png", "/dev/null", "x.jpg", "x.gif", "note"],
    "interpolate": ["/proc/x.gif", "/dev/null", "x.npz", "folder/", "-"],
    "score": ["imgs", "new/", "/proc/x.csv", "/dev/null", "x.png", "x.json", "imgs/attributes.csv", "note.txt/x.csv"],
    "montage": ["/proc/x.png", "x.jpg", "imgs", "imgs/a.png", "d.png"],
    "ood": ["note", "/proc/report", "/dev/null", "note.txt/report", "x.jpg", "new/x.csv", "x.JSON", "x.html"],
    "grid": ["/proc/x.png", "x.csv", "d.png"],
}  # fmt: skip


@LINUX
@pytest.mark.parametrize(("command", "out"), [(command, out) for command, outs in WRONG.items() for out in outs])
def test_an_output_that_cannot_be_written_is_an_error_before_the_work(
    idle: Vpfb, imgs: Path, tmp_path: Path, command: str, out: str
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "note").write_text("mine")
    (tmp_path / "d.png").mkdir()
    (tmp_path / "d.png" / "000000.png").write_text("mine")
    before = contents(tmp_path)
    ran = idle(*WRITERS[command], out)
    assert ran.code in (2, 3)
    assert "has begun" not in ran.err
    assert "File exists" not in ran.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "argv",
    [
        ["interpolate", "--from", "imgs/a.png", "--to", "imgs/b.png", "-o", "imgs/a.png"],
        ["interpolate", "--from", "imgs/a.png", "--to", "imgs/b.png", "-o", "imgs/../imgs/b.png"],
        ["sample", "--known", "imgs/a.png", "--mask", "imgs/b.png", "-o", "imgs/b.png"],
        ["sample", "--known", "imgs/a.png", "--mask", "imgs/b.png", "-o", "link.png"],
        ["score", "imgs/a.png", "--montage", "imgs/a.png"], ["score", "imgs", "--montage", "imgs/b.png"],
        ["data", "imgs", "--grid", "imgs/b.png"], ["score", "imgs", "-o", "imgs/attributes.csv"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_a_command_reads_is_not_what_it_writes(idle: Vpfb, imgs: Path, argv: list[str]) -> None:
    Path("link.png").symlink_to(imgs / "a.png")
    before = contents(imgs)
    ran = idle(*argv)
    assert ran.code == 2
    assert contents(imgs) == before


def test_outputs_of_ours_beside_the_pictures_may_be_replaced(vpfb: Vpfb, imgs: Path) -> None:
    for _ in range(2):
        assert vpfb("data", "imgs", "--grid", "imgs/grid.png").code == 0


@LINUX
@pytest.mark.parametrize("device", ["/dev/null", "/dev/stdout", "pipe"])
def test_a_device_is_refused_with_what_to_type_instead(idle: Vpfb, imgs: Path, device: str) -> None:
    os.mkfifo("pipe")
    ran = idle("score", "imgs", "-o", device)
    assert ran.code == 3
    assert f"cannot write {device}: it is not a file" in ran.err
    assert "standard output is -" in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ["ood", "--in", "digits", "--out", "noise", "-o", "new.jpg"], [*RUN, "--out", "new.jpg"],
        [*RUN, "--set", "out=new.jpg"], ["score", "imgs", "--copy-to", "new.jpg"],
        ["score", "imgs", "--move-to", "new.jpg"], ["sample", "-o", "new.jpg"], ["compose", "3", "-o", "new.jpg"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_folder_does_not_get_the_name_of_a_file(idle: Vpfb, imgs: Path, argv: list[str]) -> None:
    before = contents(imgs)
    ran = idle(*argv)
    assert ran.code == 2
    assert "new.jpg" in ran.err
    assert "folder" in ran.err
    assert not Path("new.jpg").exists()
    assert contents(imgs) == before


def test_a_folder_may_have_a_point_in_its_name_or_be_there_already(vpfb: Vpfb) -> None:
    Path("old.png").mkdir()
    for name in ("v1.5", "lr0.1", "old.png"):
        assert vpfb(*RUN, "--out", name, "--dry-run").code == 0
    assert "name a folder, such as new\n" in vpfb(*RUN, "--out", "new.jpg").err


# --- reports ----------------------------------------------------------------------------------------------------------

REPORT = ["ood", "--in", "digits", "--limit", "20", "-o", "report", "--out"]


def test_a_report_takes_the_place_of_an_older_one_and_of_nothing_else(vpfb: Vpfb, tmp_path: Path) -> None:
    assert vpfb(*REPORT, "noise").code == 0
    Image.new("L", (8, 8)).save("report/mine-multiscale.png")
    again = vpfb(*REPORT, "constant")
    assert again.code == 0, again.err
    assert sorted(path.name for path in Path("report").iterdir()) == [
        "constant-multiscale.png", "mine-multiscale.png", "report.json", "scores.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["report.json", "scores.csv", "noise-multiscale.png"])
def test_a_report_does_not_replace_files_of_others(vpfb: Vpfb, tmp_path: Path, name: str) -> None:
    Path("report").mkdir()
    (Path("report") / name).write_text("[]")
    ran = vpfb(*REPORT, "noise")
    assert (ran.code, f"{name} would be overwritten" in ran.err) == (2, True)
    assert contents(Path("report")) == {name: b"[]"}


# --- many images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["many.npz", "many/"])
def test_any_number_of_images_is_drawn_with_the_memory_of_one_batch(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    held: list[int] = []

    class Counting(image_writer.ImageWriter):
        def add(self, images: torch.Tensor, path: torch.Tensor | None = None) -> None:
            super().add(images, path)
            held.append(sum(map(len, self._images)))

    monkeypatch.setattr("vpfb_cli.writers.FORMATS", {"images": replace(writers.FORMATS["images"], writer=Counting)})
    monkeypatch.setattr(Model, "sample", stub)
    assert vpfb("sample", "-n", "300", "--batch-size", "16", "-o", out).code == 0
    assert held == [0] * 19


def stub(model: Model, n: int, seed: int, *, first: int, **_: object) -> Drawn:
    """Images that cost nothing, each of the grey level of its index."""

    class Free(Drawn):
        nfe = property(lambda self: torch.zeros(len(self.images), dtype=torch.int64))
        require_success = lambda self: self  # noqa: E731

    grey = torch.arange(first, first + n) % 256 / 255
    return Free(grey[:, None, None, None].expand(n, *model.shape), None)  # type: ignore[arg-type]


def test_a_streamed_archive_has_every_image_in_order(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "sample", stub)
    assert vpfb("sample", "-n", "300", "--batch-size", "16", "-o", "many.npz").code == 0
    with np.load("many.npz") as archive:
        assert archive["images"][:, 0, 0, 0].tolist() == [index % 256 for index in range(300)]


@pytest.mark.parametrize("out", ["s.npz", "s/"])
def test_many_images_that_are_interrupted_leave_the_older_ones(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    assert vpfb("sample", "-n", "2", "--nfe", "2", "-o", out).code == 0
    before = contents(Path(out) if out == "s/" else Path())
    calls: list[int] = []

    def interrupted(model: Model, n: int, seed: int, *, first: int, **more: object) -> Drawn:
        calls.append(n)
        if first:
            raise KeyboardInterrupt
        return stub(model, n, seed, first=first, **more)

    monkeypatch.setattr(Model, "sample", interrupted)
    assert vpfb("sample", "-n", "300", "--batch-size", "16", "-o", out).code == 130
    assert len(calls) == 2
    assert contents(Path(out) if out == "s/" else Path()) == before


@pytest.mark.parametrize(
    "argv",
    [
        ["sample", "-o", "h.png"], ["sample", "-o", "h.gif"], ["compose", "3", "-o", "h.png"],
        ["compose", "3", "-o", "h.npz"], ["interpolate", "-o", "h.png"], ["interpolate", "-o", "h.gif"],
        ["sample", "--langevin", "5", "-o", "h/"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_no_file_and_no_memory_can_hold_is_refused_before_the_work(vpfb: Vpfb, argv: list[str]) -> None:
    ran = vpfb(*argv, "-n", "1000000000")
    assert ran.code == 2
    assert "1,000,000,000" in ran.err or "4,000,000,000" in ran.err or "1,000,000,000 times" in ran.err
    assert list(Path().iterdir()) == []


# --- the home folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "made"),
    [
        (["data", "digits", "--grid", "~/x.png"], "x.png"), (["score", "~/imgs", "-o", "~/s.csv"], "s.csv"),
        (["sample", "-n", "2", "--nfe", "2", "-o", "~/f/"], "f/000001.png"),
        ([*RUN, "--out", "~/run", "--dry-run"], None), (["data", "~/imgs"], None), (["data", "shuffled:~/imgs"], None),
        (["train", "--data", "~/imgs", "--dry-run"], None), (["train", "--set", "data=~/imgs", "--dry-run"], None),
        (["interpolate", "--from", "~/imgs/a.png", "--to", "~/imgs/b.png", "-n", "2", "--nfe", "3"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_tilde_is_the_home_folder_in_every_option(
    vpfb: Vpfb, imgs: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], made: str | None
) -> None:
    monkeypatch.setenv("HOME", str(imgs.parent))
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    ran = vpfb(*argv)
    assert ran.code == 0, ran.err
    assert made is None or (imgs.parent / made).is_file()
    assert not Path("~").exists()


def test_every_option_that_names_a_path_knows_the_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    words = {"DIR", "FILE", "OUT", "DATA", "MODEL", "IMAGE", "MASK", "IN", "DIR|FILE", "auto|never|DIR", "OUT.csv",
             "OUT.png", "A.png", "B.png", "FILE.toml"}  # fmt: skip
    commands = build().commands
    found = [(command, each) for command in commands.values() for each in command.params if each.metavar in words]
    assert len(found) > 25
    for command, parameter in found:
        typed = [parameter.opts[0], "~/x"] if parameter.opts[0].startswith("-") else ["~/x"]
        value = command.make_context("vpfb", typed, resilient_parsing=True).params[parameter.name]
        assert str(value[0] if isinstance(value, list) else value) == "/home/somebody/x", (command.name, typed)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["sample", "-m", "digits", "-o", "circle/a.png"], 3),
        (["score", "circle"], 3),
        (["train", "--resume", "run", "--out", "circle", "--steps", "3"], 2),
    ],
)
def test_a_circle_of_links_is_an_error_in_one_sentence(vpfb: Vpfb, tmp_path: Path, argv: list[str], code: int) -> None:
    (tmp_path / "circle").symlink_to("circle")
    if "run" in argv:
        vpfb(*RUN, "--out", "run")
    ran = vpfb(*argv)
    assert ran.code == code
    assert "circle" in ran.err
