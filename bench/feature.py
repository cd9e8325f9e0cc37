"""How soon SST-2 is classified on frozen features: ``gptloom finetune --method feature``, from start to end.

    python bench/feature.py [--body FOLDER] [--rounds 3] [--json FILE]

The body reads the 6,920 sentences once (and the 872 of ``dev``), a classifier is fitted to what it made of them, and the
model folder is written. Without ``--body`` it has 10M parameters (``modern-tiny``) and random weights: they take as long
as trained ones. What is timed is the whole process, imports and reading of the files included; each round has weights and
an output folder of its own, so that no features of an earlier one are found.

The target is 60 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import finetune
import harness
import sentences
from harness import Check, Result

TARGET_SECONDS = 60.0
MODEL, SIDE = "modern-tiny", "gptloom, feature"


def run_round(folder: Path, turn: int, train: Path, dev: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One process: its seconds, and the accuracy that it found on ``dev``."""
    model = arguments.body or sentences.write_body(folder / "body", MODEL, train, tiny=arguments.tiny, seed=turn)
    out = folder / "out"
    command = [sys.executable, "-m", "gptloom", "finetune", str(model), "--task", "classify", "--method", "feature"]
    command += ["--data", str(train), "--valid", str(dev), "--text", "1", "--label", "2", "--out", str(out)]
    command += ["--threads", str(arguments.threads), "--quiet", "--yes"]
    begun = time.perf_counter()
    harness.run_command(command, finetune.environment(arguments))
    seconds = time.perf_counter() - begun
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "accuracy": metrics["valid"]["metrics"]["accuracy"]}


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """Round after round, each in a folder of its own."""
    train, dev = sentences.tiny_files(folder) if arguments.tiny else (sentences.TRAIN, sentences.DEV)

    def run(turn: int) -> dict[str, Any]:
        own = folder / f"round-{turn}"
        own.mkdir()
        return run_round(own, turn, train, dev, arguments)

    raw = harness.take_turns({SIDE: run}, arguments.rounds)
    seconds = harness.median([found["seconds"] for found in raw[SIDE]])
    row = {"whole s": seconds, "accuracy %": harness.median([100 * found["accuracy"] for found in raw[SIDE]])}
    body = arguments.body.name if arguments.body else f"{MODEL}, random weights"
    settings = {"rounds": arguments.rounds, "threads": arguments.threads, "body": body}
    checks = [Check("feature-based, from start to end", seconds, TARGET_SECONDS, " s", at_most=True)]
    notes = [finetune.TINY_NOTE] if arguments.tiny else []
    return Result("feature", settings, {"features": {SIDE: row}}, [] if arguments.tiny else checks, notes, raw)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", type=Path, metavar="FOLDER", help="a run or model folder (default: random weights)")
    parser.add_argument("--rounds", type=int, help="processes (default: 3)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: the cores)")
    parser.add_argument("--tiny", "--fast", action="store_true", help="200 short rows, a tiny body, one round")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.tiny else 3)
    arguments.threads = arguments.threads or harness.cores()
    if not arguments.tiny:
        sentences.check(parser)
    return arguments


def main() -> int:
    return harness.run_in_folder(parse(), measure)


if __name__ == "__main__":
    sys.exit(main())
