"""Files in, documents out: a text file is one document (or several, with a separator), a row of a table is one.

Long documents come in pieces, so that memory stays bounded and one long text is tokenized on all cores.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.inputs import Source, data_suffix, expand_inputs
from gptloom.data.json_rows import HALF, HALF_FOUND, broken_json
from gptloom.data.reading import check_encoding, decoded, open_bytes, read_chunks, read_lines

PIECE_CHARACTERS = 1 << 17
LISTED_PROBLEMS = 5  # broken lines named per file
TEXT_COLUMNS = ("text", "content", "body", "document", "article", "story", "message")

# Where a long text may be cut so that the tokens on both sides stay what they were, best first. GPT-2's pattern (and
# later ones) never joins a line feed with what follows it when that is no white space, and takes a line feed between
# two such characters as a token or the end of one; a cut inside longer white space would change tokens. A single space
# between letters belongs to the word after it. Text with neither is cut before any white space, else anywhere.
_CUTS = (re.compile(r"\S\n(?=\S)"), re.compile(r"[^\W\d_](?= [^\W\d_])"), re.compile(r"\S(?=\s)"))
_CUT_SEARCH = 1 << 15  # characters before the end of a piece in which the best cut is looked for


@dataclass(frozen=True, slots=True)
class Document:
    """A document, or a piece of one: where ``ends`` is False the next ``Document`` continues the text."""

    text: str
    source: str  # path of the file
    line: int  # where the text begins in its file, from 1 (a row's number in Parquet)
    ends: bool = True


@dataclass(frozen=True)
class Reading:
    """How files are read: what `--text-column`, `--document-separator` and `--encoding` say."""

    text_column: str | None = None
    document_separator: str | None = None
    encoding: str = "utf-8"

    def check(self, sources: Sequence[Source]) -> None:
        """Raises ``UserError`` for an unknown encoding, and for an option that none of the sources has a use for."""
        check_encoding(self.encoding)
        formats = {source.format for source in sources}
        problems = []
        if self.document_separator == "":
            problems.append(Problem("an empty separator separates nothing", where="--document-separator"))
        if self.document_separator and "text" not in formats:
            problems.append(
                Problem("no text file among the data: rows are documents already", where="--document-separator")
            )
        if self.text_column and formats == {"text"}:
            problems.append(
                Problem("the data are plain text, without columns", where="--text-column", mend="leave it out")
            )
        if problems:
            raise UserError(*problems)


def iter_documents(
    paths: Sequence[str],
    *,
    text_column: str | None = None,
    document_separator: str | None = None,
    encoding: str = "utf-8",
) -> Iterator[Document]:
    """Documents of files, folders and globs in order, long ones in pieces; those without any text are left out.

    Raises ``UserError`` for what cannot be read: see ``expand_inputs`` and ``read_documents``.
    """
    sources = expand_inputs(paths)
    reading = Reading(text_column, document_separator, encoding)
    reading.check(sources)
    for source in sources:
        yield from read_documents(source, reading)


def read_documents(source: Source, reading: Reading) -> Iterator[Document]:
    """The documents of one file. ``UserError`` names file and line (or byte) of what is broken."""
    if source.format == "text":
        chunks = read_chunks(source.path, reading.encoding)
        rows = _separated(chunks, reading.document_separator)
    else:
        readers: dict[str, Callable[[Source, Reading], Iterable[tuple[str, int]]]] = {
            "jsonl": _jsonl,
            "csv": _csv,
            "parquet": _parquet,
        }
        whole = readers[source.format](source, reading)
        rows = (
            piece for text, line in whole for piece in _pieces(text.replace("\r\n", "\n").replace("\r", "\n"), line)
        )
    name = str(source.path)
    for text, line, ends in rows:
        yield Document(text, name, line, ends)


def stream_documents(stream: IO[bytes], name: str, reading: Reading) -> Iterator[Document]:
    """The documents of a text that is in no file; the rest is as ``read_documents``."""
    for text, line, ends in _separated(decoded(stream, name, reading.encoding), reading.document_separator):
        yield Document(text, name, line, ends)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def cut_place(text: str, start: int, end: int) -> int:
    """Where to cut ``text`` after ``start`` and at or before ``end``, so that tokens stay what they are if possible."""
    for pattern in _CUTS:
        places = [match.end() for match in pattern.finditer(text, max(start, end - _CUT_SEARCH), end + 1)]
        places = [place for place in places if start < place <= end]
        if places:
            return places[-1]
    return end


def _pieces(text: str, line: int) -> Iterator[tuple[str, int, bool]]:
    """One whole document as (piece, line, ends); nothing when it is white space only."""
    if not text.strip():
        return
    start = 0
    while len(text) - start > PIECE_CHARACTERS + 1:
        cut = cut_place(text, start, start + PIECE_CHARACTERS)
        yield text[start:cut], line, False
        line += text.count("\n", start, cut)
        start = cut
    yield text[start:], line, True


def _separated(chunks: Iterable[str], separator: str | None) -> Iterator[tuple[str, int, bool]]:
    """A text file as (piece, line, ends): one document, or those between separators, without line feeds around them."""
    rest, line, begun = "", 1, False  # begun: a piece of the current document is out
    margin = 1 + len(separator or "")  # a separator that has come only in part must stay in one piece
    for chunk in chunks:
        rest += chunk
        if separator is not None:
            *whole, rest = rest.split(separator)
            for text in whole:
                yield from _close(text, line, begun, separated=True)
                line += text.count("\n") + separator.count("\n")
                begun = False
        start = 0
        while len(rest) - start > PIECE_CHARACTERS + margin:
            cut = cut_place(rest, start, start + PIECE_CHARACTERS)
            yield rest[start:cut], line, False
            line += rest.count("\n", start, cut)
            start, begun = cut, True
        rest = rest[start:]
    yield from _close(rest, line, begun, separated=separator is not None)


def _close(text: str, line: int, begun: bool, separated: bool) -> Iterator[tuple[str, int, bool]]:
    """The last part of a document; when pieces of it are out already, its end must come even without text."""
    if separated:
        if not begun:
            line += len(text) - len(text.lstrip("\n"))
            text = text.lstrip("\n")
        text = text.rstrip("\n")
    if begun and not text.strip():
        yield text, line, True
    else:
        yield from _pieces(text, line)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _jsonl(source: Source, reading: Reading) -> Iterator[tuple[str, int]]:
    column = reading.text_column or "text"
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(source.path, reading.encoding), start=1):
        if line.isspace():
            continue
        text = _json_text(line, column, f"{source.path}:{number}")
        if isinstance(text, Problem):
            problems.append(text)
            if len(problems) == LISTED_PROBLEMS:
                break
        elif not problems:
            yield text, number
    if problems:
        raise UserError(*problems)


def _json_text(line: str, column: str, where: str) -> str | Problem:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        what, mend = broken_json(error, line)
        return Problem(what, where=where, mend=mend)
    if not isinstance(row, dict):
        return Problem(f"a JSON {type(row).__name__}, not an object with a field {column!r}", where=where)
    text = row.get(column)
    if not isinstance(text, str):
        fields = ", ".join(sorted(key for key, value in row.items() if isinstance(value, str))) or "none"
        state = f"field {column!r} holds {json.dumps(text)[:40]}, not text" if column in row else f"no field {column!r}"
        return Problem(f"{state}; fields with text: {fields}", where=where, mend="--text-column FIELD")
    if not text.isascii() and HALF.search(text):
        return Problem(HALF_FOUND, where=where, mend="delete it")
    return text


def _csv(source: Source, reading: Reading) -> Iterator[tuple[str, int]]:
    csv.field_size_limit(1 << 30)
    rows = csv.reader(read_lines(source.path, reading.encoding), strict=True)
    try:
        header = next(rows, [])
        column = _column(header, reading.text_column, source.path)
        while True:
            number = rows.line_num + 1
            row = next(rows, None)
            if row is None:
                return
            if row and len(row) != len(header):
                raise UserError(
                    Problem(
                        f"{len(row)} cells where the header has {len(header)}",
                        where=f"{source.path}:{number}",
                        mend="quote cells that hold commas or line ends",
                    )
                )
            if row:
                yield row[column], number
    except csv.Error as error:
        where = f"{source.path}:{rows.line_num}"
        raise UserError(
            Problem(f"broken CSV: {error}", where=where, mend="quote cells, double quotes in them")
        ) from None


def _column(header: Sequence[str], wanted: str | None, path: Path) -> int:
    """The column that was asked for, else the only one, or the only one with a telling name."""
    if wanted is not None:
        matches = [index for index, name in enumerate(header) if name == wanted]
    elif len(header) == 1:
        matches = [0]
    else:
        matches = [index for index, name in enumerate(header) if name.strip().lower() in TEXT_COLUMNS]
    if len(matches) == 1:
        return matches[0]
    what = f"no column {wanted!r}" if wanted is not None else "it is not clear which column is the text"
    columns = ", ".join(header) or "none"
    raise UserError(Problem(f"{what}; columns: {columns}", where=f"{path}:1", mend="--text-column COLUMN"))


def _parquet(source: Source, reading: Reading) -> Iterator[tuple[str, int]]:
    try:
        from pyarrow import ArrowInvalid, parquet, types
    except ImportError:
        mend = "pip install 'gptloom[data]'"
        raise UserError(Problem("reading Parquet needs pyarrow", where=str(source.path), mend=mend)) from None
    with open_bytes(source.path) as stream, tempfile.TemporaryFile() as unpacked:
        seekable: IO[bytes] = stream
        if source.path.suffix.lower() != data_suffix(source.path):  # compressed around: Parquet is read from its end
            shutil.copyfileobj(stream, unpacked)
            seekable = unpacked
        try:
            table = parquet.ParquetFile(seekable)
        except ArrowInvalid as error:
            raise UserError(Problem(f"not a Parquet file: {error}", where=str(source.path))) from None
        names = [
            field.name
            for field in table.schema_arrow
            if types.is_string(field.type) or types.is_large_string(field.type)
        ]
        column = names[_column(names, reading.text_column, source.path)]
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[column]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield text or "", number
