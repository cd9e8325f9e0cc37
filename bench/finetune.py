"""How well and how soon a body is fine-tuned, beside ``transformers`` and its ``Trainer``: SST-2, several seeds.

    python bench/finetune.py --body runs/bert --body runs/gpt [--seeds 3] [--epochs 3] [--lr 1e-4] [--json FILE]

A body is a run or model folder: a small BERT or a small GPT of the Qwen3 layout, which both sides open. Every side is a
process of its own, they take turns, and the round's number is added to the seed. All have the same sentences, framing of
a row, AdamW, learning rate, linear warm-up and decay, weight decay, dropout, clipping, epochs and batch size; pad a batch
to its longest row; score the 872 sentences of ``dev`` and write a checkpoint after each epoch; and keep the best one.

- ``gptloom``: ``gptloom finetune``, all weights; ``gptloom, lora``: adapters with the defaults, another learning rate too;
- ``Trainer fp32`` and ``Trainer bf16``: ``finetune_trainer.py`` in its two precisions on a CPU, rows in random order as
  ``Trainer`` has it by default; ``by length``: with its ``group_by_length``, as ours are; ``plain``: without the fused
  attention, which has no fast path for dropout on a CPU.

``whole s``: the process from start to end, imports included. ``training s``: from the first step to the last, scoring
and checkpoints included.

Targets, for each body: the accuracy is no further below that of ``Trainer fp32`` than chance takes it (95 % of Student's t
over the seeds); half the seconds of ``Trainer fp32`` and of the fastest peer; adapters take no longer than all weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import sentences
from harness import Check, Figures, Result

OURS, LORA, DEFAULT = "gptloom", "gptloom, lora", "Trainer fp32"
PEERS: dict[str, dict[str, Any]] = {
    DEFAULT: {"bf16": False, "grouped": False, "attention": "sdpa"},
    "Trainer fp32, by length": {"bf16": False, "grouped": True, "attention": "sdpa"},
    "Trainer bf16": {"bf16": True, "grouped": False, "attention": "sdpa"},
    "Trainer bf16, by length": {"bf16": True, "grouped": True, "attention": "sdpa"},
    "Trainer bf16, by length, plain": {"bf16": True, "grouped": True, "attention": "eager"},
}
TARGET_TIME, TARGET_LORA = 0.5, 1.0
WHOLE, TRAINING = "whole s", "training s"
TINY_BODIES = ("bert-tiny", "modern-nano")
TINY_NOTE = "tiny settings: the figures mean nothing and no target is judged"


@dataclass(frozen=True)
class Setup:
    """What all sides of a body share."""

    body: Path  # a model folder
    train: Path
    dev: Path
    folder: Path  # where the sides write
    steps_per_epoch: int
    dropout: float
    arguments: argparse.Namespace

    def out(self, side: str, turn: int) -> Path:
        return self.folder / f"{side.replace(', ', '-').replace(' ', '-')}-{turn}"


# ---- the sides -------------------------------------------------------------------------------------------------------


def run_ours(setup: Setup, side: str, turn: int) -> dict[str, Any]:
    """``gptloom finetune`` as a person would type it, with the settings of both sides."""
    given, out = setup.arguments, setup.out(side, turn)
    options: dict[str, Any] = {
        "task": "classify", "data": setup.train, "valid": setup.dev, "text": 1, "label": 2, "out": out,
        "method": "lora" if side == LORA else "full",
        "max-epochs": given.epochs, "batch-size": given.batch, "warmup": given.warmup,
        "weight-decay": given.weight_decay, "clip": given.clip, "dropout": setup.dropout, "lm-weight": 0,
        "metric": "accuracy", "eval-every": setup.steps_per_epoch, "save-every": setup.steps_per_epoch,
        "seed": given.seed + turn, "threads": given.threads, "log": "none",
    }  # fmt: skip
    if side == OURS:
        options["lr"] = given.lr  # adapters want a higher one: theirs is the default
    command = [sys.executable, "-m", "gptloom", "finetune", str(setup.body), "--quiet", "--yes"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    begun = time.perf_counter()
    harness.run_command(command, environment(given))
    return {WHOLE: time.perf_counter() - begun, **read_events(out)}


def read_events(run: Path) -> dict[str, Any]:
    """Accuracies, and the seconds between the beginning and the end of the training, from the run's own log."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    begun = next(event["time"] for event in events if event["type"] == "start")
    ended = next(event["time"] for event in reversed(events) if event["type"] == "end")
    accuracies = [event["metrics"]["accuracy"] for event in events if event["type"] == "evaluate"]
    steps = max(event["step"] for event in events if event["type"] == "train")
    return {TRAINING: ended - begun, "accuracies": accuracies, "steps": steps}


