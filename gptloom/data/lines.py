"""Lines of text files of any size, one at a time: what is not UTF-8 is found by line and byte, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from gptloom.data.inputs import COMPRESSIONS
from gptloom.data.reading import CHUNK_BYTES, open_bytes


class Place(NamedTuple):
    """One of several rows that begin on a line."""

    line: int
    item: int  # from 1, of the whole file


Find = Callable[[int | Place, str, str, str | None], None]
"""Takes the number of a line or row, or its place, a kind (see ``Findings.add``), what was found there, and the mend."""
Decode = Callable[[bytes], str]
"""Takes the bytes of a line. Raises ``UnicodeDecodeError`` where they are no text."""
NOT_UTF8 = "lines that are not UTF-8"
"""A kind of findings."""
LOST_ROWS = "places from which more rows are lost"
"""A kind of findings: nobody knows how many rows are behind one, so a file that has one must not be used without them."""


class Line(NamedTuple):
    number: int
    text: str  # without its end, and without a byte order mark
    sound: bool  # False: it has bytes that are no text; they were found, and stand as U+FFFD here


def text_lines(path: Path, find: Find, decode: Decode = bytes.decode) -> Iterator[Line]:
    """Every line of a file, in UTF-8 unless ``decode`` knows better. Only a line feed ends one, alone or behind a carriage
    return; a carriage return does in a file without any line feed. The other line ends of Unicode are letters of a text."""
    with open_bytes(path) as stream:
        for number, raw in enumerate(_ended(stream), start=1):
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            sound = b"\0" not in raw
            if not sound:
                what = f"a NUL byte, at byte {raw.index(0) + 1:,} of the line: no text has one"
                find(number, "lines with NUL bytes", what, "is it a text file, and whole? copy or convert it again")
            try:
                text = decode(raw)
            except UnicodeDecodeError as error:
                text, sound = raw.decode(errors="replace"), False
                _find_undecodable(path, number, error, find)
            yield Line(number, text.removeprefix("\ufeff"), sound)


def _ended(stream: IO[bytes]) -> Iterator[bytes]:
    first = stream.read(CHUNK_BYTES)
    if b"\r" in first and b"\n" not in first:
        yield from (first + stream.read()).split(b"\r")
        return
    *whole, rest = first.split(b"\n")
    yield from whole
    parts = [rest]
    for raw in stream:  # the end of a line that began in the first chunk, then whole lines
        parts.append(raw)
        yield b"".join(parts)
        parts = []
    if any(parts):
        yield b"".join(parts)


def _find_undecodable(path: Path, number: int, error: UnicodeDecodeError, find: Find) -> None:
    letter = error.object[error.start : error.start + 1]
    guess = f" ({letter.decode('latin-1')!r} in latin-1)" if letter >= b"\xa0" else ""
    unpack, name = "", path
    if path.suffix in COMPRESSIONS:
        unpack, name = "unpack it, then ", path.with_suffix("")
    new = name.with_name(f"{name.stem}.utf8{name.suffix}")
    what = f"not UTF-8: byte 0x{letter.hex()}{guess} at byte {error.start + 1:,} of the line"
    mend = f"{unpack}iconv -f latin1 -t utf-8 {name} > {new} (cp1252 for files of Windows; editors: save as UTF-8)"
    find(number, NOT_UTF8, what, mend)
