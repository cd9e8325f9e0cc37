"""Checks of plain text for ``pretrain``: every document read, counted and compared; instruction data pointed out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import xxhash

from gptloom.config.errors import UserError
from gptloom.data.check.measure import Measure
from gptloom.data.check.report import CheckReport, FileFacts, Gathered
from gptloom.data.check.sketches import COMPARED_BYTES
from gptloom.data.check.survey import Survey, find_garbled
from gptloom.data.documents import Document, Reading, read_documents
from gptloom.data.inputs import Source, expand_inputs
from gptloom.data.instruction_detection import refuse_instructions


def check_documents(paths: Sequence[str], valid: Sequence[str], measure: Measure) -> CheckReport:
    """Files, folders and globs as ``gptloom pretrain --data`` reads them."""
    gathered = Gathered("pretrain", Survey(measure.unit), Survey(measure.unit))
    for side, survey, names in (("train", gathered.train, paths), ("valid", gathered.valid, valid)):
        survey.seen.prompts_too = bool(valid)
        try:
            refuse_instructions(names)
            sources = expand_inputs(names) if names else []
        except UserError as error:
            gathered.problems += error.problems
            continue
        for source in sources:
            try:
                _read(source, side, survey, gathered, measure)
            except UserError as error:
                gathered.problems += error.problems
    held_out = f" --valid {' '.join(valid)}" if valid else ""
    return gathered.report(f"gptloom pretrain --data {' '.join(paths)}{held_out}")


def _read(source: Source, side: str, survey: Survey, gathered: Gathered, measure: Measure) -> None:
    facts = FileFacts(str(source.path), side, source.format)
    gathered.files.append(facts)
    for pieces in _documents(read_documents(source, Reading())):
        hashed, length, beginning, where = xxhash.xxh3_64(), 0, "", ""
        for piece in pieces:
            where = where or f"{piece.source}:{piece.line}"
            hashed.update(piece.text.encode())
            length += measure.of_texts([piece.text])[0]
            if len(beginning) < COMPARED_BYTES:
                beginning += piece.text
            find_garbled(piece.text, where, gathered.warnings)
        # what a document is known by: its beginning, and a hash of the whole
        survey.add(where, "", f"{beginning[:COMPARED_BYTES]}{hashed.hexdigest()}", length)
        facts.rows += 1
        facts.size += length


def _documents(pieces: Iterator[Document]) -> Iterator[Iterator[Document]]:
    """The pieces of each document in turn."""
    number = 0

    def of(piece: Document) -> int:
        nonlocal number
        own, number = number, number + piece.ends
        return own

    return (group for _, group in groupby(pieces, key=of))
