"""How fast a GPT-2-XL goes through the doors, and how much memory that takes.

    python bench/doors.py [--rounds 3] [--folder .] [--model gpt2-xl] [--json FILE]

A folder as ``transformers`` writes it, of random numbers in float32 (6.2 GB), is imported, and what came of it exported
again to that form. Each side is a process of its own:

- ``bytes copied``: the weight file read and written in order, synced at the end;
- ``import`` and ``export``: the conversion alone (``--no-verify``), content hash and sync included;
- ``import, receipt`` and ``export, receipt``: the comparison alone, float32 on both sides, one model after the other;
- ``models show gpt3-175b``: a whole process.

Targets: a conversion takes at most 1.5 times the seconds of copying the bytes and 1.2 times the bytes of the model as
memory; a receipt at most 1.2 times the fp32 model; ``models show gpt3-175b`` less than 3 s. Memory is the most that the
whole process held at once, Python and torch included (about 0.3 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from torch import Tensor

TARGET_TIME, TARGET_MEMORY, TARGET_SHOW = 1.5, 1.2, 3.0
COPIED, IMPORT, EXPORT, SHOW = "bytes copied", "import", "export", "models show gpt3-175b"
RECEIPT = ", receipt"
BLOCK = 8 << 20  # bytes of a plain read and write
TINY_SHAPE = {"vocab_size": 101, "context": 64, "n_layer": 2, "n_head": 2, "d_model": 64, "head_dim": 0, "d_ff": 0}
WEIGHTS = "model.safetensors"


# ---- the model ---------------------------------------------------------------------------------------------------------


def write_source(folder: Path, model: str, tiny: bool) -> int:
    """A transformers folder of random numbers, written one tensor at a time; its bytes."""
    import torch

    from gptloom.config.model import ModelConfig, preset
    from gptloom.model.folder import write_json
    from gptloom.model.layouts import layout_for
    from gptloom.model.transformer import Transformer
    from gptloom.model.weight_writer import write_tensors

    config = ModelConfig(**{**preset(model), **(TINY_SHAPE if tiny else {})})
    layout = layout_for(config)
    with torch.device("meta"):
        empty = dict(layout.to_tensors(Transformer(config).state_dict(), config))
    generator = torch.Generator().manual_seed(0)

    def draw(name: str) -> Tensor:
        numbers = torch.empty(empty[name].shape).normal_(std=0.02, generator=generator)
        return numbers + 1 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else numbers

    folder.mkdir()
    write_json(folder / "config.json", layout.to_config(config))
    write_tensors(folder / WEIGHTS, empty, draw, {"format": "pt"})
    return sum(tensor.numel() * tensor.element_size() for tensor in empty.values())


# ---- the sides, each in its own process --------------------------------------------------------------------------------


def copy_bytes(source: Path, out: Path) -> dict[str, Any]:
    """Reads the weight file and writes it, in order and synced: the least that a conversion has to do."""
    out.mkdir()
    begun = time.perf_counter()
    with (source / WEIGHTS).open("rb", buffering=0) as read, (out / WEIGHTS).open("wb", buffering=0) as written:
        while block := read.read(BLOCK):
            written.write(block)
        os.fsync(written.fileno())
    return {"seconds": time.perf_counter() - begun}


def pass_door(side: str, source: Path, out: Path) -> dict[str, Any]:
    """An import or export of ``source``; with a receipt, only that is timed."""
    import gptloom
    from gptloom.interop import import_model
    from gptloom.interop.export import door

    name, verify = side.removesuffix(RECEIPT), side.endswith(RECEIPT)
    found: dict[str, Any] = {}

    def run() -> None:
        if name == IMPORT:
            gptloom.import_model(str(source), out=str(out), verify=verify, quiet=True)
        else:
            gptloom.export(str(source), to="hf", out=str(out), verify=verify, quiet=True)

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = work(*arguments, **options)
            found["seconds"] = time.perf_counter() - begun
            return result

        return measured

    if verify:
        module: Any = import_model if name == IMPORT else door
        module.compare = timed(module.compare)
        run()
    else:
        timed(run)()
    return {**found, "peak": harness.peak_bytes()}


def run_side(arguments: argparse.Namespace) -> int:
    """The work of one process; its figures are the last line printed."""
    source, out = Path(arguments.source), Path(arguments.out)
    if arguments.side == COPIED:
        figures = copy_bytes(source, out)
    else:
        figures = pass_door(arguments.side, source, out)
    print(json.dumps(figures))
    return 0


# ---- all sides ---------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """All sides in turns."""
    source, imported = folder / "source", folder / "imported"
    n_bytes = write_source(source, arguments.model, arguments.tiny)
    if shutil.disk_usage(folder).free < 2 * n_bytes + (1 << 28):
        raise RuntimeError(f"{folder} has no room for two more copies of the model: --folder names another disk")
    pass_door_in_process(IMPORT, source, imported)

    def side(name: str) -> Callable[[int], dict[str, Any]]:
        def run(turn: int) -> dict[str, Any]:
            os.sync()
            out = folder / "out"
            try:
                return pass_door_in_process(name, imported if name.startswith(EXPORT) else source, out)
            finally:
                shutil.rmtree(out, ignore_errors=True)

        return run

    names = (COPIED, IMPORT, EXPORT, IMPORT + RECEIPT, EXPORT + RECEIPT)
    raw = harness.take_turns({**{name: side(name) for name in names}, SHOW: show_175b}, arguments.rounds)
    table = {name: summary(raw, name, n_bytes) for name in raw}
    settings = {"model": arguments.model, "GB": round(n_bytes / 1e9, 2), "rounds": arguments.rounds}
    notes = ["tiny settings: the figures mean nothing and no target is judged"] if arguments.tiny else []
    checks = [] if arguments.tiny else compare(table)
    return Result("doors", settings, {f"{n_bytes / 1e9:,.2f} GB": table}, checks, notes, raw)


def pass_door_in_process(side: str, source: Path, out: Path) -> dict[str, Any]:
    """One side as a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--source", str(source), "--out", str(out)]
    return harness.run_json(command)


