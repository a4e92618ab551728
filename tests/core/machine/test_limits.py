"""The cores and the memory of a container, by the files of its cgroup: version 2, version 1, and none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from vpfb_cli.app import build
from vpfb_cli.command_line import run
from vpfb_core.data import stacking
from vpfb_core.machine import limits
from vpfb_core.machine.devices import default_threads

GIB = 2**30
CORES, MEMORY = 16, 64 * GIB  # of the machine that the tests pretend


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large machine whose cgroup files are those that a test writes below this folder."""
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(CORES)), raising=False)
    sizes = {"SC_PHYS_PAGES": MEMORY // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_without_cgroups_the_machine_is_the_limit(cgroups: Path) -> None:
    assert (limits.cores(), limits.memory()) == (CORES, MEMORY)


def test_a_container_of_version_2_is_the_limit(cgroups: Path) -> None:
    write(cgroups, membership="0::/", memory__max=str(2 * GIB), cpu__max="100000 100000")
    assert (limits.cores(), limits.memory(), limits.memory_share()) == (1, 2 * GIB, GIB)


def test_a_container_of_version_1_is_the_limit_even_if_its_path_is_that_of_the_host(cgroups: Path) -> None:
    write(cgroups, membership="4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123")
    write(cgroups / "memory", memory__limit_in_bytes=str(2 * GIB))
    write(cgroups / "cpu,cpuacct", cpu__cfs_quota_us="150000", cpu__cfs_period_us="50000")
    assert (limits.cores(), limits.memory()) == (3, 2 * GIB)


def test_the_least_limit_on_the_way_up_counts(cgroups: Path) -> None:
    write(cgroups, membership="0::/user.slice/job")
    write(cgroups / "user.slice", memory__max=str(4 * GIB), cpu__max="250000 100000")
    write(cgroups / "user.slice" / "job", memory__max=str(8 * GIB), cpu__max="max 100000")
    assert (limits.cores(), limits.memory()) == (2, 4 * GIB)


def test_a_hybrid_machine_has_limits_in_either_version(cgroups: Path) -> None:
    write(cgroups, membership="2:memory:/\n1:cpu:/\n0::/job")
    write(cgroups / "memory", memory__limit_in_bytes=str(3 * GIB))
    write(cgroups / "unified" / "job", cpu__max="400000 100000")
    assert (limits.cores(), limits.memory()) == (4, 3 * GIB)


@pytest.mark.parametrize(
    ("memory", "cpu"), [("max", "max 100000"), (str(2**63 - 4096), "10000000 100000"), ("", "nonsense"), ("-1", "-1")]
)
def test_what_is_no_limit_changes_nothing(cgroups: Path, memory: str, cpu: str) -> None:
    write(cgroups, membership="0::/", memory__max=memory, cpu__max=cpu)
    assert (limits.cores(), limits.memory()) == (CORES, MEMORY)


def test_less_than_a_core_is_one(cgroups: Path) -> None:
    write(cgroups, membership="0::/", cpu__max="20000 100000")
    assert limits.cores() == 1


def test_processes_of_a_job_share_the_memory(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4, "MASTER_ADDR": "h"}.items():
        monkeypatch.setenv(name, str(value))
    assert limits.memory_share() == MEMORY // 8


def test_threads_that_compute_and_threads_that_decode_are_at_most_the_cores(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: CORES)
    assert (default_threads(), stacking.thread_count(0), stacking.thread_count(5)) == (CORES, CORES, 5)
    write(cgroups, membership="0::/", cpu__max="200000 100000")
    assert (default_threads(), stacking.thread_count(0)) == (2, 2)


def test_a_run_in_a_container_of_one_core_and_2_gib_is_planned_for_it(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: CORES)
    command = ["train", "--data", "digits", "--size", "32", "--preset", "base", "--dry-run", "--json"]
    found = []
    for limit in ({}, {"memory__max": str(2 * GIB), "cpu__max": "100000 100000"}):
        write(cgroups, membership="0::/", **limit)
        assert run(build(), [*command, "--device", "cpu"]) == 0
        machine = json.loads(capsys.readouterr().out)["config"]["machine"]
        found.append([machine[name] for name in ("threads", "workers", "micro_batch")])
    assert found == [[CORES, CORES, 8], [1, 1, 2]], "1 GiB to plan with is a third of what 8 images take"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are of Linux")
def test_the_affinity_mask_is_a_limit() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert limits.cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "a count", "a policy"],
)
def test_waiting_threads_sleep_soon_unless_the_user_has_chosen(
    given: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    limits.let_waiting_threads_sleep()
    assert environment.get("GOMP_SPINCOUNT") == found
