"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpfb_core.errors import DataError
from vpfb_core.machine.files import write_bytes


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "deep" / "file", b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_bytes(tmp_path / "deep" / "file", b"new")
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [b"old"]
    with pytest.raises(DataError, match="is a folder"):
        write_bytes(tmp_path / "deep", b"x")
