"""The files of a named set: where they are, and how they are downloaded when they are absent.

The layout below the data root is that of torchvision, so that either finds the files that the other downloaded.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vpfb_core.data.load_options import LoadOptions
from vpfb_core.errors import DataError
from vpfb_core.machine.files import cache_folder

TIMEOUT = 30.0  # seconds to wait for a silent server


@dataclass(frozen=True)
class Files:
    """The files that a set is stored in.

    Attributes:
        train: files or folders of the training split, relative to the data root; a .gz may take the place of a file.
        test: the same for the test split.
        source: where they can be downloaded by hand.
        size: of the download, such as "12 MB".
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    size: str

    def of(self, split: str) -> tuple[str, ...]:
        """The files of "train" or "test"."""
        return self.train if split == "train" else self.test

    def present(self, root: Path, split: str) -> bool:
        """Whether all files of a split exist; none is opened."""
        return all(stored(root / file) is not None for file in self.of(split))

    def folder(self, root: Path) -> Path:
        """The folder that holds the set, whether it exists or not."""
        return root / os.path.commonpath([os.path.dirname(file) for file in self.train + self.test])  # noqa: PTH120


def data_root(root: Path | None = None) -> Path:
    """The folder of downloaded sets: `root`, else VPFB_DATA, else the user's cache folder."""
    if root is not None:
        return root.expanduser()
    if named := os.environ.get("VPFB_DATA"):
        return Path(named).expanduser()
    return cache_folder()


def stored(path: Path) -> Path | None:
    """The path, or its .gz, whichever exists."""
    compressed = path.with_name(path.name + ".gz")
    return path if path.exists() else compressed if compressed.is_file() else None


def located(name: str, files: Files, split: str, options: LoadOptions, fetch: Callable[[Path], object]) -> Path:
    """The data root that holds the files of a split; they are downloaded if they are absent and that is allowed.

    Args:
        name: of the set.
        files: of the set.
        split: "train" or "test".
        options: the data root, and whether downloading is allowed.
        fetch: downloads the set into a folder, in torchvision's layout.
    Raises:
        DataError: the files are absent and cannot be downloaded; the message says which files to put where.
    """
    root = data_root(options.root)
    if files.present(root, split):
        return root
    by_hand = f"put {', '.join(files.of(split))} into {root}; they come from {files.source}"
    if not options.download:
        raise DataError(f"'{name}' is not in {root}, and downloading is disabled", hint=by_hand)
    warnings.warn(f"'{name}' is not in {root}: downloading {files.size} from {files.source}", stacklevel=2)
    try:
        with _beside(root) as temporary:
            with _patience(), _silence(), _containment():
                fetch(temporary)
            for file in files.train + files.test:
                _move(temporary / file, root / file)
    except Exception as error:  # of urllib, http, tarfile, zipfile, gzip, gdown and the file system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{name}' is not in {root} and cannot be downloaded: {reason}", hint=by_hand) from error
    if not files.present(root, split):
        raise DataError(f"the download of '{name}' does not hold the expected files", hint=by_hand)
    return root


@contextlib.contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A temporary folder on the file system of root; at the end it is removed, and so is a new root that is empty."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=".download.", suffix=".part"))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: the download succeeded
                folder.rmdir()


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Limit the time to wait for a silent server; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _containment() -> Iterator[None]:
    """Refuse tar members that lead out of the folder they are extracted into; before Python 3.14 nothing does."""
    before = tarfile.TarFile.__dict__.get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the progress bars of torchvision: the caller decides what is written to the streams."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _move(source: Path, target: Path) -> None:
    """Move a downloaded file or folder to its place; a folder that exists already stays."""
    if source.exists() and not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