def show_175b(turn: int) -> dict[str, Any]:
    """``gptloom models show gpt3-175b``, the whole process."""
    begun = time.perf_counter()
    harness.run_command([sys.executable, "-m", "gptloom", "models", "show", "gpt3-175b"])
    return {"seconds": time.perf_counter() - begun}


def summary(raw: dict[str, list[dict[str, Any]]], name: str, n_bytes: int) -> Figures:
    """Medians over the rounds; memory is that of the worst."""
    seconds = harness.median([run["seconds"] for run in raw[name]])
    copied = harness.median([run["seconds"] for run in raw[COPIED]])
    peaks = [run["peak"] for run in raw[name] if run.get("peak") is not None]
    peak = max(peaks) if peaks else None
    return {
        "s": seconds,
        "of the copy": harness.ratio(seconds, copied),
        "memory GB": harness.ratio(peak, 1e9),
        "of the model": harness.ratio(peak, n_bytes),
    }


def compare(table: dict[str, Figures]) -> list[Check]:
    """Time and memory of the conversions, memory of the receipts, and the seconds of ``models show``."""
    checks = []
    for name in (IMPORT, EXPORT):
        what = f"{name}, seconds of the {COPIED}"
        checks.append(Check(what, table[name]["of the copy"], TARGET_TIME, "×", at_most=True))
    for name in (IMPORT, EXPORT, IMPORT + RECEIPT, EXPORT + RECEIPT):
        what = f"{name}, memory of the model's bytes"
        checks.append(Check(what, table[name]["of the model"], TARGET_MEMORY, "×", at_most=True))
    return [*checks, Check(SHOW, table[SHOW]["s"], TARGET_SHOW, " s", at_most=True)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--side", "--source", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return harness.parse_disk_bench(parser, "gpt2-xl")


def main() -> int:
    arguments = parse()
    if arguments.side:
        return run_side(arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=".bench-doors-") as folder:
        result = measure(arguments, Path(folder))
    return harness.finish(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
