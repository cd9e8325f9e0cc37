"""How long a conversation is: what a check asks, and the answer without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gptloom.data.conversation import Conversation
from gptloom.data.findings import Findings


class Measure(Protocol):
    """Lengths in ``unit``, of which a model reads ``limit`` (None: there is no model)."""

    unit: str
    limit: int | None
    usable: int  # conversations so far of which something is learned
    accepted: bool  # whether what is beyond ``limit`` may go, since somebody has set that
    left_out: int  # and of which nothing is, since not one answer ends within ``limit``

    def lengths(self, conversations: Sequence[Conversation], findings: Findings, warnings: Findings) -> list[int]:
        """The length of each; what cannot be measured is found, and counts 0."""

    def of_texts(self, texts: Sequence[str]) -> list[int]:
        """The length of each text as it stands."""


class Characters:
    """Without a model."""

    unit = "characters"
    limit: int | None = None
    accepted = False

    def __init__(self) -> None:
        self.usable = self.left_out = 0

    def lengths(self, conversations: Sequence[Conversation], findings: Findings, warnings: Findings) -> list[int]:
        self.usable += len(conversations)
        return [len(one.text) for one in conversations]

    def of_texts(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]
