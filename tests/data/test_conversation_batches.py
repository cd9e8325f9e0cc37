"""Batches of conversations: every one its weight's times, the same ones in either layout, any step by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from gptloom.data.batch import Batch
from gptloom.data.conversation_batches import ConversationBatches, held_out
from gptloom.data.packing import PackedBatch
from gptloom.data.render import Rendered

PAD = 3


def rendered(n: int, seed: int = 0, longest: int = 40, base: int = 1000) -> list[Rendered]:
    """Example i begins with the id base + i, so that a batch tells which ones it holds; the answer's weight is 1."""
    draw = np.random.default_rng(seed)
    made = []
    for index in range(n):
        length = int(draw.integers(4, longest + 1))
        ids = draw.integers(10, 1000, length).astype(np.int32)
        ids[0] = base + index
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1
        made.append(Rendered(ids, weights, ((length // 2, length),), f"row {index}"))
    return made


class Text:
    """Pretraining text whose ids, from 100,000 on, say where they stand."""

    n_tokens = 5000

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        return 100_000 + starts[:, None] + np.arange(length)


def batches(
    sources: Sequence[tuple[Sequence[Rendered], float]], size: int = 8, seed: int = 7, **options: Any
) -> ConversationBatches:
    return ConversationBatches(sources, size, seed, PAD, **{"packed": True, **options})


def sequences(batch: Batch) -> list[tuple[list[int], list[int], list[float]]]:
    """(ids, targets, weights) of each sequence, whatever the layout."""
    columns = (batch.ids, batch.targets, batch.weights)
    if isinstance(batch, PackedBatch):
        assert batch.document_ids is not None and len(batch.ids) == 1
        lengths = torch.bincount(batch.document_ids[0]).tolist()
        return list(zip(*([part.tolist() for part in column[0].split(lengths)] for column in columns), strict=True))
    real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask
    return [tuple(column[row][real[row]].tolist() for column in columns) for row in range(len(real))]  # type: ignore[misc]


def held(batch: Batch) -> list[int]:
    """The examples of a batch, without what is replayed."""
    return [ids[0] - 1000 for ids, _, _ in sequences(batch) if ids[0] < 100_000]


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def steps_of(made: ConversationBatches, epoch: int) -> range:
    return range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)


def test_a_packed_row_holds_the_examples_one_behind_the_other() -> None:
    examples = rendered(3)
    batch = batches([(examples, 1.0)], size=3).batch(0)
    order = held(batch)
    assert sorted(order) == [0, 1, 2] and batch.padding_mask is None
    parts = [examples[index] for index in order]
    assert batch.ids.tolist() == [[int(id) for part in parts for id in part.ids]]
    assert batch.targets.tolist() == [[int(id) for part in parts for id in (*part.ids[1:], 0)]]
    assert batch.weights.tolist() == [[float(weight) for part in parts for weight in (*part.weights[1:], 0)]]
    assert batch.positions is not None and batch.document_ids is not None
    assert batch.positions.tolist() == [[place for part in parts for place in range(len(part.ids))]]
    assert batch.document_ids.tolist() == [[number for number, part in enumerate(parts) for _ in part.ids]]
    assert batch.tokens == sum(len(part.ids) for part in parts) and batch.rows == 3


def test_packed_and_padded_hold_the_same_sequences_in_every_step() -> None:
    sources = [(rendered(50), 1.0), (rendered(30, seed=1, longest=90, base=2000), 0.5)]
    for replay in (None, (Text(), 0.3, 16)):
        packed, padded = (batches(sources, packed=layout, replay=replay) for layout in (True, False))
        for step in (*steps_of(packed, 0), 31):
            assert sequences(packed.batch(step)) == sequences(padded.batch(step))
            assert packed.batch(step).tokens == padded.batch(step).tokens


@pytest.mark.parametrize("n", [1, 7, 8, 100, 1000])
def test_every_epoch_has_each_example_once(n: int) -> None:
    made = batches([(rendered(n), 1.0)])
    orders = [[index for step in steps_of(made, epoch) for index in held(made.batch(step))] for epoch in range(2)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    assert n < 100 or orders[0] != orders[1]
    assert made.n_examples == n and made.epochs(2 * made.steps_per_epoch) == 2


def test_a_mixture_takes_its_weights_from_pass_to_pass() -> None:
    sources = [(rendered(40), 1.0), (rendered(20, seed=1, base=2000), 0.5), (rendered(10, seed=2, base=3000), 2.0)]
    made = batches(sources)
    counts = [Counter(i for step in steps_of(made, epoch) for i in held(made.batch(step))) for epoch in range(2)]
    assert made.n_examples == 40 + 10 + 20
    for epoch in counts:
        assert {epoch[i] for i in range(40)} == {1} and {epoch[i] for i in range(2000, 2010)} == {2}
        assert sum(epoch[i] for i in range(1000, 1020)) == 10
    both = counts[0] + counts[1]
    assert {both[i] for i in range(1000, 1020)} == {1}  # another half in the second pass


def test_short_and_long_tasks_meet_in_every_batch() -> None:
    made = batches([(rendered(200, longest=9), 1.0), (rendered(200, longest=200, base=2000), 1.0)])
    shares = [sum(index >= 1000 for index in held(made.batch(step))) for step in steps_of(made, 0)]
    assert min(shares) >= 2 and max(shares) <= 6


def test_a_step_asked_alone_is_the_step_in_its_turn() -> None:
    sources = [(rendered(90), 1.0), (rendered(30, base=2000), 0.5)]
    for packed in (True, False):
        options: dict[str, Any] = {"packed": packed, "replay": (Text(), 0.2, 16)}
        made = batches(sources, **options)
        in_turn = [made.batch(step) for step in range(60)]
        for step in (59, 0, 26, 3):
            assert same(batches(sources, **options).batch(step), in_turn[step])
        assert any(held(batches(sources, seed=8, **options).batch(step)) != held(in_turn[step]) for step in range(3))


def test_examples_of_similar_length_meet() -> None:
    examples = rendered(800, longest=400)
    made = batches([(examples, 1.0)], packed=False)
    waste = [1 - batch.tokens / batch.ids.numel() for batch in map(made.batch, steps_of(made, 0))]
    assert sum(waste) / len(waste) < 0.08  # in any order, almost a half
    lengths = [len(ids) for ids, _, _ in sequences(made.batch(5))]
    assert lengths == sorted(lengths, reverse=True)


def test_positions_name_the_examples_and_can_be_left_out() -> None:
    made = batches([(rendered(20), 1.0), (rendered(10, base=2000), 1.0)], size=4)
    places = [place for step in range(2 * made.steps_per_epoch) for place in made.describe(step)]
    assert [place.position for place in places] == list(range(60))
    assert [1000 * place.source + place.index for place in made.describe(5)] == held(made.batch(5))
    before = [held(made.batch(step)) for step in range(16)]
    one = made.describe(9)[1]
    after = [held(made.batch(step, [one.position])) for step in range(16)]
    assert after[9] == [index for index in before[9] if index != 1000 * one.source + one.index]
    assert [after[step] == before[step] for step in range(16)].count(False) == 1
    gone = sorted(place.position for step in (3, 9) for place in made.describe(step))
    assert [held(made.batch(step, gone)) for step in range(14)] == [*before[:3], *before[4:9], *before[10:]]


def test_what_is_replayed_goes_with_a_step_that_is_left_out() -> None:
    made = batches([(rendered(64), 1.0)], replay=(Text(), 0.5, 16))
    gone = [place.position for place in made.describe(2)]
    assert same(made.batch(2, gone), made.batch(3)) and not same(made.batch(2), made.batch(3))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_replayed_share_is_met_over_an_epoch_and_in_each_step(share: float, weight: float) -> None:
    context = 64
    made = batches([(rendered(400, longest=100), weight)], replay=(Text(), share, context))
    replayed, total = 0, 0
    for step in range(3 * made.steps_per_epoch):
        batch = made.batch(step)
        texts = [one for one in sequences(batch) if one[0][0] >= 100_000]
        for ids, targets, weights in texts:
            assert len(ids) == context and targets == [id + 1 for id in ids] and set(weights) == {1.0}
        own = batch.tokens - context * len(texts)
        assert abs(len(texts) * context - own * share / (1 - share)) < 1.6 * context
        replayed, total = replayed + context * len(texts), total + batch.tokens
    assert replayed / total == pytest.approx(share, abs=context / total + 0.01 * share)
    assert total == pytest.approx(3 * made.tokens_per_epoch, rel=0.02)


def test_replayed_text_is_drawn_from_everywhere() -> None:
    made = batches([(rendered(400), 1.0)], replay=(Text(), 0.5, 16))
    starts = [ids[0] for step in steps_of(made, 0) for ids, _, _ in sequences(made.batch(step)) if ids[0] >= 100_000]
    assert len(set(starts)) > 0.9 * len(starts) and min(starts) < 100_300 and max(starts) > 104_600


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="less than one window"):
        batches([(rendered(4), 1.0)], replay=(Text(), 0.5, 5000))


def test_micro_batches_hold_whole_documents() -> None:
    whole = batches([(rendered(28), 1.0)], size=7).batch(0)
    for rows in (1, 2, 3, 7, 9):
        parts = whole.split(rows)
        assert [part.rows for part in parts] == [min(rows, 7 - begin) for begin in range(0, 7, rows)]
        assert [one for part in parts for one in sequences(part_from_zero(part))] == sequences(whole)
    with pytest.raises(ValueError, match="at least one document"):
        whole.split(0)


def part_from_zero(part: Batch) -> PackedBatch:
    assert part.document_ids is not None
    numbers = part.document_ids - part.document_ids.min()
    return PackedBatch(part.ids, part.targets, part.weights, part.positions, numbers)


def test_parts_of_a_padded_batch_are_as_wide_as_their_longest() -> None:
    batch = batches([(rendered(64), 1.0)], packed=False).batch(1)
    for part in batch.split(2):
        assert part.ids.shape[1] == max(len(ids) for ids, _, _ in sequences(part))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("replay", [None, (Text(), 0.2, 64)])
def test_the_longest_batch_is_the_longest(packed: bool, replay: Any) -> None:
    made = batches([(rendered(200, longest=200), 1.0)], packed=packed, replay=replay)
    longest = max(made.batch(step).ids.numel() for step in steps_of(made, 0))
    assert made.longest().ids.numel() == longest


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("tokens", [3, 100, 10_000])
def test_held_out_examples_come_once_each_in_batches_that_fit(packed: bool, tokens: int) -> None:
    examples = rendered(50)
    found = list(held_out(examples, PAD, tokens, packed))
    assert sorted(index for batch in found for index in held(batch)) == list(range(50))
    assert all(batch.ids.numel() <= tokens or batch.rows == 1 for batch in found)
    assert len(found) == {3: 50, 10_000: 1}.get(tokens, len(found))
    assert sum(float(batch.weights.sum()) for batch in found) == sum(float(one.weights.sum()) for one in examples)


@pytest.mark.parametrize("packed", [True, False])
def test_a_limited_evaluation_takes_examples_of_all_lengths(packed: bool) -> None:
    examples = rendered(400)
    found = list(held_out(examples, PAD, 200, packed, limit=4))
    taken = sorted(index for batch in found for index in held(batch))
    assert len(found) <= 4 and all(batch.ids.numel() <= 200 for batch in found)
    assert sum(batch.ids.numel() for batch in found) > 400, "most of what the limit allows"
    lengths = np.array([len(example.ids) for example in examples])
    assert abs(lengths[taken].mean() - lengths.mean()) < 5 and lengths[taken].min() < 12
    again = held_out(examples, PAD, 200, packed, limit=4)
    assert taken == sorted(index for batch in again for index in held(batch))


@pytest.mark.parametrize("packed", [True, False])
def test_a_limit_beyond_all_batches_changes_nothing(packed: bool) -> None:
    examples = rendered(50)
    limited, whole = (list(held_out(examples, PAD, 100, packed, limit)) for limit in (99, None))
    assert [batch.ids.tolist() for batch in limited] == [batch.ids.tolist() for batch in whole]
