"""What ``data prepare`` works on: rows with their places, as prompts and completions or as conversations.

Rows never change: a repair makes new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

from gptloom.data.conversation import Conversation

Kind = Literal["open-ended", "classification", "conditional", "chat"]
KIND_NAMES: dict[Kind, str] = {
    "open-ended": "open-ended generation (no prompts)",
    "classification": "classification (a few completions again and again)",
    "conditional": "conditional generation (an answer to each prompt)",
    "chat": "conversations",
}


class Rows(ABC):
    """Rows of either form, for the checks that do not ask which."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What the rows teach, by OpenAI's rule."""

    @property
    @abstractmethod
    def wheres(self) -> list[str]:
        """The place of each row: ``kant.csv:17``."""

    @abstractmethod
    def __len__(self) -> int: ...

    def keys(self) -> list[Hashable]:
        """Equal for rows that are equal."""
        return list(self.parts())

    @abstractmethod
    def asked_and_answered(self) -> list[tuple[str, str]]:
        """All that comes before the last answer of each row, "" where nothing does, and that answer."""

    def offered(self) -> list[str]:
        """The tools of each row that may be called; "" for none."""
        return [""] * len(self)

    @abstractmethod
    def parts(self) -> list[tuple[str, ...]]:
        """The texts of each row."""

    def texts(self) -> list[str]:
        """All that is read of each row, one part behind the other."""
        return ["".join(parts) for parts in self.parts()]

    @abstractmethod
    def keep(self, places: Collection[int]) -> Self:
        """The rows at these places (0 is the first), in the order of the places."""

    @abstractmethod
    def rewritten(self, change: Callable[[str], str]) -> Self:
        """The same rows with every text changed."""

    @abstractmethod
    def objects(self) -> Iterator[dict[str, Any]]:
        """Each row as it is written to JSONL."""


@dataclass(frozen=True)
class Pair:
    prompt: str
    completion: str
    where: str


@dataclass(frozen=True)
class Pairs(Rows):
    """Prompts and their completions."""

    rows: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def wheres(self) -> list[str]:
        return [row.where for row in self.rows]

    @cached_property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.rows]

    @cached_property
    def completions(self) -> list[str]:
        return [row.completion for row in self.rows]

    @cached_property
    def kind(self) -> Kind:
        """No prompts: open-ended. Fewer different completions than a third of the rows: classification."""
        if not any(self.prompts):
            return "open-ended"
        return "classification" if len(set(self.completions)) < len(self) / 3 else "conditional"

    def asked_and_answered(self) -> list[tuple[str, str]]:
        return [(row.prompt, row.completion) for row in self.rows]

    def parts(self) -> list[tuple[str, ...]]:
        return list(self.asked_and_answered())

    def keep(self, places: Collection[int]) -> Pairs:
        return Pairs(tuple(self.rows[place] for place in places))

    def rewritten(self, change: Callable[[str], str]) -> Pairs:
        return self.with_prompts(change).with_completions(change)

    def with_prompts(self, change: Callable[[str], str]) -> Pairs:
        """The same rows with other prompts."""
        return Pairs(tuple(replace(row, prompt=change(row.prompt)) for row in self.rows))

    def with_completions(self, change: Callable[[str], str]) -> Pairs:
        """The same rows with other completions."""
        return Pairs(tuple(replace(row, completion=change(row.completion)) for row in self.rows))

    def objects(self) -> Iterator[dict[str, Any]]:
        return ({"prompt": row.prompt, "completion": row.completion} for row in self.rows)


@dataclass(frozen=True)
class Chats(Rows):
    """Conversations."""

    rows: tuple[Conversation, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kind(self) -> Kind:
        return "chat"

    @property
    def wheres(self) -> list[str]:
        return [row.where for row in self.rows]

    def keys(self) -> list[Hashable]:
        return [(row.offered, *((one.role, one.content, one.calls) for one in row.messages)) for row in self.rows]

    def asked_and_answered(self) -> list[tuple[str, str]]:
        return [(row.asked, row.answered) for row in self.rows]

    def offered(self) -> list[str]:
        return [row.offered for row in self.rows]

    def texts(self) -> list[str]:
        return [row.text for row in self.rows]

    def parts(self) -> list[tuple[str, ...]]:
        return [tuple(message.content for message in row.messages) for row in self.rows]

    def keep(self, places: Collection[int]) -> Chats:
        return Chats(tuple(self.rows[place] for place in places))

    def rewritten(self, change: Callable[[str], str]) -> Chats:
        return Chats(tuple(_rewritten(row, change) for row in self.rows))

    def objects(self) -> Iterator[dict[str, Any]]:
        return (row.as_row() for row in self.rows)


def _rewritten(row: Conversation, change: Callable[[str], str]) -> Conversation:
    messages = tuple(replace(message, content=change(message.content)) for message in row.messages)
    return replace(row, messages=messages)
