"""The sets known by name, read from miniatures in their real formats."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
import torch
from present import present

from vpfb_core import data
from vpfb_core.data import streaming
from vpfb_core.data.download import data_root
from vpfb_core.data.sets import torchvision_sets
from vpfb_core.errors import DataError, MissingError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """A data root that is found by itself, and no way out to the network."""
    monkeypatch.setenv("VPFB_DATA", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def load(source: str, **options: Any) -> data.InMemory:
    return data.load(source, download=False, **options)


# --- MNIST and its relatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_relatives_of_mnist_are_kept_to_the_bit(root, name, folder, compressed):
    written = miniatures.write_mnist(root, folder, compressed=compressed)
    for split in ("train", "test"):
        found = load(f"{name}:{split}", conditional=True)
        assert np.array_equal(found.images[:, 0].numpy(), written[split])
        assert present(found.labels)[:, 0].tolist() == [i % 10 for i in range(len(written[split]))]
        assert [group.name for group in found.groups] == ["class"]
        assert len(found.groups[0].classes) == 10
        assert not found.flips
        assert found.name == f"{name}:{split}"


def test_classes_are_named_as_one_would_type_them(root):
    miniatures.write_mnist(root)
    miniatures.write_mnist(root, "FashionMNIST")
    assert load("mnist", conditional=True).groups[0].classes == tuple("0123456789")
    assert {"t-shirt", "trouser", "ankle-boot"} <= set(load("fashion-mnist", conditional=True).groups[0].classes)
    for name, entry in data.SETS.items():
        for label in entry.classes or ():
            assert re.fullmatch(r"[\w-]+", label), f"{name}: {label}"


def test_training_is_the_split_unless_another_is_named(root):
    miniatures.write_mnist(root)
    assert [len(load("mnist")), len(load("mnist", split="train")), len(load("mnist", split="test"))] == [12, 12, 6]
    assert len(load("mnist:train", split="test")) == 12, "what is typed goes before what is usual"


def test_letters_stand_upright_and_count_from_a(root):
    written = miniatures.write_emnist(root)
    found = load("emnist", conditional=True)
    assert np.array_equal(found.images[:, 0].numpy(), written["train"].transpose(0, 2, 1))
    assert found.groups[0].classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert present(found.labels)[:, 0].tolist() == list(range(26))


def test_an_old_pickle_of_mnist_is_not_opened(root, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    miniatures.write_mnist(root)
    (root / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (root / "MNIST" / "processed" / name).write_bytes(pickle.dumps(Trap()))
    assert len(load("mnist")) == 12
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_or_foreign_file_is_named(root, compressed):
    miniatures.write_mnist(root, compressed=compressed)
    path = next((root / "MNIST" / "raw").glob("train-images*"))
    whole = path.read_bytes()
    for content in (b"", whole[:10], whole[:-1], whole[: len(whole) // 2], b"\x00\x00\x0b\x03" + whole[4:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name) as caught:
            load("mnist")
        assert "downloaded again" in present(caught.value.hint)


def test_a_file_that_claims_too_much_is_refused_before_allocation(root):
    miniatures.write_mnist(root)
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(DataError, match="more than 8 GiB"):
        load("mnist")


def test_labels_that_do_not_fit_the_images_are_refused(root):
    miniatures.write_mnist(root)
    path = root / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    for labels in (np.arange(11, dtype=np.uint8) % 10, np.full(12, 10, np.uint8)):
        path.write_bytes(miniatures.idx(labels))
        with pytest.raises(DataError, match="'mnist' is damaged"):
            load("mnist")


def test_size_channels_and_limit_are_obeyed(root):
    written = miniatures.write_mnist(root)["train"]
    assert load("mnist", size=16).images.shape == (12, 1, 16, 16)
    assert load("mnist", max_size=16).images.shape == (12, 1, 16, 16)
    colour = load("mnist", channels=3).images
    assert np.array_equal(colour[:, 2].numpy(), written)
    some = load("mnist", limit=5, conditional=True)
    rows = data.LoadOptions(limit=5).rows(12)
    assert np.array_equal(some.images[:, 0].numpy(), written[rows.numpy()])
    assert present(some.labels)[:, 0].tolist() == (rows % 10).tolist()


def test_a_limit_chooses_at_random_but_always_the_same_and_from_a_larger_limits_choice():
    some, more = data.LoadOptions(limit=100).rows(10_000), data.LoadOptions(limit=500).rows(10_000)
    assert torch.equal(some, data.LoadOptions(limit=100).rows(10_000))
    assert torch.equal(some, some.unique())
    assert set(some.tolist()) < set(more.tolist())
    assert 3_000 < some.double().mean() < 7_000, "not the first ones"
    assert data.LoadOptions(limit=20).rows(7).tolist() == list(range(7))


# --- the others -------------------------------------------------------------------------------------------------------


def test_cifar10_is_kept_to_the_bit_under_both_names(root, monkeypatch):
    written = miniatures.write_cifar10(root, monkeypatch)
    for name in ("cifar10", "cifar"):
        found = load(name, conditional=True)
        assert np.array_equal(found.images.numpy(), written["train"])
        assert present(found.labels)[:, 0].tolist() == list(range(10))
        assert found.groups[0].classes[0] == "airplane"
        assert found.flips
    assert np.array_equal(load("cifar:test").images.numpy(), written["test"])
    assert data.canonical("cifar:test") == data.canonical("cifar10") == "cifar10"


def test_cifar100_names_its_classes_in_its_files(root, monkeypatch):
    written = miniatures.write_cifar100(root, monkeypatch)
    found = load("cifar100", conditional=True)
    assert np.array_equal(found.images.numpy(), written["train"])
    assert found.groups[0].classes == tuple(f"thing_{i}" for i in range(100))
    assert present(found.labels)[:, 0].tolist() == [96, 97, 98, 99]


def test_a_pickle_of_cifar_with_a_wrong_checksum_is_not_opened(root, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    miniatures.write_cifar10(root, monkeypatch)
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"'cifar10' .* is damaged or incomplete") as caught:
        load("cifar10")
    assert "data_batch_1" in present(caught.value.hint)
    assert not (tmp_path / "sprung").exists()


def test_svhn_needs_the_file_of_its_split_only_and_calls_ten_zero(root, monkeypatch):
    written = miniatures.write_svhn(root, monkeypatch, "test")
    found = load("svhn:test", conditional=True)
    assert np.array_equal(found.images.numpy(), written.transpose(3, 2, 0, 1))
    assert present(found.labels)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert not found.flips
    with pytest.raises(DataError, match="'svhn' is not in"):
        load("svhn:train")


def test_celeba_has_binary_attributes_and_is_cropped_to_the_centre(root, monkeypatch):
    miniatures.write_celeba(root, monkeypatch)
    found = load("celeba", conditional=True, size=32)
    assert found.images.shape == (4, 3, 32, 32)
    for i, image in enumerate(found.images.int()):
        assert (image - 40 * i).abs().max() <= 20, "the white above and below is cropped away"
        assert (image[:, 4:-4] - 40 * i).abs().max() <= 2, "the filter reaches beyond the crop at its edge only"
    assert [(group.name, group.classes) for group in found.groups] == [
        (name, (f"~{name}", name)) for name in ("5_o_clock_shadow", "smiling", "young")
    ]
    assert present(found.labels).tolist() == [[i & 1, i >> 1 & 1, 0] for i in range(4)]
    assert present(found.files)[0] == "000001.jpg"
    assert found.flips
    test = load("celeba:test", conditional=True)
    assert present(test.labels).tolist() == [[0, 0, 1], [1, 0, 1]]
    assert test.images.shape == (2, 3, 128, 128), "the largest usual size that 178 reaches"


def test_celeba_is_read_while_training_where_that_is_allowed(root, monkeypatch):
    monkeypatch.setattr(streaming, "STREAMED_FILES", 3)
    miniatures.write_celeba(root, monkeypatch)
    whole = load("celeba", conditional=True, size=32)
    streamed = data.find("celeba", data.LoadOptions(size=32, conditional=True, stream=True))
    assert isinstance(streamed, data.StreamedSet)
    assert (streamed.groups, streamed.flips, streamed.shape) == (whole.groups, True, (3, 32, 32))
    assert streamed.in_memory().fingerprint() == whole.fingerprint()


def test_images_of_celeba_that_are_gone_are_an_error_among_few(root, monkeypatch):
    miniatures.write_celeba(root, monkeypatch)
    files = sorted((root / "celeba" / "img_align_celeba").iterdir())
    files[0].unlink()
    assert "skipped 1 unreadable file: 000001.jpg (it does not exist" in " ".join(load("celeba").notes)
    for file in files[1:]:
        file.unlink()
    with pytest.raises(DataError, match=r"000002\.jpg \(it does not exist"):
        load("celeba")


def test_celeba_names_the_extra_that_downloading_it_needs(root, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "find_spec", lambda _name: None)
    with pytest.raises(MissingError, match="needs the package gdown") as caught:
        data.load("celeba")
    assert caught.value.hint == 'pip install "vpfb[celeba]"'


def test_textures_come_in_all_sizes_and_are_named_by_their_folders(root):
    miniatures.write_textures(root)
    found = load("textures", conditional=True)
    assert found.images.shape == (2, 3, 64, 64)
    assert found.groups[0].classes == ("banded", "polka-dotted")
    assert present(found.labels).tolist() == [[0], [1]]
    assert load("textures:test", limit=1).files == (["banded/banded_test.jpg", "polka-dotted/polka-dotted_test.jpg"][
        int(data.LoadOptions(limit=1).rows(2))
    ],)  # fmt: skip


# --- the real ones, where they are ------------------------------------------------------------------------------------

REAL = Path(os.environ.get("VPFB_DATA", ""))


@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="VPFB_DATA does not hold MNIST")
def test_the_real_mnist_has_its_known_counts():
    train, test = (load(f"mnist:{split}", root=REAL, conditional=True) for split in ("train", "test"))
    assert torch.bincount(present(train.labels)[:, 0]).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert torch.bincount(present(test.labels)[:, 0]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert abs(float(train.images.double().mean()) / 255 - 0.1307) < 1e-4


def test_the_root_is_the_one_named_else_the_environments_else_the_cache(tmp_path, monkeypatch):
    assert data_root(tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv("VPFB_DATA", str(tmp_path / "b"))
    assert data_root() == tmp_path / "b"
    monkeypatch.setenv("VPFB_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert data_root() == tmp_path / "c" / "vpfb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root() == tmp_path / "home" / ".cache" / "vpfb"
