"""Seconds of `vpfb --help`, and of `vpfb sample -n 64` with the built-in model.

    python benchmarks/startup.py [--runs 5]

Each command runs in a process of its own, and the median is taken. The duration of `import torch` is measured by a
process that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from record import record, show

COMMANDS = {
    "vpfb --help": ["-m", "vpfb_cli", "--help"],
    "vpfb sample -n 64": ["-m", "vpfb_cli", "sample", "-m", "digits", "-n", "64", "-o", "grid.png", "-q"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            for name, words in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    show(["command", "seconds"], [[name, f"{median:.2f}"] for name, median in medians.items()])
    record("startup", {"median_seconds": medians, "runs": arguments.runs})


if __name__ == "__main__":
    main()
