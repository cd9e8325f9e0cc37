"""What a model reads of a labelled example: its texts as token ids in the frame of GPT-1 or of BERT.

GPT-1 (Radford et al. 2018, section 3.3 and figure 1) writes ``[start] text [extract]`` and ``[start] a [delimiter] b
[extract]``; a pair that is compared is read in both orders, a question once with each of its choices. BERT (Devlin et al.
2018, section 3.2) writes ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, with segment 1 after the first ``[SEP]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import HeadConfig, TaskConfig
from gptloom.observe.numbers import human_count
from gptloom.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptloom.data.example import Example

START, FIRST, DELIMITER, SECOND, EXTRACT = range(5)
ROLES = ("start", "first text", "delimiter", "second text", "extract")
IGNORED = -100  # a label that no loss counts, as cross_entropy's ignore_index

_SHOWN_PROBLEMS = 12


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of an example."""

    ids: tuple[int, ...]
    roles: bytes  # of each id: START, FIRST, DELIMITER, SECOND or EXTRACT
    segments: tuple[int, ...] | None  # BERT's: 0 up to the first [SEP], then 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as a model reads it: one row, or one for each order of a pair, or for each choice."""

    rows: tuple[Row, ...]
    label: Any  # as the example's, but the first and last token of a span; (IGNORED, IGNORED) where it was cut away
    where: str
    cut: int  # tokens left out because the row would be too long; of several rows the most that one lost
    words: tuple[int, ...] | None = None  # tokens: the place of each word's first token; words left out have none
    offsets: tuple[tuple[int, int], ...] | None = None  # span: the characters of each context token, else (0, 0)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)


