"""Sets that are absent: fetched whole, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import miniatures
import pytest
from present import present

from vpfb_core import data
from vpfb_core.data import download
from vpfb_core.data.download import Files, located
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.errors import DataError

FILES = Files(("set/a", "set/folder"), ("set/b",), "https://example.org", "1 MB")


def whole(temporary: Path) -> None:
    (temporary / "set" / "folder").mkdir(parents=True)
    (temporary / "set" / "folder" / "c").write_text("c")
    for name in ("a", "b", "archive.zip"):
        (temporary / "set" / name).write_text(name)


def half(temporary: Path) -> None:
    (temporary / "set").mkdir()
    (temporary / "set" / "a").write_text("half of")


def failing(error: BaseException) -> Callable[[Path], None]:
    def fetch(temporary: Path) -> None:
        half(temporary)
        raise error

    return fetch


@pytest.mark.filterwarnings("ignore:'x' is not in")
def test_what_is_fetched_is_moved_into_place_and_the_rest_thrown_away(tmp_path):
    root = tmp_path / "new" / "root"
    assert located("x", FILES, "train", LoadOptions(root=root), whole) == root
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "set", "set/a", "set/b", "set/folder", "set/folder/c",
    ]  # fmt: skip
    located("x", FILES, "test", LoadOptions(root=root), failing(AssertionError("fetched what was there")))


def test_a_person_is_told_before_it_begins(tmp_path):
    with pytest.warns(UserWarning, match=r"'x' is not in .*: downloading 1 MB from https://example.org"):
        located("x", FILES, "train", LoadOptions(root=tmp_path), whole)


@pytest.mark.filterwarnings("ignore:'x' is not in")
@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize(
    "fetch",
    [failing(OSError("no route")), failing(RuntimeError("File not found or corrupted.")), failing(EOFError()), half],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_put_where(tmp_path, fetch, existed):
    root = tmp_path / "new" / "root"
    if existed:
        root.mkdir(parents=True)
        (root / "mine.txt").write_text("mine")
    with pytest.raises(DataError) as caught:
        located("x", FILES, "train", LoadOptions(root=root), fetch)
    assert "'x'" in caught.value.message
    assert f"put set/a, set/folder into {root}" in present(caught.value.hint)
    assert "https://example.org" in present(caught.value.hint)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    if fetch is half:  # a source that is not what it was: its files are whole, but not all
        assert ".part" not in "".join(left)
    else:
        assert left == (["new/root/mine.txt"] if existed else [])
        assert (tmp_path / "new").exists() == existed


@pytest.mark.filterwarnings("ignore:'x' is not in")
def test_an_interrupted_download_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        located("x", FILES, "train", LoadOptions(root=tmp_path / "root"), failing(KeyboardInterrupt()))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fetched_where_that_is_not_allowed(tmp_path):
    with pytest.raises(DataError, match=r"'x' is not in .*, and downloading is disabled") as caught:
        located("x", FILES, "test", LoadOptions(root=tmp_path / "root", download=False), whole)
    assert "put set/b into" in present(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn", "celeba", "textures"]
)
def test_every_known_set_says_which_files_it_lacks(name, tmp_path):
    with pytest.raises(DataError, match=f"'{name}' is not in") as caught:
        data.load(f"{name}:test", root=tmp_path, download=False)
    for file in present(data.SETS[name].files).test:
        assert file in present(caught.value.hint)


# --- torchvision's own downloads, from a server on this machine -------------------------------------------------------


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[dict[str, bytes | None]], str]]:
    """serve({name: content}) answers with these; a content of None is a server that falls silent. Returns its URL."""
    silence = threading.Event()
    servers = []

    def start(contents: dict[str, bytes | None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = contents.get(self.path.removeprefix("/"), b"")
                if content is None:
                    silence.wait(30)
                    return
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    monkeypatch.setenv("no_proxy", "*")
    yield start
    silence.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def mirrored(tmp_path, serve, monkeypatch) -> Callable[..., dict[str, bytes]]:
    """mirrored(harm) puts a miniature of KMNIST on a server that torchvision believes to be KMNIST's."""
    from torchvision.datasets import KMNIST

    def mirror(harm: Callable[[bytes], bytes | None] = lambda content: content) -> dict[str, bytes]:
        miniatures.write_mnist(tmp_path / "original", "KMNIST")
        raw = tmp_path / "original" / "KMNIST" / "raw"
        contents = {f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in raw.iterdir()}
        table = [(name, hashlib.md5(content).hexdigest()) for name, content in contents.items()]
        monkeypatch.setattr(KMNIST, "resources", table)
        last = table[-1][0]
        monkeypatch.setattr(KMNIST, "mirrors", [serve({**contents, last: harm(contents[last])})])
        return contents

    return mirror


