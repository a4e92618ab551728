"""Files appear whole or not at all, with the mode that people expect, and errors of others stay what they are."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vpfb_core.errors import DataError
from vpfb_core.machine import files


def test_an_error_inside_is_not_an_error_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"old")
    with pytest.raises(TimeoutError, match="the server is silent"), files.replacing(path) as file:
        file.write(b"half")
        raise TimeoutError("the server is silent")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(DataError, match=r"cannot write a/b: No space"):  # noqa: PTH123
        files.Writer(full, Path("a/b")).write(b"x")


def test_the_umask_decides_the_mode_and_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("the umask is that of all threads"))
        files.write_bytes(tmp_path / "one", b"1")
        files.write_quickly(tmp_path / "two", b"2")
        monkeypatch.undo()
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("one", "two")] == [0o640, 0o640]


def test_threads_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    writers = [threading.Thread(target=files.write_bytes, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_quick_write_waits_for_no_disk_and_names_are_flushed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.path.realpath(f"/proc/self/fd/{handle}")))
    for i in range(3):
        files.write_quickly(tmp_path / str(i), b"x")
    assert flushed == []
    files.flush_names(tmp_path)
    assert len(flushed) == 1


@pytest.mark.parametrize(
    ("owner", "function", "failure"),
    [
        (os, "open", PermissionError(errno.EACCES, "Permission denied")),
        (os, "fsync", OSError(errno.ENOSPC, "No space left on device")),
        (Path, "replace", OSError(errno.ENOSPC, "No space left on device")),
        (os, "fsync", KeyboardInterrupt()),
    ],
    ids=["folder not writable", "disk full", "rename fails", "interrupted"],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, failure: BaseException
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise failure

    path = tmp_path / "deep" / "file"
    files.write_bytes(path, b"old")
    monkeypatch.setattr(owner, function, fail)
    reason = f"cannot write {path}: {failure.strerror}" if isinstance(failure, OSError) else None
    with pytest.raises(DataError if reason else KeyboardInterrupt, match=reason):
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert [each.read_bytes() for each in path.parent.iterdir()] == [b"old"]


def test_files_that_are_written_together_take_their_names_when_all_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, flushed = ["a", "b"], iter([None, OSError(errno.ENOSPC, "No space left on device")])
    files.write_together({tmp_path / name: b"old" for name in names})

    def fail_at_the_second(_handle: int) -> None:
        if (failure := next(flushed)) is not None:
            raise failure

    monkeypatch.setattr(os, "fsync", fail_at_the_second)
    with pytest.raises(DataError, match=r"cannot write .*b: No space"):
        files.write_together({tmp_path / name: b"new" for name in names})
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_files_of_a_folder_replace_the_older_ones_when_all_are_written(tmp_path: Path) -> None:
    for name in ("0", "1", "mine"):
        (tmp_path / name).write_bytes(b"old")
    older = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(DataError) as caught, files.filling(tmp_path, older) as folder:
        (folder / "0").write_bytes(b"new")
        raise DataError(f"cannot write {folder / '1'}: No space left on device")
    assert caught.value.message == f"cannot write {tmp_path / '1'}: No space left on device"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == dict.fromkeys(("0", "1", "mine"), b"old")
    with files.filling(tmp_path, older) as folder:
        (folder / "0").write_bytes(b"new")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"0": b"new", "mine": b"old"}


def test_what_is_in_the_way_of_a_file_is_named_and_stays(place: Path) -> None:
    for path, words in ((place / "folder", "is a folder"), (place / "file" / "x", "cannot write")):
        with pytest.raises(DataError, match=words):
            files.write_bytes(path, b"x")
    assert (place / "file").read_text() == "mine"
    assert sorted(each.name for each in place.iterdir()) == ["file", "folder"]


WRONG_FILES = ["/proc/x.png", "/proc/new/x.png", "/dev/null", "folder", "file/x.png", "x" * 300, f"new/{'é' * 200}/x"]
WRONG_FOLDERS = ["/proc/x", "/dev/null", "file", "file/x", "x" * 300, f"new/{'é' * 200}/x"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file and a folder in it."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is of Linux")
@pytest.mark.parametrize(
    ("check", "path"),
    [*((files.require_writable, path) for path in WRONG_FILES),
     *((files.require_writable_folder, path) for path in WRONG_FOLDERS)],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_the_work(
    place: Path, check: Callable[[Path], None], path: str
) -> None:
    with pytest.raises(DataError, match="cannot write"):
        check(Path(path))
    assert sorted(each.name for each in place.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("path", ["x.png", "a/b/x.png", "folder/x.png", "file", "x" * 255])
def test_what_can_be_written_passes_and_nothing_is_left(place: Path, path: str) -> None:
    files.require_writable(Path(path))
    if path != "file":
        files.require_writable_folder(Path(path))
    assert sorted(str(each.relative_to(place)) for each in place.rglob("*")) == ["file", "folder"]
    assert Path("file").read_text() == "mine"
