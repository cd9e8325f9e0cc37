"""Masked batches: what a step sees, what an epoch covers, and that any batch can be made again."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.data.batch import Batch
from gptloom.data.build import build_shards
from gptloom.data.built import TrainingShards
from gptloom.data.masked_batches import MaskedBatches, check_enough_masked, masked_eval_batches
from gptloom.data.masked_examples import PairChoice
from gptloom.data.masking import Masking, MaskVocabulary
from gptloom.data.sentences import SentenceWriter
from gptloom.data.shards import ShardWriter, TokenShards, open_shards
from gptloom.data.step_sizes import StepSizes
from gptloom.tokenizer import train_tokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
SIZE = 3000
VOCABULARY = MaskVocabulary(CLS, SEP, MASK, PAD, SIZE, starts=np.arange(SIZE) % 3 > 0)
CONTEXT = 32
KINDS: list[PairChoice] = ["nsp", "order", "none"]


def written(folder: Path, n_documents: int, seed: int = 0, first_id: int = 10) -> TokenShards:
    """Documents of random words in two shards, with their sentences."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number, share in enumerate(np.array_split(np.arange(n_documents), 2)):
        path = folder / f"{number}.bin"
        with ShardWriter(path, np.dtype("<u2")) as writer, SentenceWriter(path) as sentences:
            for _ in share:
                lengths = rng.integers(1, 15, rng.integers(1, 12))
                writer.append(rng.integers(first_id, first_id + 1000, lengths.sum()), None)
                writer.append(np.array([SEP]), None)
                sentences.append([*lengths, 0])
    return open_shards(folder)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return written(tmp_path_factory.mktemp("masked") / "s", 120)


def batches_of(
    tokens: TokenShards, pairs: PairChoice = "nsp", rows: int = 8, seed: int = 1, masking: Masking | None = None
) -> MaskedBatches:
    return MaskedBatches(tokens, CONTEXT, rows, seed, VOCABULARY, pairs=pairs, masking=masking)


def equal(one: Batch, other: Batch) -> bool:
    mine, theirs = one._tensors(), other._tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def labels_of(batch: Batch) -> torch.Tensor:
    assert batch.pair_labels is not None
    return batch.pair_labels


@pytest.mark.parametrize("pairs", KINDS)
def test_rows_are_the_text_that_describe_names(tokens: TokenShards, pairs: PairChoice) -> None:
    batches = batches_of(tokens, pairs)
    for step in range(20):
        batch = batches.batch(step)
        segments, labels = batch.segment_ids, labels_of(batch)
        assert segments is not None
        assert batch.ids.shape == batch.targets.shape == segments.shape == (8, CONTEXT)
        assert (batch.ids.dtype, batch.weights.dtype, labels.dtype) == (torch.int64, torch.float32, torch.int64)
        for row, place in enumerate(batches.describe(step)):
            a = tokens.read(place.start, place.end - place.start).tolist()
            expected, kinds = [CLS, *a, SEP], [0] * (len(a) + 2)
            if place.second is not None:
                b = tokens.read(place.second[0], place.second[1] - place.second[0]).tolist()
                expected, kinds = [*expected, *b, SEP], [*kinds, *([1] * (len(b) + 1))]
            missing = CONTEXT - len(expected)
            assert batch.targets[row].tolist() == expected + [PAD] * missing
            assert segments[row].tolist() == kinds + [0] * missing
            if batch.padding_mask is not None:
                assert batch.padding_mask[row].tolist() == [True] * len(expected) + [False] * missing
            assert int(labels[row]) == place.pair_label
            assert (place.second is None) == (pairs == "none")
        assert (batch.padding_mask is None) == (pairs == "none")
    assert (batches.tokens_per_step, batches.windows_per_step) == (8 * CONTEXT, 8)


