"""What the engine is asked for and what it answers: requests, their completions under way, and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.generate import SamplingOptions
from gptloom.generation.text import TextStream

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Event:
    """One token of one completion. ``text`` is what it settles (see ``TextStream``); the last one has a finish reason."""

    request: int
    choice: int
    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    text: str
    finish_reason: FinishReason | None


@dataclass
class Generated:
    """A completion, under way or finished.

    ``ids`` holds every token written: also the end-of-text or the tokens of the stop text that ended it, which are not in
    ``text``. ``logprobs`` are natural logarithms of the model's own probabilities, before penalties, temperature and cuts;
    ``alternatives`` the likeliest (id, logprob) at each place, if asked for.
    """

    choice: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None

    @property
    def mean_logprob(self) -> float:
        """Log-probability per token, by which best_of chooses."""
        return sum(self.logprobs) / max(len(self.logprobs), 1)


@dataclass
class Request:
    id: int
    prompt: list[int]
    options: SamplingOptions
    seed: int
    room: int  # tokens that a completion may have
    choices: list[Choice]
    first_logits: Tensor | None = None  # [V] after the prompt, kept until every choice has started

    @property
    def waiting(self) -> bool:
        return any(not choice.started for choice in self.choices)


@dataclass(eq=False)
class Choice:
    request: Request
    generated: Generated
    stream: TextStream
    started: bool = False

    @property
    def position(self) -> int:
        """Where its newest token goes."""
        return len(self.request.prompt) + len(self.generated.ids) - 1


def fit_prompt(ids: Sequence[int], context: int, options: SamplingOptions) -> list[int]:
    """The prompt that is used: ``ids``, or with ``truncate_prompt`` as much of its end as leaves room for ``max_tokens``,
    but at least half a context. ``UserError`` when it leaves no room for a single token."""
    if not ids:
        raise ValueError("a prompt needs at least one token; an empty text starts from end-of-text")
    if options.truncate_prompt and len(ids) + options.max_tokens > context:
        return list(ids[-max(context - options.max_tokens, context // 2, 1) :])
    if len(ids) >= context:
        raise UserError(
            Problem(
                f"the prompt has {len(ids):,} tokens; this model's context is {context:,}, prompt and completion together",
                mend="a shorter prompt, or --truncate-prompt to keep its last part",
            )
        )
    return list(ids)
