"""What ``data prepare`` writes: one file, or one to train on and one to validate, beside the input, never over a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptloom.config.errors import UserError
from gptloom.config.files import new_file_problems, write_named
from gptloom.data.inputs import COMPRESSIONS
from gptloom.data.prepare.rows import Pairs, Rows

MOST_VALIDATION = 1000
TRAINED = 0.8
SEED = 42  # OpenAI's, so that its tool and this one draw the same rows


@dataclass(frozen=True)
class Sides:
    """Rows to train on and rows to validate, and how many were moved because training has their question."""

    train: Pairs
    valid: Pairs
    moved: int


def split(rows: Pairs) -> Sides:
    """The draw of OpenAI's tool: a fifth of the rows, at most 1,000, validate.

    Of those, rows whose prompt is also trained on (but for case and spaces) are moved to training: a model would know
    their answer by heart.
    """
    n_train = max(len(rows) - MOST_VALIDATION, int(TRAINED * len(rows)))
    drawn = np.random.RandomState(SEED).choice(len(rows), size=n_train, replace=False).tolist()
    trained, prompts = set(drawn), [" ".join(prompt.casefold().split()) for prompt in rows.prompts]
    known = {prompts[place] for place in drawn}
    left = [place for place in range(len(rows)) if place not in trained]
    moved = [place for place in left if prompts[place] in known]
    return Sides(rows.keep([*drawn, *moved]), rows.keep([p for p in left if prompts[p] not in known]), len(moved))


def free_paths(source: Path, out: str | None, parts: Sequence[str]) -> list[Path]:
    """The files to write: ``kant_prepared.jsonl``, with `` (1)`` behind where that is there, or as ``out`` says.

    ``parts`` are the ends of the names: ``[""]`` for one file, ``["_train", "_valid"]`` for two.
    """
    if out is not None and not Path(out).is_dir():
        return [_named(Path(out), part) for part in parts]
    folder = source.parent if out is None else Path(out)
    bare = source.with_suffix("") if source.suffix.lower() in COMPRESSIONS else source
    copy = 0
    while True:
        end = f" ({copy})" if copy else ""
        paths = [folder / f"{bare.stem}_prepared{part}{end}.jsonl" for part in parts]
        if not any(path.exists() for path in paths):
            return paths
        copy += 1


def check_out(out: str | None) -> None:
    """Raises ``UserError`` where a file of ``--out`` is there already, or cannot be one."""
    if out is None or Path(out).is_dir():
        return
    path = Path(out)
    parts = [part for part in (_named(path, "_train"), _named(path, "_valid")) if part.exists()]
    problems = new_file_problems(path, endings=(".jsonl",))
    problems += [problem for part in parts for problem in new_file_problems(part)]
    if problems:
        raise UserError(*problems)


def _named(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}{part}{path.suffix}")


def write(files: Sequence[tuple[Path, Rows]]) -> None:
    """Writes each file whole, or none of them. Raises ``UserError`` where one cannot be written."""
    done: list[Path] = []
    try:
        for path, rows in files:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.objects())
            write_named(path, "".join(lines))
            done.append(path)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise
