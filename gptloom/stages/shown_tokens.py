"""What ``gptloom data show`` shows of an example, whatever the stage: tokens, and what each is there for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShownToken:
    """A token, and why it is there."""

    id: int
    text: str
    role: str  # of a labelled example a role of its frame; of a conversation prompt, answer or end
    mark: str | None = None  # the tag of its word, or "answer" inside the answer of a span

    @property
    def part(self) -> str:
        return self.role if self.mark is None else self.mark


@dataclass(frozen=True)
class ShownExample:
    """An example as a model reads it; several rows where it reads a pair in both orders, or each choice."""

    where: str
    label: str | None  # None: a conversation has none
    rows: list[list[ShownToken]]
    cut: int  # tokens left out
