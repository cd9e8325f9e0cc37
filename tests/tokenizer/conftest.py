"""Real files that the tokenizer tests compare with."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gptloom.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def truth() -> Callable[[str], Path]:
    """A file or folder of the test data by its name there; skips where it is absent."""
    base = Path(os.environ.get("GPTLOOM_TEST_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (base / name).exists():
            pytest.skip(f"test data {base / name} is not there; set GPTLOOM_TEST_DATA")
        return base / name

    return find


@pytest.fixture(scope="session")
def gpt2(truth: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(truth("vocab_gpt2"))


@pytest.fixture(scope="session")
def unicode_texts() -> list[str]:
    """300 random strings, the same every time, over every range where encodings and splitting rules change."""
    draw = random.Random(20190214)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    spaces = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u200b\u200d\u3000\ufeff"
    letters = "aAéßжשあ字가'’sSt.,!?-_0123²Ⅷ½\u0301\ufe0f😀"

    def character() -> str:
        kind = draw.randrange(3)
        return (chr(draw.randint(*draw.choice(ranges))), draw.choice(spaces), draw.choice(letters))[kind]

    return ["".join(character() for _ in range(draw.randrange(1, 60))) for _ in range(300)]
