"""How `vpfb train --time-budget` keeps its budget on a busy machine: time taken, steps, exit code.

    python benchmarks/time_budget.py [--budgets 30 40 60 120] [--data digits mnist] [--busy 2]

Each run is a command of its own beside processes that compute without end. The time is that of the whole command, from
its start to its exit. A budget is kept if the time differs from it by at most 10 % and 5 s. The load average at
the end of each run shows whether other programs computed as well. Further options are passed on to `vpfb train`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import record, show

# The command line, which notes how long the command has run when its steps begin, and the seconds inside of the steps.
COUNTING = """
import json, time
began, found = time.monotonic(), {"before": None, "in_steps": 0.0, "after": 0.0}
from vpfb_cli.commands import train

def counting(plan, summary=train._summary):
    from vpfb_core.training.trainer import Trainer
    def step(*arguments, step=Trainer.step):
        begins = time.monotonic()
        found["before"] = found["before"] or begins - began
        try:
            return step(*arguments)
        finally:
            found["after"] = time.monotonic() - began
            found["in_steps"] += time.monotonic() - begins
    Trainer.step = step
    return summary(plan)

train._summary = counting
from vpfb_cli.__main__ import main
try:
    main()
finally:
    found["after"] = time.monotonic() - began - found["after"]
    open("found", "w").write(json.dumps(found))
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Inside this context, `count` processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def trained(data: str, budget: int, more: list[str]) -> dict[str, Any]:
    """One run of the command, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--data", data, "--time-budget", f"{budget}s", "--out", "run", "--json", *more]
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", COUNTING, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        wall, load = time.monotonic() - began, os.getloadavg()[0]
        document = json.loads(ended.stdout)
        found = json.loads((Path(folder) / "found").read_text())
    return {
        "data": data,
        "budget": budget,
        "seconds": wall,
        "kept": abs(wall - budget) <= 0.1 * budget + 5,
        "steps": document.get("steps", 0),
        "before_steps": found["before"],
        "in_steps": found["in_steps"],
        "after_steps": found["after"],
        "load_average": load,
        "exit_code": ended.returncode,
        "message": document.get("error", {}).get("message"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[30, 40, 60, 120], help="in seconds")
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"])
    parser.add_argument("--busy", type=int, default=2, help="number of processes that compute beside each run")
    arguments, more = parser.parse_known_args()
    with busy(arguments.busy):
        runs = [trained(data, budget, more) for data in arguments.data for budget in arguments.budgets]
    rows: list[list[object]] = [
        [
            run["data"], f"{run['budget']} s", f"{run['seconds']:.1f} s{'' if run['kept'] else ' (not kept)'}",
            "" if run["before_steps"] is None else f"{run['before_steps']:.1f} s", run["steps"],
            f"{run['in_steps']:.1f} s", run["exit_code"], f"{run['load_average']:.1f}",
        ]
        for run in runs
    ]  # fmt: skip
    show(["data", "budget", "time taken", "first step after", "steps", "in steps", "exit code", "load"], rows)
    record("-".join(["time-budget", *arguments.data]), {"busy": arguments.busy, "runs": runs})


if __name__ == "__main__":
    main()
