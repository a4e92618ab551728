"""The file format: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import save
from torch import Tensor

from vpfb_core.errors import CheckpointError
from vpfb_core.machine import container as checkpoint

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
]  # fmt: skip
DOCUMENT = {"config": {"steps": 3, "lr": 1e-3}, "classes": ["naïve", "日本"], "best": None, "nested": [[1], []]}


def tensors() -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    values = (10 * torch.randn(3, 5, generator=draws)).round()
    return {
        **{str(dtype).removeprefix("torch."): values.to(dtype) for dtype in DTYPES},
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "weight.😀/a b": torch.randn(2, 1, 3, 1, generator=draws),
    }


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, "model", tensors(), DOCUMENT)
    return path


def is_whole(path: Path) -> bool:
    found = checkpoint.read(path, "model")
    expected = tensors()
    return (
        found.document == {"format": checkpoint.FORMAT_VERSION, "kind": "model", **DOCUMENT}
        and found.tensors.keys() == expected.keys()
        and all(found.tensors[name].dtype == tensor.dtype for name, tensor in expected.items())
        and all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.items())
    )


# --- there and back ---------------------------------------------------------------------------------------------------


def test_tensors_and_document_come_back_as_they_were(whole: Path) -> None:
    assert is_whole(whole)
    assert checkpoint.read_document(whole, "model") == checkpoint.read(whole, "model").document


def test_tensors_of_any_layout_come_back(tmp_path: Path) -> None:
    base = torch.arange(48.0).reshape(2, 3, 4, 2)
    laid_out = {
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base.permute(3, 1, 0, 2),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "strided": base[:, ::2],
        "parameter": torch.nn.Parameter(base.clone()),
    }
    checkpoint.write(tmp_path / "a", "model", laid_out, {})
    for name, tensor in checkpoint.read(tmp_path / "a", "model").tensors.items():
        assert torch.equal(tensor, laid_out[name])


def test_nan_and_infinity_in_tensors_come_back(tmp_path: Path) -> None:
    values = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    checkpoint.write(tmp_path / "a", "state", {"values": values}, {})
    found = checkpoint.read(tmp_path / "a", "state").tensors["values"]
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))


def test_a_file_without_tensors_holds_its_document(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "a", "state", {}, {"step": 3})
    assert checkpoint.read(tmp_path / "a", "state") == checkpoint.Checkpoint(
        {}, {"format": 2, "kind": "state", "step": 3}
    )


def test_writing_makes_the_folders_and_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.safetensors"
    for step in (1, 2):
        checkpoint.write(path, "model", tensors(), {"step": step})
    assert checkpoint.read_document(path, "model")["step"] == 2
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_document_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.write(tmp_path / "a", "model", tensors(), {"loss": [value]})
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_not_finite_become_null() -> None:
    assert checkpoint.finite_or_none(0.5) == 0.5
    assert [checkpoint.finite_or_none(value) for value in (math.nan, math.inf, -math.inf)] == [None, None, None]


# --- damage -----------------------------------------------------------------------------------------------------------


def test_truncated_file_is_a_checkpoint_error_at_every_length(whole: Path) -> None:
    content = whole.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    lengths = [*range(20), *range(20, len(content), 37), header - 1, header, header + 1, len(content) - 1]
    for length in lengths:
        whole.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read(whole, "model")
        assert str(whole) in caught.value.message
        assert ("truncated" if length > 8 else "not a model file") in caught.value.message


def test_flipped_bits_in_the_tensors_are_called_damage(whole: Path) -> None:
    content = whole.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content), 11):
        whole.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match="damaged: its checksum"):
            checkpoint.read(whole, "model")


@pytest.mark.parametrize(
    "name",
    [
        "naïve",
        "😀",
    ],
)
def test_every_byte_of_the_description_is_guarded(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, "model", {"w": torch.ones(2)}, {"classes": [name]})
    assert checkpoint.read_document(path, "model")["classes"] == [name]
    content = path.read_bytes()
    for position in range(8 + int.from_bytes(content[:8], "little")):
        for bit in (0, 1, 5):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
            with pytest.raises(CheckpointError):
                checkpoint.read_document(path, "model")


def test_bytes_after_the_end_are_damage(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes() + bytes(64))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(whole, "model")


def rebuilt(whole: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a file as `change` leaves it."""
    content = whole.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    whole.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["float32"].update(shape=[5, 3]),
        lambda header: header["float32"].update(dtype="I32"),
        lambda header: header["float32"].update(shape=[-3, -5]),
        lambda header: header["float32"].update(data_offsets=[0, 1 << 60]),
        lambda header: header["float32"].update(data_offsets=[8, 0]),
        lambda header: header["float32"].update(data_offsets="all"),
        lambda header: header.update(float32=3),
        lambda header: header.update(new=header.pop("float32")),
        lambda header: header.pop("float32"),
        lambda header: header.update({"float64": header["float32"], "float32": header["float64"]}),
        lambda header: header["__metadata__"].pop("sha256"),
        lambda header: header["__metadata__"].update(vpfb="[" * 100_000),
        lambda header: header["__metadata__"].update(vpfb="{}"),
        lambda header: header["__metadata__"].update(vpfb="[]"),
        lambda header: header["__metadata__"].update(vpfb='{"format": 2, "kind": "model", "name": "\ud83d"}'),
    ],
    ids=range(15),
)
def test_changed_header_is_a_checkpoint_error(whole: Path, change: Callable[[dict[str, Any]], None]) -> None:
    rebuilt(whole, lambda _header: None)
    assert is_whole(whole)  # rewriting alone is no damage
    rebuilt(whole, change)
    for read in (checkpoint.read, checkpoint.read_document):
        with pytest.raises(CheckpointError, match=r"damaged|truncated"):
            read(whole, "model")


