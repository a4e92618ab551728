"""The surroundings of the faults in `faults.py`: a folder with a run, and processes that work there."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from vpfb_core.errors import CheckpointError
from vpfb_core.machine import container as checkpoint
from vpfb_core.model.runs import Run
from vpfb_core.training.state import read_state

VPFB = [sys.executable, "-m", "vpfb_cli"]
TRAIN = ["train", "--data", "images.npy", "--set", "widths=[8]", "--batch-size", "4", "--threads", "1", "--out", "run",
         "--save-every", "2", "--sample-every", "8", "--set", "log_every=1"]  # fmt: skip
RESUME = [*TRAIN, "--steps", "8", "--resume", "auto"]


@dataclass(frozen=True)
class Ended:
    """A command that has ended. The code of a signal is 128 plus its number, as in a shell."""

    code: int
    said: str

    @property
    def last_words(self) -> str:
        """The last message for the user: the error, the last warning, or the last note."""
        lines = self.said.splitlines()
        lines = [line for line in lines if line.startswith("vpfb: ")] or lines or ["nothing is said"]
        return lines[-1].removeprefix("vpfb: ").removeprefix("error: ")


class Scene:
    """A folder with images and a killed run.

    Args:
        folder: the folder.
        whole: the tensors of a run without a fault.
    """

    def __init__(self, folder: Path, whole: dict[str, torch.Tensor]) -> None:
        self.folder, self.whole = folder, whole
        self.run, self.images = Run(folder / "run"), folder / "images.npy"
        self.before = states(self.run)

    def vpfb(self, *argv: str, program: list[str] = VPFB, largest: int = resource.RLIM_INFINITY) -> Ended:
        """Run a command line to its end."""
        limit = (largest, resource.RLIM_INFINITY)
        child = subprocess.run(
            [*program, *argv], cwd=self.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), check=False,
        )  # fmt: skip
        return Ended(128 - child.returncode if child.returncode < 0 else child.returncode, child.stderr)

    def signalled(self, number: signal.Signals, seconds: float, *argv: str) -> Ended:
        """Run a command line that gets a signal some time after its start."""
        child = subprocess.Popen(
            [*VPFB, *argv], cwd=self.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(seconds)
        child.send_signal(number)
        said = child.communicate()[1]
        return Ended(128 - child.returncode if child.returncode < 0 else child.returncode, said)

    @property
    def kept(self) -> str:
        return kept(self.run, self.before)

    def same_end(self) -> str:
        """Resume the run. Returns whether it gives the same tensors as a run without a fault, in words."""
        ended = self.vpfb(*RESUME)
        if ended.code:
            return f"LOST: {ended.last_words}"
        return "same end" if equal(self.whole, tensors(self.run)) else "ANOTHER END"


def states(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.glob("*state*.safetensors")}


def kept(run: Run, before: dict[str, bytes]) -> str:
    """The earlier states that are unchanged, in words."""
    if states(run) == before:
        return "both states"
    try:
        state = read_state(run)
    except CheckpointError:
        return "NONE"
    return "NONE" if state is None else f"step {state.counters.step}"


def tensors(run: Run) -> dict[str, torch.Tensor]:
    state, model = checkpoint.read(run.state, "state").tensors, checkpoint.read(run.model, "model").tensors
    return dict(state) | {f"model/{name}": tensor for name, tensor in model.items()}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def in_namespace(script: str) -> list[str]:
    """The beginning of a command that runs a shell script in a namespace, in which "$@" is vpfb with its arguments."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *VPFB]
