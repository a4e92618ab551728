"""The files of a named set: their paths, and their download if they are missing.

The layout below the data root is that of torchvision, so that each finds the files that the other has downloaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vpfb_core.data.load_options import LoadOptions
from vpfb_core.errors import DataError
from vpfb_core.machine.file_names import expanded
from vpfb_core.machine.files import cache_folder
from vpfb_core.machine.packages import require_torchvision

TIMEOUT = 30.0  # seconds to wait for a silent server
NOTE_SECONDS = 15.0  # between notes on the progress of a download
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Files:
    """The files of a data set.

    Attributes:
        train: the files or folders of the training split, relative to the data root. A .gz can replace a file.
        test: those of the test split.
        source: the address from which they can be downloaded by hand.
        size: the size of the download, such as "12 MB".
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    size: str

    def of(self, split: str) -> tuple[str, ...]:
        """The files of "train" or "test"."""
        return self.train if split == "train" else self.test

    def present(self, root: Path, split: str) -> bool:
        """Whether all files of a split exist. None is opened."""
        return all(stored(root / file) is not None for file in self.of(split))

    def folder(self, root: Path) -> Path:
        """The folder that contains the set, whether it exists or not."""
        return root / os.path.commonpath([os.path.dirname(file) for file in self.train + self.test])  # noqa: PTH120


def data_root(root: Path | None = None) -> Path:
    """The folder of downloaded sets: `root`, else VPFB_DATA, else the user's cache folder."""
    if root is not None:
        return Path(expanded(str(root)))
    if named := os.environ.get("VPFB_DATA"):
        return Path(expanded(named))
    return cache_folder()


def stored(path: Path) -> Path | None:
    """The path, or that of its .gz, whichever exists."""
    compressed = path.with_name(path.name + ".gz")
    return path if path.exists() else compressed if compressed.is_file() else None


def located(name: str, files: Files, split: str, options: LoadOptions, fetch: Callable[[Path], object]) -> Path:
    """The data root that contains the files of a split, which are downloaded if they are missing and that is allowed.

    Args:
        name: the name of the set.
        files: its files.
        split: "train" or "test".
        options: the data root, and whether downloading is allowed.
        fetch: a function that downloads the set into a folder, in torchvision's layout.
    Raises:
        DataError: the files are missing and cannot be downloaded. The hint says which files to put where.
        MissingError: they are missing, and torchvision cannot be imported.
    """
    root = data_root(options.root)
    if files.present(root, split):
        return root
    by_hand = f"put {', '.join(files.of(split))} into {root}; they come from {files.source}"
    if not options.download:
        raise DataError(f"'{name}' is not in {root}, and downloading is disabled", hint=by_hand)
    require_torchvision()
    warnings.warn(f"'{name}' is not in {root}: downloading {files.size} from {files.source}", stacklevel=2)
    try:
        with _beside(root) as temporary:
            with _torchvision_adapted(), _containment(), _watched(temporary, f"'{name}'"):
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


class Notes:
    """Notes on the progress of a large download, at most one per `NOTE_SECONDS`.

    Args:
        name: the name of what is downloaded.
    """

    def __init__(self, name: str) -> None:
        self._name, self._last = name, time.monotonic()

    def update(self, size: int) -> None:
        """Write a note that `size` bytes have been downloaded, if it is time for one."""
        if (now := time.monotonic()) - self._last >= NOTE_SECONDS:
            self._last = now
            warnings.warn(f"downloading {self._name}: {size / 1e6:,.0f} MB so far", stacklevel=2)


@contextlib.contextmanager
def _watched(folder: Path, name: str) -> Iterator[None]:
    """Inside this context, a thread writes notes on the size of a folder; not every library reports its progress."""
    notes, over = Notes(name), threading.Event()

    def watch() -> None:
        while not over.wait(NOTE_SECONDS):
            with contextlib.suppress(OSError):  # a file that was moved meanwhile
                notes.update(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    watcher = threading.Thread(target=watch, daemon=True, name="vpfb-download")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def _torchvision_adapted() -> Iterator[None]:
    """Inside this context, torchvision downloads without progress bars and with a time-out.

    torchvision has no argument for either. Changing the default time-out of sockets and the standard streams would
    affect every thread of the process. Instead, two private functions of torchvision are replaced, for one download at
    a time; a test checks that they exist. For Google Drive, torchvision calls gdown, whose progress bar is switched off
    in the same way. gdown has no time-out.
    """
    from torchvision.datasets import utils

    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(utils, "_urlretrieve", _retrieve))
        stack.enter_context(_replaced(utils, "_get_redirect_url", _unchanged))
        if find_spec("gdown") is not None:
            gdown = import_module("gdown")
            original = gdown.download
            stack.enter_context(_replaced(gdown, "download", lambda **given: original(**given | {"quiet": True})))
        yield


@contextlib.contextmanager
def _containment() -> Iterator[None]:
    """Inside this context, tar members that lead out of the target folder are refused, as Python does from 3.14 on."""
    before = tarfile.TarFile.__dict__.get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, function: Callable[..., object]) -> Iterator[None]:
    """Inside this context, a function of a module is replaced by another one."""
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


def _unchanged(url: str, max_hops: int = 3) -> str:  # noqa: ARG001 (torchvision names it)
    """The URL itself, whose redirections urllib follows when it is opened."""
    return url


def _retrieve(url: str, filename: str | Path, chunk_size: int = 1 << 15) -> None:
    """Download a URL to a file, like torchvision's `_urlretrieve`, but without a progress bar and with a time-out."""
    request = urllib.request.Request(url, headers={"User-Agent": "vpfb"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, Path(filename).open("wb") as file:
        shutil.copyfileobj(response, file, chunk_size)


def _move(source: Path, target: Path) -> None:
    """Move a downloaded file or folder to its path; a folder that exists already stays."""
    if source.exists() and not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
