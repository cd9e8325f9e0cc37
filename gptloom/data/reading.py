"""Bytes of a file to text: decompression, encoding, byte order mark and line ends, and the place of what is wrong."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from gptloom.config.errors import Problem, UserError, nearest

CHUNK_BYTES = 1 << 20
_WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def check_encoding(encoding: str) -> None:
    """Raises ``UserError`` when Python knows no text encoding of this name."""
    try:
        "".encode(encoding)
    except LookupError:
        common = ["utf-8", "latin-1", "cp1252", "utf-16", "shift_jis", "gb18030", "big5", "euc-kr", "koi8-r"]
        raise UserError(
            Problem(f"unknown encoding {encoding!r}", where="--encoding", mend=nearest(encoding, common))
        ) from None


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of one or more frames. (The library's own reader takes a cut-off file for a whole one.)"""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._inside = False  # a frame has begun and not ended
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data or self._file.read(1 << 14)
            if not packed:
                if self._inside:
                    raise EOFError("it ends inside a frame")
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            self._ready = memoryview(self._frame.decompress(packed))
            self._inside = not self._frame.eof
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed by its suffix; damaged data raises ``UserError`` while it is read."""
    import zstandard

    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": partial(gzip.open, mode="rb"),
        ".xz": partial(lzma.open, mode="rb"),
        ".zst": lambda packed: io.BufferedReader(_ZstdStream(packed.open("rb")), CHUNK_BYTES),
    }
    opener = openers.get(path.suffix.lower())
    try:
        with opener(path) if opener else path.open("rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(
            Problem(
                f"damaged or cut-off compressed file ({error})", where=str(path), mend="copy or pack the file again"
            )
        ) from None


def read_chunks(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file in chunks: see ``decoded``."""
    with open_bytes(path) as stream:
        yield from decoded(stream, str(path), encoding)


def decoded(stream: IO[bytes], name: str, encoding: str) -> Iterator[str]:
    """A text in chunks, without its byte order mark and with ``\\n`` at every line end; ``name``: where it comes from.

    Raises ``UserError``: binary data (NUL bytes), or bytes that are not of the encoding, with their offset (in the
    decompressed data).
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    offset, beginning = 0, True
    while True:
        raw = stream.read(CHUNK_BYTES)
        _refuse_binary(name, raw, offset, encoding)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            # what the decoder held back from the chunk before is the beginning of error.object
            place = offset - (len(error.object) - len(raw)) + error.start
            raise _not_decodable(name, place, error, encoding) from None
        text = line_ends.decode(text, final=not raw)
        if beginning and text:
            text, beginning = text.removeprefix("\ufeff"), False
        if text:
            yield text
        if not raw:
            return
        offset += len(raw)


def read_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file, each with its ``\\n`` (the last one may lack it)."""
    rest = ""
    for chunk in read_chunks(path, encoding):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            yield line + "\n"
    if rest:
        yield rest


def _refuse_binary(name: str, raw: bytes, offset: int, encoding: str) -> None:
    if b"\0" not in raw or encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        return
    wide = _WIDE_MARKS.get(raw[:2]) if offset == 0 else None
    if wide:
        raise UserError(Problem(f"text in {wide}, not {encoding}", where=name, mend=f"--encoding {wide}"))
    place = offset + raw.index(b"\0")
    raise UserError(
        Problem(
            f"binary, not text: a NUL byte at byte {place:,}",
            where=name,
            mend="leave it out, or convert it to text",
        )
    )


def _not_decodable(name: str, place: int, error: UnicodeDecodeError, encoding: str) -> UserError:
    found = error.object[error.start : error.start + 1].hex()
    mend = "--encoding latin-1 (Western Europe) or cp1252 (Windows), or convert it: iconv -f latin1 -t utf-8"
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        mend = "another --encoding, or utf-8"
    return UserError(Problem(f"not {encoding} text: byte 0x{found} at byte {place:,}", where=name, mend=mend))
