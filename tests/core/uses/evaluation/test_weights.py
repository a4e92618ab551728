"""Weights from files: nothing is executed, what does not fit is refused, and those of FID are known by their hash."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vpfb_core.errors import CheckpointError, MissingError
from vpfb_core.uses.evaluation import weights


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def saved(path: Path, width: int = 3) -> dict[str, torch.Tensor]:
    tensors = network(width).state_dict()
    torch.save(tensors, path)
    return tensors


class Trap:
    """What runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_come_back_with_the_hash_of_their_file(tmp_path: Path, ending: str) -> None:
    path, tensors = tmp_path / f"w.{ending}", network().state_dict()
    if ending == "pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    found = weights.read(path)
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = network()
    found.load_into(loaded, "it")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in loaded.state_dict().items())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"weight": Trap(tmp_path / "trapped")}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no file of weights"):
        weights.read(tmp_path / "w.pth")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all", None])
def test_a_damaged_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.pth"
    saved(path)
    path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read(path)


@pytest.mark.parametrize("found", [[1, 2], {"state_dict": {"a": torch.zeros(1)}}, {1: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, found: object) -> None:
    torch.save(found, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="named tensors"):
        weights.read(tmp_path / "w.pth")


@pytest.mark.parametrize("wrong", ["missing", "unknown", "shape"])
def test_weights_of_another_architecture_are_refused(tmp_path: Path, wrong: str) -> None:
    tensors = saved(tmp_path / "w.pth", width=4 if wrong == "shape" else 3)
    if wrong == "missing":
        del tensors["0.bias"]
    if wrong == "unknown":
        tensors["2.bias"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "w.pth")
    before = network()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit this one: '"):
        weights.read(tmp_path / "w.pth").load_into(before, "this one")
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.state_dict().items())


def test_files_older_than_the_counters_of_batch_norm_fit(tmp_path: Path) -> None:
    tensors = saved(tmp_path / "w.pth")
    del tensors["1.num_batches_tracked"]
    torch.save(dict(tensors), tmp_path / "w.pth")
    weights.read(tmp_path / "w.pth").load_into(network(), "it")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        weights.read(tmp_path / "nowhere.pth")


# --- the weights of FID -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", weights.INCEPTION_FILES)
def test_the_weights_of_fid_are_found_in_torch_hubs_cache(cache: Path, tmp_path: Path, name: str) -> None:
    assert weights.inception_cached() is None
    path = cache / "torch" / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert weights.find_inception(None, download=False) == path
    assert weights.find_inception(tmp_path / "mine.pth", download=False) == tmp_path / "mine.pth"


def test_without_weights_and_download_the_message_says_which_file_to_put_where(cache: Path) -> None:
    with pytest.raises(MissingError) as raised:
        weights.find_inception(None, download=False)
    for words in (weights.INCEPTION_FILES[0], str(cache), "`weights_path`", "`features=pixels`"):
        assert words in str(raised.value.hint)


def test_a_cached_file_that_is_not_what_its_name_says_is_damaged(cache: Path) -> None:
    path = cache / weights.INCEPTION_FILES[0]
    cache.mkdir()
    saved(path)
    with pytest.raises(CheckpointError, match="damaged: its SHA-256") as raised:
        weights.read_inception(path)
    assert raised.value.hint == "delete it, and let it be downloaded again"


def test_other_weights_than_those_of_fid_are_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "mine.pth")
    with pytest.warns(UserWarning, match="not the file that FID is defined with"):
        found = weights.read_inception(tmp_path / "mine.pth")
    monkeypatch.setattr(weights, "INCEPTION_HASH", found.digest[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.read_inception(tmp_path / "mine.pth")


@pytest.mark.filterwarnings("ignore:downloading")
def test_a_download_is_checked_before_it_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"the weights"
    timeouts = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url == weights.INCEPTION_URL
        timeouts.append(timeout)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    folder = cache / "torch" / "hub" / "checkpoints"
    with pytest.raises(MissingError, match="not that of the standard weights"):
        weights.find_inception(None, download=True)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(weights, "INCEPTION_HASH", hashlib.sha256(content).hexdigest()[:8])
    path = weights.find_inception(None, download=True)
    assert (path.parent, path.read_bytes()) == (folder, content)
    assert all(0 < timeout <= 60 for timeout in timeouts)


@pytest.mark.filterwarnings("ignore:downloading")
def test_a_download_that_fails_is_missing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(MissingError, match=r"cannot be downloaded: .*timed out"):
        weights.find_inception(None, download=True)
