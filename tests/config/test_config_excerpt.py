from __future__ import annotations

import pytest

from gptloom.config.excerpt import beginning


@pytest.mark.parametrize(("text", "shown"), [("", ""), ("four", "four"), ("fives", "fiv…"), ("a long text", "a l…")])
def test_a_beginning_has_room_for_its_mark(text: str, shown: str) -> None:
    assert beginning(text, 4) == shown
