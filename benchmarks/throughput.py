"""The speed and the memory of training, compared with plain flow matching and the authors' loss.

    python benchmarks/throughput.py [--presets small base] [--precision fp32 bf16] [--compile off on]
    python benchmarks/throughput.py --processes 2 [--presets small]

Measures whole training steps on random pictures, including the optimiser and the average. The three methods alternate
with the same number of points (the authors draw one noise per image, so they get twice the images). Each figure is the
median over the repeats, and each row is measured in a process of its own. With `--processes`, several processes divide
each batch and alternate with one process that computes the whole batch. The speed-up in processor time is that of idle
cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import record, show

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.data import ImageSet
from vpfb_core.data.batches import Batch
from vpfb_core.machine import distributed
from vpfb_core.machine.devices import keeping_freed_memory, resolve_device
from vpfb_core.machine.distributed import Group
from vpfb_core.machine.launch import ProcessRank
from vpfb_core.training import Plan, presets
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer

SIZES = {"tiny": (8, 1), "small": (28, 1), "base": (32, 3), "paper": (32, 3), "celeba64": (64, 3)}
CPU_BATCH = {"tiny": 64, "small": 32, "base": 4, "paper": 1, "celeba64": 1}  # so that a step takes seconds


class Bench:
    """Trainers of one preset on random pictures."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.device = resolve_device(row["device"])
        size, channels = SIZES[row["preset"]]
        shape = (256, channels, size, size)
        pictures = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = ImageSet("random", pictures)
        settings = {name: row[name] for name in ("preset", "precision", "compile")}
        config = vpfb.TrainConfig(
            data="random", val_fraction=0.0, batch_size=row["batch_size"], micro_batch=row["micro_batch"], steps=10**6,
            **settings,
        )  # fmt: skip
        config = presets.resolve(config, images, self.device)
        described, method = presets.network_description(config, images), presets.method_of(config, images)
        parameters = sum(parameter.numel() for parameter in networks.build(described).parameters())
        self.config, self.plan = (
            config,
            Plan(config, {}, images, images.statistics(), method, described, parameters, None),
        )
        self.inputs = Inputs.of(self.plan)

    def step(self, trainer: Trainer, images: int) -> Callable[[], None]:
        """A function that takes a step on this process's share of a batch of that many images."""
        share = trainer.group.share(images)
        pictures = self.inputs.plan.images.sample[share.start % 128 :][: len(share)].to(self.device)
        batch = Batch(pictures.repeat(-(-len(share) // len(pictures)), 1, 1, 1)[: len(share)], None)

        def run() -> None:
            trainer.step(batch, 0, 0.5)
            self.wait()

        return run

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(row: dict[str, Any]) -> dict[str, Any]:
    """One row: seconds per step of each method, and the peak memory of VPFB."""
    bench, images = Bench(row), row["batch_size"]
    trainer = bench.inputs.trainer()
    peak = _peak_memory(bench, bench.step(trainer, 1), bench.step(trainer, images))
    steps = {
        "stein": bench.step(trainer, images),
        "flow matching": bench.step(bench.inputs.trainer(method="flow-matching"), images),
    }
    if row["compile"] == "off":
        theirs = bench.inputs.trainer(objective="official", batch_size=2 * images, micro_batch=2 * images)
        steps["official"] = bench.step(theirs, 2 * images)
    seconds = _medians(steps, row["repeats"])
    return {"seconds": seconds, "peak": peak, "parameters": bench.plan.parameters}


def share(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds per step of all processes together, and of the first one alone, which alternate."""
    group = distributed.group()
    bench, images = Bench(row | {"micro_batch": None}), row["batch_size"]
    ours, alone = bench.inputs.trainer(), Trainer(
        bench.config.replace(micro_batch=images), bench.plan.method, bench.plan.network, bench.plan.data_shape,
        bench.plan.statistics, bench.device, Group(ProcessRank()),
    )  # fmt: skip
    one = bench.step(alone, images)
    steps = {"shared": bench.step(ours, images), "alone": one if group.first else lambda: None}
    meet = partial(group.largest, [0.0])
    seconds = _medians(steps, row["repeats"], before=meet)
    busy = _medians(steps, row["repeats"], before=meet, clock=time.process_time)
    return {"seconds": seconds, "processor_seconds": dict(zip(busy, group.largest(list(busy.values())), strict=True))}


def _medians(
    steps: dict[str, Callable[[], None]],
    repeats: int,
    before: Callable[[], object] = int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            before()
            began = clock()
            step()
            taken[name].append(clock() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}  # the first one warms up


def _peak_memory(bench: Bench, small: Callable[[], None], step: Callable[[], None]) -> int:
    """The memory of weights, optimiser, average and a step; on the CPU, the memory that a step adds to a small one."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    small()
    before, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return peak - before + bench.plan.memory_bytes


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_processes(row: dict[str, Any], count: int) -> dict[str, Any]:
    """The row that the first of `count` processes returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        environment = {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()}
        children.append(
            subprocess.Popen(
                [sys.executable, __file__, "--row", json.dumps(row)], stdout=subprocess.PIPE, text=True,
                env=os.environ | (environment if count > 1 else {}),
            )
        )  # fmt: skip
    answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a process failed that measured {name(row)}")
    return json.loads(answers[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["small", "base"], choices=list(SIZES))
    parser.add_argument(
        "--batch-size", type=int, help="images per step; by default that of the preset on a GPU, fewer on a CPU"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument(
        "--compile",
        nargs="+",
        default=["off"],
        choices=["off", "on"],
        help="compile the step; compiling takes minutes per row",
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.row:
        row = json.loads(arguments.row)
        torch.set_num_threads(row["threads"])
        with keeping_freed_memory(resolve_device(row["device"])):
            print(json.dumps(share(row) if row["processes"] > 1 else measure(row)))
        return

    device = resolve_device(arguments.device)
    shared, found, failed = arguments.processes > 1, [], []
    figures = f"{arguments.processes}-processes" if shared else "-".join(arguments.presets)
    for row in wanted(arguments, device):
        try:
            found.append(row | in_processes(row, arguments.processes))
        except RuntimeError as error:
            failed.append(str(error))
        record(f"throughput-{figures}", found, device)  # after each row, so that it is kept whatever follows
    if shared:
        columns = ["", "batch", "images/s, one", f"images/s, {arguments.processes}", "speed-up", "by processor time"]
        show(columns, [sharing(row) for row in found])
    else:
        columns = ["", "batch", "images/s", "÷ flow matching", "÷ official", "peak MiB"]
        show(columns, [speed(row) for row in found])
    if failed:
        raise SystemExit("\n".join(failed))


def wanted(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The arguments of each row."""
    rows = []
    for preset, precision, compiled in itertools.product(arguments.presets, arguments.precision, arguments.compile):
        usual = CPU_BATCH[preset] if device.type == "cpu" else presets.PRESETS[preset]["batch_size"]
        batch_size = arguments.batch_size or usual
        row = {
            "preset": preset, "precision": precision, "compile": compiled,
            "batch_size": batch_size, "micro_batch": batch_size, "repeats": arguments.repeats,
            "device": arguments.device, "threads": arguments.threads, "processes": arguments.processes,
        }  # fmt: skip
        rows.append(row)
    return rows


def speed(row: dict[str, Any]) -> list[object]:
    """A row of the table."""
    seconds, batch_size = row["seconds"], row["batch_size"]
    ours, official = seconds["stein"], seconds.get("official")
    ratios = [f"{ours / seconds['flow matching']:.2f}", f"{ours / official:.2f}" if official else ""]
    return [name(row), batch_size, f"{batch_size / ours:.1f}", *ratios, row["peak"] >> 20]


def sharing(row: dict[str, Any]) -> list[object]:
    """A row of the table of several processes."""
    rates = [f"{row['batch_size'] / row['seconds'][how]:.1f}" for how in ("alone", "shared")]
    gains = [f"{times['alone'] / times['shared']:.2f}" for times in (row["seconds"], row["processor_seconds"])]
    return [name(row), row["batch_size"], *rates, *gains]


def name(row: dict[str, Any]) -> str:
    """The name of a row."""
    return ", ".join([row["preset"], row["precision"], *["compiled"] * (row["compile"] == "on")])


if __name__ == "__main__":
    main()
