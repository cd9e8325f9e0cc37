"""How fast instruction tuning is, beside ``trl`` (all weights of 124M) and ``litgpt`` (low-rank adapters of Pythia-160M).

    python bench/sft.py --trl-python trl/bin/python --litgpt-python litgpt/bin/python [--rounds 3] [--json FILE]

The rows are those of the Alpaca sample that have at most 512 tokens, the weights are random. Every side is a process of
its own, they take turns, and each round begins its epoch elsewhere. All have the same rows in the timed steps, 8 a step;
the same first batch; AdamW, learning rate, weight decay and clipping; and the loss of the responses alone. Tokens are counted
without padding. A bench in which a side saw other tokens, or began with another loss, breaks off.

All weights, our layout of Qwen3, which both open:

- ``gptloom`` (packed) and ``gptloom, padded``: ``gptloom.sft`` with its defaults, and with ``--no-packing``;
- ``trl defaults``: ``SFTTrainer`` with bf16 and gradient checkpointing, rows in random order padded to the longest;
- ``trl, by length``: without checkpointing, and with our batches, whose rows are of about one length; ``compiled``: that
  with ``torch_compile``; ``no padding``: that with its ``padding_free``.

Adapters of rank 8 on queries and values with dropout 0.05:

- ``gptloom, lora``, packed, and ``gptloom, lora, padded``;
- ``litgpt defaults``: bf16-mixed, one row at a time; ``bf16``: weights in bf16; ``together``: that with all rows of a step
  in one forward pass, padded, and with our batches.

The peers need environments of their own, and are left out where none is named:

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl
    python -m venv litgpt && litgpt/bin/pip install torch==2.13.0 litgpt

Targets: 1.7 times the tokens/s of a peer's defaults, and no fewer than the fastest of its settings; the padded side is
compared with settings that pad.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import instructions
from harness import Check, Figures, Result
from instructions import MODERN, PYTHIA, Rounds

TARGET_DEFAULTS, TARGET_BEST = 1.7, 1.0
SAME_LOSS = 0.01  # nats by which the sides may differ in the loss of their first batch
LORA_DROPOUT = 0.05  # litgpt's
EAGER = {"gradient_checkpointing": False}


@dataclass(frozen=True)
class Side:
    """A process: whose script it runs, with what, and whether in our batches or with the rows in random order."""

    script: str
    options: dict[str, Any]
    grouped: bool = False
    packed: bool = False  # without any padding


@dataclass(frozen=True)
class Table:
    """Sides that are compared, and the body that they train."""

    body: str
    defaults: str  # of the peer
    sides: dict[str, Side]
    learns: bool  # enough in these few steps that the loss must fall

    @property
    def own(self) -> list[str]:
        return [name for name, side in self.sides.items() if side.script == "sft_gptloom.py"]

    @property
    def peers(self) -> list[str]:
        return [name for name in self.sides if name not in self.own]


LORA = {"method": "lora", "lora_dropout": LORA_DROPOUT}
TABLES = {
    "all weights": Table(
        MODERN,
        "trl defaults",
        {
            "gptloom": Side("sft_gptloom.py", {}, grouped=True, packed=True),
            "gptloom, padded": Side("sft_gptloom.py", {"packing": False}, grouped=True),
            "trl defaults": Side("sft_trl.py", {}),
            "trl, by length": Side("sft_trl.py", EAGER, grouped=True),
            "trl, compiled": Side("sft_trl.py", {**EAGER, "torch_compile": True}, grouped=True),
            "trl, no padding": Side(
                "sft_trl.py", {**EAGER, "padding_free": True, "max_length": None}, grouped=True, packed=True
            ),
        },
        learns=True,
    ),
    "adapters": Table(
        PYTHIA,
        "litgpt defaults",
        {
            "gptloom, lora": Side("sft_gptloom.py", LORA, grouped=True, packed=True),
            "gptloom, lora, padded": Side("sft_gptloom.py", {**LORA, "packing": False}, grouped=True),
            "litgpt defaults": Side("sft_litgpt.py", {}),
            "litgpt, bf16": Side("sft_litgpt.py", {"precision": "bf16-true", "workers": 0}),
            "litgpt, together": Side(
                "sft_litgpt.py", {"precision": "bf16-true", "together": True, "workers": 0}, grouped=True
            ),
        },
        learns=False,
    ),
}
PEERS = {"sft_trl.py": "trl", "sft_litgpt.py": "litgpt"}
USUAL = {"rounds": 3, "steps": 5, "batch": 8, "max_length": 512}
TINY = {"rounds": 1, "steps": 2, "batch": 4, "max_length": 512}
TINY_NOTE = "tiny settings: the figures mean nothing and no target is judged"


# ---- one side --------------------------------------------------------------------------------------------------------


def run_side(
    name: str, side: Side, table: Table, body: Path, given: argparse.Namespace, rounds: list[Rounds], turn: int
) -> dict[str, Any]:
    """One process of ``side``, with the rows of round ``turn``."""
    laid_out, folder = rounds[turn], body.parent
    label = f"{name.replace(', ', '-').replace(' ', '-')}-{turn}"
    rows = folder / f"{label}.json"
    texts = laid_out.rows if side.grouped else laid_out.shuffled(given.batch, given.warmup, given.seed + turn)
    rows.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    settings = {
        "model": str(body), "rows": str(rows), "train": str(laid_out.train), "valid": str(laid_out.valid),
        "out": str(folder / label), "steps": given.warmup + given.steps, "batch": given.batch,
        "max_length": given.max_length, "lr": given.lr, "weight_decay": given.weight_decay, "clip": given.clip,
        "seed": given.seed + turn, "threads": given.threads, "options": side.options,
        "config": "pythia-14m" if given.tiny else "pythia-160m",
    }  # fmt: skip
    environment = {
        "OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
    }  # fmt: skip
    command = [str(given.pythons[side.script]), str(harness.HERE / side.script), json.dumps(settings)]
    found = harness.run_json(command, environment)
    return measured(found, laid_out, given.warmup)


def measured(found: dict[str, Any], laid_out: Rounds, warmup: int) -> dict[str, Any]:
    """``found`` with its speed: the tokens of the timed steps over the seconds from the end of the warm-up."""
    ends = found["ends"]
    seconds, tokens = ends[-1] - ends[warmup - 1], sum(found["tokens"][warmup:])
    return {
        **found,
        "seconds_per_step": seconds / (len(ends) - warmup),
        "tokens_per_second": tokens / seconds,
        "timed_tokens": tokens,
        "expected_tokens": [sum(laid_out.tokens[:1]), sum(laid_out.tokens[warmup:])],
        "expected_learned": sum(laid_out.learned),
    }


# ---- a table ---------------------------------------------------------------------------------------------------------


def measure_table(
    title: str, table: Table, given: argparse.Namespace, folder: Path
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Figures]]:
    """All sides in turns, each checked against the others."""
    rows = instructions.read_sample(tiny=given.tiny)
    body = instructions.write_body(folder / "body", table.body, rows, tiny=given.tiny)
    rounds = []
    for turn in range(given.rounds):
        own = folder / f"rows-{turn}"
        own.mkdir()
        steps = given.warmup + given.steps
        rounds.append(instructions.lay_out(own, body, rows, steps, given.batch, given.max_length, given.seed + turn))
    calls = {
        name: partial(run_side, name, side, table, body, given, rounds)
        for name, side in table.sides.items()
        if side.script in given.pythons and (given.side is None or name in given.side)
    }
    found = harness.take_turns(calls, given.rounds, f"{title}, ")
    check_sides(table, found)
    return found, {name: summary(runs) for name, runs in found.items()}


def check_sides(table: Table, found: Mapping[str, list[dict[str, Any]]]) -> None:
    """RuntimeError unless all sides saw the tokens that gptloom's rendering has, began with the same loss, and learned."""
    for name, runs in found.items():
        for turn, run in enumerate(runs):
            seen = [run["tokens"][0], run["timed_tokens"]]
            if seen != run["expected_tokens"]:
                raise RuntimeError(f"{name} saw {seen} tokens (first step, timed steps), not {run['expected_tokens']}")
            if run["learned"] is not None and sum(run["learned"]) != run["expected_learned"]:
                what = f"{sum(run['learned'])} tokens count in its loss, not {run['expected_learned']}"
                raise RuntimeError(f"{name}: {what}")
            reference = next(iter(found.values()))[turn]["losses"][0]
            if not abs(run["losses"][0] - reference) <= SAME_LOSS:
                raise RuntimeError(f"{name} begins with a loss of {run['losses'][0]}, the first side with {reference}")
            if table.learns and not run["losses"][-1] < run["losses"][0]:
                raise RuntimeError(f"{name} does not learn: its losses are {run['losses']}")


