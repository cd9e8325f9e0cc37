"""A small BERT learns in ten minutes what words WikiText-2 hides: it guesses at least twice as many as who counts words.

    pytest -m slow tests/end_to_end/test_bert_wikitext.py

takes about ten minutes on two cores, the training of its WordPiece vocabulary included, and prints both accuracies.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from real_data import real_data

from gptloom.data.built import TrainingShards, load_built
from gptloom.evaluation.masked import guess
from gptloom.interop.open import open_model
from gptloom.tokenizer.tokenizer import Tokenizer

MINUTES = 7  # of training; the rest is for the vocabulary, the shards, the measuring of steps and the start of Python
# What leaves early the plateau on which a model only knows how frequent words are: two narrow layers that see the text several
# times, short rows with few places to tell apart, all of them full, no dropout, much to guess, embeddings that move slowly.
SETTINGS = {
    "objective": "masked",
    "pairs": "none",
    "tokenizer": "wordpiece",
    "vocab-size": 8192,
    "n-layer": 2,
    "d-model": 128,
    "n-head": 2,
    "context": 64,
    "dropout": 0,
    "mask-rate": 0.3,
    "batch-tokens": 2048,
    "optimizer": "muon",
    "embedding-lr": 0.002,
    "threads": 2,
}


def most_frequent(shards: TrainingShards, ids: int, left_out: Sequence[int]) -> int:
    """The id that stands most often in the training text, but for those ``left_out``."""
    counts = sum(np.bincount(tokens.read(0, tokens.n_tokens), minlength=ids) for tokens, _ in shards.train)
    assert isinstance(counts, np.ndarray)
    counts[list(left_out)] = 0
    return int(counts.argmax())


def pieces_of_unknown(tokenizer: Tokenizer) -> list[int]:
    """The ids of ``<unk>``, which stands in WikiText-2 for each of its rare words."""
    ids = tokenizer.encode("<unk>")
    assert [tokenizer.token_text(token_id) for token_id in ids] == ["<", "unk", ">"]
    return ids


@pytest.mark.slow
def test_guesses_twice_as_many_words_as_the_most_frequent_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = real_data("wikitext2")
    begun = time.monotonic()
    command = [sys.executable, "-m", "gptloom", "pretrain", "--data", str(data / "train.txt.gz")]
    command += ["--valid", str(data / "valid.txt.gz"), "--limit-batches", "20", "--log", "none"]
    command += ["--max-minutes", str(MINUTES), "--out", "run"]
    for name, value in SETTINGS.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=1800)
    assert done.returncode == 0, done.stderr
    minutes = (time.monotonic() - begun) / 60

    model, tokenizer = open_model(tmp_path / "run", device="cpu", precision="fp32")
    shards = load_built(tmp_path / "run" / "data").open()
    assert shards.valid is not None
    unknown = pieces_of_unknown(tokenizer)
    found = [torch.cat(parts) for parts in zip(*guess(model, tokenizer, shards.valid), strict=True)]
    targets, guessed, nats = (part[~torch.isin(found[0], torch.tensor(unknown))] for part in found)
    accuracy = float((guessed == targets).float().mean())
    word = most_frequent(shards, tokenizer.vocab_size, unknown)
    baseline = float((targets == word).float().mean())
    with capsys.disabled():
        print(
            f"\n{len(targets):,} held-out words of WikiText-2, <unk> left out: {accuracy:.2%} guessed "
            f"(loss {float(nats.mean()):.3f}), {baseline:.2%} are {tokenizer.token_text(word)!r}, the most frequent one: "
            f"{accuracy / baseline:.1f} times as many; {minutes:.1f} minutes, WordPiece training included"
        )
    assert accuracy >= 2 * baseline
