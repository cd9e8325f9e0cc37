"""The one form of all instruction data: a conversation, a sequence of messages with roles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
EXTRA_KEYS = ("name", "tool_calls", "tool_call_id")
"""What a message of OpenAI's files may have beside its text."""
CALL_KEYS = ("tool_calls", "tool_call_id")
"""Those of them that say something, as text does."""


@dataclass(frozen=True)
class Message:
    """Who says what. Only an assistant's messages are learned, as much as their ``weight`` says."""

    role: Role
    content: str
    weight: float = 1.0  # of an assistant's message in the loss; 0 leaves it out
    extra: Mapping[str, Any] = field(
        default_factory=dict
    )  # name, tool_calls, tool_call_id: for templates that use them

    @property
    def calls(self) -> str:
        """As JSON what it calls, and whose call it answers; "" for most messages."""
        return _as_json({key: self.extra[key] for key in CALL_KEYS if key in self.extra})

    @property
    def said(self) -> str:
        """Its text and its calls."""
        return self.content + self.calls

    def as_dict(self) -> dict[str, Any]:
        """As templates have it."""
        return {"role": self.role, "content": self.content, **self.extra}

    def as_row(self) -> dict[str, Any]:
        """As OpenAI's files have it: with a weight where it is another than 1."""
        extra = {key: self.extra[key] for key in EXTRA_KEYS if key in self.extra}
        weight = {} if self.weight == 1 else {"weight": self.weight or 0}
        return {"role": self.role, "content": self.content, **extra, **weight}


@dataclass(frozen=True)
class Conversation:
    """Messages, and where they come from. A prompt and its completion are a conversation of one turn.

    An empty prompt has no user message: the assistant simply writes.
    """

    messages: tuple[Message, ...]
    where: str  # file:line
    task: str = ""  # what it is an example of: the name of its file, where nothing says more
    tools: tuple[Mapping[str, Any], ...] = ()
    metric: str = (
        ""  # by which its answers are to be looked at first: exact, f1, bleu or rouge; "" where no key says so
    )
    source: str = ""  # the text that is to be translated or shortened, where a key says so: what copying would answer

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer that is learned: what stands behind that is no part of a rendered example."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """The last thing the assistant says that is learned."""
        return self.messages[self._last].content

    @property
    def _last(self) -> int:
        """Which message it is; the last of the assistant's where none is learned."""
        answers = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        return max((i for i in answers if self.messages[i].weight > 0), default=answers[-1])

    @property
    def offered(self) -> str:
        """As JSON the tools that may be called; "" for none."""
        return _as_json(self.tools)

    @property
    def asked(self) -> str:
        """All that is said before the answer, calls too; "" where nothing is."""
        return "\n".join(message.said for message in self.prompt)

    @property
    def answered(self) -> str:
        """That answer with its calls."""
        return self.messages[len(self.prompt)].said

    @property
    def text(self) -> str:
        """All that a model reads of it, one behind the other."""
        return self.offered + "".join(message.said for message in self.messages)

    def as_row(self) -> dict[str, Any]:
        """As a line of OpenAI's chat files; keys of ours that say something about it stay."""
        beside = {"tools": list(self.tools), "task": self.task, "metric": self.metric, "source": self.source}
        messages = [message.as_row() for message in self.messages]
        return {"messages": messages, **{key: value for key, value in beside.items() if value}}


def _as_json(found: Any) -> str:
    """The same text for the same thing; "" for nothing."""
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str) if found else ""
