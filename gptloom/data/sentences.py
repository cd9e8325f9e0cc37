"""Sentences: where a text has them, and the file beside a shard that says so in tokens.

Token ids alone do not tell sentences: a WordPiece vocabulary has no line end, and a full stop may stand in "3.5". So
text is cut into sentences before it is encoded, and their lengths are written beside the ids:

    00000.bin          the shard (``gptloom.data.shards``)
    00000.sentences    uint32, little-endian: tokens of each sentence in turn; 0 stands for the end-of-text after a
                       document, as a blank line stands between documents in the input of BERT's own program
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.data.shards import TokenShards

Ints = NDArray[np.int64]

DTYPE = np.dtype("<u4")
DOCUMENT_END = 0

_TITLES = ("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Rev", "Gen", "Col", "Capt", "Lt", "Sgt", "vs")
_NO_TITLE = "".join(rf"(?<!\b{title}\.)" for title in _TITLES)
_OPENING, _CLOSING = r"""["'“‘«„(\[]""", r"""["'”’»)\]]"""
_ENDS = re.compile(
    r"\n\s*"  # a line end
    rf"|[.!?…]{_NO_TITLE}(?<!\b[^\W\d_]\.){_CLOSING}*(?=[^\S\n]+(?:{_OPENING}|[^\W_a-zß-öø-ÿ]))"
    r"|[。！？][」』”’]*(?=\S)"  # where sentences follow each other without a space
)


def split_sentences(text: str) -> list[str]:
    """The sentences of ``text``, which joined are ``text`` again; none is white space only, unless all of it is.

    One ends at every line end, and after ``. ! ? …`` (with the quotes and brackets that close there) where white space
    and a capital letter, a digit, a quote or an opening bracket follow; not after a single letter ("J. Smith") or a
    title ("Mr."), and after ``。！？`` anywhere. White space belongs to the sentence after it, line ends to the one before.
    """
    sentences, start = [], 0
    for match in _ENDS.finditer(text):
        if not text[start : match.end()].isspace():
            sentences.append(text[start : match.end()])
            start = match.end()
    rest = text[start:]
    if rest.isspace() and sentences:
        sentences[-1] += rest
    elif rest:
        sentences.append(rest)
    return sentences


# ---- the file --------------------------------------------------------------------------------------------------------


def sentence_file(shard: Path) -> Path:
    """The file that goes with ``shard``."""
    return shard.with_suffix(".sentences")


class SentenceWriter:
    """Writes the file of one shard; like the shard it appears under its name when the ``with`` block ends well."""

    def __init__(self, shard: Path) -> None:
        self.path = sentence_file(shard)
        self._temporary = self.path.with_name(self.path.name + ".part")
        self._file = self._temporary.open("wb")

    def append(self, lengths: Sequence[int] | NDArray[np.integer]) -> None:
        """Adds the tokens of further sentences, ``DOCUMENT_END`` after the last one of a document."""
        self._file.write(np.ascontiguousarray(lengths, dtype=DTYPE).data)

    def __enter__(self) -> SentenceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()


@dataclass(frozen=True)
class Sentences:
    """The sentences of a sequence of tokens by document, those without tokens left out. S sentences, D documents."""

    starts: Ints  # [S] first token of each
    ends: Ints  # [S] one past its last token
    documents: Ints  # [D + 1] first sentence of each document, and S

    @property
    def n_documents(self) -> int:
        """D."""
        return len(self.documents) - 1

    @cached_property
    def document_of(self) -> NDArray[np.int32]:
        """[S] the document that each sentence belongs to."""
        return np.repeat(np.arange(self.n_documents, dtype=np.int32), np.diff(self.documents))


def read_sentences(tokens: TokenShards) -> Sentences:
    """The sentences of all shards of ``tokens`` as one sequence.

    Raises ``UserError`` for every shard without a sentence file, or with one that does not fit it.
    """
    problems: list[Problem] = []
    starts, ends, lasts = [], [], []
    before = 0
    for shard in tokens.shards:
        try:
            lengths = np.fromfile(sentence_file(shard.path), dtype=DTYPE).astype(np.int64)
        except FileNotFoundError:
            mend = "build it again with a tokenizer that has [MASK]: gptloom data build; or --pairs none"
            problems.append(Problem("a shard without the sentences of its text", where=str(shard.path), mend=mend))
            continue
        is_end = lengths == DOCUMENT_END
        reach = np.cumsum(lengths + is_end)
        if (int(reach[-1]) if len(reach) else 0) != shard.n_tokens:
            found = int(reach[-1]) if len(reach) else 0
            what = f"holds sentences of {found:,} tokens, but its shard has {shard.n_tokens:,}"
            mend = "copy or build both files again: gptloom data build ... --overwrite"
            problems.append(Problem(what, where=str(sentence_file(shard.path)), mend=mend))
            continue
        real = ~is_end
        begun = np.cumsum(is_end) - is_end  # documents ended before each entry
        last = np.append(np.diff(begun[real]) > 0, True)[: int(real.sum())]
        starts.append(before + (reach - lengths)[real])
        ends.append(before + reach[real])
        lasts.append(last)
        before += shard.n_tokens
    if problems:
        raise UserError(*problems)
    is_last = np.concatenate(lasts)
    documents = np.concatenate([[0], np.flatnonzero(is_last) + 1]).astype(np.int64)
    return Sentences(np.concatenate(starts), np.concatenate(ends), documents)