@pytest.mark.parametrize("pairs", KINDS)
@pytest.mark.parametrize("whole_word", [False, True])
def test_chosen_words_and_only_they_change(tokens: TokenShards, pairs: PairChoice, whole_word: bool) -> None:
    batches = batches_of(tokens, pairs, rows=400, masking=Masking(whole_word=whole_word))
    batch = batches.batch(0)
    chosen = batch.weights > 0
    assert torch.equal(batch.ids[~chosen], batch.targets[~chosen])
    assert set(batch.weights.unique().tolist()) == {0.0, 1.0}
    assert not torch.isin(batch.targets[chosen], torch.tensor([CLS, SEP, PAD])).any()
    restored = torch.where(chosen, batch.targets, batch.ids)
    assert torch.equal(restored, batch.targets)
    there = CONTEXT * 400 if batch.padding_mask is None else int(batch.padding_mask.sum())
    assert abs(int(chosen.sum()) / there - 0.15) < 0.01
    assert abs(float((batch.ids[chosen] == MASK).float().mean()) - 0.8) < 0.04


def test_how_often_b_does_not_follow(tokens: TokenShards) -> None:
    labels = labels_of(batches_of(tokens, "nsp", rows=1500).batch(0))
    assert 0.5 < float(labels.float().mean()) < 0.62
    labels = labels_of(batches_of(tokens, "order", rows=1500).batch(0))
    assert abs(float(labels.float().mean()) - 0.5) < 0.06
    assert (labels_of(batches_of(tokens, "none").batch(0)) == -1).all()


@pytest.mark.parametrize("pairs", KINDS)
def test_a_step_is_a_pure_function(tokens: TokenShards, pairs: PairChoice) -> None:
    one, other = batches_of(tokens, pairs), batches_of(tokens, pairs)
    expected = [one.batch(step) for step in range(120)]
    assert one.epochs(120) > 1
    for step in (119, 0, 60):  # later epochs before earlier ones
        assert equal(other.batch(step), expected[step])
    assert not equal(batches_of(tokens, pairs, seed=2).batch(0), expected[0])


@pytest.mark.parametrize("pairs", KINDS)
def test_rows_do_not_depend_on_how_they_are_grouped(tokens: TokenShards, pairs: PairChoice) -> None:
    whole = batches_of(tokens, pairs, rows=24).batch(0)
    parts = [batches_of(tokens, pairs, rows=6).batch(step) for step in range(4)]
    growing = MaskedBatches(tokens, CONTEXT, StepSizes(12, first=6, over=12), 1, VOCABULARY, pairs=pairs)
    ramp = [growing.batch(step) for step in range(3)]
    assert [len(batch.ids) for batch in ramp] == [6, 6, 12]
    for grouped in (parts, ramp, whole.split(5)):
        for name, tensor in whole._tensors().items():
            assert torch.equal(torch.cat([part._tensors()[name] for part in grouped]), tensor), name


def test_excluded_examples_never_come_and_later_ones_move_up(tokens: TokenShards) -> None:
    batches = batches_of(tokens)
    bad = tuple(place.position for place in batches.describe(2))
    assert bad == tuple(range(16, 24))
    assert equal(batches.batch(1, bad), batches.batch(1))
    assert equal(batches.batch(2, bad), batches.batch(3))
    assert batches.describe(9, bad) == batches.describe(10)


def epoch_batches(tokens: TokenShards, pairs: PairChoice, masking: Masking | None = None) -> MaskedBatches:
    """Batches that are an epoch each."""
    rows = batches_of(tokens, pairs).windows_per_epoch
    return batches_of(tokens, pairs, rows, masking=masking)


def rows_of(ids: torch.Tensor) -> Counter[tuple[int, ...]]:
    """Without their order."""
    return Counter(tuple(row) for row in ids.tolist())


