"""The smoke test of an instructed model: do its answers end by themselves, does it repeat itself, what does it say.

A model that never learned to stop looks fine in every loss curve. So after (and before) a tuning some training prompts,
and some held-out ones, are answered as ``gptloom chat`` would, and the answers are counted and shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gptloom.config.chat import ChatOptions
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import Conversation, Message
from gptloom.generation.chat import ChatModel

ENOUGH = 0.9
"""Share of answers that end by themselves below which a model is not fit to be talked with."""
GRAM = 4


@dataclass(frozen=True)
class Sample:
    """A prompt as a person reads it, and what the model answered; ``repetition`` as ``repetition`` counts it."""

    prompt: str
    answer: str
    stopped: bool
    repetition: float

    @property
    def empty(self) -> bool:
        """Whether it says nothing: a model that ends at once has learned to end, and not to answer."""
        return not self.answer.strip()

    @property
    def ended(self) -> bool:
        """Whether it says something and ended by itself."""
        return self.stopped and not self.empty


@dataclass(frozen=True)
class Smoke:
    """What came of a smoke test on ``whose`` prompts; answers were at most ``max_tokens`` long."""

    samples: list[Sample]
    max_tokens: int
    whose: str = "training"

    @property
    def stopping(self) -> float:
        """Share of the answers that say something and ended by themselves; 1 where nothing was asked."""
        return _mean([float(sample.ended) for sample in self.samples], 1.0)

    @property
    def empty(self) -> int:
        """How many answers say nothing."""
        return sum(sample.empty for sample in self.samples)

    @property
    def repetition(self) -> float:
        """Mean over the answers of the share of their 4-grams that occurred before in the same answer."""
        return _mean([sample.repetition for sample in self.samples], 0.0)

    @property
    def sentence(self) -> str:
        """``19 of 20 answers to training prompts end by themselves (95 %), 3 % of their 4-grams are repeated``."""
        share = f"{self.stopping:.0%}" + (f", {self.empty} empty" if self.empty else "")
        return f"{self._ended} ({share}), {self.repetition:.0%} of their {GRAM}-grams are repeated"

    @property
    def warning(self) -> str | None:
        """What to do where fewer than 90 % stop; None where all is well."""
        if self.stopping >= ENOUGH:
            return None
        return (
            f"warning: only {self._ended} within {self.max_tokens:,} tokens, {self.empty} are empty. If they break off in "
            "the middle of something sensible, the answers in the data are longer than that; if they are empty or go round "
            "in circles, train longer (--max-epochs) or on more examples, and look at what is learned: "
            "gptloom data show FILE --stage sft"
        )

    @property
    def _ended(self) -> str:
        ended = sum(sample.ended for sample in self.samples)
        return f"{ended} of {len(self.samples)} answers to {self.whose} prompts end by themselves"

    def as_dict(self) -> dict[str, Any]:
        """For a run's events and its report."""
        return {
            "stopping": self.stopping,
            "empty": self.empty,
            "repetition": self.repetition,
            "max_tokens": self.max_tokens,
            "sentence": self.sentence,
            "warning": self.warning,
            "samples": [asdict(sample) for sample in self.samples],
        }


def smoke_test(
    model: ChatModel,
    prompts: Sequence[Sequence[Message] | Conversation],
    *,
    max_tokens: int,
    seed: int,
    whose: str = "training",
) -> Smoke:
    """Answers ``prompts``, which are ``whose``, as ``gptloom chat`` draws by default; the same ``seed`` gives the same answers.

    Of a ``Conversation`` it is what goes before its last answer that is answered. ``max_tokens``: longest answer; the
    longest of the training data with some room to spare tells most. ``UserError`` when a prompt does not fit the context.
    """
    usual = {name: ChatOptions.model_fields[name].default for name in ("temperature", "top_p")}
    options = SamplingOptions(max_tokens=max_tokens, seed=seed, **usual)
    samples = []
    for prompt, answer in zip(prompts, model.complete(prompts, options), strict=True):
        stopped = answer.finish_reason == "stop"
        samples.append(Sample(readable(prompt), answer.text, stopped, repetition(answer.ids)))
    return Smoke(samples, max_tokens, whose)


def repetition(ids: Sequence[int]) -> float:
    """Share of the 4-grams of ``ids`` that occurred earlier in ``ids``; 0 of fewer than five."""
    grams = list(zip(*(ids[start:] for start in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def readable(prompt: Sequence[Message] | Conversation) -> str:
    """A prompt as text: a single message of the user as it is, several each after who says it."""
    messages = prompt.prompt if isinstance(prompt, Conversation) else prompt
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def _mean(values: list[float], of_none: float) -> float:
    return sum(values) / len(values) if values else of_none
