"""Shards: what is written is read, foreign files too, and damage is named."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.data.shards import HEADER_BYTES, ShardWriter, id_dtype, open_shards

HASH = "0123456789abcdef" * 4


def write(path: Path, ids: np.ndarray, vocab_size: int = 50257, tokenizer_hash: str | None = HASH) -> None:
    with ShardWriter(path, id_dtype(vocab_size), tokenizer_hash) as writer:
        for part in np.array_split(ids, 3):
            writer.append(part, 5 * len(part))


def write_llmc(path: Path, ids: np.ndarray, magic: int, version: int, dtype: str) -> None:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids)
    path.write_bytes(header.tobytes() + ids.astype(dtype).tobytes())


@pytest.mark.parametrize(("vocab_size", "width"), [(256, 2), (65_536, 2), (65_537, 4), (128_256, 4)])
def test_round_trip(tmp_path: Path, vocab_size: int, width: int) -> None:
    ids = np.random.default_rng(0).integers(0, vocab_size, 1000)
    write(tmp_path / "a.bin", ids, vocab_size)
    shards = open_shards(tmp_path / "a.bin")
    assert (shards.n_tokens, shards.n_bytes, shards.tokenizer_hash, shards.dtype.itemsize) == (1000, 5000, HASH, width)
    assert (tmp_path / "a.bin").stat().st_size == HEADER_BYTES + 1000 * width
    read = shards.read(0, 1000)
    assert read.dtype == np.int64
    assert np.array_equal(read, ids)
    assert shards.largest_id() == ids.max()


def test_reading_crosses_files(tmp_path: Path) -> None:
    ids = np.arange(2000)
    for number, part in enumerate(np.split(ids, [700, 701, 701, 1500])):  # one id, and none at all
        write(tmp_path / f"{number}.bin", part)
    shards = open_shards(tmp_path)
    assert np.array_equal(shards.read(650, 900), ids[650:1550])
    assert np.array_equal(shards.read(2000, 0), ids[:0])
    starts = np.array([0, 690, 699, 700, 701, 1490, 1980])
    assert np.array_equal(shards.gather(starts, 20), starts[:, None] + np.arange(20))
    with pytest.raises(ValueError, match="asked of 2000"):
        shards.read(1999, 2)


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "largest"), [(20240520, 1, "<u2", 50_256), (20240801, 7, "<u4", 128_255)]
)
def test_llmc_files(tmp_path: Path, magic: int, version: int, dtype: str, largest: int) -> None:
    ids = np.random.default_rng(1).integers(0, largest + 1, 500)
    write_llmc(tmp_path / "tinyshakespeare_train.bin", ids, magic, version, dtype)
    shards = open_shards(tmp_path)
    assert np.array_equal(shards.read(0, 500), ids)
    assert shards.tokenizer_hash is None
    assert shards.n_bytes is None


def test_nanogpt_file_has_no_header(tmp_path: Path) -> None:
    ids = np.random.default_rng(2).integers(0, 50_257, 301)
    ids.astype("<u2").tofile(tmp_path / "train.bin")
    assert np.array_equal(open_shards(tmp_path / "train.bin").read(0, 301), ids)


def test_nothing_appears_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "a.bin", np.dtype("<u2"), HASH) as writer:
        writer.append(np.arange(10), 10)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", np.arange(100))
    whole = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(whole[:-6])
    (tmp_path / "b.bin").write_bytes(b"abc")
    (tmp_path / "c.bin").write_bytes(whole[:8] + (99).to_bytes(4, "little") + whole[12:])
    (tmp_path / "d.bin").write_bytes(whole[:100])
    write_llmc(tmp_path / "e.bin", np.arange(10), 20240522, 1, "<u2")
    with pytest.raises(UserError) as error:
        open_shards(tmp_path)
    texts = [str(problem) for problem in error.value.problems]
    assert len(texts) == 5
    assert "a.bin: 450 bytes long" in texts[0]
    assert "456 bytes" in texts[0]
    assert "3 bytes are not a whole number" in texts[1]
    assert "shard format 99" in texts[2]
    assert "the header alone" in texts[3]
    assert "magic 20240522" in texts[4]


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_is_not_taken_for_ids_without_a_header(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"weights": list(range(99))}, protocol=protocol))
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.bin")
    torch.save({"w": torch.zeros(3)}, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError) as error:
        open_shards(tmp_path)
    assert ["never opens one" in str(problem) for problem in error.value.problems] == [True] * 3


def test_mixed_tokenizers_and_missing_files(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", np.arange(10))
    write(tmp_path / "b.bin", np.arange(10), tokenizer_hash="f" * 64)
    with pytest.raises(UserError, match="different tokenizers"):
        open_shards(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        open_shards([tmp_path / "empty", tmp_path / "none.bin"])
    assert len(error.value.problems) == 2
