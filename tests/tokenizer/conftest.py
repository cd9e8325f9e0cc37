"""Texts for the tokenizer tests."""

import random

import pytest


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
