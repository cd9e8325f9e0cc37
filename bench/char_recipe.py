"""How soon a small character model is as good as nanoGPT's CPU Shakespeare recipe makes it.

    python bench/char_recipe.py [--nanogpt CHECKOUT] [--data input.txt] [--rounds 3] [--json FILE]

The recipe: characters, 4 layers of width 128, 4 heads, context 64, 2,000 steps of 12 random windows, AdamW from 1e-3
down to 1e-4. The peer runs it whole, timed from the start of its process to the end: nanoGPT's own ``train.py`` from
the checkout, without evaluations, else the same settings on a GPT-2 of ``transformers`` in a plain loop. Then, not
timed, its loss on the whole validation split (the last tenth of the characters) is taken in fixed windows of 64.

Ours is ``gptloom pretrain`` with the options of ``char_recipe.yaml`` (or ``--recipe FILE``) and at most the peer's
parameters, timed from the start of its process (imports, reading, tokenizer, and compilation without a cache, if it
compiles) to its first evaluation on that whole split at or below the peer's loss of the same round; it does not know
that loss and runs to its end. Its validation ends with an end-of-text token, so it predicts one more than the peer.

The target is a third of the peer's time. Both sides take turns; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import Check, Result

TARGET_SHARE = 1 / 3
HERE = Path(__file__).resolve().parent
SHAKESPEARE = harness.DATA / "tinyshakespeare" / "input.txt"
PEERS = HERE / "char_peers.py"
SETTINGS: dict[str, Any] = {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "n_positions": 64,
    "batch": 12,
    "steps": 2000,
    "lr": 1e-3,
    "lowest_lr": 1e-4,
    "warmup": 100,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "clip": 1.0,
}
TINY_SETTINGS = {**SETTINGS, "n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 16, "steps": 10, "warmup": 2}
TINY_OPTIONS = {
    "n_layer": 1, "n_head": 2, "d_model": 32, "d_ff": 48, "context": 16, "batch_tokens": 192,
    "max_steps": 30, "warmup": 2, "eval_every": 10, "save_every": 30, "log_every": 10,
}  # fmt: skip


# ---- the text --------------------------------------------------------------------------------------------------------


def tiny_text() -> str:
    """Some thousand words of no meaning, always the same."""
    draw = random.Random(0)
    words = ["loom", "warp", "weft", "shuttle", "thread", "cloth", "weaver", "spins", "and", "the"]
    return "".join(draw.choice(words) + draw.choice(" \n") for _ in range(4000))


def prepare(text: str, folder: Path) -> int:
    """Splits as nanoGPT does and writes the form of each side; returns the number of different characters.

    ``train.bin``, ``val.bin`` and ``meta.pkl`` are what its ``prepare.py`` leaves for its ``train.py``.
    """
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    cut = int(len(text) * 0.9)
    binary = folder / "data" / "shakespeare_char"
    binary.mkdir(parents=True)
    for name, part in (("train", text[:cut]), ("val", text[cut:])):
        ids = b"".join(numbers[character].to_bytes(2, "little") for character in part)
        (binary / f"{name}.bin").write_bytes(ids)
        (folder / f"{name}.txt").write_bytes(part.encode("utf-8"))
    meta = {"vocab_size": len(characters), "stoi": numbers, "itos": dict(enumerate(characters))}
    (binary / "meta.pkl").write_bytes(pickle.dumps(meta))
    return len(characters)


# ---- the sides -------------------------------------------------------------------------------------------------------


def run_transformers(folder: Path, settings: dict[str, Any], environment: dict[str, str], turn: int) -> dict[str, Any]:
    """The settings on a GPT-2 of ``transformers``; seconds, loss and parameters."""
    data, model = folder / "data" / "shakespeare_char", folder / f"peer-{turn}"
    given = json.dumps({**settings, "seed": settings["seed"] + turn})
    begun = time.perf_counter()
    harness.run_command([sys.executable, str(PEERS), "train", str(data), str(model), given], environment)
    seconds = time.perf_counter() - begun
    found = harness.run_json([sys.executable, str(PEERS), "loss-transformers", str(data), str(model)], environment)
    return {"seconds": seconds, **found}


def run_nanogpt(
    checkout: Path, folder: Path, settings: dict[str, Any], environment: dict[str, str], turn: int
) -> dict[str, Any]:
    """nanoGPT's own script in a copy of what it needs, so that nothing is written into the checkout."""
    for name in ("train.py", "model.py", "configurator.py", "config/train_shakespeare_char.py"):
        copy = folder / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(checkout / name, copy)
    out = folder / f"peer-{turn}"
    options = {
        "device": "cpu",
        "compile": False,
        "block_size": settings["n_positions"],
        "batch_size": settings["batch"],
        "n_layer": settings["n_layer"],
        "n_head": settings["n_head"],
        "n_embd": settings["n_embd"],
        "max_iters": settings["steps"],
        "lr_decay_iters": settings["steps"],
        "warmup_iters": settings["warmup"],
        "dropout": 0.0,
        # It can save only where it evaluates: after the last step, over no batches at all.
        "eval_interval": settings["steps"],
        "eval_iters": 0,
        "always_save_checkpoint": True,
        "log_interval": 100,
        "out_dir": out.name,
    }
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py"]
    begun = time.perf_counter()
    harness.run_command([*command, *(f"--{name}={value}" for name, value in options.items())], environment, folder)
    seconds = time.perf_counter() - begun
    data, checkpoint = folder / "data" / "shakespeare_char", out / "ckpt.pt"
    evaluate = [sys.executable, str(PEERS), "loss-nanogpt", str(data), str(checkpoint), str(folder)]
    return {"seconds": seconds, **harness.run_json(evaluate, environment)}


