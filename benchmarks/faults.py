"""Faults in real runs of the command line: the message, the exit code, and the files that are left.

    python benchmarks/faults.py [WORD ...]

A run of eight steps is killed after it has saved step 6, and each fault is applied to a copy of it. "Both states" means
that its two states are unchanged afterwards, byte for byte. "Same end" means that the run was then resumed, and all
tensors of its state and model equal those of a run without a fault. Faults that need a mount use a user namespace
(Linux).
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from record import record, show
from scene import RESUME, TRAIN, VPFB, Ended, Scene, equal, in_namespace, kept, states, tensors

from vpfb_core.machine import container as checkpoint
from vpfb_core.model.lock import locked
from vpfb_core.model.runs import Run
from vpfb_core.training.state import read_state

# The command line with a loss that is infinite at some steps.
DIVERGING = """
from vpfb_core import objectives
honest, calls = objectives.OBJECTIVES["stein"], iter(range(1000))
objectives.OBJECTIVES["stein"] = lambda *a, **k: honest(*a, **k) / (0 if next(calls) in STEPS else 1)
from vpfb_cli.__main__ import main
main()
"""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    fault: str
    happened: str
    exit_code: int
    kept: str


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


# --- faults: each does harm, and says what happened and what is left --------------------------------------------------

Fault = Callable[[Scene], tuple[Ended, str]]


def kill_9(scene: Scene) -> tuple[Ended, str]:
    draw = random.Random(0)
    shutil.rmtree(scene.run.path)
    for _ in range(4):
        ended = scene.signalled(signal.SIGKILL, draw.uniform(4, 10), *RESUME)
    return Ended(ended.code, "the process is gone"), scene.same_end()


def sigterm(scene: Scene) -> tuple[Ended, str]:
    shutil.rmtree(scene.run.path)
    ended = scene.signalled(signal.SIGTERM, 12, *TRAIN, "--steps", "100000")
    return ended, kept(scene.run, {})


def full_disk(scene: Scene) -> tuple[Ended, str]:
    used = sum(path.stat().st_size for path in scene.run.path.rglob("*") if path.is_file()) // 1024
    ended = scene.vpfb(*RESUME, program=in_namespace(
        f"mkdir disk && mount -t tmpfs -o size={used + 60}k none disk && cp -a images.npy run disk && cd disk && "
        '"$@"; code=$?; cp -a run ../after; exit $code'
    ))  # fmt: skip
    return ended, kept(Run(scene.folder / "after"), scene.before)


def no_large_files(scene: Scene) -> tuple[Ended, str]:
    ended = scene.vpfb(*RESUME, largest=60_000)
    return ended, f"{scene.kept}, {scene.same_end()}"


def read_only(scene: Scene) -> tuple[Ended, str]:
    ended = scene.vpfb(
        *RESUME, program=in_namespace('mount --bind -o ro run run && mount -o remount,bind,ro run && "$@"')
    )
    return ended, scene.kept


def cut_short(scene: Scene) -> tuple[Ended, str]:
    scene.run.state.write_bytes(scene.run.state.read_bytes()[:-1000])
    ended = scene.vpfb(*RESUME)
    return ended, "same end" if equal(scene.whole, tensors(scene.run)) else "ANOTHER END"


def flipped(scene: Scene) -> tuple[Ended, str]:
    flip(scene.run.state)
    ended = scene.vpfb(*RESUME)
    return ended, "same end" if equal(scene.whole, tensors(scene.run)) else "ANOTHER END"


def both_damaged(scene: Scene) -> tuple[Ended, str]:
    flip(scene.run.state)
    flip(scene.run.earlier_state(1))
    scene.before = states(scene.run)
    return scene.vpfb(*RESUME), "both files, as they were" if states(scene.run) == scene.before else "CHANGED"


def data_gone(scene: Scene) -> tuple[Ended, str]:
    scene.images.unlink()
    return scene.vpfb(*RESUME), scene.kept


def data_changed(scene: Scene) -> tuple[Ended, str]:
    np.save(scene.images, np.load(scene.images)[::-1])
    return scene.vpfb(*RESUME), scene.kept


def other_setting(scene: Scene) -> tuple[Ended, str]:
    return scene.vpfb(*RESUME, "--lr", "0.5"), scene.kept


def edited_settings(scene: Scene) -> tuple[Ended, str]:
    lines = scene.run.config.read_text().splitlines()
    scene.run.config.write_text("\n".join("lr = 0.5" if line.startswith("lr ") else line for line in lines))
    return scene.vpfb("train", "--resume", "run"), scene.kept


def diverges(scene: Scene) -> tuple[Ended, str]:
    ended = scene.vpfb(*RESUME, program=[sys.executable, "-c", DIVERGING.replace("STEPS", "{1}")])
    return ended, scene.kept


def rolls_back(scene: Scene) -> tuple[Ended, str]:
    once = [sys.executable, "-c", DIVERGING.replace("STEPS", "{1}")]
    ended = scene.vpfb(*RESUME, "--on-nonfinite", "rollback", program=once)
    state = read_state(scene.run)
    return ended, f"finished, {state.counters.rollbacks} roll-back" if state and scene.run.finished else "NOT FINISHED"


def second_process(scene: Scene) -> tuple[Ended, str]:
    with locked(scene.run):
        ended = scene.vpfb(*RESUME)
    return ended, f"{scene.kept}, {scene.same_end()}"


def output_full(scene: Scene) -> tuple[Ended, str]:
    (scene.folder / "a.png").write_bytes(b"old")
    ended = scene.vpfb("sample", "-n", "9", "--nfe", "2", "-m", "digits", "-o", "a.png", largest=300)
    return ended, "the old file" if (scene.folder / "a.png").read_bytes() == b"old" else "CHANGED"


def output_device(scene: Scene) -> tuple[Ended, str]:
    ended = scene.vpfb("score", "images.npy", "-m", "run", "--score", "energy", "-o", "/dev/null")
    return ended, "the device" if Path("/dev/null").is_char_device() else "CHANGED"


def closed_pipe(scene: Scene) -> tuple[Ended, str]:
    shell = ["bash", "-c", 'set -o pipefail; "$@" -o - | true', "bash", *VPFB]
    return scene.vpfb("sample", "-m", "digits", "-n", "4", "--nfe", "4", "-q", program=shell), "–"


def foreign_model(content: Callable[[Scene], bytes]) -> Fault:
    """A file that is not a model."""

    def fault(scene: Scene) -> tuple[Ended, str]:
        (scene.folder / "m.safetensors").write_bytes(content(scene))
        ended = scene.vpfb("sample", "-m", "m.safetensors", "-n", "1")
        return ended, "EXECUTED" if (scene.folder / "sprung").exists() else "nothing executed"

    return fault


def enormous_network(scene: Scene) -> tuple[Ended, str]:
    stored = checkpoint.read(scene.run.model, "model")
    network = stored.document["network"] | {"widths": [1_000_000, 1_000_000]}
    checkpoint.write(scene.folder / "m.safetensors", "model", stored.tensors, stored.document | {"network": network})
    return scene.vpfb("sample", "-m", "m.safetensors", "-n", "1"), scene.kept


def pickled_array(scene: Scene) -> tuple[Ended, str]:
    np.save(scene.images, np.array([{"a": 1}], object), allow_pickle=True)
    return scene.vpfb(*RESUME), scene.kept


def zip_bomb(scene: Scene) -> tuple[Ended, str]:
    header = np.lib.format.magic(2, 0) + (2**30).to_bytes(4, "little")
    with zipfile.ZipFile(scene.folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header + bytes(2**27))
    return scene.vpfb("train", "--data", "bomb.npz", "--steps", "1"), scene.kept


FAULTS: dict[str, Fault] = {
    "kill -9, four times, at random moments": kill_9,
    "SIGTERM while training": sigterm,
    "disk full while saving": full_disk,
    "no file may grow beyond 60 kB": no_large_files,
    "run folder read-only": read_only,
    "newest state cut short": cut_short,
    "one bit of the newest state flipped": flipped,
    "both states damaged": both_damaged,
    "data gone": data_gone,
    "data changed": data_changed,
    "resumed with another --lr": other_setting,
    "lr edited in the run's config.toml": edited_settings,
    "loss infinite, --on-nonfinite stop": diverges,
    "loss infinite once, --on-nonfinite rollback": rolls_back,
    "a second process on the run": second_process,
    "no room for -o": output_full,
    "-o /dev/null": output_device,
    "reader of stdout gone": closed_pipe,
    "model cut short": foreign_model(lambda scene: scene.run.model.read_bytes()[:-1000]),
    "model is a pickle": foreign_model(lambda _: b"\x80\x04cos\nsystem\n(S'touch sprung'\ntR."),
    "model claims a network of 36 TB": enormous_network,
    "array of pickled objects": pickled_array,
    "array header that unpacks to 1 GiB": zip_bomb,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="WORD", help="only faults whose names contain one of these words")
    words = parser.parse_args().faults
    chosen = {name: fault for name, fault in FAULTS.items() if not words or any(word in name for word in words)}
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, killed = folder / "whole", folder / "killed"
        for path in (whole, killed):
            path.mkdir()
            np.save(path / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
        begin = [*TRAIN, "--steps", "8", "--resume", "auto"]
        assert Scene(whole, {}).vpfb(*begin).code == 0
        # A run that stops of itself where it was to be killed: at the first step after its save of step 6.
        stops = DIVERGING.replace("STEPS", "{6}").replace("/ (0 if", "/ (__import__('os')._exit(9) if")
        assert Scene(killed, {}).vpfb(*begin, program=[sys.executable, "-c", stops]).code == 9
        for number, (fault, happen) in enumerate(chosen.items()):
            scene = folder / str(number)
            shutil.copytree(killed, scene)
            ended, left = happen(Scene(scene, tensors(Run(whole / "run"))))
            rows.append(Row(fault, ended.last_words, ended.code, left))
            print(f"{fault}: {ended.code}, {ended.last_words}; {left}", file=sys.stderr)
    show(["fault", "what is said", "exit code", "kept"], [[*asdict(row).values()] for row in rows])
    record("faults", {"seconds": time.perf_counter() - began, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
