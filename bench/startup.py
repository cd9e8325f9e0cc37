"""How long ``gptloom --help`` takes, as a whole process, beside a Python that does nothing.

    python bench/startup.py [--repeats 15] [--json FILE]

The target is 0.3 s. The two commands take turns, so that a busy moment of the machine meets both; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import harness
from harness import Check, Result

TARGET_SECONDS = 0.3
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "gptloom --help": [sys.executable, "-m", "gptloom", "--help"],
}


def seconds_of(command: list[str]) -> float:
    """Wall time of one run of ``command``, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of each command over ``repeats`` runs, after one that fills the caches."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            seconds = seconds_of(command)
            if repeat:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measures, prints, and returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="time gptloom --help against an empty Python process")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each command (default: 15)")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    medians = measure(arguments.repeats)
    sides = {name: {"ms": seconds * 1000} for name, seconds in medians.items()}
    check = Check("gptloom --help", medians["gptloom --help"], TARGET_SECONDS, " s", at_most=True)
    notes = [f"ratio: {medians['gptloom --help'] / medians['python -c pass']:.2f}"]
    result = Result("startup", {"repeats": arguments.repeats}, {"whole process": sides}, [check], notes, medians)
    return harness.finish(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
