"""Batches of rendered conversations, of one source or a mixture, with pretraining text among them where it is replayed.

What a step trains on does not depend on the layout: its examples are those of ``Buckets``, whether they then lie beside
one another or one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gptloom.data.batch import Batch
from gptloom.data.buckets import REPLAY, Buckets
from gptloom.data.order import MixedOrder, drawn, hash_words
from gptloom.data.packing import Labelled, pack, pad

if TYPE_CHECKING:
    from gptloom.data.render import Rendered

Ints = NDArray[np.int64]


class GatheredTokens(Protocol):
    """A long sequence of token ids, as ``TokenShards`` are."""

    n_tokens: int

    def gather(self, starts: Ints, length: int) -> Ints:
        """``length`` ids from each of ``starts`` [starts, length]."""


@dataclass(frozen=True)
class _Replay:
    """Pretraining text among the conversations: a ``share`` of all tokens, in windows of ``context`` ids."""

    tokens: GatheredTokens
    share: float
    context: int

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"text that is replayed is a share between 0 and 1 of the tokens, not {self.share}")
        if self.tokens.n_tokens < self.context + 1:
            raise ValueError(f"{self.tokens.n_tokens} tokens are less than one window of {self.context} + 1")

    def windows(self, first: int, end: int, seed: int) -> list[Labelled]:
        """Number ``first`` to ``end`` of the windows of a run, each from a place drawn by itself."""
        draws = hash_words(seed, REPLAY, np.arange(first, end))
        starts = (draws % np.uint64(self.tokens.n_tokens - self.context)).astype(np.int64)
        counted = np.ones(self.context, dtype=np.float32)
        return [Labelled(ids[:-1], ids[1:], counted) for ids in self.tokens.gather(starts, self.context + 1)]


@dataclass(frozen=True)
class ConversationPlace:
    """Where one example of a batch comes from."""

    position: int  # in the data order, counted from the start of the run; what ``excluded`` takes
    epoch: int  # the pass over the mixture
    source: int
    index: int  # of the example in its source


class ConversationBatches:
    """The global batch of every step, as a pure function of (seed, step, excluded).

    An epoch takes ``weight`` times as many examples of each source as it has (2.0: each twice, 0.5: another half each
    time, until all were taken), and meets them as ``Buckets`` says, the sources being the kinds.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Rendered], float]],
        batch_size: int,
        seed: int,
        pad_id: int,
        *,
        packed: bool,
        replay: tuple[GatheredTokens, float, int] | None = None,
    ) -> None:
        """``packed``: one behind the other in one row, else in rows padded on the right.

        ``replay``: pretraining text, its share of all tokens, and the ids of a window of it.
        """
        if batch_size < 1 or not sources or not all(len(examples) for examples, _ in sources):
            raise ValueError(f"sources of {[len(s) for s, _ in sources]} examples in batches of {batch_size}")
        self.batch_size, self.seed, self.pad_id, self.packed = batch_size, seed, pad_id, packed
        self._replay = None if replay is None else _Replay(*replay)
        self._examples = [example for examples, _ in sources for example in examples]
        sizes = [len(examples) for examples, _ in sources]
        self._begins = np.cumsum([0, *sizes])
        self._lengths = np.array([len(example.ids) for example in self._examples], dtype=np.int64)
        self._order = MixedOrder([(len(examples), weight) for examples, weight in sources], seed)
        self._buckets = Buckets(self._deal, self._lengths, np.repeat(np.arange(len(sizes)), sizes), batch_size, seed)
        means = np.add.reduceat(self._lengths, self._begins[:-1]) / sizes
        self._own_tokens = float((means * self._order.counts).sum())
        self._replayed = (
            0.0 if self._replay is None else self._own_tokens * self._replay.share / (1 - self._replay.share)
        )

    @property
    def n_examples(self) -> int:
        """Examples of one epoch."""
        return self._buckets.n_examples

    @property
    def steps_per_epoch(self) -> int:
        return self._buckets.steps_per_epoch

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of one epoch, replayed ones included, without padding: the mean."""
        return round(self._own_tokens + self._replayed)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one batch, replayed ones included, without padding: the mean."""
        return max(1, self.tokens_per_epoch // self.steps_per_epoch)

    def epochs(self, step: int) -> float:
        """Passes over the examples when ``step`` steps are done."""
        return step / self.steps_per_epoch

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order.

        They are missing from their batch; where nothing is left of one, the batches after it move up, with what is
        replayed in them.
        """
        epoch, own, _, indices = self._buckets.draw(step, excluded)
        sequences = [labelled(self._examples[index]) for index in indices]
        if self._replay is not None:
            first, end = self._replayed_at(epoch)[own : own + 2].tolist()
            sequences += self._replay.windows(first, end, self.seed)
        return pack(sequences) if self.packed else pad(sequences, self.pad_id)

    def describe(self, step: int, excluded: Sequence[int] = ()) -> list[ConversationPlace]:
        """Where each example of ``batch(step, excluded)`` comes from; what is replayed comes after them."""
        epoch, _, positions, indices = self._buckets.draw(step, excluded)
        sources = np.searchsorted(self._begins, indices, side="right") - 1
        columns = (positions, sources, indices - self._begins[sources])
        return [
            ConversationPlace(position, epoch, source, index)
            for position, source, index in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def example(self, place: ConversationPlace) -> Rendered:
        """What lies at a place that ``describe`` tells."""
        return self._examples[self._begins[place.source] + place.index]

    def longest(self) -> Batch:
        """The batch of the first epoch that takes the most places, padding included."""
        return self.batch(int(np.argmax(self._places_taken())))

    def _places_taken(self) -> Ints:
        """Of each step of the first epoch, [steps]."""
        laid_out = self._buckets.epoch(0)
        lengths, begins = self._lengths[laid_out.order], laid_out.bounds[:-1]
        if self.packed:
            taken = np.add.reduceat(lengths, begins)
            return taken if self._replay is None else taken + np.diff(self._replayed_at(0)) * self._replay.context
        rows, longest = np.diff(laid_out.bounds), np.maximum.reduceat(lengths, begins)
        if self._replay is not None:
            windows = np.diff(self._replayed_at(0))
            rows, longest = rows + windows, np.where(windows > 0, np.maximum(longest, self._replay.context), longest)
        return rows * longest

    def _deal(self, epoch: int) -> list[Ints]:
        own = self._order.windows_per_pass
        sources, _, within = self._order.windows(np.arange(epoch * own, (epoch + 1) * own))
        return [self._begins[sources] + within]

    def _replayed_at(self, epoch: int) -> Ints:
        """How many windows were replayed when each step of ``epoch`` begins, and when the last one is done [steps + 1].

        Each step gets its share of the epoch's, by its tokens; what is less than a window is left to the next ones. An
        epoch counts as much as any other, though examples of another half may be longer: no earlier one need be known.
        """
        assert self._replay is not None
        laid_out = self._buckets.epoch(epoch)
        tokens = np.add.reduceat(self._lengths[laid_out.order], laid_out.bounds[:-1])
        done = epoch + np.cumsum([0, *tokens]) / tokens.sum()
        return np.floor(done * self._replayed / self._replay.context).astype(np.int64)


def labelled(rendered: Rendered) -> Labelled:
    """What is predicted at each place of a rendered conversation: the id after it, as much as that one counts."""
    return Labelled(rendered.ids, np.append(rendered.ids[1:], 0), np.append(rendered.weights[1:], np.float32(0)))


def held_out(
    examples: Sequence[Rendered], pad_id: int, tokens: int, packed: bool, limit: int | None = None
) -> Iterator[Batch]:
    """Every example once, the longest first, in batches of at most ``tokens`` places, padding included (or one example).

    With a ``limit``: at most so many batches, of examples that are drawn.
    """
    lengths = [len(example.ids) for example in examples]

    def batches(places: Sequence[int]) -> int:
        return sum(1 for _ in _longest_first(lengths, places, tokens, packed))

    places = range(len(examples)) if limit is None else drawn(len(examples), batches, limit)
    for batch in _longest_first(lengths, places, tokens, packed):
        sequences = [labelled(examples[place]) for place in batch]
        yield pack(sequences) if packed else pad(sequences, pad_id)


def _longest_first(lengths: Sequence[int], places: Sequence[int], tokens: int, packed: bool) -> Iterator[Sequence[int]]:
    """``places`` by the ``lengths`` there, cut into batches of at most ``tokens``, padding included (or one example)."""
    in_order = sorted(places, key=lambda place: -lengths[place])
    ends = np.cumsum([lengths[place] for place in in_order])
    start = 0
    while start < len(in_order):
        longest = lengths[in_order[start]]
        fitting = int(np.searchsorted(ends, ends[start] - longest + tokens, side="right"))
        end = max(start + 1, fitting if packed else start + tokens // longest)
        yield in_order[start:end]
        start = end
