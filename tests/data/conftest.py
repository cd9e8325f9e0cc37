"""A tokenizer for the data tests."""

import pytest

from gptloom.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return train_tokenizer("bytes", [], None)
