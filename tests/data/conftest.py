"""Real files and a tokenizer for the data tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A file or folder of the test data by its name there; skips where it is absent."""
    base = Path(os.environ.get("GPTLOOM_TEST_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (base / name).exists():
            pytest.skip(f"test data {base / name} is not there; set GPTLOOM_TEST_DATA")
        return base / name

    return find


@pytest.fixture(scope="session")
def gpt2(real_data: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(real_data("vocab_gpt2"))


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return train_tokenizer("bytes", [], None)
