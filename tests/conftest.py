"""What tests of several rooms share."""

import json
import string

import pytest
from real_data import real_data

from gptloom.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    return load_tokenizer(real_data("vocab_gpt2"))


@pytest.fixture(scope="session")
def gpt1_letters(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-1's kind without merges; its last token, which ends a text, is a line end and no special token."""
    folder = tmp_path_factory.mktemp("gpt1-letters")
    ends = [letter + "</w>" for letter in string.ascii_lowercase]
    pieces = ["<unk>", *string.ascii_lowercase, *ends, "\n</w>"]
    (folder / "encoder_bpe_40000.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "vocab_40000.bpe").write_text("#version: 0.2\n")
    return load_tokenizer(folder)
