"""What is remembered of every row: hashes and places, never texts; and which rows repeat others."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from gptloom.data.check.sketches import MINIMA, Keys, Sketches, near_pairs, repeats, sketch
from gptloom.data.separators import common_prefix, common_suffix

SKETCHED_ROWS = 400_000
"""Rows of a side whose near duplicates are looked for: 132 bytes each, and as much again for their prompts."""
_FIRST_ROWS = 200  # that tell what all prompts begin and end with
_SHOWN = 3
_SHORTEST_FRAME = 10  # characters; fewer in common are chance


@dataclass(frozen=True)
class Pairs:
    """Rows that repeat an earlier one: how many, and the first few of them with it."""

    count: int
    examples: list[str]  # "a.jsonl:7 = line 3"


@dataclass
class Frame:
    """What all prompts begin and end with: a template, which makes different prompts look alike."""

    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, prompts: Sequence[str]) -> Frame:
        """Of the first prompts of a file."""
        before, after = common_prefix(prompts), common_suffix(prompts)
        same = len(prompts) < 2 or all(prompt == prompts[0] for prompt in prompts)
        if same or len(before) < _SHORTEST_FRAME:
            before = ""
        if same or len(after) < _SHORTEST_FRAME:
            after = ""
        return cls(before, after)

    def inner(self, prompt: str) -> str:
        """A prompt without it."""
        return prompt.removeprefix(self.before).removesuffix(self.after)


@dataclass
class Seen:
    """The rows of one side, training or validation: 32 bytes each, and sketches of the first ``SKETCHED_ROWS``."""

    frame: Frame | None = None  # of the prompts; None: found in the first rows
    prompts_too: bool = False  # whether prompts alone are sketched as well, to find them on the other side
    files: list[str] = field(default_factory=list)  # as the place of a row begins: "a.jsonl:", "a.parquet row "

    def __post_init__(self) -> None:
        self._whole = array("Q")
        self._asked = array("Q")
        self._file = array("L")
        self._number = array("Q")
        self._sketches = bytearray()
        self._asked_sketches = bytearray()
        self._waiting: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._whole)

    def add(self, where: str, prompt: str, answer: str) -> None:
        """A row; ``prompt`` is all that comes before the last answer, "" where nothing does."""
        place = where.rstrip("0123456789")
        if not self.files or self.files[-1] != place:
            self.files.append(place)
        self._file.append(len(self.files) - 1)
        self._number.append(int(where[len(place) :] or 0))
        asked = _hash(" ".join((prompt if prompt.strip() else answer).split()))
        self._asked.append(asked)
        self._whole.append(_hash(f"{prompt}\x1e{answer}") if prompt.strip() else asked)
        if len(self) > SKETCHED_ROWS:
            return
        self._waiting.append((prompt, answer))
        if self.frame is not None or len(self._waiting) == _FIRST_ROWS:
            self._sketch_waiting()

    def _sketch_waiting(self) -> None:
        if self.frame is None:
            self.frame = Frame.of([prompt for prompt, _ in self._waiting])
        for prompt, answer in self._waiting:
            inner = self.frame.inner(prompt)
            self._sketches += sketch(f"{inner}\n{answer}").tobytes()
            if self.prompts_too:
                self._asked_sketches += sketch(inner if prompt.strip() else answer).tobytes()
        self._waiting = []

    def where(self, row: int) -> str:
        """The place of a row, as it was given."""
        return f"{self.files[self._file[row]]}{self._number[row] or ''}"

    @property
    def whole(self) -> Keys:
        """[rows] hashes of everything."""
        return np.asarray(self._whole, np.uint64)

    @property
    def asked(self) -> Keys:
        """[rows] hashes of the prompts, white space aside; of the answers where nothing is asked."""
        return np.asarray(self._asked, np.uint64)

    def sketches(self) -> Sketches:
        """[rows, up to SKETCHED_ROWS; MINIMA] of everything."""
        self._sketch_waiting()
        return _rows_of(self._sketches)

    def asked_sketches(self) -> Sketches:
        """The same of the prompts."""
        self._sketch_waiting()
        return _rows_of(self._asked_sketches)


@dataclass(frozen=True)
class Repeated:
    """What repeats within one side."""

    exact: Pairs
    near: Pairs
    other_answers: Pairs  # the same prompt with another answer: no duplicate

    @classmethod
    def of(cls, seen: Seen) -> Repeated:
        """Near rows are neither exact duplicates nor other answers to the same prompt."""
        whole, asked = seen.whole, seen.asked
        copies, originals = repeats(whole)
        again, first = repeats(asked)
        others = whole[again] != whole[first]
        sketches = seen.sketches()
        near: dict[int, int] = {}
        for rows, earlier in near_pairs(sketches):
            apart = asked[rows] != asked[earlier]
            for row, before in zip(rows[apart].tolist(), earlier[apart].tolist(), strict=True):
                near.setdefault(row, before)
        copied = set(copies.tolist()) if near else set()
        pairs = [(row, before) for row, before in sorted(near.items()) if row not in copied]
        return cls(
            _pairs(seen, seen, copies.tolist(), originals.tolist()),
            _pairs(seen, seen, [row for row, _ in pairs], [before for _, before in pairs], "~"),
            _pairs(seen, seen, again[others].tolist(), first[others].tolist()),
        )


@dataclass(frozen=True)
class Leaked:
    """Held-out prompts that are also trained on."""

    exact: Pairs
    near: Pairs

    @classmethod
    def of(cls, train: Seen, valid: Seen) -> Leaked:
        """Both sides need ``prompts_too``."""
        n, known = len(train), train.asked
        again, first = repeats(np.concatenate([known, valid.asked]))
        crossing = (again >= n) & (first < n)
        exact = again[crossing] - n
        leaked = set(exact.tolist())
        n_sketched = len(sketches := train.asked_sketches())
        near: dict[int, int] = {}
        for rows, earlier in near_pairs(np.concatenate([sketches, valid.asked_sketches()])):
            crossing_here = (rows >= n_sketched) & (earlier < n_sketched)
            for row, before in zip(rows[crossing_here].tolist(), earlier[crossing_here].tolist(), strict=True):
                if row - n_sketched not in leaked:
                    near.setdefault(row - n_sketched, before)
        pairs = sorted(near.items())
        return cls(
            _pairs(valid, train, exact.tolist(), first[crossing].tolist()),
            _pairs(valid, train, [row for row, _ in pairs], [before for _, before in pairs], "~"),
        )


def _pairs(side: Seen, other: Seen, rows: Sequence[int], first: Sequence[int], sign: str = "=") -> Pairs:
    shown = sorted(zip(rows, first, strict=True))[:_SHOWN]
    return Pairs(len(rows), [f"{side.where(row)} {sign} {_beside(side, row, other, before)}" for row, before in shown])


def _beside(side: Seen, row: int, other: Seen, before: int) -> str:
    """The place of the row ``before``, short where it is in the same file."""
    place, earlier = side.where(row), other.where(before)
    file = place.rstrip("0123456789")
    return f"line {earlier.removeprefix(file)}" if file.endswith(":") and earlier.startswith(file) else earlier


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _rows_of(sketches: bytearray) -> Sketches:
    return np.frombuffer(bytes(sketches), np.uint16).reshape(-1, MINIMA)