def summary(runs: list[dict[str, Any]]) -> Figures:
    """Medians over the rounds; of the memory the largest."""
    peaks = [run["peak_bytes"] for run in runs]
    return {
        "tokens/s": harness.median([run["tokens_per_second"] for run in runs]),
        "s/step": harness.median([run["seconds_per_step"] for run in runs]),
        "peak GB": max(peaks) / 1e9 if None not in peaks else None,
        "first loss": runs[0]["losses"][0],
        "last loss": runs[0]["losses"][-1],
    }


def compare(table: Table, sides: Mapping[str, Figures]) -> list[Check]:
    """Ours against the peer's defaults, and against the fastest of its settings: of those that pad where ours does."""
    checks = []
    for own in (name for name in table.own if name in sides):
        packed = table.sides[own].packed
        peers = [name for name in table.peers if name in sides and (packed or not table.sides[name].packed)]
        speeds = {name: sides[name]["tokens/s"] or 0.0 for name in peers}
        fastest = max(speeds, key=speeds.__getitem__, default="")
        judged = (
            (table.defaults, table.defaults, TARGET_DEFAULTS),
            (fastest, f"the fastest peer ({fastest})", TARGET_BEST),
        )
        for peer, named, target in judged:
            if peer in speeds:
                ratio = harness.ratio(sides[own]["tokens/s"], speeds[peer])
                checks.append(Check(f"{own}: tokens/s of {named}", ratio, target, "×"))
    return checks


