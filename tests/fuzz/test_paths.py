"""Paths that lead elsewhere: reading stays in the folder that was named, writing goes where it was told."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniatures import write_textures
from PIL import Image
from torchvision.datasets.utils import extract_archive

from vpfb_core.data import LoadOptions, load
from vpfb_core.data.download import Files, located
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.files import clear_leftovers, write_bytes
from vpfb_core.model.runs import list_runs, new_run


def picture(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_no_line_of_a_table_leads_out_of_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for level, name in enumerate(("a.png", "sub/b.png")):
        picture(root / name, level)
    picture(tmp_path / "secret.png", 99)
    lines = ["../secret.png", "sub/../../other.png", str(tmp_path / "secret.png"), "/etc/passwd", "..", "sub/../a.png"]
    (root / "attributes.csv").write_text("file,bright\n" + "".join(f"{line},1\n" for line in lines))
    images = load(str(root), conditional=True)
    assert images.files == ("a.png", "sub/b.png")
    assert images.images.amax((1, 2, 3)).tolist() == [0, 1], "not a pixel of what is outside"
    assert images.labels is not None
    assert images.labels[:, 0].tolist() == [1, -1]


def test_links_out_of_a_folder_are_followed_and_named_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "images"
    picture(root / "a.png")
    picture(tmp_path / "elsewhere" / "b.png", 1)
    (root / "inside.png").symlink_to("a.png")
    (root / "one.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (root / "all").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "loop.png").symlink_to("loop.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "passwords.png").symlink_to("/etc/passwd")
    for number in range(60):  # among enough good ones
        picture(root / "more" / f"{number}.png", number)
    images = load(str(root))
    assert images.files is not None
    assert len(images.files) == len(set(images.files)) == 64
    note = next(note for note in images.notes if "lead out of the folder" in note)
    assert all(name in note for name in ("all", "one.png", "passwords.png", "up"))
    assert "inside.png" not in note
    assert {"loop.png", "zero.png", "passwords.png"} <= {file for file, _ in images.skipped}


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "socket"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    import socket

    from vpfb_core.data.single import read_image

    path = tmp_path / "a.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to(kind)
    with pytest.raises(DataError):
        load(str(path))
    with pytest.raises(DataError, match="no file"):
        read_image(path, (1, 8, 8))
    with pytest.raises(DataError, match="not a regular file"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["../../../secret.png", "/etc/secret.png", "banded/../../../../../secret.png"])
def test_no_line_of_a_data_sets_list_leads_out_of_it(name: str, tmp_path: Path) -> None:
    write_textures(tmp_path / "root")
    picture(tmp_path / "secret.png")
    listed = tmp_path / "root" / "dtd" / "dtd" / "labels" / "train1.txt"
    listed.write_text(listed.read_text() + f"{name}\n")
    with pytest.raises(DataError, match="its list names"):
        load("textures", root=tmp_path / "root", download=False)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_data_sets_list_that_is_nonsense_is_a_data_error(content: bytes, tmp_path: Path) -> None:
    write_textures(tmp_path)
    (tmp_path / "dtd" / "dtd" / "labels" / "train1.txt").write_bytes(content)
    with pytest.raises(DataError, match="'textures' is damaged"):
        load("textures", root=tmp_path, download=False)


def tar_of(*members: tuple[str, str | None]) -> bytes:
    """(name, where it links to)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, link in members:
            entry = tarfile.TarInfo(name)
            if link is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                archive.addfile(entry)
            else:
                entry.size = 4
                archive.addfile(entry, io.BytesIO(b"evil"))
    return buffer.getvalue()


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"evil")
    return buffer.getvalue()


ARCHIVES: dict[str, Callable[[str], bytes]] = {  # each is told where "outside" is
    "up.tar.gz": lambda _: tar_of(("../../evil", None)),
    "up.zip": lambda outside: zip_of("../../evil", outside),
    "link.tar.gz": lambda _: tar_of(("way", "../.."), ("way/evil", None)),
    "absolute.tar.gz": lambda outside: tar_of((outside, None)),
}


@pytest.mark.filterwarnings("ignore:'x' is not in")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_downloaded_archive_writes_nothing_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "root"

    def fetch(folder: Path) -> None:
        (folder / name).write_bytes(ARCHIVES[name](str(tmp_path / "evil")))
        extract_archive(str(folder / name), str(folder))

    with pytest.raises(DataError):
        located("x", Files(("x/train",), ("x/test",), "nowhere", "1 B"), "train", LoadOptions(root=root), fetch)
    assert not list(tmp_path.rglob("evil"))
    assert not root.exists(), "nothing is left"


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_link_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep me")
    out = tmp_path / "out.png"
    for target in ("precious", "nowhere", "out.png"):
        out.unlink(missing_ok=True)
        out.symlink_to(target)
        write_bytes(out, b"new")
        assert (out.read_bytes(), out.is_symlink()) == (b"new", False)
    assert (tmp_path / "precious").read_text() == "keep me"
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_and_a_folder_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(DataError, match="cannot write"):
            write_bytes(tmp_path / name, b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/dev/new"])
def test_a_device_is_not_replaced_by_a_file_even_by_root(device: str) -> None:
    before = Path(device).lstat().st_mode if Path(device).exists() else None
    with pytest.raises(DataError, match="cannot write"):
        write_bytes(Path(device), b"new")
    assert (Path(device).lstat().st_mode if before is not None else None) == before
    assert not list(Path("/dev").glob(".*.part"))


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, ".hidden", "a\nb", " "])
def test_any_name_that_a_file_can_have_can_be_written(name: str, tmp_path: Path) -> None:
    write_bytes(tmp_path / name, b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".vpfb-abc.part", "mine.part", ".x.part", ".vpfb-notes"):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vpfb-notes", ".x.part", "mine.part"]


@pytest.mark.parametrize(
    "data", ["../../x", "/etc/passwd", "..", ".", "a/..", "x" * 250, "\n", "shuffled:../x", "\udcff", "~", "-rf"]
)
def test_the_folder_of_a_new_run_is_among_the_runs_whatever_the_data_is_called(data: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    (root / "²-odd").mkdir(parents=True)  # a digit, but no number
    run = new_run(data, root)
    assert run.path.parent == root
    assert run.path.name.startswith("001-")
    assert run.path.is_dir()


def test_one_run_that_may_not_be_read_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("001-a", "002-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").touch()
    honest = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if "001-a" in path.parts:
            raise PermissionError(13, "Permission denied")
        return honest(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert [run.path.name for run in list_runs(tmp_path)] == ["002-b"]


def test_a_setting_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    from vpfb_core.config import TrainConfig

    for word in ("a\0b", "a\udcff"):
        with pytest.raises(ConfigError, match="out = "):
            TrainConfig(out=word)
