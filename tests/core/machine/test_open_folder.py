"""A folder is followed when it is renamed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vpfb_core.errors import DataError
from vpfb_core.machine.open_folder import OpenFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenFolder:
    monkeypatch.chdir(tmp_path)
    Path("runs/one").mkdir(parents=True)
    return OpenFolder(Path("runs/one"))


@pytest.mark.parametrize(("old", "new", "found"), [
    ("runs/one", "runs/two", "runs/two"), ("runs/one", "elsewhere", "elsewhere"), ("runs", "old runs", "old runs/one"),
])  # fmt: skip
def test_a_renamed_folder_is_found_again(folder: OpenFolder, old: str, new: str, found: str) -> None:
    assert folder.path() == Path("runs/one")
    Path(old).rename(new)
    Path("runs/one").mkdir(parents=True)  # another one in its place
    with pytest.warns(UserWarning, match=f"the folder runs/one is now {found}"):
        assert folder.path() == Path(found)
    assert folder.path() == Path(found)
    folder.close()


def test_a_removed_folder_is_an_error(folder: OpenFolder) -> None:
    shutil.rmtree("runs/one")
    with pytest.raises(DataError, match="runs/one was removed"):
        folder.path()
    folder.close()
