"""Machines and users that are not as usual: no home folder, few cores, values that cannot be understood."""

from __future__ import annotations

import json
import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import miniatures
import pytest
from cli_runner import Vpfb

from vpfb_core.config import known_names
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine import files
from vpfb_core.machine.limits import ALWAYS_ALLOWED, require_threads

# --- no current folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["data"], ["info"], ["sample", "-m", "digits"], ["score", "/tmp"]])
def test_a_removed_current_folder_is_an_error_in_one_sentence(
    vpfb: Vpfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = vpfb(*argv)
    assert (ran.code, ran.err.splitlines()[0]) == (3, "vpfb: error: the current folder has been removed")
    assert vpfb(argv[0], "--help").code == 0


# --- no torchvision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "--data", "digits", "-m", "digits", "--features", "torchvision:resnet18"],
        ["encode", "digits", "--features", "torchvision:resnet18"],
        ["eval", "--data", "digits", "-m", "digits", "--metrics", "fid", "--no-download"],
        ["data", "cifar10", "--data-root", "absent"], ["data", "cifar10", "--data-root", "present"],
    ],
    ids=["eval", "encode", "fid", "absent", "present"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the package torchvision is not installed"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision::nms does not exist"),
        ("raise OSError('libcudart.so.13: cannot open\\nshared object file')", "libcudart.so.13: cannot open shared"),
    ],
    ids=["missing", "of another torch", "of another CUDA"],
)
def test_without_a_torchvision_that_works_it_is_said_in_one_sentence(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str], content: str | None, words: str
) -> None:
    miniatures.write_cifar10(Path("present"), monkeypatch)
    if content is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:
        (tmp_path / "broken" / "torchvision").mkdir(parents=True)
        (tmp_path / "broken" / "torchvision" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path / "broken")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            monkeypatch.delitem(sys.modules, name)
    ran = vpfb(*argv, "--json")
    error = ran.json["error"]
    assert (ran.code, error["kind"]) == (2, "missing")
    assert words in error["message"]
    assert "torch torchvision" in error["hint"]
    assert not Path("absent").exists()