def run_peer(setup: Setup, side: str, turn: int) -> dict[str, Any]:
    """``Trainer``, with the rows framed and cut as in our run of the same round."""
    given = setup.arguments
    described = json.loads((setup.out(OURS, turn) / "final" / "gptloom.json").read_text(encoding="utf-8"))
    task = described["task"]
    settings = {
        "model": str(setup.body), "train": str(setup.train), "dev": str(setup.dev), "out": str(setup.out(side, turn)),
        "inputs": task["inputs"], "max_length": task["max_length"],
        "frame": [task["tokens"]["start"], task["tokens"]["extract"]] if task["inputs"] == "gpt1" else [],
        "epochs": given.epochs, "batch": given.batch, "lr": given.lr, "warmup": given.warmup,
        "weight_decay": given.weight_decay, "clip": given.clip, "dropout": setup.dropout, "seed": given.seed + turn,
        **PEERS[side],
    }  # fmt: skip
    command = [sys.executable, str(harness.HERE / "finetune_trainer.py"), json.dumps(settings)]
    begun = time.perf_counter()
    found = harness.run_json(command, environment(given))
    return {WHOLE: time.perf_counter() - begun, TRAINING: found.pop("training_seconds"), **found}


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """For all sides: torch reads it when a process starts. The peers look nothing up on the network."""
    return {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}


# ---- one body --------------------------------------------------------------------------------------------------------


def measure_body(setup: Setup) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Figures]]:
    """All sides in turns. RuntimeError where they did not make the same number of steps."""
    sides: dict[str, Callable[[int], dict[str, Any]]] = {
        side: partial(run_ours if side in (OURS, LORA) else run_peer, setup, side) for side in (OURS, LORA, *PEERS)
    }
    found = harness.take_turns(sides, setup.arguments.seeds, f"{setup.body}, ")
    steps = {side: run["steps"] for side, runs in found.items() for run in runs}
    if len(set(steps.values())) > 1:
        raise RuntimeError(f"the sides differ in their steps: {steps}")
    return found, summaries(found)


def summaries(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Figures]:
    """A row for each side; the ratios are the seconds of ``gptloom`` over the side's own."""
    ours = {name: harness.median([run[name] for run in found[OURS]]) for name in (WHOLE, TRAINING)}
    rows: dict[str, Figures] = {}
    for side, runs in found.items():
        mean, error = mean_and_error(best_accuracies(runs))
        seconds = {name: harness.median([run[name] for run in runs]) for name in (WHOLE, TRAINING)}
        rows[side] = {
            "accuracy %": mean,
            "± standard error": error,
            "last epoch %": mean_and_error([100 * run["accuracies"][-1] for run in runs])[0],
            **seconds,
            "ours / whole": harness.ratio(ours[WHOLE], seconds[WHOLE]),
            "ours / training": harness.ratio(ours[TRAINING], seconds[TRAINING]),
        }
    return rows


def best_accuracies(runs: list[dict[str, Any]]) -> list[float]:
    """Per cent of the best epoch of each run."""
    return [100 * max(run["accuracies"]) for run in runs]


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """The mean and its standard error, None for one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def noise(ours: list[float], theirs: list[float]) -> float:
    """How far two means of equally many values differ by chance in 95 % of cases: Student's t, variances pooled."""
    from scipy.stats import t

    error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / len(ours))
    return float(t.ppf(0.975, 2 * len(ours) - 2)) * error


def compare(title: str, found: Mapping[str, list[dict[str, Any]]], rows: Mapping[str, Figures]) -> list[Check]:
    """The targets of one body."""
    ours, theirs = best_accuracies(found[OURS]), best_accuracies(found[DEFAULT])
    behind, bound = statistics.fmean(theirs) - statistics.fmean(ours), noise(ours, theirs)
    checks = [Check(f"{title}: accuracy below that of {DEFAULT}", behind, bound, " points", at_most=True)]
    for column, what in (("ours / whole", WHOLE), ("ours / training", TRAINING)):
        fastest = max(PEERS, key=lambda side: rows[side][column] or 0.0)
        for peer, named in ((DEFAULT, DEFAULT), (fastest, f"the fastest peer ({fastest})")):
            label = f"{title}: {what.removesuffix(' s')} time of that of {named}"
            checks.append(Check(label, rows[peer][column], TARGET_TIME, "×", at_most=True))
    lora = harness.ratio(rows[LORA][TRAINING], rows[OURS][TRAINING])
    checks.append(Check(f"{title}: training time of lora, of all weights", lora, TARGET_LORA, "×", at_most=True))
    return checks


