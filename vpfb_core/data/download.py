"""The files of a known set: where they lie, and how they get there when they are absent.

The layout below the data root is torchvision's own, so that files fetched by either serve both.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vpfb_core.data.load_options import LoadOptions
from vpfb_core.errors import DataError
from vpfb_core.machine.files import cache_folder

TIMEOUT = 30.0  # seconds that a server may be silent


@dataclass(frozen=True)
class Files:
    """What a set is stored in.

    Attributes:
        train: files or folders of the training split, relative to the data root; a file may also be there as .gz.
        test: the same for the test split.
        source: where a person finds them.
        size: of the download, in words.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    size: str

    def of(self, split: str) -> tuple[str, ...]:
        """The files of "train" or "test"."""
        return self.train if split == "train" else self.test

    def present(self, root: Path, split: str) -> bool:
        """Whether all files of a split are there, by name; nothing is opened."""
        return all(stored(root / file) is not None for file in self.of(split))

    def folder(self, root: Path) -> Path:
        """The folder that holds the set, whether it is there or not."""
        return root / os.path.commonpath([os.path.dirname(file) for file in self.train + self.test])  # noqa: PTH120


def data_root(root: Path | None = None) -> Path:
    """Where known sets lie: `root`, else VPFB_DATA, else the user's cache folder."""
    if root is not None:
        return root.expanduser()
    if named := os.environ.get("VPFB_DATA"):
        return Path(named).expanduser()
    return cache_folder()


def stored(path: Path) -> Path | None:
    """The path, or its .gz, whichever is there."""
    compressed = path.with_name(path.name + ".gz")
    return path if path.exists() else compressed if compressed.is_file() else None


def located(name: str, files: Files, split: str, options: LoadOptions, fetch: Callable[[Path], object]) -> Path:
    """The data root with the files of a split in it, downloaded if they are absent and that is allowed.

    Args:
        fetch: downloads the set into the folder that it is given, in torchvision's layout.
    Raises:
        DataError: they are absent and stay so; says which files to put where.
    """
    root = data_root(options.root)
    if files.present(root, split):
        return root
    by_hand = f"put {', '.join(files.of(split))} into {root}; they come from {files.source}"
    if not options.download:
        raise DataError(f"'{name}' is not in {root}, and downloading is off", hint=by_hand)
    warnings.warn(f"'{name}' is not in {root}: downloading {files.size} from {files.source}", stacklevel=2)
    try:
        with _beside(root) as temporary:
            with _patience(), _silence():
                fetch(temporary)
            for file in files.train + files.test:
                _move(temporary / file, root / file)
    except Exception as error:  # of urllib, http, tarfile, zipfile, gzip, gdown and the file system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{name}' is not in {root} and cannot be downloaded: {reason}", hint=by_hand) from error
    if not files.present(root, split):
        raise DataError(f"the download of '{name}' is not what was expected", hint=by_hand)
    return root


@contextlib.contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A folder to download into, on the file system of root; afterwards it is gone, as is a root made for nothing."""
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
            with contextlib.suppress(OSError):  # not empty: the download came
                folder.rmdir()


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """A limit to how long a server may be silent: torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No progress bars of torchvision's: what is said on the streams is for the caller to decide."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _move(source: Path, target: Path) -> None:
    """Give a downloaded file or folder its place; a folder that is there already stays."""
    if source.exists() and not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
