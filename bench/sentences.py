"""What the benches of fine-tuning share: SST-2's sentences, some without meaning in their place, untrained bodies."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import harness

DATA = harness.DATA / "sst2"
TRAIN, DEV = DATA / "train.tsv", DATA / "dev.tsv"  # 6,920 and 872 sentences
TINY_ROWS, TINY_DEV_ROWS = 200, 40
TINY_SHAPE = {"n_layer": 2, "n_head": 2, "d_model": 32, "head_dim": 0, "d_ff": 0, "context": 64, "vocab_size": 600}
VOCABULARY = 4096  # of a tokenizer trained on the sentences: what they fill

Rows = list[tuple[str, int]]


def check(parser: argparse.ArgumentParser) -> None:
    """Ends the program where the sentences are not there."""
    if not (TRAIN.is_file() and DEV.is_file()):
        parser.error(f"{DATA} holds no train.tsv and dev.tsv: GPTLOOM_TEST_DATA names the folder in which sst2/ lies")


def read_rows(file: Path) -> Rows:
    """Sentence and label of each line of a file in SST-2's form: no header, no quoting, a tab between."""
    lines = (line.rpartition("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return [(sentence, int(label)) for sentence, _, label in lines]


def write_rows(file: Path, rows: Rows) -> Path:
    file.write_text("".join(f"{sentence}\t{label}\n" for sentence, label in rows), encoding="utf-8")
    return file


def tiny_files(folder: Path) -> tuple[Path, Path]:
    """Training and validation rows of a few words, of which one tells the label; always the same."""
    draw = random.Random(0)
    words = ["loom", "warp", "weft", "shuttle", "thread", "cloth", "weaver", "spins", "and", "the"]

    def row() -> tuple[str, int]:
        label = draw.randrange(2)
        drawn = [draw.choice(words) for _ in range(draw.randint(3, 12))]
        return " ".join([*drawn, ("tears", "holds")[label]]), label

    rows = list(dict(row() for _ in range(4 * TINY_ROWS)).items())  # no sentence twice
    train, dev = rows[:TINY_ROWS], rows[TINY_ROWS : TINY_ROWS + TINY_DEV_ROWS]
    return write_rows(folder / "train.tsv", train), write_rows(folder / "dev.tsv", dev)


def write_body(folder: Path, model: str, sentences: Path, *, tiny: bool, seed: int = 0) -> Path:
    """A model folder with the shape of a preset and random weights; its tokenizer is trained on the sentences."""
    from gptloom.config.model import ModelConfig, preset
    from gptloom.model.store import save_model
    from gptloom.model.transformer import Transformer
    from gptloom.tokenizer.train import train_tokenizer

    texts = [sentence for sentence, _ in read_rows(sentences)]
    kind = "wordpiece" if model.startswith("bert-") else "bpe"
    tokenizer = train_tokenizer(kind, texts, None if tiny else VOCABULARY)
    config = ModelConfig(**{**preset(model), **(TINY_SHAPE if tiny else {})})
    save_model(folder, Transformer.initialised(config, seed=seed), config, tokenizer=tokenizer)
    return folder
