"""Moving and copying of files: nothing is overwritten, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine import relocation

NAMES = ["a.png", "sub/b.png", "sub/deep/line\nbreak \udcff.png"]


def content(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with the files `NAMES` and another one."""
    root = tmp_path / "photos"
    for name in [*NAMES, "other.png"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(f"content of {name}"))
        os.utime(root / name, (1e9, 1e9))
    return root


def relocate(root: Path, folder: Path, *, moves: bool) -> None:
    (relocation.move if moves else relocation.copy)(relocation.plan(root, NAMES, folder, moves=moves))


@pytest.fixture(params=["one file system", "two file systems"])
def _systems(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two file systems":

        def refuse(target: Path, source: Path) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("_systems")
@pytest.mark.parametrize("moves", [True, False])
def test_files_arrive_with_their_sub_folders_content_and_times(photos: Path, tmp_path: Path, moves: bool) -> None:
    before, new = content(photos), tmp_path / "new" / "folder"
    relocate(photos, new, moves=moves)
    assert content(new) == {name: before[name] for name in NAMES}
    assert content(photos) == ({"other.png": before["other.png"]} if moves else before)
    assert {(new / name).stat().st_mtime for name in NAMES} == {1e9}


def test_a_copy_is_a_file_of_its_own(photos: Path, tmp_path: Path) -> None:
    relocate(photos, tmp_path / "new", moves=False)
    (tmp_path / "new" / "a.png").write_bytes(b"changed")
    assert (photos / "a.png").read_bytes() == b"content of a.png"


@pytest.mark.parametrize("moves", [True, False])
def test_a_name_that_is_taken_gets_a_number(photos: Path, tmp_path: Path, moves: bool) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "a.png").write_bytes(b"mine")
    (new / "a-2.png").symlink_to("nowhere")
    found = relocation.plan(photos, ["a.png"], new, moves=moves)
    assert [(each.target, each.renamed) for each in found] == [(new / "a-3.png", True)]
    relocate(photos, new, moves=moves)
    assert (new / "a.png").read_bytes() == b"mine"
    assert (new / "a-3.png").read_bytes() == b"content of a.png"


def test_names_that_differ_in_case_only_stay_apart(tmp_path: Path) -> None:
    found = relocation.plan(tmp_path / "photos", ["A.png", "a.png", "ｅ.png"], tmp_path / "new", moves=True)
    assert [each.target.name for each in found] == ["A.png", "a-2.png", "ｅ.png"]


def test_copying_again_copies_what_is_new(photos: Path, tmp_path: Path) -> None:
    relocate(photos, tmp_path / "new", moves=False)
    (photos / "a.png").write_bytes(b"new version")
    assert [each.target.name for each in relocation.plan(photos, NAMES, tmp_path / "new", moves=False)] == ["a-2.png"]


@pytest.mark.parametrize("folder", ["photos", "photos/new", "other/../photos", "link/new"])
def test_a_folder_within_that_of_the_files_is_refused(photos: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(ConfigError, match="would be found again"):
        relocation.plan(photos, NAMES, tmp_path / folder, moves=False)


def test_a_file_of_another_folder_is_not_moved_but_may_be_copied(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.png").write_bytes(b"theirs")
    (photos / "linked").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="outside of"):
        relocation.plan(photos, ["a.png", "linked/c.png"], tmp_path / "new", moves=True)
    relocation.copy(relocation.plan(photos, ["linked/c.png"], tmp_path / "new", moves=False))
    assert content(tmp_path / "new") == {"linked/c.png": b"theirs"}
    assert (tmp_path / "other" / "c.png").read_bytes() == b"theirs"


def test_a_link_that_is_moved_leads_to_the_same_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"real")
    (photos / "sub" / "link.png").symlink_to("../../real.png")
    relocation.move(relocation.plan(photos, ["sub/link.png"], tmp_path / "a" / "b" / "new", moves=True))
    moved = tmp_path / "a" / "b" / "new" / "sub" / "link.png"
    assert moved.is_symlink()
    assert moved.read_bytes() == b"real"
    assert not os.path.lexists(photos / "sub" / "link.png")


@pytest.mark.parametrize("moves", [True, False])
def test_a_full_disk_leaves_everything_as_it_was(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    before, copied = content(photos), []

    def refuse(target: Path, source: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def fill(read: object, written: object) -> None:
        copied.append(written)
        written.write(b"half")  # type: ignore[attr-defined]
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(shutil, "copyfileobj", fill)
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="No space left on device; nothing was"):
        relocate(photos, tmp_path / "new" / "deep", moves=moves)
    assert content(photos) == before
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_cannot_be_removed_stays_where_it_is_and_those_before_it_are_moved(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, remove = content(photos), Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == photos / "sub/b.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(DataError, match=r"Permission denied; 1 of 3 files were moved"):
        relocate(photos, tmp_path / "new", moves=True)
    assert content(tmp_path / "new") == {"a.png": before["a.png"]}
    assert content(photos) == {name: kept for name, kept in before.items() if name != "a.png"}


def test_a_file_that_takes_a_place_after_the_plan_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for moves in (True, False):
        found = relocation.plan(photos, NAMES, new, moves=moves)
        new.mkdir(exist_ok=True)
        (new / "a.png").write_bytes(b"mine")
        with pytest.raises(DataError, match="File exists"):
            (relocation.move if moves else relocation.copy)(found)
        assert content(new) == {"a.png": b"mine"}
        assert len(content(photos)) == 4
        (new / "a.png").unlink()