# --- other files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"PK\x03\x04" + bytes(500),
        b"steps = 3\n" * 50,
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=["empty", "png", "zip", "text", "zeros", "ones"],
)
def test_foreign_file_is_said_not_to_be_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a model file"):
        checkpoint.read(path, "model")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_file_is_said_to_be_another_programs(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save({"weight": torch.ones(3)}, metadata=metadata))
    with pytest.raises(CheckpointError, match="not one that vpfb wrote"):
        checkpoint.read(path, "model")


def test_newer_format_is_said_to_be_newer(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 3)
    checkpoint.write(whole, "model", tensors(), DOCUMENT)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"newer vpfb \(format 3; this one reads 2\)") as caught:
        checkpoint.read(whole, "model")
    assert caught.value.hint is not None
    assert "upgrade" in caught.value.hint


def test_an_earlier_format_is_read_and_says_which_it_is(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 1)
    checkpoint.write(whole, "model", tensors(), DOCUMENT)
    monkeypatch.undo()
    found = checkpoint.read(whole, "model")
    assert found.document == {"format": 1, "kind": "model", **DOCUMENT}
    assert found.tensors.keys() == tensors().keys()


def test_wrong_kind_is_named(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a model, not a state"):
        checkpoint.read(whole, "state")


def test_missing_file_is_a_checkpoint_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file: .*nothing\.safetensors"):
        checkpoint.read(tmp_path / "nothing.safetensors", "model")


def test_folder_is_a_checkpoint_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"cannot read {tmp_path}"):
        checkpoint.read(tmp_path, "model")


def test_a_header_is_read_without_the_tensors_and_refuses_what_is_not_ours(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = whole.read_bytes()
    whole.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.read_document(whole, "model")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"all of {path} is read"))
    assert checkpoint.read_header(whole, "model")["kind"] == "model"
    with pytest.raises(CheckpointError, match="holds a model, not a state"):
        checkpoint.read_header(whole, "state")
    whole.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="not fully covered"):
        checkpoint.read_header(whole, "model")
    (tmp_path / "foreign.safetensors").write_bytes(b"not a model at all")
    with pytest.raises(CheckpointError, match="not a model file"):
        checkpoint.read_header(tmp_path / "foreign.safetensors", "model")


def test_a_file_is_serialised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    serialize = safetensors.torch.serialize

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append("once")
        return serialize(*arguments, **options)

    for module in (safetensors, safetensors.torch):
        monkeypatch.setattr(module, "serialize", counted)
    checkpoint.write(tmp_path / "file", "model", tensors(), DOCUMENT)
    assert calls == ["once"]
