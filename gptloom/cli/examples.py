"""How an example looks in a terminal: tokens coloured by what they are there for, or in brackets without colours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from gptloom.observe.terminal import printable

if TYPE_CHECKING:
    from gptloom.stages.shown_tokens import ShownExample, ShownToken

COLOURS = {  # ANSI's, for light and dark grounds
    "start": "34",
    "first text": "36",
    "delimiter": "35",
    "second text": "32",
    "extract": "31",
    "answer": "1;33",
    "O": "2",
    "prompt": "2",
    "end": "1;31",
}
LEARNED = ("answer", "end")  # of a conversation
OF_TAGS = ("1;33", "1;32", "1;35", "1;36", "1;31", "1;34")


class Painter:
    """One look for all examples of a page: a tag has the same colour in each."""

    def __init__(self, examples: Sequence[ShownExample], colours: bool) -> None:
        tokens = [token for example in examples for row in example.rows for token in row]
        self.parts = list(dict.fromkeys(token.part for token in tokens))
        tags = sorted(part for part in self.parts if part not in COLOURS)
        self._colour = {**COLOURS, **{tag: OF_TAGS[place % len(OF_TAGS)] for place, tag in enumerate(tags)}}
        self.colours = colours

    def legend(self) -> str:
        """What each colour stands for; brackets need no legend."""
        return "  ".join(self._painted(part, part) for part in self.parts) if self.colours else ""

    def row(self, tokens: Sequence[ShownToken]) -> str:
        """``start[<s>] first text[a ·good ·film] extract[</s>]``, or the tokens alone in colours."""
        runs = [
            (part, " ".join(token.text for token in run)) for part, run in groupby(tokens, lambda token: token.part)
        ]
        return " ".join(self._painted(part, text) if self.colours else f"{part}[{text}]" for part, text in runs)

    def lines(self, example: ShownExample) -> list[str]:
        """The place and label of an example, or how much of it is learned, then its rows."""
        lengths = [len(row) for row in example.rows]
        about = f"{sum(lengths)} tokens" + (f" in {len(lengths)} rows" if len(lengths) > 1 else "")
        about += f", {example.cut} more cut" if example.cut else ""
        if example.label is None:
            about += f", {sum(token.role in LEARNED for token in example.rows[0])} of them learned"
        label = "" if example.label is None else f": label {example.label}"
        first = f"--- {example.where}{label} ({about})"
        return [printable(first.replace("\n", " ")), *(self.row(row) for row in example.rows)]

    def _painted(self, part: str, text: str) -> str:
        return f"\x1b[{self._colour[part]}m{text}\x1b[0m"
