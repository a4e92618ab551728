"""Masks in the texts that people type, and their copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpfb_core.uses.measuring.masks import has_value, keep_masks, mask_file, statistics_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("plain.png", "a,b.png", "a=b,c.png"):
        Path(name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("contrast, edges", ["contrast", "edges"]),
        ("brightness:plain.png,edges", ["brightness:plain.png", "edges"]),
        ("edges,brightness:a,b.png,top=0.3", ["edges", "brightness:a,b.png", "top=0.3"]),
        ("brightness:a=b,c.png", ["brightness:a=b,c.png"]),
        ("brightness:a=b,c.png=0.4,edges", ["brightness:a=b,c.png=0.4", "edges"]),
        ("brightness:absent.png,edges", ["brightness:absent.png", "edges"]),
    ],
)
def test_commas_separate_statistics_but_not_the_names_of_files(folder: Path, text: str, parts: list[str]) -> None:
    assert statistics_in(text) == parts


def test_what_follows_an_equals_sign_in_the_name_of_a_file_is_no_value() -> None:
    assert has_value("brightness:a=b.png=0.4")
    assert not has_value("brightness:a=b.png")
    assert has_value("edges=0.1")
    assert has_value("edges=few"), "so that it can be refused"
    assert not has_value("edges")


def test_copies_of_masks_are_used_when_the_files_are_gone_or_changed(folder: Path) -> None:
    kept = folder / "kept"
    keep_masks(kept, ["edges"])
    assert not kept.exists()
    keep_masks(kept, ["brightness:plain.png=0.4", "brightness:a,b.png", "edges"])
    Path("plain.png").write_bytes(b"another picture")
    Path("a,b.png").unlink()
    keep_masks(kept, ["brightness:plain.png=0.4", "brightness:a,b.png"])
    assert mask_file("brightness:plain.png", kept).read_bytes() == b"plain.png"
    assert mask_file("brightness:a,b.png", kept).read_bytes() == b"a,b.png"
    assert statistics_in("brightness:a,b.png,edges", kept) == ["brightness:a,b.png", "edges"]
    assert mask_file("brightness:plain.png") == Path("plain.png")
    assert mask_file("brightness:other.png", kept) == Path("other.png")