# --- no home folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user of a container, who has no entry and no home; returns the temporary folder."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "VPFB_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    files._temporary_cache.cache_clear()
    yield tmp_path / "tmp"
    files._temporary_cache.cache_clear()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["data"], 0), (["train", "--data", "mnist", "--no-download"], 3),
        (["eval", "--data", "digits", "--metrics", "frechet", "--features", "pixels", "-n", "20"], 0),
        (["eval", "--data", "digits", "--metrics", "fid", "--no-download"], 2), (["data", "~/imgs"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_without_a_home_folder_caches_are_temporary_and_it_is_said(
    vpfb: Vpfb, homeless: Path, argv: list[str], code: int
) -> None:
    ran = vpfb(*argv)
    assert ran.code == code, ran.err
    assert "bug" not in ran.err
    if "~/imgs" not in argv and "pixels" not in argv:  # these need no cache
        assert ran.err.count(f"this user has no home folder, so downloads and caches go to {homeless}/vpfb-") == 1
    assert not Path("~").exists()


@pytest.mark.parametrize("home", ["", "relative", "/proc/nowhere", "/dev/null"])
def test_a_home_folder_that_takes_no_files_is_none(homeless: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    with pytest.warns(UserWarning, match="so downloads and caches go to"):
        assert files.cache_folder() == homeless / f"vpfb-{os.getuid()}"


def test_a_temporary_folder_of_somebody_else_is_not_used(homeless: Path) -> None:
    (homeless / f"vpfb-{os.getuid()}").symlink_to(homeless)
    with pytest.raises(DataError, match="belongs to another user"):
        files.cache_folder()


def test_a_named_cache_folder_needs_no_home(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert files.cache_folder() == Path("/some/where/vpfb")


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["sample"], ["score", "digits"], ["train", "--data", "digits"], ["compose", "3"]])
@pytest.mark.parametrize("count", ["99999", "4096", "9" * 30])
def test_more_threads_than_the_machine_can_run_are_refused(vpfb: Vpfb, argv: list[str], count: str) -> None:
    ran = vpfb(*argv, "--threads", count)
    assert ran.code == 2
    assert f"--threads = {int(count):,}" in ran.err


@pytest.mark.parametrize("setting", ["threads=4096", "workers=4096"])
def test_threads_of_any_setting_are_refused(vpfb: Vpfb, setting: str) -> None:
    ran = vpfb("train", "--data", "digits", "--set", setting, "--dry-run")
    assert (ran.code, "cores of this machine" in ran.err) == (2, True)


def test_the_bound_on_threads_grows_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (None, 1, ALWAYS_ALLOWED):
        require_threads(count)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    require_threads(256)
    with pytest.raises(ConfigError, match="64 cores"):
        require_threads(257)


# --- values that cannot be understood ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VPFB_TRAIN_STPES", "3", "VPFB_TRAIN_STEPS"), ("VPFB_TRIAN_STEPS", "3", "VPFB_TRAIN_STEPS"),
        ("VPFB_STEPS", "3", "VPFB_TRAIN_STEPS"), ("vpfb_train_lr", "1", "VPFB_TRAIN_LR"),
        ("VPBF_TRAIN_SEED", "1", "VPFB_TRAIN_SEED"), ("VPFB_TRAIN_", "1", "VPFB_TRAIN_"),
        ("VPFB_TRAIN_TIME_BUDGET", "1h30", "1h30m"), ("VPFB_TRAIN_STEPS", "2024-05-01", "'2024-05-01'"),
        ("VPFB_TRAIN_STEPS", "1,000", "'1,000'"), ("VPFB_TRAIN_STEPS", "3\nlr=1", "'3\\nlr=1'"),
        ("VPFB_TRAIN_LR", "nan", "out of range"), ("VPFB_TRAIN_CONDITIONAL", "1", "true or false"),
    ],
)  # fmt: skip
def test_a_variable_that_is_not_understood_is_an_error(
    vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    ran = vpfb("train", "--data", "digits", "--dry-run")
    assert ran.code == 2
    assert words in ran.err


def test_the_variables_of_other_programs_are_left_alone(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_names():
        monkeypatch.setenv(name.upper(), "7")
    ran = vpfb("train", "--data", "digits", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["config"]["run"]["seed"] != 7


@pytest.mark.parametrize("value", ["2024-05-01", "007", "true", "1e3", "10:30:00", "[1]", "nan", "'quoted'"])
def test_a_word_is_the_word_whatever_it_looks_like(vpfb: Vpfb, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert f"'{value.strip(chr(39))}'" in vpfb("train", "--data", value.strip("'"), "--dry-run").err
    assert f"'{value.strip(chr(39))}'" in vpfb("train", "--set", f"data={value}", "--dry-run").err
    monkeypatch.setenv("VPFB_TRAIN_DATA", value)
    assert f"'{value.strip(chr(39))}'" in vpfb("train", "--dry-run").err


@pytest.mark.parametrize(
    "budget", ["1h30", "10ms", "1:30", "-5m", "5 minutes", "1d", "1h-5m", "inf", "1 0m", "10m5", ""]
)
def test_a_duration_that_is_not_understood_is_refused(vpfb: Vpfb, budget: str) -> None:
    ran = vpfb("train", "--data", "digits", "--time-budget", budget, "--dry-run")
    assert ran.code == 2
    assert "not a duration" in ran.err or "empty" in ran.err


@pytest.mark.parametrize(
    ("budget", "seconds"), [("90", 90), ("1.5h", 5400), ("1h 30m", 5400), ("2min", 120), ("1h5s", 3605)]
)
def test_a_duration_is_its_seconds(vpfb: Vpfb, budget: str, seconds: float) -> None:
    ran = vpfb("train", "--data", "digits", "--time-budget", budget, "--dry-run", "--json")
    assert ran.json["config"]["optimiser"]["time_budget"] == seconds


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_a_settings_file_of_any_editor_is_read(vpfb: Vpfb, start: bytes, line: bytes) -> None:
    Path("c.toml").write_bytes(start + line.join([b"[optimiser]", b"steps = 7", b""]))
    ran = vpfb("train", "--data", "digits", "--config", "c.toml", "--dry-run", "--json")
    assert ran.json["config"]["optimiser"]["steps"] == 7


def test_a_date_in_a_file_is_shown_as_it_is_written(vpfb: Vpfb) -> None:
    Path("c.toml").write_text("[run]\nout = 2024-05-01\n")
    ran = vpfb("train", "--data", "digits", "--config", "c.toml")
    assert (ran.code, "out = 2024-05-01: expected a word" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "argv",
    [
        ["--rtol", "nan"], ["--atol", "inf"], ["--rtol", "-1"], ["--guidance", "nan", "--class", "3"],
        ["--guidance", "inf", "--class", "3"], ["--nfe", "1e3"], ["--seed", "1.5"], ["-n", "2k"],
        ["--batch-size", "4,000"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_that_means_nothing_is_refused(vpfb: Vpfb, argv: list[str]) -> None:
    ran = vpfb("sample", "-m", "digits", "-n", "2", *argv)
    assert ran.code == 2, ran.err
    assert list(Path().iterdir()) == []
