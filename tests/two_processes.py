"""What two processes do together in `core/training/test_distributed.py`, which runs this file as a script.

The script imports once and forks two processes for each thing to be done, which its arguments name, one after the
other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from short_runs import shorten
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import methods
from vpfb_core.data.batches import Batch, BatchesInMemory
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.errors import DataError
from vpfb_core.machine import distributed
from vpfb_core.methods.step import DataShape
from vpfb_core.methods.vpfb import objectives
from vpfb_core.training import Result
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses import evaluation

LOSSES = ("stein", "ritz", "contrast", "time-score", "flow-matching")
STEPS, BATCH = 6, 7  # which two processes cannot share equally


def config(**settings: Any) -> vpfb.TrainConfig:
    small = {"data": "digits", "conditional": True, "val_fraction": 0.02, "widths": (8,), "batch_size": BATCH}
    steps = {"steps": STEPS, "warmup": 0, "lr": 1e-3, "log_every": 2, "threads": 1, "precision": "fp32"}
    return vpfb.TrainConfig(**(small | steps | settings))


def train(stop_after: int | None = None, **settings: Any) -> Result[vpfb.Model]:
    """A run that this process stops after some steps."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == (stop_after or -2) + 1

    return vpfb.train(config(**settings), should_stop=should_stop)


class AsTheyAre(ImageStatistics):
    """Statistics of data that are standardised already, in float64."""

    def standardise(self, values: Tensor, device: torch.device | None = None) -> Tensor:  # noqa: ARG002
        return values


