"""What is remembered of every row: hashes and places, never texts; and which rows repeat others."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from gptloom.data.beginnings import first_places
from gptloom.data.check.sketches import MINIMA, Keys, Numbers, Sketches, near_pairs, repeats, sketch
from gptloom.data.separators import common_prefix, common_suffix

SKETCHED_ROWS = 400_000
"""Rows of a side whose near duplicates are looked for: 128 bytes each; where there is another side, as much again for their
prompts, and once more while both are compared."""
_FIRST_ROWS = 200  # that tell what all prompts begin and end with
_SHOWN = 3
_NONE = -1
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
    """The rows of one side, training or validation: 28 bytes each, and sketches of the first ``SKETCHED_ROWS``.

    The arrays hold up to an eighth more while they grow. Comparing all rows takes as much as 56 bytes of each beside them
    for a while, however many repeat. Beyond the sketched rows a check so needs less than 100 bytes a row at its peak.
    """

    frame: Frame | None = None  # of the prompts; None: found in the first rows
    prompts_too: bool = False  # whether prompts alone are sketched as well, to find them on the other side
    files: list[str] = field(default_factory=list)  # as the place of a row begins: "a.jsonl:", "a.parquet row "

    def __post_init__(self) -> None:
        self._whole = array("Q")
        self._asked = array("Q")
        self._file = array("I")
        self._number = array("Q")
        self._sketches = bytearray()
        self._asked_sketches = bytearray()
        self._waiting: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._whole)

    def add(self, where: str, prompt: str, answer: str, offered: str = "") -> None:
        """A row; ``prompt`` is all that comes before the last answer, "" where nothing does.

        ``offered``: its tools. Rows with others are others, but those of the same tools are not nearly the same for that.
        """
        place = where.rstrip("0123456789")
        if not self.files or self.files[-1] != place:
            self.files.append(place)
        self._file.append(len(self.files) - 1)
        self._number.append(int(where[len(place) :] or 0))
        asked = _hash(f"{offered}\x1e{' '.join((prompt if prompt.strip() else answer).split())}")
        self._asked.append(asked)
        self._whole.append(_hash(f"{offered}\x1e{prompt}\x1e{answer}") if prompt.strip() else asked)
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
    def asks_one_thing(self) -> bool:
        """Whether several rows all have the same prompt."""
        return len(self) > 1 and bool((self.asked == self.asked[0]).all())

    @property
    def whole(self) -> Keys:
        """[rows] hashes of everything."""
        return np.asarray(self._whole, np.uint64)

    @property
    def asked(self) -> Keys:
        """[rows] hashes of the prompts, white space aside; of the answers where nothing is asked."""
        return np.asarray(self._asked, np.uint64)

    def sketches(self) -> Sketches:
        """[rows, up to SKETCHED_ROWS; MINIMA] of everything: a view, during whose life no row can be added."""
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
        near = np.full(len(sketches), _NONE)
        for rows, earlier in near_pairs(sketches):
            _note(near, rows, earlier, asked[rows] != asked[earlier])
        near[copies[copies < len(near)]] = _NONE
        nearly = np.flatnonzero(near != _NONE)
        return cls(
            _pairs(seen, seen, copies, originals),
            _pairs(seen, seen, nearly, near[nearly], "~"),
            _pairs(seen, seen, again[others], first[others]),
        )


@dataclass(frozen=True)
class Leaked:
    """Held-out prompts that are also trained on."""

    exact: Pairs
    near: Pairs

    @classmethod
    def of(cls, train: Seen, valid: Seen, exact: tuple[Numbers, Numbers] | None = None) -> Leaked:
        """Both sides need ``prompts_too``.

        ``exact``: the rows of ``valid`` that are trained on, and for each one of ``train`` (default: with its prompt).
        """
        if exact is None:
            places = first_places(train.asked, valid.asked)
            exact = np.flatnonzero(places >= 0), places[places >= 0]
        leaking, first = exact
        n_sketched = len(sketches := train.asked_sketches())
        both = np.concatenate([sketches, valid.asked_sketches()])
        near = np.full(len(both) - n_sketched, _NONE)
        for rows, earlier in near_pairs(both):
            _note(near, rows - n_sketched, earlier, (rows >= n_sketched) & (earlier < n_sketched))
        near[leaking[leaking < len(near)]] = _NONE
        nearly = np.flatnonzero(near != _NONE)
        return cls(
            _pairs(valid, train, leaking, first),
            _pairs(valid, train, nearly, near[nearly], "~"),
        )


def _note(near: Numbers, rows: Numbers, earlier: Numbers, wanted: NDArray[np.bool_]) -> None:
    """Puts the earlier row of each wanted one into ``near``, where none is; no row comes twice in one call."""
    rows, earlier = rows[wanted], earlier[wanted]
    new = near[rows] == _NONE
    near[rows[new]] = earlier[new]


def _pairs(side: Seen, other: Seen, rows: Numbers, first: Numbers, sign: str = "=") -> Pairs:
    shown = np.argsort(rows)[:_SHOWN]
    pairs = zip(rows[shown].tolist(), first[shown].tolist(), strict=True)
    return Pairs(len(rows), [f"{side.where(row)} {sign} {_beside(side, row, other, before)}" for row, before in pairs])


def _beside(side: Seen, row: int, other: Seen, before: int) -> str:
    """The place of the row ``before``, short where it is in the same file."""
    place, earlier = side.where(row), other.where(before)
    file = place.rstrip("0123456789")
    return f"line {earlier.removeprefix(file)}" if file.endswith(":") and earlier.startswith(file) else earlier


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _rows_of(sketches: bytearray) -> Sketches:
    return np.frombuffer(sketches, np.uint16).reshape(-1, MINIMA)