@pytest.mark.parametrize("pairs", KINDS)
def test_static_masks_come_again_and_dynamic_ones_do_not(tokens: TokenShards, pairs: PairChoice) -> None:
    static = epoch_batches(tokens, pairs, Masking(kind="static", duplicates=2))
    dynamic = epoch_batches(tokens, pairs, Masking(kind="dynamic", duplicates=2))
    epochs = [static.batch(epoch) for epoch in range(3)]
    assert not torch.equal(epochs[0].ids, epochs[2].ids)  # in another order
    assert rows_of(epochs[0].ids) == rows_of(epochs[2].ids) != rows_of(epochs[1].ids)
    again = [dynamic.batch(epoch) for epoch in (0, 2)]
    assert rows_of(again[0].targets) == rows_of(again[1].targets)
    same = rows_of(again[0].ids) & rows_of(again[1].ids)
    assert sum(same.values()) < 0.2 * dynamic.windows_per_epoch  # the shortest


@pytest.mark.parametrize("pairs", KINDS)
def test_an_epoch_reads_every_example_once(tokens: TokenShards, pairs: PairChoice) -> None:
    batches = epoch_batches(tokens, pairs)
    n = batches.windows_per_epoch
    for epoch in range(2):
        places = batches.describe(epoch)
        assert {place.epoch for place in places} == {epoch}
        spans = {(place.start, place.end, place.second) for place in places}
        if pairs == "none":
            assert sum(place.end - place.start for place in places) > tokens.n_tokens - 2 * CONTEXT
        assert len(spans) == n if epoch == 0 or pairs == "none" else len(spans) > 0.9 * n  # see PairedSentences
    assert batches.tokens_per_epoch == n * CONTEXT
    assert batches.epochs(2) == 2


