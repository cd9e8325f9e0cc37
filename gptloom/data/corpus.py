"""A corpus: files surveyed once (what is broken, how much text, which documents) and split in training and validation.

The survey reads everything before anything is tokenized or trained, so that a broken line at the end of the last file
is reported in seconds. It keeps 16 bytes per document; text is always streamed.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gptloom.config.errors import Problem, UserError
from gptloom.data.documents import Document, Reading, read_documents
from gptloom.data.inputs import Source, expand_inputs
from gptloom.data.split import LEFT_OUT, TRAIN, VALID, Contents, Sides, SplitChoice, border_in, split_documents

HEAD_BYTES = 1 << 16  # of each file that go into its fingerprint


@dataclass(frozen=True)
class CorpusRequest:
    """What a user asked for: the data and how to read and split them, found on disk but not yet read."""

    sources: tuple[Source, ...]
    valid_sources: tuple[Source, ...] = ()
    split: SplitChoice = "auto"
    valid_fraction: float = 0.1
    reading: Reading = field(default_factory=Reading)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the options and of each file's path, size, time and beginning: equal when nothing has changed."""
        described: dict[str, Any] = {
            "split": self.split,
            "valid_fraction": self.valid_fraction,
            "reading": asdict(self.reading),
            "sources": [_describe(source) for source in self.sources],
            "valid_sources": [_describe(source) for source in self.valid_sources],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _describe(source: Source) -> list[str | int | float]:
    state = source.path.stat()
    with source.path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    return [str(source.path.resolve()), source.weight, state.st_size, state.st_mtime_ns, head]


def request_corpus(
    data: Sequence[str],
    *,
    valid: Sequence[str] = (),
    split: SplitChoice = "auto",
    valid_fraction: float = 0.1,
    text_column: str | None = None,
    document_separator: str | None = None,
    encoding: str = "utf-8",
) -> CorpusRequest:
    """Finds the files; ``UserError`` as in ``expand_inputs``, for idle options and a file in ``data`` and ``valid``."""
    sources = expand_inputs(data)
    valid_sources = expand_inputs(valid) if valid else []
    reading = Reading(text_column, document_separator, encoding)
    reading.check([*sources, *valid_sources])
    trained = {source.path.resolve() for source in sources}
    problems = [
        Problem("the same file is in --data", where=f"--valid {source.path}", mend="take it out of one of the two")
        for source in valid_sources
        if source.path.resolve() in trained
    ]
    problems += [
        Problem("validation has no weights: all of it is read once", where=f"--valid {source.path}@{source.weight:g}")
        for source in valid_sources
        if source.weight != 1
    ]
    if problems:
        raise UserError(*problems)
    return CorpusRequest(tuple(sources), tuple(valid_sources), split, valid_fraction, reading)


@dataclass(frozen=True)
class CorpusFile:
    """One surveyed file and the side of each of its documents."""

    source: Source
    reading: Reading
    contents: Contents
    sides: Sides

    @cached_property
    def n_bytes(self) -> int:
        """UTF-8 bytes of its text, after BOM and line ends were mended."""
        return int(self.contents.n_bytes.sum())

    @cached_property
    def n_train_bytes(self) -> int:
        """Those of the training side, to within a line where the file is cut."""
        total = int(self.contents.n_bytes[self.sides.sides == TRAIN].sum())
        cut = self.sides.cut
        return total if cut is None else total - int(self.contents.n_bytes[cut.document]) + cut.byte

    def documents(self) -> Iterator[tuple[int, Document]]:
        """(side, document or piece): side is ``split.TRAIN`` or ``split.VALID``; left-out documents are skipped."""
        return _apply(read_documents(self.source, self.reading), self.sides)


@dataclass(frozen=True)
class Corpus:
    """Surveyed and split files: those of ``--data``, then those of ``--valid``."""

    request: CorpusRequest
    files: list[CorpusFile]
    rule: str  # the validation rule that was applied, as a sentence to print

    @property
    def n_documents(self) -> int:
        """Documents of both sides."""
        return sum(len(file.contents.hashes) for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Text of both sides, in UTF-8 bytes."""
        return sum(file.n_bytes for file in self.files)

    @property
    def n_train_bytes(self) -> int:
        """Text of the training side, each file counted once whatever its weight."""
        return sum(file.n_train_bytes for file in self.files)

    @cached_property
    def hash(self) -> str:
        """Identity of the text, its order and its split (not of paths or dates): sha256 hex."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.source.weight} {len(file.contents.hashes)} {file.sides.cut}\n".encode())
            digest.update(file.contents.hashes.tobytes() + file.sides.sides.tobytes())
        return digest.hexdigest()

    def iter_training_text(self) -> Iterator[str]:
        """The text of the training part in pieces (see ``documents.PIECE_CHARACTERS``), for training a tokenizer."""
        for file in self.files:
            yield from (document.text for side, document in file.documents() if side == TRAIN)


def _apply(documents: Iterator[Document], sides: Sides) -> Iterator[tuple[int, Document]]:
    index, before = 0, 0  # document, and bytes of it in earlier pieces
    crossed = False
    for document in documents:
        if sides.cut is None or index != sides.cut.document:
            if sides.sides[index] != LEFT_OUT:
                yield int(sides.sides[index]), document
        elif crossed:
            yield VALID, document
        else:
            n_bytes = len(document.text.encode("utf-8"))
            crossed = before + n_bytes > sides.cut.byte
            if crossed:
                yield from _cut(document, sides.cut.byte - before, begun=index > 0 or before > 0)
            else:
                yield TRAIN, document
            before += n_bytes
        if document.ends:
            index, before = index + 1, 0


def _cut(document: Document, byte: int, *, begun: bool) -> Iterator[tuple[int, Document]]:
    """Both sides of a piece; the training side ends here, the validation side goes on as the document does."""
    border = border_in(document.text, byte, begun=begun)
    head, rest = document.text[:border], document.text[border:]
    yield TRAIN, Document(head, document.source, document.line, ends=True)
    yield VALID, Document(rest, document.source, document.line + head.count("\n"), document.ends)


def read_corpus(
    data: Sequence[str],
    *,
    valid: Sequence[str] = (),
    split: SplitChoice = "auto",
    valid_fraction: float = 0.1,
    text_column: str | None = None,
    document_separator: str | None = None,
    encoding: str = "utf-8",
) -> Corpus:
    """Finds, surveys and splits the files; ``UserError`` with everything that is wrong in any of them."""
    return survey(
        request_corpus(
            data,
            valid=valid,
            split=split,
            valid_fraction=valid_fraction,
            text_column=text_column,
            document_separator=document_separator,
            encoding=encoding,
        )
    )


def survey(request: CorpusRequest) -> Corpus:
    """Reads every file once, several at a time, and splits what was found."""
    sources = [*request.sources, *request.valid_sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda source: _survey_file(source, request.reading), sources))
    problems = [problem for result in results if isinstance(result, UserError) for problem in result.problems]
    if problems:
        raise UserError(*problems)
    contents = [result for result in results if isinstance(result, Contents)]
    own, held_out = contents[: len(request.sources)], contents[len(request.sources) :]
    split = split_documents(own, request.split, request.valid_fraction, held_out)
    rows = zip(sources, contents, split.files, strict=True)
    return Corpus(
        request, [CorpusFile(source, request.reading, found, sides) for source, found, sides in rows], split.rule
    )


def _survey_file(source: Source, reading: Reading) -> Contents | UserError:
    lengths, hashes = array("Q"), array("Q")
    length, digest = 0, hashlib.blake2b(digest_size=8)
    try:
        for document in read_documents(source, reading):
            encoded = document.text.encode("utf-8")
            digest.update(encoded)
            length += len(encoded)
            if document.ends:
                lengths.append(length)
                hashes.append(int.from_bytes(digest.digest(), "little"))
                length, digest = 0, hashlib.blake2b(digest_size=8)
    except UserError as error:
        return error
    if not lengths:
        return UserError(Problem("no text in this file", where=str(source.path), mend="leave it out"))
    return Contents(np.frombuffer(lengths, dtype=np.uint64), np.frombuffer(hashes, dtype=np.uint64))
