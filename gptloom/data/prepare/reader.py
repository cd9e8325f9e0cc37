"""Whose tokens ``data prepare`` counts: a model's, or by estimate nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptloom.tokenizer import Tokenizer

BYTES_OF_A_TOKEN = 4
"""Of English text in GPT-2's vocabulary, by the rule of thumb of OpenAI's guides."""
LONGEST_TOKENS = 2048
LONGEST_CHARACTERS = 10_000
"""OpenAI's limit of an example in its first fine-tuning service, and what its tool takes for it."""


@dataclass(frozen=True)
class Reader:
    """The model that is going to read the rows; ``tokenizer`` is None where none was named."""

    name: str = "BASE"
    tokenizer: Tokenizer | None = None
    context: int | None = None
    tokens_per_second: float | None = None  # as its own training reached on this machine, or wherever it was trained

    @property
    def limit(self) -> str:
        """How long an example may be."""
        if self.tokenizer is None:
            return f"{LONGEST_CHARACTERS:,} characters, OpenAI's limit (--model BASE: the context of your model)"
        return f"{self.context or LONGEST_TOKENS:,} tokens, {'its context' if self.context else 'the limit of OpenAI'}"

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """The places of texts beyond the limit."""
        if self.tokenizer is None:
            return [place for place, text in enumerate(texts) if len(text) > LONGEST_CHARACTERS]
        longest = self.context or LONGEST_TOKENS
        return [place for place, count in enumerate(self.counts(texts)) if count > longest]

    @property
    def basis(self) -> str:
        """What a count of tokens rests on."""
        if self.tokenizer is None:
            return f"estimated from {BYTES_OF_A_TOKEN} bytes a token: --model BASE counts them"
        return f"by the tokenizer of {self.name}"

    @property
    def joins_spaces(self) -> bool:
        """Whether the space before a word is part of its token, as in GPT-2's vocabulary; so it is where nobody knows."""
        if self.tokenizer is None:
            return True
        ids = self.tokenizer.encode("of the")
        return len(ids) == 2 and self.tokenizer.decode(ids[1:]).startswith(" ")

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text."""
        if self.tokenizer is None:
            return [-(-len(text.encode()) // BYTES_OF_A_TOKEN) for text in texts]
        return [len(ids) for ids in self.tokenizer.encode_batch(texts)]
