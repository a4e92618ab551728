"""The data sets of torchvision: read from the data root, downloaded when they are absent.

MNIST and its relatives are plain bytes and are read without torchvision, whose import takes seconds. CIFAR's files are
pickles, the only ones that are ever read: torchvision opens them after it has checked their MD5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpfb_core.data.download import Files, data_root, located
from vpfb_core.data.folder import Listing, load_files
from vpfb_core.data.framing import choose_size
from vpfb_core.data.idx import read_idx
from vpfb_core.data.images import ImageSet
from vpfb_core.data.labelling import Labels, listed
from vpfb_core.data.load_options import SPLITS, LoadOptions
from vpfb_core.data.named_set import NamedSet
from vpfb_core.data.source import ConditionGroup, Source
from vpfb_core.data.stacking import stack_array
from vpfb_core.errors import DataError, MissingError
from vpfb_core.machine.packages import require_torchvision

_DIGITS = tuple("0123456789")
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
_CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class TorchvisionSet:
    """How a data set of torchvision is found and read.

    Attributes:
        name: what users type.
        summary: what it is, in one line.
        torchvision: the name of its class in torchvision.datasets.
        images: number of images in its training split.
        shape: (C, H, W) of its images; None where they differ.
        classes: their names in the order of the labels; None where only its files name them.
        flips: whether a mirrored image is as likely as the image itself.
        files: where it is stored below the data root.
        read: reads one split of it.
        arguments: the arguments of the torchvision class for a split.
        extra: a package that downloading needs.
        aliases: other names of the set.
    """

    name: str
    summary: str
    torchvision: str
    images: int
    shape: tuple[int, int, int] | None
    classes: tuple[str, ...] | None
    flips: bool
    files: Files
    read: Callable[[TorchvisionSet, Path, str, LoadOptions], Source]
    arguments: Callable[[str], dict[str, Any]]
    extra: str | None = None
    aliases: tuple[str, ...] = ()

    def load(self, options: LoadOptions) -> Source:
        """The split that the options name, "train" by default.

        Raises:
            DataError: the set is absent and cannot be downloaded, or it is damaged.
            MissingError: a package that it needs is not installed, or torchvision cannot be imported.
        """
        split = options.split or "train"
        absent = not self.files.present(data_root(options.root), split)
        if self.extra and absent and options.download and find_spec(self.extra) is None:
            raise MissingError(
                f"downloading '{self.name}' needs the package {self.extra}", hint=f'pip install "vpfb[{self.name}]"'
            )
        root = located(self.name, self.files, split, options, partial(self.open, split=split, download=True))
        return self.read(self, root, split, options)

    def open(self, root: Path, split: str, download: bool = False) -> Any:
        """The data set as torchvision opens it."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision)(str(root), download=download, **self.arguments(split))


def _opened(known: TorchvisionSet, root: Path, split: str) -> Any:
    """The data set, opened by torchvision, of files that exist."""
    require_torchvision()  # an error of its import is not one of the files
    try:
        return known.open(root, split)
    except Exception as error:  # a wrong checksum is a RuntimeError; the rest depends on the format
        reason = " ".join(str(error).split()).removesuffix(" You can use download=True to download it")
        raise DataError(
            f"'{known.name}' in {root} is damaged or incomplete: {reason}",
            hint=f"remove {listed(known.files.of(split))} from that folder to have it downloaded again",
        ) from error


