"""What does not fit the tokens that a model reads: when a training refuses it, told alike by it and by a check before it."""

from __future__ import annotations

from gptloom.config.errors import Problem

MOST_LEFT_OUT = 0.1
"""Share of the examples of a file that may be too long without anybody having said --max-length."""


def no_room_left(tokens: int, max_length: int, where: str) -> Problem | None:
    """Of a system message of so many tokens: it leaves none for a conversation."""
    if tokens < max_length:
        return None
    what = f"a system message has {tokens:,} tokens, and an example at most {max_length:,}, all together"
    return Problem(what, where, "a shorter system message, or a base with a longer context")


def too_many_left_out(name: str, left_out: int, examples: int, max_length: int, where: str) -> Problem | None:
    """More of a file's ``examples`` are ``left_out``, having no answer that ends within ``max_length``, than goes unsaid."""
    if left_out <= MOST_LEFT_OUT * examples:
        return None
    what = f"{name}: {left_out:,} of {examples:,} examples are longer than {max_length} tokens"
    mend = f"a base with a longer context; --max-length {max_length} goes on without them"
    return Problem(what, where, mend)
