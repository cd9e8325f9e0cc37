"""The pages of the Python corpus: what ``help()`` prints for a module, a built-in type or a topic of the manual."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Literal

PageKind = Literal["module", "builtin", "topic"]

# What is no text on a page: control characters except the line end, and lone surrogates, which UTF-8 can't hold.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One docstring: ``heading`` is the dotted name with its signature, empty for a module's or topic's own text."""

    heading: str
    text: str

    def render(self) -> str:
        return f"{self.heading}\n{textwrap.indent(self.text, '    ')}" if self.heading else self.text


@dataclass(frozen=True)
class Page:
    """One document of the corpus. ``group`` is what is held out together: the top-level module, or "topic NAME"."""

    kind: PageKind
    group: str
    heading: str
    entries: tuple[Entry, ...]

    def render(self) -> str:
        blocks = [self.heading] if self.heading else []
        return "\n\n".join(blocks + [entry.render() for entry in self.entries])


def clean_text(text: str) -> str:
    """``inspect.cleandoc``, without trailing blanks and without characters that do not print."""
    lines = inspect.cleandoc(text).split("\n")
    return "\n".join(_UNPRINTABLE.sub("", line).rstrip() for line in lines).strip("\n")