@pytest.mark.filterwarnings("ignore:'kmnist' is not in")
def test_an_absent_set_is_downloaded_once(mirrored, tmp_path, capsys):
    from torchvision.datasets import KMNIST

    mirrored()
    found = data.load("kmnist", root=tmp_path / "root")
    original = data.load("kmnist", root=tmp_path / "original")
    assert found.fingerprint() == original.fingerprint()
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == [
        "KMNIST", "raw", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]  # fmt: skip
    assert len(KMNIST(str(tmp_path / "root"), train=False, download=False)) == 6, "torchvision finds it too"
    KMNIST.mirrors.clear()
    assert len(data.load("kmnist:test", root=tmp_path / "root")) == 6
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:'kmnist' is not in")
@pytest.mark.parametrize("harm", [lambda _: b"", lambda content: content[:50], lambda content: None])
def test_a_server_that_fails_cuts_or_falls_silent_is_given_up_and_nothing_left(harm, mirrored, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    mirrored(harm)
    with pytest.raises(DataError, match=r"'kmnist' is not in .* and cannot be downloaded: .") as caught:
        data.load("kmnist", root=tmp_path / "root")
    assert "KMNIST/raw/train-images-idx3-ubyte" in present(caught.value.hint)
    assert not (tmp_path / "root").exists()


def test_the_functions_of_torchvision_that_are_replaced_are_there_and_called():
    from torchvision.datasets import utils

    assert list(inspect.signature(utils._urlretrieve).parameters)[:2] == ["url", "filename"]
    assert list(inspect.signature(utils._get_redirect_url).parameters) == ["url", "max_hops"]
    source = inspect.getsource(utils.download_url)
    assert "_urlretrieve(url, fpath)" in source
    assert "_get_redirect_url(url, max_hops=" in source


@pytest.mark.filterwarnings("ignore:'x' is not in")
def test_a_download_changes_no_sockets_and_no_streams_of_the_process_and_torchvision_is_put_back(tmp_path):
    from torchvision.datasets import utils

    before = utils._urlretrieve, utils._get_redirect_url
    seen = []

    def fetch(temporary: Path) -> None:
        seen.append((socket.getdefaulttimeout(), sys.stdout is stdout, sys.stderr is stderr))
        whole(temporary)

    stdout, stderr = sys.stdout, sys.stderr
    located("x", FILES, "train", LoadOptions(root=tmp_path), fetch)
    assert seen == [(None, True, True)]
    assert (utils._urlretrieve, utils._get_redirect_url) == before


def test_notes_tell_how_much_of_a_long_download_is_here(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "NOTE_SECONDS", 0.05)

    def slow(temporary: Path) -> None:
        whole(temporary)
        (temporary / "part").write_bytes(bytes(3_000_000))
        time.sleep(0.3)

    with pytest.warns(UserWarning) as heard:
        located("x", FILES, "train", LoadOptions(root=tmp_path), slow)
    assert "downloading 'x': 3 MB so far" in {str(warning.message) for warning in heard}
