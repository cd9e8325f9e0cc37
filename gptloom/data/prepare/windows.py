"""Text files in Windows-1252, as spreadsheets save them on Windows: told from other encodings by what their lines say."""

from __future__ import annotations

import re
from pathlib import Path

from gptloom.data.lines import NOT_UTF8, Place, text_lines

EXCERPT = 60  # characters of a word that are shown
_UNLIKELY = re.compile(
    r"[^\W\d_a-zA-Z]{3}"  # three letters in a row of which none is plain: Cyrillic, Greek, Chinese
    r"|[¹³¯¤]|[a-z][¿£]"  # letters of Central Europe
    r"|[a-z][À-ÖØ-ÞŠŽŒŸ]|[a-z][‚„ƒ†‡ˆ‰][a-z]"  # letters of DOS and of old Macs
)
_UNSEEN = "\t\xa0\xad"  # spaces and hyphens that texts have


def windows_text(raw: bytes) -> str:
    """A line in UTF-8, or else in Windows-1252."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def windows_word(path: str) -> str | None:
    """The first word of a file that is no UTF-8, as Windows-1252 spells it; None where some line says nothing in that."""
    words: list[str] = []
    failed: list[str] = []

    def decode(raw: bytes) -> str:
        text = windows_text(raw)
        if not text.isascii() and raw != text.encode():
            if _UNLIKELY.search(text) or not all(one.isprintable() or one in _UNSEEN for one in text):
                raw.decode()  # raises, and the line is found
            words.append(next((word for word in text.split(" ") if not word.isascii()), text)[:EXCERPT])
        return text

    def find(number: int | Place, kind: str, what: str, mend: str | None) -> None:
        failed.append(kind)

    for _ in text_lines(Path(path), find, decode):
        if NOT_UTF8 in failed:
            return None
    return words[0] if words and NOT_UTF8 not in failed else None