def _read_idx(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> ImageSet:
    pixels, labels = _idx_pair(known, root, split)
    return _from_array(known, pixels[..., None], labels, known.classes or (), options)


def _read_letters(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> ImageSet:
    """EMNIST, whose images are stored transposed and whose labels of "letters" count from 1."""
    pixels, labels = _idx_pair(known, root, split)
    return _from_array(known, pixels.transpose(0, 2, 1)[..., None], labels - 1, known.classes or (), options)


def _idx_pair(known: TorchvisionSet, root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 (N, H, W), and labels, int64 (N,)."""
    images, labels = known.files.of(split)
    return read_idx(root / images, 3), read_idx(root / labels, 1).astype(np.int64)


def _read_cifar(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> ImageSet:
    dataset = _opened(known, root, split)
    return _from_array(known, dataset.data, np.asarray(dataset.targets, np.int64), dataset.classes, options)


def _read_svhn(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> ImageSet:
    dataset = _opened(known, root, split)
    return _from_array(known, dataset.data.transpose(0, 2, 3, 1), dataset.labels, known.classes or (), options)


def _read_celeba(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> Source:
    dataset = _opened(known, root, split)
    folder = root / "celeba" / "img_align_celeba"
    names = [name.lower() for name in dataset.attr_names if name]  # the header line ends with a space
    groups = tuple(ConditionGroup(name, (f"~{name}", name)) for name in names)
    return _from_files(known, folder, dataset.filename, dataset.attr, groups, options)


def _read_textures(known: TorchvisionSet, root: Path, split: str, options: LoadOptions) -> Source:
    folder = root / "dtd" / "dtd"
    table = folder / "labels" / f"{split}1.txt"
    try:
        names = table.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{known.name}' is damaged: {table} cannot be read: {error}") from error
    classes = sorted({name.split("/")[0] for name in names})
    labels = torch.tensor([[classes.index(name.split("/")[0])] for name in names])
    return _from_files(known, folder / "images", names, labels, (ConditionGroup("class", tuple(classes)),), options)


def _from_array(
    known: TorchvisionSet, pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], options: LoadOptions
) -> ImageSet:
    """A set from pixels, uint8 (N, H, W, C), with labels, int64 (N,)."""
    if len(pixels) != len(labels) or not len(pixels) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"'{known.name}' is damaged: {len(pixels)} images, {len(labels)} labels, {len(classes)} classes"
        )
    rows, cut = options.rows(len(pixels)), options.cut(len(pixels))
    if cut:
        pixels = pixels[rows.numpy()]
    chosen = torch.from_numpy(labels)[rows]
    count, height, width, planes = pixels.shape
    size = options.size or choose_size([(width, height)], count, options.channels or planes, options.max_size)
    taken = stack_array(pixels, size=size, channels=options.channels or planes, workers=options.workers)
    return ImageSet(
        known.name,
        taken.images,
        labels=chosen[:, None] if options.conditional else None,
        groups=(ConditionGroup("class", tuple(classes)),) if options.conditional else (),
        flips=known.flips,
        notes=taken.notes + cut,
    )


def _from_files(
    known: TorchvisionSet,
    folder: Path,
    files: Sequence[str],
    labels: Tensor,
    groups: tuple[ConditionGroup, ...],
    options: LoadOptions,
) -> Source:
    """A set of colour photographs from files, relative to a folder, with labels, int64 (N, G)."""
    leading_out = (file for file in files if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts)
    if not files or (outside := next(leading_out, None)) is not None:
        raise DataError(f"'{known.name}' is damaged: its list names {repr(outside) if files else 'no images'}")
    rows = options.rows(len(files))
    found = Listing([files[i] for i in rows.tolist()])
    found.sizes = {file: _bytes(folder / file) for file in found.files}
    options = replace(options, channels=options.channels or 3)
    images = load_files(folder, found, Labels(labels[rows], groups, ()) if options.conditional else None, options)
    return replace(images, flips=known.flips, notes=images.notes + options.cut(len(files)))


def _bytes(path: Path) -> int:
    """The size of a file; 0 if it is gone, which is reported when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _by_train(split: str) -> dict[str, Any]:
    return {"train": split == "train"}


def _by_split(split: str) -> dict[str, Any]:
    return {"split": split}


def _letters(split: str) -> dict[str, Any]:
    return {"split": "letters", "train": split == "train"}


def _idx_files(folder: str, train: str, test: str, source: str, size: str) -> Files:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    parts = [tuple(f"{folder}/raw/{prefix}-{kind}" for kind in kinds) for prefix in (train, test)]
    return Files(parts[0], parts[1], source, size)


def _cifar_files(folder: str, train: tuple[str, ...], test: str, meta: str, size: str) -> Files:
    files = tuple(f"{folder}/{name}" for name in (*train, test, meta))  # torchvision opens neither split without all
    return Files(
        files, files, f"https://www.cs.toronto.edu/~kriz/{folder.removesuffix('-batches-py')}-python.tar.gz", size
    )


_CELEBA = tuple(
    f"celeba/{name}"
    for name in ("img_align_celeba", "list_attr_celeba.txt", "identity_CelebA.txt", "list_bbox_celeba.txt",
                 "list_landmarks_align_celeba.txt", "list_eval_partition.txt")
)  # fmt: skip
_TEXTURES = {split: ("dtd/dtd/images", f"dtd/dtd/labels/{split}1.txt") for split in SPLITS}
_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)

_ALL = (
    TorchvisionSet(
        "mnist", "handwritten digits", "MNIST", 60_000, _GREY, _DIGITS, False,
        _idx_files("MNIST", "train", "t10k", "https://ossci-datasets.s3.amazonaws.com/mnist/", "12 MB"),
        _read_idx, _by_train,
    ),
    TorchvisionSet(  # not flipped: every shoe points to the left
        "fashion-mnist", "pieces of clothing", "FashionMNIST", 60_000, _GREY, _CLOTHES, False,
        _idx_files("FashionMNIST", "train", "t10k", "https://github.com/zalandoresearch/fashion-mnist", "31 MB"),
        _read_idx, _by_train,
    ),
    TorchvisionSet(
        "kmnist", "handwritten Japanese characters", "KMNIST", 60_000, _GREY, _KANA, False,
        _idx_files("KMNIST", "train", "t10k", "https://github.com/rois-codh/kmnist", "21 MB"),
        _read_idx, _by_train,
    ),
    TorchvisionSet(
        "emnist", "handwritten letters", "EMNIST", 124_800, _GREY, _LETTERS, False,
        _idx_files("EMNIST", "emnist-letters-train", "emnist-letters-test",
                   "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", "562 MB"),
        _read_letters, _letters,
    ),
    TorchvisionSet(
        "cifar10", "photographs of animals and vehicles; also: cifar", "CIFAR10", 50_000, _COLOUR, _THINGS, True,
        _cifar_files("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch",
                     "batches.meta", "170 MB"),
        _read_cifar, _by_train, aliases=("cifar",),
    ),
    TorchvisionSet(
        "cifar100", "photographs of 100 kinds of things", "CIFAR100", 50_000, _COLOUR, None, True,
        _cifar_files("cifar-100-python", ("train",), "test", "meta", "169 MB"),
        _read_cifar, _by_train,
    ),
    TorchvisionSet(
        "svhn", "house numbers, by their middle digit", "SVHN", 73_257, _COLOUR, _DIGITS, False,
        Files(("train_32x32.mat",), ("test_32x32.mat",), "http://ufldl.stanford.edu/housenumbers/", "182 MB"),
        _read_svhn, _by_split,
    ),
    TorchvisionSet(
        "celeba", "faces of celebrities, 40 attributes", "CelebA", 162_770, (3, 218, 178), None, True,
        Files(_CELEBA, _CELEBA, "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "1.4 GB"),
        _read_celeba, _by_split, "gdown",
    ),
    TorchvisionSet(
        "textures", "photographs of textures (DTD), 47 classes", "DTD", 1_880, None, None, True,
        Files(_TEXTURES["train"], _TEXTURES["test"], "https://www.robots.ox.ac.uk/~vgg/data/dtd/", "625 MB"),
        _read_textures, _by_split,
    ),
)  # fmt: skip

SETS = tuple(
    NamedSet(
        known.name, known.summary, known.load, known.images, known.shape, known.classes, known.files, known.aliases
    )
    for known in _ALL
)
