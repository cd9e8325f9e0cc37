"""The patterns of ``--train``: shell patterns of parameters, or of what holds them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

OF_HEAD = ("head", "task_head")


def patterns_of(given: Iterable[str]) -> list[str]:
    """One by one, also those that were joined by commas; without the task's head, which is always trained."""
    parts = [part.strip() for pattern in given for part in pattern.split(",")]
    return [part for part in parts if part and part not in OF_HEAD]


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a parameter: ``blocks.10.*``, ``blocks.10``, ``*norm*``, ``embedding.weight``."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
