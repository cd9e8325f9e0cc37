"""How a tokenizer splits a text, token by token and in figures: the data behind ``tokenizer show`` and ``report``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Protocol

from gptloom.tokenizer.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 22  # text held and encoded at a time
LISTED = 20  # tokens in each list of a report
SHOWN_FAILURES = 5


class Piece(Protocol):
    """A document or, where ``ends`` is False, a part of one: what the data room's documents look like."""

    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def ends(self) -> bool: ...


@dataclass(frozen=True)
class TokenRow:
    """One token: its id, a visible form, the bytes it stands for, and how often it occurs where that was counted."""

    id: int
    text: str
    bytes: bytes
    count: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; bytes are written in hexadecimal."""
        row = {"id": self.id, "text": self.text, "bytes": self.bytes.hex()}
        return row if self.count is None else {**row, "count": self.count}


@dataclass(frozen=True)
class RoundTripFailure:
    """A text that does not come back from its ids: where it begins, and both texts around the first difference."""

    place: str
    character: int
    expected: str
    found: str


@dataclass(frozen=True)
class Comparison:
    """Tokens another tokenizer needs for the same text."""

    name: str
    vocab_size: int
    tokens: int
    bytes_per_token: float


@dataclass(frozen=True)
class TokenizerReport:
    """A tokenizer measured on a text.

    ``tokens_per_word`` is its fertility; a word is a run without white space. Unused ids are those of ordinary tokens
    that never occur in the text; special tokens are not counted among them. ``unknown_tokens`` counts ``<|unk|>``. Bytes
    are those of the text, also where ``lossless`` is False: the tokenizer cleans the text and drops its spacing.
    """

    kind: str
    hash: str
    vocab_size: int
    lossless: bool
    documents: int
    characters: int
    bytes: int
    words: int
    tokens: int
    bytes_per_token: float
    characters_per_token: float
    tokens_per_word: float
    unused_ids: int
    unused_share: float
    unknown_tokens: int
    longest: list[TokenRow]
    most_frequent: list[TokenRow]
    round_trip_failures: int
    first_failures: list[RoundTripFailure]
    comparisons: list[Comparison]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, the fields by their names."""
        plain = asdict(self)
        plain["longest"] = [row.as_json() for row in self.longest]
        plain["most_frequent"] = [row.as_json() for row in self.most_frequent]
        return plain


def show_tokens(tokenizer: Tokenizer, text: str, *, special: bool = False) -> list[TokenRow]:
    """The tokens of ``text``, one row each."""
    return [_row(tokenizer, token_id) for token_id in tokenizer.encode(text, special=special)]


def report_on(
    tokenizer: Tokenizer, documents: Iterable[Piece], others: Mapping[str, Tokenizer] | None = None
) -> TokenizerReport:
    """Measure a tokenizer, in one pass and bounded memory.

    Args:
        documents: what to measure on; the parts of a document follow each other.
        others: further tokenizers by name, to compare with; single bytes are always compared with.

    Raises:
        ValueError: there is no text.
    """
    others = others or {}
    totals: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    other_tokens = dict.fromkeys(others, 0)
    failures: list[RoundTripFailure] = []
    for batch in _batches(documents):
        texts = [piece.text for piece in batch]
        for piece, text, ids in zip(batch, texts, tokenizer.encode_batch(texts), strict=True):
            counts.update(ids)
            totals["documents"] += piece.ends
            totals["characters"] += len(text)
            totals["bytes"] += len(text.encode("utf-8"))
            totals["words"] += len(text.split())
            if failure := _round_trip(tokenizer, f"{piece.source}:{piece.line}", text, ids):
                totals["failures"] += 1
                failures = [*failures, failure][:SHOWN_FAILURES]
        for name, other in others.items():
            other_tokens[name] += sum(map(len, other.encode_batch(texts)))
    if not counts:
        raise ValueError("a report needs a text that is not empty")
    return _assembled(
        tokenizer, totals, counts, failures, [(name, others[name], other_tokens[name]) for name in others]
    )


def _assembled(
    tokenizer: Tokenizer,
    totals: Counter[str],
    counts: Counter[int],
    failures: list[RoundTripFailure],
    others: list[tuple[str, Tokenizer, int]],
) -> TokenizerReport:
    special = set(tokenizer.special_tokens.values())
    ordinary = [token_id for token_id in range(tokenizer.vocab_size) if token_id not in special]
    unused = sum(1 for token_id in ordinary if not counts[token_id])
    by_length = sorted(ordinary, key=lambda token_id: (-len(tokenizer.token_bytes(token_id)), token_id))
    by_count = sorted(
        (token_id for token_id in counts if counts[token_id]), key=lambda token_id: (-counts[token_id], token_id)
    )
    tokens, n_bytes = counts.total(), totals["bytes"]
    comparisons = [Comparison("bytes", 258, n_bytes, 1.0)]
    comparisons += [Comparison(name, other.vocab_size, count, n_bytes / count) for name, other, count in others]
    return TokenizerReport(
        kind=tokenizer.kind,
        hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        lossless=tokenizer.lossless,
        documents=totals["documents"],
        characters=totals["characters"],
        bytes=n_bytes,
        words=totals["words"],
        tokens=tokens,
        bytes_per_token=n_bytes / tokens,
        characters_per_token=totals["characters"] / tokens,
        tokens_per_word=tokens / max(totals["words"], 1),
        unused_ids=unused,
        unused_share=unused / len(ordinary),
        unknown_tokens=counts[tokenizer.unk_id] if tokenizer.unk_id is not None else 0,
        longest=[_row(tokenizer, token_id, counts[token_id]) for token_id in by_length[:LISTED]],
        most_frequent=[_row(tokenizer, token_id, counts[token_id]) for token_id in by_count[:LISTED]],
        round_trip_failures=totals["failures"],
        first_failures=failures,
        comparisons=comparisons,
    )


def _row(tokenizer: Tokenizer, token_id: int, count: int | None = None) -> TokenRow:
    return TokenRow(token_id, tokenizer.token_text(token_id), tokenizer.token_bytes(token_id), count)


def _round_trip(tokenizer: Tokenizer, place: str, text: str, ids: list[int]) -> RoundTripFailure | None:
    back = tokenizer.decode(ids)
    if back == text:
        return None
    at = next(i for i, (wanted, found) in enumerate(zip_longest(text, back)) if wanted != found)
    around = slice(max(at - 20, 0), at + 20)
    return RoundTripFailure(place, at, text[around], back[around])


def _batches(documents: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    held = 0
    for piece in documents:
        batch.append(piece)
        held += len(piece.text)
        if held >= BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
