"""A folder of pictures, and the sets that torchvision knows, a few images each, written in their real formats."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_folder(root: Path) -> Path:
    """120 different pictures of 8×8, in two sub-folders; returns `root`."""
    draw = np.random.default_rng(0)
    for i in range(120):
        path = root / ("even", "odd")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, compress_level=1)
    return root


def write_idx_set(
    root: Path, folder: str, train: str, test: str, *, count: int = 12, first_label: int = 0, compressed: bool = False
) -> dict[str, np.ndarray]:
    """A relative of MNIST whose labels count up; returns the pixels of each split, (N, 28, 28)."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (split, prefix) in enumerate({"train": train, "test": test}.items()):
        number = count // (1 + seed)
        written[split] = pixels(number, 28, 28, seed=seed)
        labels = np.arange(first_label, first_label + number, dtype=np.uint8) % (10 + first_label * 17)
        for kind, array in {"images-idx3": written[split], "labels-idx1": labels}.items():
            path = raw / f"{prefix}-{kind}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    return written


def write_mnist(root: Path, folder: str = "MNIST", **options: Any) -> dict[str, np.ndarray]:
    return write_idx_set(root, folder, "train", "t10k", **options)


def write_emnist(root: Path) -> dict[str, np.ndarray]:
    return write_idx_set(root, "EMNIST", "emnist-letters-train", "emnist-letters-test", count=26, first_label=1)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Two images a batch; torchvision's table of checksums is patched. Returns the pixels, (N, 3, 32, 32)."""
    from torchvision.datasets import CIFAR10

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    written, tables = {}, {}
    for split, batches in {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}.items():
        written[split] = pixels(2 * len(batches), 3, 32, 32, seed=len(batches))
        tables[split] = [
            _pickled(root / "cifar-10-batches-py" / batch, {
                "data": written[split][2 * i : 2 * i + 2].reshape(2, -1), "labels": [2 * i, 2 * i + 1],
            })
            for i, batch in enumerate(batches)
        ]  # fmt: skip
    meta = _pickled(root / "cifar-10-batches-py" / "batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "train_list", tables["train"])
    monkeypatch.setattr(CIFAR10, "test_list", tables["test"])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return written


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    written = {"train": pixels(4, 3, 32, 32), "test": pixels(2, 3, 32, 32, seed=1)}
    for split, array in written.items():
        entry = {"data": array.reshape(len(array), -1), "fine_labels": list(range(96, 96 + len(array)))}
        monkeypatch.setattr(CIFAR100, f"{split}_list", [_pickled(folder / split, entry)])
    meta = _pickled(folder / "meta", {"fine_label_names": [f"thing_{i}" for i in range(100)]})
    monkeypatch.setattr(CIFAR100, "meta", {"filename": meta[0], "key": "fine_label_names", "md5": meta[1]})
    return written


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch, split: str = "train") -> np.ndarray:
    """Five images with the labels 10 (which means 0), 1, 2, 3, 4; returns the pixels, (32, 32, 3, 5)."""
    from torchvision.datasets import SVHN

    root.mkdir(parents=True, exist_ok=True)
    array = pixels(32, 32, 3, 5)
    path = root / f"{split}_32x32.mat"
    savemat(path, {"X": array, "y": np.array([[10], [1], [2], [3], [4]], np.uint8)})
    row = ["http://localhost:9/", path.name, _md5(path)]
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, split: row})
    return array


CELEBA_ATTRIBUTES = ("5_o_Clock_Shadow", "Smiling", "Young")


def write_celeba(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six faces of 178×218, the first four for training; face i is grey 40·i about its centre square, white beyond.

    Attributes of face i are the bits of i.
    """
    from torchvision.datasets import CelebA

    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(6)]
    for i, name in enumerate(names):
        face = np.full((218, 178, 3), 255, np.uint8)
        face[16:200] = 40 * i  # whole JPEG blocks
        Image.fromarray(face).save(folder / "img_align_celeba" / name, quality=100, subsampling=0)
    bits = [" ".join(" 1" if i >> bit & 1 else "-1" for bit in range(3)) for i in range(6)]
    tables = {
        "list_attr_celeba.txt": ["6", " ".join(CELEBA_ATTRIBUTES) + " ", *map("{} {}".format, names, bits)],
        "identity_CelebA.txt": [f"{name} 1" for name in names],
        "list_bbox_celeba.txt": ["6", "image_id x_1 y_1 width height", *(f"{name} 1 2 3 4" for name in names)],
        "list_landmarks_align_celeba.txt": ["6", "a b c", *(f"{name} 1 2 3" for name in names)],
        "list_eval_partition.txt": [f"{name} {0 if i < 4 else 2}" for i, name in enumerate(names)],
    }
    rows = [("", "", "img_align_celeba.zip")]
    for table, lines in tables.items():
        (folder / table).write_text("\n".join(lines) + "\n")
        rows.append(("", _md5(folder / table), table))
    monkeypatch.setattr(CelebA, "file_list", rows)


def write_textures(root: Path) -> None:
    """Two classes, each with a training and a test picture of another size."""
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for split, size in {"train": (70, 90), "test": (64, 64)}.items():
        names = [f"{kind}/{kind}_{split}.jpg" for kind in ("banded", "polka-dotted")]
        for seed, name in enumerate(names):
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(size[1], size[0], 3, seed=seed)).save(path)
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")


def _pickled(path: Path, content: dict[str, object]) -> tuple[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path.name, _md5(path)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
