"""Batches: what a step sees, what an epoch covers, and that validation reads every token once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gptloom.data.batch import Batch
from gptloom.data.batches import TokenBatches, eval_batches
from gptloom.data.shards import ShardWriter, TokenShards, open_shards


def shards_of(folder: Path, n_tokens: int, first: int = 0) -> TokenShards:
    """Ids that count up from ``first``, in three files."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(first, first + n_tokens), 3)):
        with ShardWriter(folder / f"{number}.bin", np.dtype("<u2")) as writer:
            writer.append(part, None)
    return open_shards(folder)


def test_targets_are_the_ids_one_place_on(tmp_path: Path) -> None:
    batches = TokenBatches(shards_of(tmp_path / "s", 1000), context=16, windows_per_step=8, seed=0)
    batch = batches.batch(3)
    assert batch.ids.shape == batch.targets.shape == batch.weights.shape == (8, 16)
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert batch.weights.dtype == torch.float32
    assert torch.equal(batch.targets, batch.ids + 1)
    assert torch.equal(batch.ids, batch.ids[:, :1] + torch.arange(16))
    assert batch.weights.min() == 1
    assert (batch.tokens, batches.tokens_per_step) == (128, 128)


def test_an_epoch_trains_on_almost_every_target_once(tmp_path: Path) -> None:
    batches = TokenBatches(shards_of(tmp_path / "s", 1003), context=16, windows_per_step=1, seed=0)
    epochs = []
    for epoch in range(4):
        steps = range(epoch * batches.windows_per_epoch, (epoch + 1) * batches.windows_per_epoch)
        targets = torch.cat([batches.batch(step).targets.flatten() for step in steps])
        assert len(targets) == len(targets.unique()) == batches.tokens_per_epoch
        assert len(targets) > 1002 - 2 * 16
        epochs.append(targets.sort().values)
    assert len({int(targets[0]) for targets in epochs}) > 1  # the borders move from epoch to epoch
    assert batches.epochs(2 * batches.windows_per_epoch) == 2.0


@pytest.mark.parametrize("n_tokens", [17, 18, 31, 32, 33, 48])
def test_the_smallest_corpora(tmp_path: Path, n_tokens: int) -> None:
    batches = TokenBatches(shards_of(tmp_path / "s", n_tokens), context=16, windows_per_step=3, seed=1)
    for step in range(50):
        assert int(batches.batch(step).targets.max()) < n_tokens
    with pytest.raises(ValueError, match="less than one window"):
        TokenBatches(shards_of(tmp_path / "t", 16), context=16, windows_per_step=1, seed=0)


def test_a_step_is_a_pure_function_and_describes_itself(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "s", 1000)
    one, other = (TokenBatches(shards, 16, 4, seed=9) for _ in range(2))
    expected = [one.batch(step).ids for step in range(40)]
    for step in (39, 0, 17):
        assert torch.equal(other.batch(step).ids, expected[step])
        places = other.describe(step)
        assert [place.start for place in places] == expected[step][:, 0].tolist()
        assert [place.position for place in places] == [4 * step + row for row in range(4)]
        assert all(place.end - place.start == 17 and place.source == 0 for place in places)
    assert {place.epoch for place in one.describe(39)} == {(4 * 39) // one.windows_per_epoch}


def test_excluded_windows_never_come_and_later_ones_move_up(tmp_path: Path) -> None:
    batches = TokenBatches(shards_of(tmp_path / "s", 1000), 16, 4, seed=9)
    bad = tuple(place.position for place in batches.describe(2))
    assert torch.equal(batches.batch(1, bad).ids, batches.batch(1).ids)
    assert torch.equal(batches.batch(2, bad).ids, batches.batch(3).ids)
    assert batches.describe(9, bad) == batches.describe(10)


def test_weighted_sources(tmp_path: Path) -> None:
    small, large = shards_of(tmp_path / "a", 177), shards_of(tmp_path / "b", 1617, first=10_000)
    batches = TokenBatches([(small, 2.0), (large, 0.5)], context=16, windows_per_step=10, seed=0)
    assert batches.windows_per_epoch == 2 * 10 + 50
    first = torch.cat([batches.batch(step).ids for step in range(7)])
    assert int((first[:, 0] < 10_000).sum()) == 20
    assert torch.equal(first, first[:, :1] + torch.arange(16))
    assert {place.epoch for step in range(7) for place in batches.describe(step) if place.source == 0} == {0, 1}


@pytest.mark.parametrize("n_tokens", [2, 16, 17, 18, 64, 65, 66, 1000])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_validation_reads_every_target_exactly_once(tmp_path: Path, n_tokens: int, rows: int) -> None:
    batches = list(eval_batches(shards_of(tmp_path / "s", n_tokens), context=16, rows=rows))
    counted = torch.cat([batch.targets[batch.weights > 0] for batch in batches])
    assert counted.tolist() == list(range(1, n_tokens))
    assert len({batch.ids.shape for batch in batches}) == 1
    for batch in batches:
        assert torch.equal(batch.targets[batch.weights > 0], batch.ids[batch.weights > 0] + 1)
        assert not batch.ids[batch.weights == 0].any()


def test_micro_batches_hold_every_row_and_field() -> None:
    ids = torch.arange(15).view(5, 3)
    batch = Batch(ids, ids + 1, torch.ones(5, 3), document_ids=ids // 2)
    parts = batch.split(2)
    assert [len(part.ids) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.document_ids for part in parts if part.document_ids is not None]), ids // 2)
    assert parts[0].positions is None
    assert torch.equal(batch.to("cpu").targets, batch.targets)


def test_a_field_of_another_shape_is_a_programmer_error() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="weights has shape"):
        Batch(ids, ids, torch.ones(2, 4))