def gradients(name: str, micro_batch: int = BATCH, *, compiled: bool = False) -> list[Tensor]:
    """The gradient of a step of `Trainer` on 7 data in float64, of which this process takes its share.

    Args:
        name: of the loss: an objective of VPFB, "contrast" or "time-score" (which are added to an objective), or
            another method.
        micro_batch: data that are differentiated at once.
        compiled: whether the field is compiled.
    """
    of_loss: dict[str, dict[str, Any]] = {
        "contrast": {"contrast": 3.0}, "flow-matching": {"method": "flow-matching"},
        "time-score": {"contrast": 0.0, "time_score": 0.7, "uniform_angles": 0.3},
    }  # fmt: skip
    settings = of_loss.get(name, {"objective": name, "contrast": 0.0})
    common = {"angle_mean": 1.0, "angle_std": 1.2, "condition_dropout": 0.2, "clip": 1e9, "decay": 0.5}
    chosen = config(micro_batch=micro_batch, **common | settings)
    method = methods.build(str(chosen.method.name), chosen.method.settings)
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [8], "classes": [3]}
    group = distributed.group()
    trainer = Trainer(
        chosen, method, network, DataShape((1, 8, 8), (3,), ((0.3, 0.3, 0.4),)), AsTheyAre((0.5,), 1.0),
        torch.device("cpu"), group,
    )  # fmt: skip
    for field in (trainer.field, trainer.average):
        field.double()
    draws = torch.Generator().manual_seed(1)
    for parameter in trainer.field.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    if compiled:
        trainer.field.compile(backend="eager", fullgraph=True)
    data = torch.randn(BATCH, 1, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.tensor([[0], [1], [2], [-1], [0], [1], [2]])
    share = slice(group.share(BATCH).start, group.share(BATCH).stop)
    trainer.step(Batch(data[share], labels[share]), step=2, fraction=0.9)
    return [parameter.grad for parameter in trainer.field.parameters() if parameter.grad is not None]


def together(rank: int) -> dict[str, Any]:
    """Everything after which both processes are still there; what the first has seen."""
    seen: dict[str, Any] = {"gradients": {(name, "alike"): gradients(name, micro_batch=2) for name in LOSSES}}
    for name in LOSSES:
        seen["gradients"][name, "differently"] = gradients(name, micro_batch=1 + 2 * rank)
    group = distributed.group()
    seen["shards"] = [group.sharded(5, list), group.sharded(1, list), group.sharded(0, list)]
    seen["one of them fails"] = words(lambda: group.together(lambda: [1, 2][rank + 1]))
    seen["the first fails"] = words(lambda: group.from_first(lambda: [].pop()))

    seen["evaluated"] = evaluated()

    seen["whole"] = train(out="two").status
    seen["stopped"] = train(out="stopped by the second", stop_after=3 if rank else None).step
    seen["resumed"] = train(out="begun by one", resume="auto").status

    with memory_for(2 if rank else BATCH):
        seen["scarce"] = train(out="scarce").status

    honest = Trainer.step

    def spoiled(self: Trainer, images: Any, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        loss, norm = honest(self, images, step, fraction, rollbacks)
        return loss / 0 if rank and (step, rollbacks) == (4, 0) else loss, norm

    with mock.patch.object(Trainer, "step", spoiled):
        seen["rolled back"] = train(out="rolled back", save_every=2, on_nonfinite="rollback").status
        seen["diverged"] = words(lambda: train(out="diverged", save_every=2))

    taken = BatchesInMemory.__getitem__

    def unreadable(self: BatchesInMemory, step: int) -> Any:
        if rank and step == 2:
            raise DataError("the disk is gone")
        return taken(self, step)

    BatchesInMemory.__getitem__ = unreadable  # type: ignore[method-assign]
    seen["unreadable"] = words(lambda: train(out="unreadable"))
    return seen


def evaluated() -> list[dict[str, float]]:
    """The figures of an evaluation that computes the features of the real images, and of one that finds them kept."""
    model = vpfb.load("digits", device="cpu")
    plan = evaluation.prepare(model, "digits", extractor="pixels", n=41)
    assert plan.extractor is not None
    plan = replace(plan, extractor=replace(plan.extractor, weights="abc"))  # or else they are not kept
    reports = [evaluation.evaluate(model, plan, nfe=2, batch_size=20) for _ in range(2)]
    assert [report.reused for report in reports] == [False, distributed.group().first]
    return [{name: figure.value for name, figure in report.metrics.items()} for report in reports]


@contextlib.contextmanager
def memory_for(rows: int, from_call: int = 0) -> Iterator[None]:
    """Within, the objective runs out of memory at more rows than these, from some call of it on."""
    honest, calls = objectives.OBJECTIVES["stein"], 0

    def scarce(potential: Any, data: Tensor, *args: Any, **keywords: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if len(data) > rows and calls > from_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return honest(potential, data, *args, **keywords)

    objectives.OBJECTIVES["stein"] = scarce
    try:
        yield
    finally:
        objectives.OBJECTIVES["stein"] = honest


def words(work: Callable[[], object]) -> str:
    """What this process learns of a failure."""
    try:
        return f"no failure: {work()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def alone(rank: int, how: str) -> int:
    """`vpfb train` in which the second process fails in the middle of a step. Returns its exit code."""
    from vpfb_cli.app import build
    from vpfb_cli.command_line import run

    honest = Trainer.step

    def killed(self: Trainer, images: Any, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        if rank and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, images, step, fraction, rollbacks)

    line = "train --data digits --val-fraction 0.02 --batch-size 8 --steps 8 --threads 1 --save-every 2 --json --out"
    with (
        mock.patch.object(Trainer, "step", killed if how == "killed" else honest),
        memory_for(0 if rank and how == "memory" else BATCH, from_call=3),
    ):
        return run(build(), [*line.split(), how, "--set", "widths=[8]"])


def launched(rank: int, count: int = 2, port: int = 29500) -> dict[str, str]:
    """What torchrun puts into the environment."""
    values = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in values.items()}


def fork(what: str) -> list[int]:
    """Do it in two processes; their exit codes, negative for a signal. Their streams are kept in files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            os.environ.update(launched(rank, port=port))
            for number, stream in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{what}-{rank}.{stream}", os.O_WRONLY | os.O_CREAT), number)
            os._exit(exit_code(rank, what))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def exit_code(rank: int, what: str) -> int:
    try:
        if what == "together":
            torch.save(together(rank), Path(f"{what}-{rank}.pt"))
        elif what == "compiled":
            torch.save({"gradient": gradients("stein", micro_batch=2, compiled=True)}, Path(f"{what}-{rank}.pt"))
        else:
            return alone(rank, what)
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    import torch._dynamo  # which the optimiser needs

    torch.set_num_threads(1)
    shorten()
    Path("codes.json").write_text(json.dumps({what: fork(what) for what in sys.argv[1:]}))
