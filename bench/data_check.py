"""What ``gptloom data check`` of a large file costs: memory that a longer file must not raise, and seconds.

    python bench/data_check.py [--gigabytes 1] [--json FILE]

Two files of one kind, a quarter as long and whole, of conversations as OpenAI writes them: a number that makes each its own,
and sentences drawn from 10,000 words. Each is checked by a process of its own; what it holds at most is beside what
a check of ten rows holds. Beside its seconds: ``json.loads`` of every line, which is the least that any check does.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import time
from pathlib import Path
from typing import Any

import harness
from harness import Check, Result

TARGET = 0.25  # of the longer file's bytes
WORDS, PROMPT, ANSWER = 10_000, 30, 120


def write_rows(path: Path, size: int, seed: int) -> int:
    """Conversations until the file has ``size`` bytes; returns how many."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(WORDS)]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            asked, answered = (" ".join(draw.choices(words, k=count)) for count in (PROMPT, ANSWER))
            turns = [{"role": "user", "content": f"{rows}: {asked}?"}, {"role": "assistant", "content": answered + "."}]
            written += file.write(json.dumps({"messages": turns}) + "\n")
            rows += 1
    return rows


def check(path: Path) -> dict[str, Any]:
    """What a process of its own finds in the file."""
    return harness.run_json([sys.executable, __file__, "--check", str(path)])


def check_here(path: Path) -> dict[str, Any]:
    import gptloom

    begun = time.perf_counter()
    report = gptloom.data_check([str(path)], stage="sft", quiet=True)
    return {
        "seconds": time.perf_counter() - begun,
        "peak": harness.peak_bytes(),
        "rows": report.files[0].rows,
        "fine": report.is_fine,
    }


def parse_seconds(path: Path) -> float:
    begun = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - begun


def measure(given: argparse.Namespace, folder: Path) -> Result:
    size = int(given.gigabytes * 1e9)
    raw: dict[str, Any] = {}
    for name, length in (("ten rows", 1), ("a quarter", size // 4), ("whole", size)):
        path = folder / "rows.jsonl"
        rows = write_rows(path, length, given.seed) if length > 1 else write_rows(path, 10_000, given.seed)
        found = check(path)
        if not found["fine"] or found["rows"] != rows:
            raise RuntimeError(f"{found['rows']} rows were checked, not {rows}, or they are not fine")
        raw[name] = {**found, "bytes": path.stat().st_size, "json.loads s": parse_seconds(path)}
    ground = raw["ten rows"]["peak"]
    table = {
        name: {
            "MB": run["bytes"] / 1e6,
            "rows": run["rows"],
            "s": run["seconds"],
            "json.loads s": run["json.loads s"],
            "peak MB": run["peak"] / 1e6,
            "of it for rows": (run["peak"] - ground) / 1e6,
        }
        for name, run in raw.items()
    }
    share = harness.ratio(raw["whole"]["peak"] - ground, raw["whole"]["bytes"])
    checks = [Check("memory for the rows of the whole file, of its bytes", share, TARGET, "×", at_most=True)]
    return Result(
        "data_check", {"gigabytes": given.gigabytes, "seed": given.seed}, {"data check": table}, checks, [], raw
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the whole file (default: 1)")
    parser.add_argument("--seed", type=int, default=1337, help="of its words (default: 1337)")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    harness.add_json_option(parser)
    given = parser.parse_args()
    if given.check is not None:
        print(json.dumps(check_here(given.check)))
        return 0
    return harness.run_in_folder(given, measure)


if __name__ == "__main__":
    sys.exit(main())
