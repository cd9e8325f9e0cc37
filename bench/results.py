"""Makes ``RESULTS.md`` of the raw figures: ``python bench/results.py [--check]``.

Every bench's ``--json FILE`` belongs in ``bench/results/``, named ``BENCH.json`` or ``BENCH-SOMETHING.json``. The page
is written from these files alone and never by hand; ``--check`` only says whether it is what they give (status 1: not).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness

RAW, PAGE = harness.HERE / "results", harness.HERE / "RESULTS.md"
ORDER = (
    "train_step",
    "bert_step",
    "processes",
    "overhead",
    "checkpoint",
    "shard_memory",
    "char_recipe",
    "decode",
    "tokenize",
    "doors",
    "finetune",
    "feature",
    "sms_spam",
    "sft",
    "data_check",
    "startup",
)
HEAD = """# Results

What the benches measured, both sides in one run. Written by `bench/results.py` from the raw figures in `bench/results/`;
[README.md](README.md) says what each bench compares, how to run it, and what bounds a target that was missed.
"""
NOTHING = "\nNothing has been measured yet.\n"


def read_results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every stored result, in the order of the page. ValueError when a file is no bench's."""
    found = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("bench") not in ORDER:
            raise ValueError(f"{path} is not the --json file of a bench")
        found.append((path, document))
    return sorted(found, key=lambda item: (ORDER.index(item[1]["bench"]), item[0].name))


def page(results: list[tuple[Path, dict[str, Any]]]) -> str:
    """The whole of ``RESULTS.md``."""
    parts = [HEAD]
    for path, document in results:
        parts.append(f"\n## {document['bench']}\n\n")
        parts.append("".join(table(title, sides) for title, sides in document["tables"].items()))
        lines = [f"**{harness.sentence(check)}**" for check in document["checks"]]
        lines += document["notes"]
        lines += [f"Settings: {listed(document['settings'])}.", f"Machine: {machine_line(document['machine'])}."]
        lines += [
            f"Measured {document['date']} at commit {document['commit']}; raw: [{path.name}](results/{path.name})."
        ]
        parts.append("".join(f"- {line}\n" for line in lines))
    return "".join(parts) if results else HEAD + NOTHING


def table(title: str, sides: Mapping[str, Mapping[str, float | None]]) -> str:
    """One table in Markdown, and an empty line."""
    columns = list(next(iter(sides.values())))
    rows = [[title, *columns], ["---", *["---:"] * len(columns)]]
    rows += [[name, *(harness.figure(figures[column]) for column in columns)] for name, figures in sides.items()]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows) + "\n"


def listed(settings: Mapping[str, Any]) -> str:
    """``batch 4, length 512, dropout 0.0 0.1``."""
    texts = {name: " ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in settings.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def machine_line(machine: Mapping[str, Any]) -> str:
    """Processor, cores, memory and versions; what a figure depends on."""
    memory = machine["memory_total"]
    hardware = [f"{machine['cpu']}, {machine['cores']} cores"]
    hardware += [f"{memory / 2**30:.0f} GiB"] if memory else []
    hardware += [", ".join(machine["bf16_instructions"])] if machine["bf16_instructions"] else []
    packages = ("gptloom", "python", "torch", "transformers", "tokenizers", "numpy")
    versions = [f"{name} {machine[name]}" for name in packages if machine.get(name)]
    return ", ".join([*hardware, machine["system"], *versions])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when the page is not up to date")
    parser.add_argument(
        "--raw", type=Path, default=RAW, metavar="FOLDER", help="the raw figures (default: bench/results)"
    )
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="the page (default: bench/RESULTS.md)")
    arguments = parser.parse_args()
    text = page(read_results(arguments.raw))
    if arguments.check:
        return 0 if arguments.page.is_file() and arguments.page.read_text(encoding="utf-8") == text else 1
    arguments.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
