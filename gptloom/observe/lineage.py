"""Where a model comes from: the tree of its parents, read from the ``gptloom.json`` beside each model's weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError

CARD = "gptloom.json"


@dataclass(frozen=True)
class Ancestor:
    """A model in the tree: ``hash`` as its child recorded it, ``card`` its ``gptloom.json``, ``note`` if not read."""

    path: Path
    hash: str | None
    card: dict[str, Any]
    note: str | None = None
    parents: list[Ancestor] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "hash": self.hash,
            "note": self.note,
            "metrics": self.card.get("metrics"),
            "parents": [parent.as_json() for parent in self.parents],
        }


def lineage(path: Path) -> Ancestor:
    """The tree above a model folder, a run folder (its ``final/``) or a ``gptloom.json``; raises UserError without one.

    Parents that are gone, changed since, or their own ancestors stay in the tree with a note, and end their branch.
    """
    card = _find_card(path)
    if card is None:
        mend = "gptloom runs lists the runs; a run has its card once final/ is written"
        raise UserError(Problem(f"no {CARD} here, which says where a model comes from", str(path), mend))
    return _ancestor(path, None, frozenset())


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
    about = [part for part in ((node.hash or "")[:12], node.note) if part]
    return str(node.path) + (f"  ({', '.join(about)})" if about else "")


def _ancestor(path: Path, recorded: str | None, below: frozenset[Path]) -> Ancestor:
    card_path = _find_card(path)
    if card_path is None:
        return Ancestor(path, recorded, {}, "not here any more")
    if card_path.resolve() in below:
        return Ancestor(path, recorded, {}, "its own ancestor")
    card = _read_card(card_path)
    own = card.get("hash")
    if recorded and own and own != recorded:
        return Ancestor(path, recorded, {}, f"changed since: now {own[:12]}")
    below = below | {card_path.resolve()}
    parents = [
        _ancestor(_relative_to(card_path.parent, parent["path"]), parent.get("hash"), below)
        for parent in card.get("parents") or []
    ]
    return Ancestor(path, recorded or own, card, None, parents)


def _find_card(path: Path) -> Path | None:
    for candidate in (path, path / CARD, path / "final" / CARD):
        if candidate.name == CARD and candidate.is_file():
            return candidate
    return None


def _relative_to(folder: Path, written: str) -> Path:
    """A parent's path as written (from where the command ran), else from the child's folder where only that exists."""
    path = Path(written)
    beside = folder / path
    return beside if not path.exists() and beside.exists() else path


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(Problem(f"not JSON: {error}", str(path))) from error
    if not isinstance(card, dict):
        raise UserError(Problem("not a JSON object", str(path)))
    return card
