"""What the loop of ``gptloom pretrain`` costs beside the arithmetic: guard, events, readers, timing, stop requests, hooks.

    python bench/overhead.py [--batch-tokens 2048] [--steps 60] [--rounds 3] [--json FILE]

One side is a whole ``gptloom.pretrain`` of a 10M model with all that it puts around a step: its hooks, the event log
(a line at every step), the readers that write for TensorBoard and as CSV, the progress line, the guard, the watch for
signals and stop requests. The other side is the bare loop: batch, forward and backward, gradient norm, clipping, update.
After every step of the training a callback does the same step again as a bare one, on the same batch, model and
optimizer, so that both sides see the machine in the same state; the overhead is the median difference of such pairs, as a
share of the bare step. Every round is a process of its own. Evaluating, sampling and saving are not due in steps that
count.

The target is 2 %. The steps are the smallest that gptloom chooses by itself (2,048 tokens): in a larger one the same
overhead is a smaller share.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import Check, Result

if TYPE_CHECKING:
    from gptloom.train.run import Run

TARGET = 2.0  # percent
BARE, FULL = "bare loop", "gptloom pretrain"
MODEL = {"model": "modern-tiny", "n_layer": 8}  # 10M parameters with a vocabulary of bytes
WORDS = 100_000
DEFAULTS = {"batch_tokens": 2048, "steps": 60, "rounds": 3}
TINY_MODEL = {"model": "modern-nano", "n_layer": 1, "context": 32}
TINY = {"batch_tokens": 64, "steps": 4, "rounds": 1}


# ---- one round, in a process of its own ------------------------------------------------------------------------------


class Turns:
    """The callback: after each step of the training the bare one; how long either took, the first pairs left out."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.seconds: dict[str, list[float]] = {FULL: [], BARE: []}
        self._begun: float | None = None  # when the last bare step ended, and so the training's next one began

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if event["type"] != "train":
            return
        now = time.perf_counter()
        full = None if self._begun is None else now - self._begun
        bare = self._bare_step(run)
        at_the_end = run.state.step == run.settings.steps  # when all that is not to count is due
        if full is not None and run.state.step > self.warmup and not at_the_end:
            self.seconds[FULL].append(full)
            self.seconds[BARE].append(bare)
        self._begun = time.perf_counter()

    @staticmethod
    def _bare_step(run: Run) -> float:
        """Does the step that was just done once more, and says how long it took."""
        from gptloom.train.loop import forward_backward
        from gptloom.train.objective import NextToken

        way, settings, optimizer = run.way_back, run.settings, run.optimizer
        assert way is not None and settings.schedule is not None
        done = run.state.step - 1
        begun = time.perf_counter()
        forward_backward(run, NextToken(run.parallel.cross_entropy), way.batch(done), run.model, optimizer)
        norm = float(optimizer.gradient_norm())
        if norm > settings.clip:
            optimizer.scale_gradients(settings.clip / norm)
        optimizer.step(settings.schedule(done))
        optimizer.zero_grad()
        return time.perf_counter() - begun


def train(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The training with its callback; the seconds of each pair of steps."""
    import gptloom
    from gptloom.observe.events import read_events

    text = folder / "text.txt"
    text.write_text(some_text(), encoding="utf-8")
    turns = Turns(arguments.warmup)
    steps = arguments.warmup + arguments.steps + 1
    begun = time.time()
    gptloom.pretrain(
        data=[text],
        tokenizer="bytes",
        **(TINY_MODEL if arguments.tiny else MODEL),
        batch_tokens=arguments.batch_tokens,
        max_steps=steps,
        log_every=1,
        eval_every=steps,
        save_every=steps,
        limit_batches=1,
        sample_tokens=1,
        log=["tensorboard", "csv"],
        threads=arguments.threads,
        out=folder / "run",
        callbacks=[turns],
    )
    events = read_events(folder / "run" / "events.jsonl")
    start = next(event for event in events if event["type"] == "start")
    refused = [event["reason"] for event in events if event["type"] == "guard"]
    if refused:
        raise RuntimeError(f"the guard refused a step, which then is not the same for both sides: {refused[0]}")
    return {
        "seconds": turns.seconds,
        "preparation_seconds": start["time"] - begun,
        "parameters": start["parameters"],
        "precision": start["precision"],
        "events": len(events),
    }


def some_text() -> str:
    """Words of no meaning, always the same."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(2000)]
    return " ".join(draw.choice(words) + "\n" * (draw.random() < 0.1) for _ in range(WORDS))


# ---- all rounds ------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """The pairs of all rounds together."""
    raw = harness.take_turns({"pairs of steps": lambda turn: start_round(arguments)}, arguments.rounds)[
        "pairs of steps"
    ]
    seconds = {side: [value for found in raw for value in found["seconds"][side]] for side in (BARE, FULL)}
    differences = [full - bare for full, bare in zip(seconds[FULL], seconds[BARE], strict=True)]
    bare, overhead = statistics.median(seconds[BARE]), statistics.median(differences)
    percent = 100 * overhead / bare
    table = {
        BARE: {"ms/step": 1000 * bare, "overhead ms": 0.0, "overhead %": 0.0},
        FULL: {
            "ms/step": 1000 * statistics.median(seconds[FULL]),
            "overhead ms": 1000 * overhead,
            "overhead %": percent,
        },
    }
    low, _, high = statistics.quantiles(differences, n=4)
    notes = [
        f"{len(differences)} pairs; the middle half of them from {100 * low / bare:.2g} % to {100 * high / bare:.2g} %",
        f"before its first step a training took {statistics.median(found['preparation_seconds'] for found in raw):.1f} s: "
        "text, tokenizer, shards, checks, and a few measured steps",
    ]
    kept = ("batch_tokens", "steps", "rounds", "warmup", "threads")
    settings = {name: getattr(arguments, name) for name in kept}
    settings |= {name: raw[0][name] for name in ("parameters", "precision")}
    check = Check(f"{FULL} beside the {BARE}", percent, TARGET, " %", at_most=True)
    if arguments.tiny:
        notes.append("tiny settings: the figures mean nothing and no target is judged")
    return Result("overhead", settings, {"a step": table}, [] if arguments.tiny else [check], notes, raw)


def start_round(arguments: argparse.Namespace) -> dict[str, Any]:
    """This script with ``--side``, as a new process."""
    command = [sys.executable, __file__, "--side"] + ["--tiny"] * arguments.tiny
    for name in ("batch_tokens", "steps", "warmup", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return harness.run_json(command)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-tokens", type=int, help="tokens of a step (default: 2048)")
    parser.add_argument("--steps", type=int, help="timed pairs of steps in a round (default: 60)")
    parser.add_argument("--rounds", type=int, help="processes (default: 3)")
    parser.add_argument("--warmup", type=int, default=5, help="pairs of steps before them (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: the cores)")
    parser.add_argument(
        "--tiny", action="store_true", help="a model of one block, one round: only to see the bench run"
    )
    parser.add_argument("--side", action="store_true", help="one round, here, printed as JSON")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    for name, value in (TINY if arguments.tiny else DEFAULTS).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.steps < 2 or min(arguments.rounds, arguments.warmup) < 1:
        parser.error("--steps is at least 2, --rounds and --warmup at least 1")
    arguments.threads = arguments.threads or harness.cores()
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side:
        with tempfile.TemporaryDirectory() as folder:
            found = train(arguments, Path(folder))
        print(json.dumps(found))
        return 0
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
