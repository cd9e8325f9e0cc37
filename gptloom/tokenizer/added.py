"""A tokenizer with further special tokens, such as those that frame the texts of a task."""

from __future__ import annotations

from collections.abc import Sequence

from gptloom.tokenizer.tokenizer import Tokenizer


def with_special_tokens(tokenizer: Tokenizer, spellings: Sequence[str]) -> Tokenizer:
    """The same vocabulary with ``spellings`` behind it, in order; those that it has already stay where they are.

    In a text they stay text, as all special tokens do.
    """
    added = list(tokenizer.settings.get("added_tokens") or [])
    new = [spelling for spelling in spellings if spelling not in tokenizer.special_tokens]
    for token_id, spelling in enumerate(new, start=tokenizer.vocab_size):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added.append({"id": token_id, "content": spelling, **flags})
    return tokenizer.changed({"added_tokens": added}, {})
