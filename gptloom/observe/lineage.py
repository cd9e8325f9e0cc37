"""Where a model comes from: the tree of its parents, read from the ``gptloom.json`` beside each model's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import LINEAGE_FILE

ContentHash = Callable[[Path], str]
"""The identity of the weights in a model folder: ``gptloom.model.store.content_hash``."""


@dataclass(frozen=True)
class Ancestor:
    """A model of the tree: its folder, its hash as its child recorded it, its own lineage record, and what is amiss."""

    path: Path
    hash: str
    record: dict[str, Any]
    note: str | None = None
    parents: list[Ancestor] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        keys = ("stage", "run", "step", "tokens", "data_hash", "metrics", "source")
        about = {key: self.record.get(key) for key in keys}
        parents = [parent.as_json() for parent in self.parents]
        return {"path": str(self.path), "hash": self.hash, "note": self.note, **about, "parents": parents}


def lineage(folder: Path, content_hash: ContentHash) -> Ancestor:
    """The tree above the model in ``folder``. Raises UserError when nothing there says where it comes from.

    A parent that is gone, was changed since, or is its own ancestor stays in the tree with a note and ends its branch.
    """
    if not (folder / LINEAGE_FILE).is_file():
        raise UserError(Problem(f"no {LINEAGE_FILE} here, so where this model comes from is not known", str(folder)))
    return _ancestor(folder, content_hash(folder), content_hash, frozenset())


def tree_lines(root: Ancestor) -> Iterator[str]:
    """The tree for a terminal, the model first and its parents indented below it."""
    yield _label(root)
    yield from _branches(root, "")


def _branches(node: Ancestor, indent: str) -> Iterator[str]:
    for number, parent in enumerate(node.parents, start=1):
        last = number == len(node.parents)
        yield indent + ("└─ " if last else "├─ ") + _label(parent)
        yield from _branches(parent, indent + ("   " if last else "│  "))


def _label(node: Ancestor) -> str:
    about = [node.hash[:12]]
    if node.record.get("stage"):
        step = node.record.get("step")
        about.append(node.record["stage"] + (f" to step {step:,}" if step is not None else ""))
    return f"{node.path}  ({', '.join(about + ([node.note] if node.note else []))})"


def _ancestor(folder: Path, recorded: str, content_hash: ContentHash, below: frozenset[str]) -> Ancestor:
    if recorded in below:
        return Ancestor(folder, recorded, {}, "its own ancestor")
    if not folder.is_dir():
        return Ancestor(folder, recorded, {}, "not here any more")
    now = content_hash(folder)
    if now != recorded:
        return Ancestor(folder, recorded, {}, f"changed since: now {now[:12]}")
    record = _read_record(folder / LINEAGE_FILE)
    parents = [
        _ancestor(Path(os.path.normpath(folder / parent["path"])), parent["hash"], content_hash, below | {recorded})
        for parent in record.get("parents") or []
    ]
    return Ancestor(folder, recorded, record, None, parents)


def _read_record(path: Path) -> dict[str, Any]:
    """The part ``lineage`` of a ``gptloom.json``; empty for a model made elsewhere, which has no such file."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["lineage"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(Problem(f"holds no lineage: {error!r}", str(path))) from error
    assert isinstance(record, dict), f"{path}: lineage is no mapping"
    return record
