"""Token ids of written conversations, in which only the template's special tokens are special.

A text is cut at them, and what lies between is encoded with every special token in it as text. It is also cut where an
answer begins, but only if a token would reach over that place: then the ids before it are those that a model is given
when it is to answer, and elsewhere all ids are those of ``transformers``, which encodes a text in one piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gptloom.config.errors import Problem, UserError
from gptloom.data.written import Span
from gptloom.tokenizer import Tokenizer


@dataclass(frozen=True)
class Cut:
    """A text with its special tokens, and the characters at which answers begin."""

    text: str
    specials: Sequence[tuple[Span, str]]
    begins: Collection[int] = ()


@dataclass(frozen=True)
class Ids:
    """``values``, and how many of them come before the places that were asked for: begins, and both ends of specials."""

    values: list[int]
    before: dict[int, int]
    whole: bool  # no token would have reached over a place where an answer begins


@dataclass(frozen=True)
class _Run:
    """Text between two special tokens, in pieces that end where answers begin."""

    pieces: tuple[str, ...]
    goes_on: bool  # other text, or a token after which the tokenizer sees no new beginning, stands before it


class IdsOfText:
    """Encodes with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ``UserError`` when the tokenizer treats what follows a special token in a way that is not known."""
        self._tokenizer = tokenizer
        added = tokenizer.settings.get("added_tokens") or []
        self._eats_right = {token["content"] for token in added if token.get("rstrip")}
        self._eats_left = {token["content"] for token in added if token.get("lstrip")}
        # SentencePiece and its kin put a space before a text: one more wherever it would be cut.
        self._same_anywhere = tokenizer.kind != "other" or self._going_on(["a"]) == tokenizer.encode_batch(["a"])
        self._new_after_special = self._same_anywhere or self._starts_anew()

    def _starts_anew(self) -> bool:
        """Whether text behind a special token is encoded like the beginning of a text."""
        token = next(iter(self._tokenizer.special_tokens), "")
        tail = self._tokenizer.encode(f"{token}a", special=True)[1:]
        if tail == self._tokenizer.encode("a"):
            return True
        if tail == self._going_on(["a"])[0]:
            return False
        what = f"the tokenizer reads text behind {token} neither as a beginning nor as going on"
        raise UserError(Problem(what, mend="a base with another tokenizer"))

    def encode(self, texts: Sequence[Cut]) -> list[Ids]:
        """The ids of each text; all of them go through the tokenizer together."""
        laid_out = [list(self._parts(text)) for text in texts]
        runs = dict.fromkeys(part for parts in laid_out for _, part in parts if isinstance(part, _Run))
        encoded = self._encode_runs(list(runs))
        return [self._joined(parts, encoded) for parts in laid_out]

    def _parts(self, cut: Cut) -> Iterable[tuple[list[int], _Run | str]]:
        """Special tokens and runs in order, each with the characters that it ends at: a run's pieces, a token's two sides."""
        begins, place, previous = sorted(set(cut.begins)), 0, ""
        for (first, end), token in [*cut.specials, ((len(cut.text), len(cut.text)), "")]:
            left, right = place, first
            if previous in self._eats_right:
                left += len(cut.text[left:right]) - len(cut.text[left:right].lstrip())
            if token in self._eats_left:
                right -= len(cut.text[left:right]) - len(cut.text[left:right].rstrip())
            inner = [begin for begin in begins if place <= begin < first]
            borders = [left, *(min(max(begin, left), right) for begin in inner), right]
            pieces = tuple(cut.text[a:b] for a, b in pairwise(borders))
            yield [*inner, first], _Run(pieces, bool(previous) and not self._new_after_special)
            if token:
                yield [end], token
            place, previous = end, token

    def _joined(self, parts: Iterable[tuple[list[int], _Run | str]], encoded: dict[_Run, _Encoded]) -> Ids:
        values: list[int] = []
        before: dict[int, int] = {}
        whole = True
        for places, part in parts:
            if isinstance(part, str):
                values.append(self._tokenizer.special_tokens[part])
                before[places[0]] = len(values)
                continue
            found = encoded[part]
            before |= {place: len(values) + length for place, length in zip(places, found.lengths, strict=True)}
            values += found.ids
            whole = whole and found.whole
        return Ids(values, before, whole)

    def _encode_runs(self, runs: Sequence[_Run]) -> dict[_Run, _Encoded]:
        """Each run in one piece as long as the ids of its beginnings stay what they are; what is left goes on apart."""
        beginnings = {run: ["".join(run.pieces[: n + 1]) for n in range(len(run.pieces))] for run in runs}
        wanted = list(dict.fromkeys((text, run.goes_on) for run in runs for text in beginnings[run]))
        table = dict(zip(wanted, self._encode_texts(wanted), strict=True))
        made: dict[_Run, _Encoded] = {}
        left: dict[_Run, tuple[list[list[int]], _Run]] = {}
        for run in runs:
            ids = [table[text, run.goes_on] for text in beginnings[run]]
            kept = next((n for n, (a, b) in enumerate(pairwise(ids), 1) if b[: len(a)] != a), len(ids))
            if kept == len(ids):
                made[run] = _Encoded(ids[-1], [len(one) for one in ids], True)
            else:
                goes_on = not self._same_anywhere and bool(beginnings[run][kept - 1])
                left[run] = ids[:kept], _Run(run.pieces[kept:], goes_on or run.goes_on)
        if left:
            rests = self._encode_runs(list(dict.fromkeys(rest for _, rest in left.values())))
            for run, (ids, rest) in left.items():
                start, after = ids[-1], rests[rest]
                lengths = [*(len(one) for one in ids), *(len(start) + length for length in after.lengths)]
                made[run] = _Encoded(start + after.ids, lengths, False)
        return made

    def _encode_texts(self, wanted: Sequence[tuple[str, bool]]) -> list[list[int]]:
        new = [text for text, goes_on in wanted if not goes_on]
        on = [text for text, goes_on in wanted if goes_on]
        found = {False: iter(self._tokenizer.encode_batch(new) if new else [])}
        found[True] = iter(self._going_on(on) if on else [])
        return [next(found[goes_on]) for _, goes_on in wanted]

    def _going_on(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that stand behind other text: encoded behind a letter or a line break, which is taken off."""
        anchors = ["a" if text[:1].isspace() else "\n" for text in texts]
        encoded = self._tokenizer.encode_batch([anchor + text for anchor, text in zip(anchors, texts, strict=True)])
        known = {anchor: self._tokenizer.encode(anchor) for anchor in set(anchors)}
        made = []
        for anchor, text, ids in zip(anchors, texts, encoded, strict=True):
            if ids[: len(known[anchor])] != known[anchor]:
                what = f"the tokenizer cannot encode {text[:30]!r} behind other text by itself"
                raise UserError(Problem(what, mend="a template with a special token before each answer"))
            made.append(ids[len(known[anchor]) :])
        return made


@dataclass(frozen=True)
class _Encoded:
    """The ids of a run, and how many there are at the end of each of its pieces."""

    ids: list[int]
    lengths: list[int]
    whole: bool
