"""A saved folder opens in transformers with equal ids."""

import json
from pathlib import Path

import pytest

from gptloom.tokenizer import Tokenizer, train_tokenizer

TEXT = "First Citizen:\nBefore we proceed  any further, hear me speak.\t1,000²! 'tis we'll IT'S\n\n"


def opened(folder: Path) -> object:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def assert_equal(tokenizer: Tokenizer, folder: Path, texts: list[str]) -> None:
    theirs = opened(folder)
    for text in texts:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, special=True)
        assert theirs(text)["input_ids"] == tokenizer.encode(text, special=True)
        ids = tokenizer.encode(text)
        assert theirs.decode(ids) == tokenizer.decode(ids)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == tokenizer.eot_id
    assert theirs.pad_token_id == tokenizer.pad_id


@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen3", "nanochat"])
@pytest.mark.parametrize("kind", ["bpe", "chars", "bytes", "words"])
def test_trained_kinds(kind: str, model_type: str | None, tmp_path: Path, unicode_texts: list[str]) -> None:
    tokenizer = train_tokenizer(kind, [TEXT * 2, *unicode_texts[:100]], None)
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    assert_equal(tokenizer, tmp_path, [TEXT, "a<|endoftext|>b<|pad|>", "e\u0301 and é", *unicode_texts[:150]])


@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen3"])
def test_gpt2(gpt2: Tokenizer, model_type: str | None, tmp_path: Path, unicode_texts: list[str]) -> None:
    gpt2.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    assert_equal(gpt2, tmp_path, [TEXT, "a<|endoftext|>b", "e\u0301 and é", *unicode_texts])