# ---- all -------------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """Every body, one table each."""
    train, dev = sentences.tiny_files(folder) if arguments.tiny else (sentences.TRAIN, sentences.DEV)
    bodies = arguments.body or [sentences.write_body(folder / model, model, train, tiny=True) for model in TINY_BODIES]
    steps = math.ceil(len(sentences.read_rows(train)) / arguments.batch)
    raw, tables, checks = {}, {}, []
    for body in bodies:
        source, out = model_folder(body), folder / f"runs of {body.name}"
        out.mkdir()
        setup = Setup(source, train, dev, out, steps, dropout_of(source, arguments.dropout), arguments)
        raw[body.name], tables[body.name] = measure_body(setup)
        checks += [] if arguments.tiny else compare(body.name, raw[body.name], tables[body.name])
    kept = ("seeds", "epochs", "batch", "lr", "warmup", "weight_decay", "clip", "seed", "threads")
    settings = {name: getattr(arguments, name) for name in kept} | {"body": list(tables)}
    notes = [TINY_NOTE] if arguments.tiny else [most_accurate(title, rows) for title, rows in tables.items()]
    return Result("finetune", settings, tables, checks, notes, raw)


def most_accurate(title: str, rows: Mapping[str, Figures]) -> str:
    """The best of the peers and ours, as a sentence."""
    best = max(PEERS, key=lambda side: rows[side]["accuracy %"] or 0.0)
    parts = [f"{side} {rows[side]['accuracy %']:.2f} ± {rows[side]['± standard error']:.2f}" for side in (OURS, best)]
    return f"{title}: {parts[0]} %, the most accurate peer {parts[1]} %"


def model_folder(body: Path) -> Path:
    """Of a run its final weights: the peers know no runs."""
    return body / "final" if (body / "final" / "config.json").is_file() else body


def dropout_of(model: Path, given: float | None) -> float:
    """0.1 for a BERT; 0 for a decoder, since the Qwen3 of ``transformers`` has dropout in attention alone."""
    kind = json.loads((model / "config.json").read_text(encoding="utf-8"))["model_type"]
    return given if given is not None else 0.1 if kind == "bert" else 0.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", type=Path, action="append", default=[], metavar="FOLDER", help="one table each")
    parser.add_argument("--seeds", type=int, help="rounds, each with a seed of its own (default: 3)")
    parser.add_argument("--seed", type=int, default=1337, help="of the first round (default: 1337)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the sentences (default: 3)")
    parser.add_argument("--batch", type=int, default=32, help="sentences of a step (default: 32)")
    parser.add_argument("--lr", type=float, default=1e-4, help="highest learning rate of all weights (default: 1e-4)")
    parser.add_argument("--warmup", type=float, default=0.06, help="share of the steps (default: 0.06)")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="of AdamW (default: 0.01)")
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (default: 1)")
    parser.add_argument("--dropout", type=float, help="of body and head (default: 0.1 for a BERT, 0 for a GPT)")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: the cores)")
    parser.add_argument(
        "--tiny", "--fast", action="store_true", help="200 short rows, one seed, tiny bodies: only to see the bench run"
    )
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (1 if arguments.tiny else 3)
    arguments.threads = arguments.threads or harness.cores()
    if arguments.peer is not None:
        for name in set(PEERS) - set(arguments.peer):
            del PEERS[name]
    if not arguments.tiny:
        sentences.check(parser)
        if not arguments.body:
            parser.error("--body names the run or model folder that is fine-tuned")
        if arguments.seeds < 2:
            parser.error("--seeds is at least 2: without a spread nothing can be compared")
    for body in arguments.body:
        if not (model_folder(body) / "config.json").is_file():
            parser.error(f"{body} is no run or model folder")
    if len({body.name for body in arguments.body}) < len(arguments.body):
        parser.error("two bodies of one name: the tables are named after them")
    return arguments


def main() -> int:
    return harness.run_in_folder(parse(), measure)


if __name__ == "__main__":
    sys.exit(main())
