"""Batches of examples: every one once an epoch, any step by itself, little padding, and no result that padding changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from real_data import real_data
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import HeadConfig
from gptloom.data.batch import Batch
from gptloom.data.task_batches import TaskBatches, in_length_order, padded
from gptloom.data.task_inputs import IGNORED, Encoded, Row
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import Tokenizer
from gptloom.train.task_objective import TaskLoss

PAD, VOCAB = 0, 50


def row(draw: random.Random, length: int, segments: bool = False) -> Row:
    ids = tuple(draw.randint(1, VOCAB - 1) for _ in range(length))
    split = draw.randint(1, length)
    return Row(ids, bytes(length), (0,) * split + (1,) * (length - split) if segments else None)


def examples(n: int, rows: Callable[[int], int] = lambda _: 1, longest: int = 30) -> list[Encoded]:
    """Example i has label i, so that a batch tells which ones it holds."""
    draw = random.Random(3)
    return [
        Encoded(tuple(row(draw, draw.randint(3, longest)) for _ in range(rows(i))), i, f"row {i}", 0) for i in range(n)
    ]


def batches(encoded: list[Encoded], size: int = 8, seed: int = 7, **options: Any) -> TaskBatches:
    return TaskBatches(encoded, size, seed, PAD, **{"causal": True, "next_word": False, **options})


def held(batch: Batch) -> list[int]:
    assert batch.labels is not None
    return batch.labels.tolist()


def same(one: Batch, other: Batch) -> bool:
    names = ("ids", "targets", "weights", "segment_ids", "padding_mask", "labels")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return one.group == other.group and all(a is b or torch.equal(a, b) for a, b in pairs)


# ---- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 8, 100, 1000])
def test_every_epoch_has_each_example_once(n: int) -> None:
    made = batches(examples(n, lambda i: 1 + i % 3))
    orders = []
    for epoch in range(3):
        steps = range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)
        orders.append([index for step in steps for index in held(made.batch(step))])
        assert sorted(orders[-1]) == list(range(n))
        assert {place.epoch for step in steps for place in made.describe(step)} == {epoch}
    assert n < 100 or orders[0] != orders[1] != orders[2]
    assert made.epochs(2 * made.steps_per_epoch) == 2


def test_a_step_asked_alone_is_the_step_in_its_turn() -> None:
    encoded = examples(200)
    made = batches(encoded)
    in_turn = [made.batch(step) for step in range(60)]
    for step in (59, 0, 26, 3):
        assert same(batches(encoded).batch(step), in_turn[step])
    assert any(held(batches(encoded, seed=8).batch(step)) != held(in_turn[step]) for step in range(3))


def test_neighbours_differ_from_epoch_to_epoch() -> None:
    """Also where there are few batches: sorted as one pool, the same texts would always meet."""
    made = batches(examples(96))
    together: list[set[frozenset[int]]] = []
    for epoch in range(2):
        steps = range(epoch * 12, epoch * 12 + 12)
        together.append({frozenset(held(made.batch(step))) for step in steps})
    assert not together[0] & together[1]


def test_each_seed_has_an_order_of_its_own() -> None:
    encoded = examples(64)
    first = [tuple(place.index for place in batches(encoded, seed=seed).describe(0)) for seed in range(20)]
    assert len(set(first)) > 15
    every = {index for indices in first for index in indices}
    assert len(every) > 40  # each example may stand in the first batch


def test_a_batch_holds_whole_examples_of_one_number_of_rows() -> None:
    encoded = examples(60, lambda i: 2 + i % 2)
    made = batches(encoded, size=4)
    for step in range(made.steps_per_epoch):
        batch = made.batch(step)
        indices = held(batch)
        assert {len(encoded[index].rows) for index in indices} == {batch.group}
        wanted = [own.ids for index in indices for own in encoded[index].rows]
        real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask
        assert [tuple(ids[valid].tolist()) for ids, valid in zip(batch.ids, real, strict=True)] == wanted
        for part in batch.split(3):
            assert len(part.ids) % part.group == 0


def test_positions_name_the_examples_in_order() -> None:
    made = batches(examples(30), size=4)
    places = [place for step in range(2 * made.steps_per_epoch) for place in made.describe(step)]
    assert [place.position for place in places] == list(range(60))
    assert [place.index for place in made.describe(5)] == held(made.batch(5))


def test_excluded_positions_are_missing_from_their_batch_only() -> None:
    made = batches(examples(30), size=4)
    before = [held(made.batch(step)) for step in range(20)]
    left_out = made.describe(9)[1]
    after = [held(made.batch(step, [left_out.position])) for step in range(20)]
    assert after[9] == [index for index in before[9] if index != left_out.index]
    assert [after[step] == before[step] for step in range(20)].count(False) == 1


def test_where_a_whole_batch_is_excluded_the_next_ones_move_up() -> None:
    made = batches(examples(30), size=4)
    before = [held(made.batch(step)) for step in range(20)]
    gone = [place.position for step in (3, 9) for place in made.describe(step)]
    after = [held(made.batch(step, sorted(gone))) for step in range(18)]
    assert after == [*before[:3], *before[4:9], *before[10:]]


# ---- padding -------------------------------------------------------------------------------------------------------


def waste(shapes: list[tuple[int, int, int]]) -> float:
    """Share of padding of batches given as (rows, longest, tokens)."""
    return 1 - sum(tokens for *_, tokens in shapes) / sum(rows * longest for rows, longest, _ in shapes)


def test_little_padding_on_real_sentences(gpt2: Tokenizer) -> None:
    lines = real_data("sst2/train.tsv").read_text(encoding="utf-8").splitlines()
    texts = gpt2.encode_batch([line.split("\t")[0] for line in lines])
    encoded = [
        Encoded((Row(tuple(ids), bytes(len(ids)), None),), int(line[-1]), "", 0)
        for ids, line in zip(texts, lines, strict=True)
    ]
    made = batches(encoded, size=32)
    bucketed = [(*made.batch(step).ids.shape, made.batch(step).tokens) for step in range(made.steps_per_epoch)]
    draw = random.Random(1)
    draw.shuffle(texts)
    chance = []
    for start in range(0, len(texts), 32):
        lengths = [len(ids) for ids in texts[start : start + 32]]
        chance.append((len(lengths), max(lengths), sum(lengths)))
    assert made.tokens_per_epoch == sum(map(len, texts))
    assert made.tokens_per_step == made.tokens_per_epoch // made.steps_per_epoch
    assert waste(bucketed) < 0.06
    assert waste(chance) > 0.4


def test_batches_mix_classes_where_length_tells_of_them() -> None:
    """Sorted through many batches, texts of one length would meet: batches of spam, and batches without any."""
    encoded = [
        Encoded((Row(tuple(range(1, 4 + 20 * (index % 2))), b"", None),), index % 2, "", 0) for index in range(640)
    ]
    made = batches(encoded, size=32)
    shares = [float(made.batch(step).labels.float().mean()) for step in range(made.steps_per_epoch)]  # type: ignore[union-attr]
    assert min(shares) > 0.45 and max(shares) < 0.55


def test_a_pass_is_as_wide_as_its_own_longest_row() -> None:
    encoded = [Encoded((Row(tuple(range(1, 2 + length)), b"", None),), 0, "", 0) for length in (9, 2, 5, 2)]
    first, second = (part.trimmed() for part in batches(encoded, size=4).batch(0).split(2))
    assert first.ids.shape == (2, 10) and first.padding_mask is not None
    assert second.ids.shape == (2, 3) and second.padding_mask is None
    assert (first.tokens, second.tokens) == (16, 6)


def test_evaluation_reads_each_example_once_and_the_longest_first() -> None:
    encoded = examples(50, lambda i: 1 + i % 3)
    seen: list[int] = []
    widths = []
    for indices, own in in_length_order(encoded, 100):
        assert own == [encoded[index] for index in indices]
        batch = padded(own, PAD)
        assert batch.tokens <= 100 or len(own) == 1
        assert held(batch) == indices
        seen += indices
        widths.append((batch.group, batch.ids.shape[1]))
    assert sorted(seen) == list(range(50))
    assert widths == sorted(widths, reverse=True)
    assert len(widths) < 40


def test_next_words_count_one_for_each_row() -> None:
    encoded = examples(3, lambda _: 2, longest=9)
    batch = padded(encoded, PAD, next_word=True)
    rows = [one for example in encoded for one in example.rows]
    for index, one in enumerate(rows):
        n = len(one.ids)
        assert batch.targets[index, : n - 1].tolist() == list(one.ids[1:])
        assert batch.weights[index, : n - 1].tolist() == pytest.approx([1 / (n - 1)] * (n - 1))
        assert batch.weights[index, n - 1 :].abs().sum() == 0
    assert not padded(encoded, PAD).weights.any()
    with pytest.raises(ValueError, match="sees the whole text"):
        batches(encoded, causal=False, next_word=True)


def test_labels_of_each_kind() -> None:
    draw = random.Random(0)

    def one(length: int, label: Any, words: tuple[int, ...] | None = None) -> Encoded:
        return Encoded((row(draw, length),), label, "", 0, words=words)

    def labels(*encoded: Encoded) -> Tensor:
        found = padded(encoded, PAD).labels
        assert found is not None
        return found

    scores = labels(one(4, 1.5), one(5, 2.0))
    assert scores.dtype == torch.float32 and scores.tolist() == [1.5, 2.0]
    classes = labels(one(4, 1), one(5, 0))
    assert classes.dtype == torch.int64 and classes.tolist() == [1, 0]
    assert labels(one(4, (1, 2)), one(5, (IGNORED, IGNORED))).tolist() == [[1, 2], [IGNORED, IGNORED]]
    tags = labels(one(4, (5, 6), (1, 2)), one(6, (7, 8, 9), (1, 4)))  # the third word was cut away
    no = IGNORED
    assert tags.tolist() == [[no, 5, 6, no, no, no], [no, 7, no, no, 8, no]]
    assert padded([one(4, None), one(5, None)], PAD).labels is None


def test_without_padding_there_is_no_mask() -> None:
    draw = random.Random(0)
    encoded = [Encoded((row(draw, 6, segments=True),), 0, "", 0) for _ in range(3)]
    batch = padded(encoded, PAD)
    assert batch.padding_mask is None
    assert batch.segment_ids is not None
    assert batch.segment_ids.tolist() == [list(one.rows[0].segments or ()) for one in encoded]


# ---- no result depends on padding ----------------------------------------------------------------------------------

SIZES = {"vocab_size": VOCAB, "context": 32, "n_layer": 2, "d_model": 32, "n_head": 4}
CASES = [
    ("sequence", "first", 1),
    ("sequence", "last", 1),
    ("sequence", "mean", 1),
    ("sequence", "last", 2),
    ("choice", "last", 3),
    ("tokens", "last", 1),
    ("span", "last", 1),
]


def labelled(kind: str, rows: int, draw: random.Random, segments: bool) -> Encoded:
    made = tuple(row(draw, draw.randint(3, 30), segments) for _ in range(rows))
    n = len(made[0].ids)
    if kind == "tokens":
        words = tuple(sorted(draw.sample(range(1, n), min(n - 1, 4))))
        return Encoded(made, tuple(draw.randrange(3) for _ in words), "", 0, words=words)
    if kind == "span":
        first = draw.randrange(n)
        return Encoded(made, (first, draw.randrange(first, n)), "", 0, offsets=((0, 0),) * n)
    return Encoded(made, draw.randrange(3), "", 0)


@pytest.mark.parametrize("family", ["gpt1", "bert-tiny"])
@pytest.mark.parametrize(("kind", "pooling", "rows"), CASES)
def test_scores_and_losses_are_those_of_each_example_alone(family: str, kind: Any, pooling: Any, rows: int) -> None:
    torch.manual_seed(0)
    encoder = family != "gpt1"
    orders: Any = 2 if kind == "sequence" and rows == 2 else 1
    n_labels = {"choice": 1, "span": 2}.get(kind, 3)
    head = HeadConfig(kind=kind, n_labels=n_labels, pooling=pooling, orders=orders)
    heads = {"masked_head": False, "pair_head": False} if encoder else {}
    model = Transformer(ModelConfig(**{**preset(family), **SIZES, **heads, "task_head": head})).eval()
    draw = random.Random(5)
    encoded = [labelled(kind, rows, draw, encoder) for _ in range(6)]
    objective = TaskLoss(head, lm_weight=0.0 if encoder else 0.5)

    def batch_of(some: list[Encoded]) -> Batch:
        return padded(some, PAD, next_word=not encoder)

    @torch.no_grad()
    def scores(some: list[Encoded]) -> Tensor:
        batch = batch_of(some)
        return task_scores(model, batch.ids, batch.padding_mask, batch.segment_ids, group=batch.group)

    @torch.no_grad()
    def losses(some: list[Encoded]) -> Tensor:
        """Sum and count of each term: [terms, 2]."""
        found, counts = objective.loss(model, batch_of(some)), objective.count(batch_of(some))
        assert found.keys() == counts.keys()
        return torch.tensor([[float(found[term]), counts[term]] for term in found])

    together = scores(encoded)
    assert together.std() > 1e-4
    for one, found in zip(encoded, together, strict=True):
        alone = scores([one])[0]
        if kind in ("tokens", "span"):
            found = found[: one.length]
        assert found.shape == alone.shape and torch.allclose(found, alone, atol=1e-5, rtol=1e-5)
    alone_losses = torch.stack([losses([one]) for one in encoded]).sum(0)
    assert torch.allclose(losses(encoded), alone_losses, atol=1e-5, rtol=1e-5)


def test_the_longest_batch_takes_the_most_places() -> None:
    made = batches(examples(64, lambda i: 2 + i % 2))
    places = [made.batch(step).ids.numel() for step in range(made.steps_per_epoch)]
    assert made.longest().ids.numel() == max(places) > min(places)