class TaskInputs:
    """Turns examples into ids as ``task`` says: training, evaluation and prediction read through the same one."""

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig, head: HeadConfig) -> None:
        self._before = 0 if task.tokens.start is None else 1
        self._single_frame = self._before + 1
        self._pair_frame = self._single_frame + len(task.tokens.delimiter)
        if task.max_length <= self._pair_frame:
            raise ValueError(f"a row of {task.max_length} tokens has no room for its frame and a text")
        if head.orders == 2 and task.task not in ("similar", "entail", "regress"):
            raise ValueError(f"{task.task} has no pair that could be read in two orders")
        self.tokenizer, self.task, self.head = tokenizer, task, head

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The rows of each example.

        A text that is too long loses tokens on the side ``task.cut`` says; of two the longer loses one at a time, the
        second where they are equal (BERT, run_classifier.py, ``_truncate_seq_pair``). Of a choice only the question is
        shortened, of a span only the context, of words the last ones, whatever ``cut`` says.

        Raises:
            UserError: a choice, or the question about a span, that leaves no room for the rest of the row.
        """
        makers: dict[str, Callable[[Sequence[Example]], list[Encoded]]] = {
            "choice": self._choices,
            "span": self._spans,
            "tokens": self._words,
        }
        return makers.get(self.task.task, self._texts)(examples)

    # ---- one or two texts --------------------------------------------------------------------------------------------

    def _texts(self, examples: Sequence[Example]) -> list[Encoded]:
        return [
            self._pair(example, *texts) if len(texts) == 2 else self._single(example, *texts)
            for example, texts in self._encoded(examples)
        ]

    def _single(self, example: Example, text: list[int]) -> Encoded:
        kept = self._shorten(text, self.task.max_length - self._single_frame)
        return Encoded((self._row(kept),), example.label, example.where, len(text) - len(kept))

    def _pair(self, example: Example, a: list[int], b: list[int]) -> Encoded:
        kept_a, kept_b = longer_first(len(a), len(b), self.task.max_length - self._pair_frame)
        cut = len(a) + len(b) - kept_a - kept_b
        a, b = self._shorten(a, kept_a), self._shorten(b, kept_b)
        rows = (self._row(a, b),) if self.head.orders == 1 else (self._row(a, b), self._row(b, a))
        return Encoded(rows, example.label, example.where, cut)

    # ---- choices -----------------------------------------------------------------------------------------------------

    def _choices(self, examples: Sequence[Example]) -> list[Encoded]:
        """One row for each choice; the question, which is all that is cut, may keep another length in each."""
        made, problems = [], []
        for example, (question, *choices) in self._encoded(examples):
            rooms = [self.task.max_length - self._pair_frame - len(choice) for choice in choices]
            if min(rooms) < 0:
                longest = max(map(len, choices))
                problems.append(self._no_room(f"a choice has {longest} tokens", example))
                continue
            rows = [self._row(self._shorten(question, room), own) for room, own in zip(rooms, choices, strict=True)]
            cut = max(0, len(question) - min(rooms))
            made.append(Encoded(tuple(rows), example.label, example.where, cut))
        _raise(problems)
        return made

    # ---- spans -------------------------------------------------------------------------------------------------------

    def _spans(self, examples: Sequence[Example]) -> list[Encoded]:
        """The question first and then the context, so that a causal model too has read what it is asked."""
        questions = self.tokenizer.encode_batch([example.texts[1] for example in examples])
        contexts = self.tokenizer.encode_with_offsets([example.texts[0] for example in examples])
        made, problems = [], []
        for example, question, (ids, offsets) in zip(examples, questions, contexts, strict=True):
            room = self.task.max_length - self._pair_frame - len(question)
            if room < 1:
                problems.append(self._no_room(f"the question has {len(question)} tokens", example))
                continue
            made.append(self._span(example, question, ids, _without_space(example.texts[0], offsets), room))
        _raise(problems)
        return made

    def _span(
        self, example: Example, question: list[int], context: list[int], offsets: list[tuple[int, int]], room: int
    ) -> Encoded:
        kept = self._shorten(context, room)
        cut = len(context) - len(kept)
        first = cut if self.task.cut == "start" else 0  # token of the context that the row begins with
        before = self._pair_frame - 1 + len(question)
        row = self._row(question, kept)
        own = ((0, 0),) * before + tuple(offsets[first : first + len(kept)]) + ((0, 0),)
        label = example.label
        if label is not None:
            inside = [place for place, (begin, end) in enumerate(offsets) if begin < label[1] and label[0] < end]
            reached = bool(inside) and first <= inside[0] and inside[-1] < first + len(kept)
            shift = before - first
            label = (inside[0] + shift, inside[-1] + shift) if reached else (IGNORED, IGNORED)
        return Encoded((row,), label, example.where, cut, offsets=own)

    # ---- words -------------------------------------------------------------------------------------------------------

    def _words(self, examples: Sequence[Example]) -> list[Encoded]:
        """Words as they stand in a sentence, one space before each but the first; only whole words are kept."""
        spaced = chain.from_iterable(
            (word if place == 0 else f" {word}" for place, word in enumerate(example.texts)) for example in examples
        )
        pieces = iter(self.tokenizer.encode_batch(list(spaced)))
        return [self._tagged(example, list(islice(pieces, len(example.texts)))) for example in examples]

    def _tagged(self, example: Example, words: list[list[int]]) -> Encoded:
        """A word of which the tokenizer keeps nothing is read as unknown, so that it has a place for its tag."""
        room = self.task.max_length - self._single_frame
        unknown = self.task.tokens.delimiter[0] if self.tokenizer.unk_id is None else self.tokenizer.unk_id
        text: list[int] = []
        places: list[int] = []
        for word in words:
            ids = word or [unknown]
            if places and len(text) + len(ids) > room:
                break
            places.append(self._before + len(text) + self._leading_spaces(ids))
            text += ids
        # A first word that alone is longer than a row is the one that is cut inside
        row = self._row(text[:room])
        cut = sum(len(word or [unknown]) for word in words) - min(len(text), room)
        return Encoded((row,), example.label, example.where, cut, words=tuple(places))

    def _leading_spaces(self, ids: list[int]) -> int:
        """How many tokens before the word are only white space (of characters, say): its tag is read off the word."""
        if not self.tokenizer.lossless:
            return 0
        spaces = 0
        while spaces < len(ids) - 1 and self.tokenizer.token_bytes(ids[spaces]).isspace():
            spaces += 1
        return spaces

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _encoded(self, examples: Sequence[Example]) -> Iterator[tuple[Example, list[list[int]]]]:
        """Each example with the ids of each of its texts, all encoded in one call."""
        ids = iter(self.tokenizer.encode_batch([text for example in examples for text in example.texts]))
        return ((example, list(islice(ids, len(example.texts)))) for example in examples)

    def _shorten(self, ids: list[int], room: int) -> list[int]:
        if len(ids) <= room:
            return ids
        return ids[:room] if self.task.cut == "end" else ids[len(ids) - room :]

    def _row(self, first: list[int], second: list[int] | None = None) -> Row:
        tokens = self.task.tokens
        ids = [*first] if tokens.start is None else [tokens.start, *first]
        roles = bytes([START]) * self._before + bytes([FIRST]) * len(first)
        split = len(ids) + 1  # the [SEP] after the first text still belongs to it
        if second is not None:
            ids += tokens.delimiter
            split = len(ids)
            ids += second
            roles += bytes([DELIMITER]) * len(tokens.delimiter) + bytes([SECOND]) * len(second)
        ids.append(tokens.extract)
        segments = (0,) * split + (1,) * (len(ids) - split) if self.task.inputs == "bert" else None
        return Row(tuple(ids), roles + bytes([EXTRACT]), segments)

    def _no_room(self, what: str, example: Example) -> Problem:
        longest = self.task.max_length
        return Problem(
            f"{what}, which leaves no room in rows of {longest}",
            where=example.where,
            mend="a larger --max-length, or leave the row out",
        )


def cut_sentence(task: TaskConfig, kind: str, cut: Sequence[tuple[str, int]], rows: int) -> str:
    """What was left out of ``kind`` rows, of which there are ``rows``; ``cut``: where each shortened one stands, and tokens."""
    whose = {"span": "the context loses its", "choice": "the question loses its"}.get(task.task, "they lose their")
    tokens = sum(lost for _, lost in cut)
    return (
        f"{len(cut):,} of {rows:,} {kind}rows are longer than {task.max_length} tokens: {whose} {task.cut}, "
        f"{human_count(tokens)} tokens in all (first: {cut[0][0]})"
    )


def longer_first(a: int, b: int, room: int) -> tuple[int, int]:
    """How many of ``a`` and ``b`` tokens stay when the longer loses one at a time until both fit in ``room``."""
    surplus = max(0, a + b - room)
    uneven = min(surplus, abs(a - b))
    if a > b:
        a -= uneven
    else:
        b -= uneven
    both = surplus - uneven  # they are equal now and lose in turn, the second first
    return a - both // 2, b - (both - both // 2)


def _without_space(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets without white space at their borders; a token that is nothing else keeps it."""
    trimmed = []
    for begin, end in offsets:
        piece = text[begin:end]
        bare = piece.strip()
        if bare and len(bare) < len(piece):
            begin += len(piece) - len(piece.lstrip())
            end = begin + len(bare)
        trimmed.append((begin, end))
    return trimmed


def _raise(problems: list[Problem]) -> None:
    if not problems:
        return
    shown = problems[:_SHOWN_PROBLEMS]
    if more := len(problems) - len(shown):
        shown.append(Problem(f"and {more:,} more rows like these"))
    raise UserError(*shown)
