"""What two processes do together in `core/training/test_distributed.py`: run by it as a script, once a process."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.data.batches import BatchesInMemory
from vpfb_core.errors import DataError
from vpfb_core.machine import distributed
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.draws import Part
from vpfb_core.methods.vpfb.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.training import Result, loop
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses import evaluation

STEPS, BATCH = 6, 7  # which two processes cannot share equally


def config(**settings: Any) -> vpfb.TrainConfig:
    small = {"data": "digits", "conditional": True, "val_fraction": 0.02, "widths": (8, 8), "batch_size": BATCH}
    steps = {"steps": STEPS, "warmup": 0, "lr": 1e-3, "log_every": 2, "threads": 1}
    return vpfb.TrainConfig(**(small | steps | settings))


def train(stop_after: int | None = None, **settings: Any) -> Result:
    """A run that this process wishes to stop after some steps."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == (stop_after or -2) + 1

    return vpfb.train(config(**settings), should_stop=should_stop)


def gradients(objective: str, compiled: bool = False) -> list[Tensor]:
    """Of a batch of 7 images in float64, the share of each process differentiated in parts of 2."""
    group = distributed.group()
    network = networks.build({"name": "unet", "channels": 1, "size": 8, "widths": [8, 8], "classes": [3]})
    potential = Potential(network, OT()).double()
    draws = torch.Generator().manual_seed(1)
    for parameter in potential.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draws)
    data = torch.randn(7, 1, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.tensor([[0], [1], [2], [-1], [0], [1], [2]])
    if compiled:
        potential.compile(backend="eager", fullgraph=True)
    replica, share = group.replicated(potential), group.share(7)
    parts = [range(start, min(start + 2, share.stop)) for start in range(share.start, share.stop, 2)]
    for rows in parts:
        some, last = slice(rows.start, rows.stop), rows is parts[-1]
        with contextlib.nullcontext() if last or group.count == 1 else replica.no_sync():
            generator = torch.Generator().manual_seed(2)
            loss = objectives.OBJECTIVES[objective](
                replica, data[some], labels[some], generator=generator, part=Part(rows.start, 7)
            )
            (loss * len(rows) / 7 * group.count).backward()
    return [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]


def together(rank: int) -> dict[str, Any]:
    """Everything after which both processes are still there; what the first has seen."""
    seen: dict[str, Any] = {name: gradients(name) for name in ("stein", "ritz")}
    with cut_into_small_buckets():
        seen["compiled"] = gradients("stein", compiled=True)
    group = distributed.group()
    seen["shards"] = [group.sharded(5, list), group.sharded(1, list), group.sharded(0, list)]
    seen["one of them fails"] = words(lambda: group.together(lambda: [1, 2][rank + 1]))
    seen["the first fails"] = words(lambda: group.from_first(lambda: [].pop()))

    seen["evaluated"] = evaluated()

    seen["whole"] = train(out="two").status
    seen["stopped"] = train(out="stopped by the second", stop_after=3 if rank else None).step
    seen["resumed"] = train(out="begun by one", resume="auto").status

    honest = Trainer.step

    def spoiled(self: Trainer, batch: Any, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        loss, norm = honest(self, batch, step, fraction, rollbacks)
        return loss / 0 if rank and (step, rollbacks) == (4, 0) else loss, norm

    Trainer.step = spoiled  # type: ignore[method-assign]
    seen["rolled back"] = train(out="rolled back", save_every=2, on_nonfinite="rollback").status
    seen["diverged"] = words(lambda: train(out="diverged", save_every=2))
    Trainer.step = honest  # type: ignore[method-assign]

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
    plan = evaluation.prepare(model, "digits", extractor="pixels", n=101)
    assert plan.extractor is not None
    plan = replace(plan, extractor=replace(plan.extractor, weights="abc"))  # or else they are not kept
    reports = [evaluation.evaluate(model, plan, nfe=2, batch_size=20) for _ in range(2)]
    assert [report.reused for report in reports] == [False, distributed.group().first]
    return [{name: figure.value for name, figure in report.metrics.items()} for report in reports]


@contextlib.contextmanager
def cut_into_small_buckets() -> Iterator[None]:
    """Gradients are exchanged in many messages, as those of a large network are."""
    replica: Any = distributed._Replica
    honest = replica.__init__
    replica.__init__ = functools.partialmethod(honest, bucket_cap_mb=0.001)
    try:
        yield
    finally:
        replica.__init__ = honest


def words(work: Callable[[], object]) -> str:
    """What this process learns of a failure."""
    try:
        return f"no failure: {work()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def alone(rank: int, how: str) -> int:
    """`vpfb train` in which the second process fails in the middle of a step; its exit code."""
    from vpfb_cli.__main__ import run
    from vpfb_cli.app import build

    honest = Trainer.step

    def failing(self: Trainer, batch: Any, step: int, fraction: float, rollbacks: int = 0) -> tuple[Tensor, Tensor]:
        if rank and step == 3 and how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if rank and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, batch, step, fraction, rollbacks)

    Trainer.step = failing  # type: ignore[method-assign]
    line = "train --data digits --batch-size 8 --steps 8 --threads 1 --save-every 2 --json --out"
    return run(build(), [*line.split(), how, "--set", "widths=[8, 8]"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.GRID_IMAGES = 4
    rank, what = int(os.environ["RANK"]), sys.argv[1]
    if what != "together":
        sys.exit(alone(rank, what))
    seen = together(rank)
    torch.save(seen, Path(f"seen-by-{rank}.pt"))