def run_ours(
    recipe: Path, options: dict[str, Any], folder: Path, threads: int, environment: dict[str, str], turn: int
) -> dict[str, Any]:
    """``gptloom pretrain``; its parameters and, for every evaluation, seconds since the start and the loss."""
    run = folder / f"ours-{turn}"
    command = [sys.executable, "-m", "gptloom", "pretrain", "--data", str(folder / "train.txt"), "--valid"]
    command += [str(folder / "val.txt"), "--recipe", str(recipe), "--out", str(run), "--quiet", "--yes"]
    command += ["--threads", str(threads), "--seed", str(options["seed"] + turn)]
    for name, value in options.items():
        command += [] if name == "seed" else [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory() as cache:
        begun = time.time()  # the clock that the events are stamped with
        harness.run_command(command, {**environment, "TORCHINDUCTOR_CACHE_DIR": cache})
        seconds = time.time() - begun
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    start = next(event for event in events if event["type"] == "start")
    evaluations = [
        {"seconds": event["time"] - begun, "loss": event["valid_loss"], "step": event["step"]}
        for event in events
        if event["type"] == "evaluate"
    ]
    return {"seconds": seconds, "parameters": start["parameters"], "evaluations": evaluations}


# ---- both ------------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """The peer and ours in turns, and when ours was as good as the peer."""
    text = tiny_text() if arguments.tiny else arguments.data.read_bytes().decode("utf-8")
    settings = {**(TINY_SETTINGS if arguments.tiny else SETTINGS), "seed": arguments.seed}
    settings["vocab_size"] = prepare(text, folder)
    options = {**(TINY_OPTIONS if arguments.tiny else {}), "seed": arguments.seed}
    # For both sides: torch itself reads it when a process starts.
    environment = {"OMP_NUM_THREADS": str(arguments.threads)}
    peer = "nanoGPT" if arguments.nanogpt else "transformers"
    ours = "gptloom"
    peer_run = partial(run_nanogpt, arguments.nanogpt) if arguments.nanogpt else run_transformers
    sides = {
        peer: partial(peer_run, folder, settings, environment),
        ours: partial(run_ours, arguments.recipe, options, folder, arguments.threads, environment),
    }
    raw = harness.take_turns(sides, arguments.rounds)
    rounds = [meet(theirs, mine) for theirs, mine in zip(raw[peer], raw[ours], strict=True)]
    table = {
        peer: {
            "seconds": harness.median([theirs["seconds"] for theirs in raw[peer]]),
            "loss": harness.median([theirs["loss"] for theirs in raw[peer]]),
            "parameters": raw[peer][0]["parameters"],
            "whole run s": harness.median([theirs["seconds"] for theirs in raw[peer]]),
        },
        ours: {
            "seconds": harness.median([found["seconds"] for found in rounds]),
            "loss": harness.median([found["loss"] for found in rounds]),
            "parameters": raw[ours][0]["parameters"],
            "whole run s": harness.median([mine["seconds"] for mine in raw[ours]]),
        },
    }
    share = harness.median([found["share"] for found in rounds])
    checks = (
        []
        if arguments.tiny
        else [Check(f"seconds to {peer}'s loss, of its own", share, TARGET_SHARE, "×", at_most=True)]
    )
    notes = [
        sentence(index, theirs, found) for index, (theirs, found) in enumerate(zip(raw[peer], rounds, strict=True))
    ]
    if arguments.tiny:
        notes.append("tiny settings: the figures mean nothing and no target is judged")
    kept = {**raw, "rounds": rounds, "recipe": arguments.recipe.read_text(encoding="utf-8")}
    given = {"rounds": arguments.rounds, "threads": arguments.threads, **settings}
    return Result("char_recipe", given, {f"to the loss of {peer}": table}, checks, notes, kept)


def meet(theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """The first evaluation of ours at or below the peer's loss. RuntimeError when ours has more parameters."""
    if mine["parameters"] > theirs["parameters"]:
        raise RuntimeError(f"ours has {mine['parameters']:,} parameters, the peer {theirs['parameters']:,}")
    losses = [found["loss"] for found in mine["evaluations"] if found["loss"] is not None]
    for found in mine["evaluations"]:
        if found["loss"] is not None and found["loss"] <= theirs["loss"]:
            return {**found, "share": found["seconds"] / theirs["seconds"]}
    return {"seconds": None, "loss": min(losses, default=None), "step": None, "share": None}


def sentence(index: int, theirs: dict[str, Any], found: dict[str, Any]) -> str:
    """What a round came to."""
    peer = f"round {index + 1}: the peer's loss {theirs['loss']:.4f} after {theirs['seconds']:.1f} s"
    if found["seconds"] is None:
        return f"{peer}; ours did not get there (best: {harness.figure(found['loss'])})"
    return f"{peer}; ours {found['loss']:.4f} after {found['seconds']:.1f} s (step {found['step']}): {found['share']:.3f} of it"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nanogpt", type=Path, metavar="CHECKOUT", help="a checkout of nanoGPT (default: transformers)"
    )
    parser.add_argument("--data", type=Path, default=SHAKESPEARE, metavar="FILE", help="Tiny Shakespeare's input.txt")
    parser.add_argument(
        "--recipe", type=Path, default=HERE / "char_recipe.yaml", metavar="FILE", help="options of ours"
    )
    parser.add_argument("--rounds", type=int, help="runs of each side (default: 3)")
    parser.add_argument("--seed", type=int, default=1337, help="of the first round; nanoGPT's own never changes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: the cores)")
    parser.add_argument("--tiny", action="store_true", help="a one-block model, a few steps: only to see the bench run")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.tiny else 3)
    arguments.threads = arguments.threads or harness.cores()
    if not arguments.tiny and not arguments.data.is_file():
        parser.error(f"{arguments.data} is not there: --data names Tiny Shakespeare's input.txt")
    if arguments.nanogpt is not None and not (arguments.nanogpt / "train.py").is_file():
        parser.error(f"{arguments.nanogpt} holds no train.py: --nanogpt names a checkout of nanoGPT")
    return arguments


def main() -> int:
    return harness.run_in_folder(parse(), measure)


if __name__ == "__main__":
    sys.exit(main())
