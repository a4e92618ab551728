"""Array files that nobody would write: a set of pictures or a DataError, never a pickle, never much memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exploring import bounded, budget, damaged, explore
from hypothesis import strategies as st

from vpfb_core.data import LoadOptions, load
from vpfb_core.data.arrays import load_arrays
from vpfb_core.errors import DataError

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def headed(header: bytes, version: tuple[int, int] = (1, 0), claim: int | None = None) -> bytes:
    size = (len(header) if claim is None else claim).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + header


def read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        images = load_arrays(path, LoadOptions(conditional=path.suffix == ".npz"))
    except DataError as error:
        assert str(path) in error.message
    else:
        assert images.images.ndim == 4


@budget(150, 20_000)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damaged_files(examples: int, ending: str, tmp_path: Path) -> None:
    members = {
        "images.npy": npy(PICTURES),
        "labels.npy": npy(np.arange(5)),
        "classes.npy": npy(np.array(list("abcde"))),
    }
    whole = npy(PICTURES) if ending == "npy" else npz(members, zipfile.ZIP_STORED)
    with bounded(mebibytes=256, seconds=30 + examples):
        for content in damaged(whole, examples, beginning=128):
            read(tmp_path / f"a.{ending}", content)


@budget(150, 20_000)
def test_headers_that_claim_anything(examples: int, tmp_path: Path) -> None:
    sizes = st.integers(-3, 9) | st.sampled_from([2**31, 2**63, 2**64, 10**40, -(2**40)])
    dtypes = st.sampled_from(
        [
            "|u1",
            "<i8",
            "|O",
            "<U1000000000",
            "|V0",
            "<f8",
            "M8[ns]",
            "|S0",
            [("a", "|O")],
            [("a", "|u1", (10**6,))],
            3,
            "",
        ]
    )
    shapes = st.lists(sizes, max_size=5).map(tuple) | st.just([3, 8, 8]) | st.just(7)
    orders = st.booleans() | st.just("yes")
    endless = st.sampled_from(["(" * 5000, "[" * 9000, "{" * 200, "-" * 9000 + "1", "9" * 9000])
    described = st.fixed_dictionaries({"descr": dtypes, "fortran_order": orders, "shape": shapes}).map(repr)
    headers = described | st.text(max_size=40) | endless
    versions = st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)])

    def check(drawn: tuple[Any, ...]) -> None:
        header, version, compressed = drawn
        content = headed(header.encode("utf-8", "replace"), version) + bytes(400)
        read(tmp_path / ("a.npz" if compressed else "a.npy"), npz({"images.npy": content}) if compressed else content)

    with bounded(mebibytes=256, seconds=30 + examples):
        explore(st.tuples(headers, versions, st.booleans()), check, examples)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_objects_are_not_unpickled_wherever_they_hide(ending: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return tmp_path.joinpath("sprung").touch, ()

    plain, nested = np.array([Trap()], object), np.array([(1, Trap())], dtype=[("a", "u1"), ("b", object)])
    for array in (plain, nested):
        trap = npy(array)
        for name in ("images", "labels", "classes", "other") if ending == "npz" else ("images",):
            content = trap if ending == "npy" else npz({"images.npy": npy(PICTURES), f"{name}.npy": trap})
            (tmp_path / f"a.{ending}").write_bytes(content)
            with pytest.raises(DataError, match="Python objects"):
                load(str(tmp_path / f"a.{ending}"), conditional=True)
    (tmp_path / "a.npy").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError):
        load(str(tmp_path / "a.npy"))
    assert not (tmp_path / "sprung").exists()


def zeros(count: int) -> bytes:
    return headed(repr({"descr": "|u1", "fortran_order": False, "shape": (count // 64, 8, 8)}).encode()) + bytes(count)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpfb_core.data.arrays.MAX_BYTES", 2**25)
    path, part = tmp_path / "bomb.npz", zeros(2**24)
    path.write_bytes(npz({"images.npy": part, "a.npy": part, "b.npy": part}))
    assert path.stat().st_size < 2**18
    with bounded(mebibytes=16, seconds=2), pytest.raises(DataError, match="unpacks to 50,"):
        load(str(path))


def test_a_header_without_end_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(npz({"images.npy": headed(b" " * 2**26, (2, 0))}))
    with bounded(mebibytes=32, seconds=2), pytest.raises(DataError, match="header claims"):
        load(str(path))


def test_an_archive_that_says_less_than_it_holds_is_read_no_further_than_it_says(tmp_path: Path) -> None:
    part = zeros(2**26)
    content, size = npz({"images.npy": part}), len(part).to_bytes(4, "little")
    assert content.count(size) == 2, "in front of the member, and in the table at the end"
    path = tmp_path / "liar.npz"
    path.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with bounded(mebibytes=32, seconds=2), pytest.raises(DataError):
        load(str(path))