@pytest.mark.parametrize("pairs", KINDS)
def test_weighted_sources(tmp_path: Path, tokens: TokenShards, pairs: PairChoice) -> None:
    small = written(tmp_path / "a", 20, first_id=1500)
    alone = [batches_of(source, pairs).windows_per_epoch for source in (small, tokens)]
    batches = MaskedBatches([(small, 3.0), (tokens, 0.5)], CONTEXT, 4, 0, VOCABULARY, pairs=pairs)
    assert abs(batches.windows_per_epoch - (3 * alone[0] + alone[1] / 2)) < 40
    steps = range(batches.windows_per_epoch // 4)
    places = [place for step in steps for place in batches.describe(step)]
    assert {place.epoch for place in places if place.source == 0} == {0, 1, 2}
    for step in (0, 5):
        for row, place in zip(batches.batch(step).targets, batches.describe(step), strict=True):
            assert (int(row[1]) >= 1500) == (place.source == 0) or int(row[1]) == SEP


def test_several_epochs_at_once_build_each_round_once(tokens: TokenShards, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptloom.data import masked_examples

    built = []
    original = masked_examples.build_pairs
    monkeypatch.setattr(masked_examples, "build_pairs", lambda *given: built.append(given[-1]) or original(*given))
    batches = batches_of(tokens)
    for step in range(3 * batches.windows_per_epoch // 8):
        batches.batch(step)
    assert len(built) == len(set(built)) == 3


# ---- validation ------------------------------------------------------------------------------------------------------


def flattened(tokens: TokenShards, pairs: PairChoice, rows: int) -> list[tuple[list[int], list[int], int]]:
    batches = list(masked_eval_batches(tokens, CONTEXT, rows, VOCABULARY, pairs=pairs))
    assert len({batch.ids.shape for batch in batches}) == 1
    return [
        (ids.tolist(), targets.tolist(), int(label))
        for batch in batches
        for ids, targets, label in zip(batch.ids, batch.targets, labels_of(batch), strict=True)
    ]


@pytest.mark.parametrize("pairs", KINDS)
def test_validation_is_the_same_for_every_number_of_rows(tokens: TokenShards, pairs: PairChoice) -> None:
    one, seven = flattened(tokens, pairs, 1), flattened(tokens, pairs, 7)
    assert seven[: len(one)] == one
    assert len(seven) == -(-len(one) // 7) * 7
    filler = [CLS, SEP] + [PAD] * (CONTEXT - 2)
    assert seven[len(one) :] == [(filler, filler, -1)] * (len(seven) - len(one))
    assert flattened(tokens, pairs, 7) == seven


def test_validation_without_pairs_reads_every_token_once(tokens: TokenShards) -> None:
    read = []
    for batch in masked_eval_batches(tokens, CONTEXT, 5, VOCABULARY, pairs="none"):
        real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask
        for row, there in zip(batch.targets, real, strict=True):
            read += row[there].tolist()[1:-1]
        assert not batch.weights[~real].any()
    assert read == tokens.read(0, tokens.n_tokens).tolist()


# ---- what users get wrong --------------------------------------------------------------------------------------------


def foreign(folder: Path, n_tokens: int) -> TokenShards:
    folder.mkdir()
    with ShardWriter(folder / "0.bin", np.dtype("<u2")) as writer:
        writer.append(np.arange(n_tokens) % SIZE, None)
    return open_shards(folder)


def test_what_makes_no_examples(tmp_path: Path, tokens: TokenShards) -> None:
    single, bare = written(tmp_path / "one", 1), foreign(tmp_path / "bare", 20)
    check_enough_masked(TrainingShards([(tokens, 1.0)], tokens, ""), CONTEXT, "nsp")
    check_enough_masked(TrainingShards([(bare, 1.0)], None, ""), 22, "none", validates=False)
    with pytest.raises(UserError) as error:
        check_enough_masked(TrainingShards([(bare, 1.0), (tokens, 1.0)], None, "the rule"), CONTEXT, "none")
    assert "of weight 1 has 20 tokens, less than one window of context 32" in str(error.value)
    assert "the rule: the validation text is empty" in str(error.value)
    with pytest.raises(UserError, match="is one document, and --pairs nsp takes half of its B's from another"):
        check_enough_masked(TrainingShards([(single, 1.0)], tokens, ""), CONTEXT, "nsp")
    check_enough_masked(TrainingShards([(single, 1.0)], single, ""), CONTEXT, "order")
    with pytest.raises(UserError) as error:
        check_enough_masked(TrainingShards([(bare, 1.0)], bare, ""), CONTEXT, "order")
    assert [problem.what for problem in error.value.problems] == ["a shard without the sentences of its text"] * 2
    with pytest.raises(UserError, match="no room"):
        check_enough_masked(TrainingShards([(tokens, 1.0)], tokens, ""), 4, "nsp")
    with pytest.raises(ValueError, match="less than one window"):
        MaskedBatches(bare, CONTEXT, 4, 0, VOCABULARY, pairs="none")


def test_from_text_to_batches(tmp_path: Path) -> None:
    texts = [f"Document {n} begins. It has a second sentence! Has it a third? It has. And so on." for n in range(60)]
    tokenizer = train_tokenizer("wordpiece", texts, 60)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    shards = build_shards([str(tmp_path / "a.jsonl")], tokenizer, tmp_path / "out").open()
    check_enough_masked(shards, 64, "nsp")
    vocabulary = MaskVocabulary.of(tokenizer, whole_word=True)
    batch = MaskedBatches(
        shards.train, 64, 4, 0, vocabulary, pairs="nsp", masking=Masking(whole_word=True, kind="static")
    ).batch(0)
    texts_of_rows = [tokenizer.decode(row.tolist()) for row in batch.targets]
    assert all(text.count("[SEP]") == 2 and text.startswith("[CLS]") for text in texts_of_rows)
    assert (batch.ids == tokenizer.mask_id).any()
    assert shards.valid is not None
    assert (
        sum(float(batch.weights.sum()) for batch in masked_eval_batches(shards.valid, 64, 4, vocabulary, pairs="nsp"))
        > 0
    )


def test_pair_labels_go_with_their_rows() -> None:
    ids = torch.zeros(5, 3, dtype=torch.int64)
    batch = Batch(ids, ids, torch.zeros(5, 3), pair_labels=torch.arange(5))
    assert [labels_of(part).tolist() for part in batch.split(2)] == [[0, 1], [2, 3], [4]]
    assert labels_of(batch.to("cpu")).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="pair_labels has shape"):
        Batch(ids, ids, torch.zeros(5, 3), pair_labels=ids)