# ---- all -------------------------------------------------------------------------------------------------------------


def measure(given: argparse.Namespace, folder: Path) -> Result:
    """The tables asked for."""
    raw, tables, checks = {}, {}, []
    for title in given.table or TABLES:
        table, own = TABLES[title], folder / title.replace(" ", "-")
        own.mkdir()
        raw[title], tables[title] = measure_table(title, table, given, own)
        checks += [] if given.tiny else compare(table, tables[title])
    kept = ("rounds", "steps", "warmup", "batch", "max_length", "lr", "weight_decay", "clip", "seed", "threads")
    settings = {name: getattr(given, name) for name in kept}
    notes = [TINY_NOTE] if given.tiny else []
    notes += peer_versions(raw)
    missing = [peer for script, peer in PEERS.items() if script not in given.pythons]
    notes += [f"{peer} was left out: no --{peer}-python (--help says how to make it)" for peer in missing]
    return Result("sft", settings, tables, checks, list(dict.fromkeys(notes)), raw)


def peer_versions(raw: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> list[str]:
    """``trl 1.16.0, transformers 5.23.0, torch 2.13.0``, a line for each peer."""
    peers = [(title, name) for title in raw for name in TABLES[title].peers if name in raw[title]]
    found = [raw[title][name][0]["versions"] for title, name in peers]
    return [", ".join(f"{package} {version}" for package, version in one.items()) for one in found]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, metavar="FILE", help="interpreter of an environment with trl")
    parser.add_argument("--litgpt-python", type=Path, metavar="FILE", help="interpreter of an environment with litgpt")
    parser.add_argument("--table", choices=list(TABLES), action="append", help="only these (default: all)")
    names = [name for table in TABLES.values() for name in table.sides]
    parser.add_argument("--side", choices=names, action="append", help="only these (default: all)")
    parser.add_argument("--rounds", type=int, help=f"processes of each side (default: {USUAL['rounds']})")
    parser.add_argument("--steps", type=int, help=f"timed steps of each process (default: {USUAL['steps']})")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default: 3)")
    parser.add_argument("--batch", type=int, help=f"examples of a step (default: {USUAL['batch']})")
    parser.add_argument("--max-length", type=int, help=f"longest example in tokens (default: {USUAL['max_length']})")
    parser.add_argument("--lr", type=float, default=1e-4, help="highest learning rate (default: 1e-4)")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="of AdamW (default: 0.01)")
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (default: 1; litgpt has none)")
    parser.add_argument("--seed", type=int, default=1337, help="of the first round (default: 1337)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: the cores)")
    parser.add_argument("--tiny", action="store_true", help="small models, one round: only to see the bench run")
    harness.add_json_option(parser)
    given = parser.parse_args()
    for name, value in (TINY if given.tiny else USUAL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if min(given.rounds, given.steps, given.warmup) < 1:
        parser.error("--rounds, --steps and --warmup are at least 1")
    if not given.tiny and not (instructions.SAMPLE.is_file() and instructions.VOCABULARY.is_dir()):
        parser.error(f"{instructions.SAMPLE} or {instructions.VOCABULARY} is not there: set GPTLOOM_TEST_DATA")
    given.threads = given.threads or harness.cores()
    pythons = {"sft_trl.py": given.trl_python, "sft_litgpt.py": given.litgpt_python}
    for option, python in zip(("--trl-python", "--litgpt-python"), pythons.values(), strict=True):
        if python is not None and not python.is_file():
            parser.error(f"{option}: {python} is not there")
    named = {script: python for script, python in pythons.items() if python is not None}
    given.pythons = {"sft_gptloom.py": sys.executable, **named}
    return given


def main() -> int:
    return harness.run_in_folder(parse(), measure)


if __name__ == "__main__":
    sys.exit(main())
