"""Text that was read in the wrong encoding and saved so: ``cafÃ©`` for ``café``, ``donâ€™t`` for ``don’t``.

UTF-8 bytes that were taken for Windows-1252 leave pairs and triples of characters which next to no language writes.
Only those are turned back; anything that could be meant as it stands stays.
"""

from __future__ import annotations

import re

LOST = "�"
"""What a decoder leaves where a byte had no meaning: nothing brings the character back."""


def _windows(byte: int) -> str:
    """The character of a byte in Windows-1252; the five that it leaves free are control characters, as in Latin-1."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_BYTES = {_windows(byte): byte for byte in range(0x80, 0x100)}
_FOLLOWING = "[" + re.escape("".join(_windows(byte) for byte in range(0x80, 0xC0))) + "]"
# Â and Ã begin what was a letter of Western Europe, but MAÇÃ” ends a quotation: after a capital, Ã is a letter.
# â€ begins what was a quotation mark or a dash, ð what was an emoji; Cyrillic is Ð and Ñ in a row.
_GARBLED = re.compile(
    f"Â{_FOLLOWING}|(?<![A-ZÇÕÁÉÍÓÚ])Ã{_FOLLOWING}|â€{_FOLLOWING}|ð{_FOLLOWING}{{3}}|(?:[ÐÑ]{_FOLLOWING}){{2,}}"
)


def repaired(text: str) -> str:
    """The text as it was before it was misread."""
    return _GARBLED.sub(_turned_back, text)


def _turned_back(match: re.Match[str]) -> str:
    try:
        return bytes(_BYTES[character] for character in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]
