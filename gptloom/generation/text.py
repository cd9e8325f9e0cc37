"""From tokens to text as it is written: whole UTF-8 characters only, and nothing that may belong to a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class Vocabulary(Protocol):
    """What generation needs of a tokenizer."""

    eot_id: int

    def token_bytes(self, token_id: int) -> bytes: ...


class TextStream:
    """Collects tokens of one completion and gives out the text that is settled.

    Bytes that are not UTF-8 become U+FFFD, so the pieces joined equal ``Tokenizer.decode(..., skip_special=True)``.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        """``stop``: texts that end the completion and are not part of it."""
        self._vocabulary = vocabulary
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.text = ""  # everything given out so far
        self.stopped = False  # a stop text has appeared

    def push(self, token_id: int) -> str:
        """The text that this token settles, often but not always its own."""
        return self._settle(self._decoder.decode(self._vocabulary.token_bytes(token_id)))

    def finish(self) -> str:
        """What was still held back; an unfinished character becomes U+FFFD. Nothing after a stop text."""
        if self.stopped:
            return ""
        piece = self._settle(self._decoder.decode(b"", final=True)) + self._held
        self.text += self._held
        self._held = ""
        return piece

    def _settle(self, new: str) -> str:
        self._held += new
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
        else:
            cut = len(self._held) - self._longest_beginning()
            piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop text begins."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
