"""The quickstart's third stage: the base learns to answer. What does textwrap.dedent do, what is 7 + 5?

Form and content are measured apart, on questions that it was not tuned on: names that pretraining has read, names in
modules that it has not, and operands that no training text has. The base is asked the same, in the same rendering.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gptloom.config.generate import SamplingOptions
from gptloom.config.resolve import resolve
from gptloom.config.sft import SftOptions
from gptloom.data.conversation import Conversation
from gptloom.data.instruction_formats import read_conversations
from gptloom.generation.chat import ChatModel
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.chat import open_chat
from gptloom.interop.open import load
from gptloom.model.counting import count_parameters
from gptloom.observe.numbers import human_count
from gptloom.observe.terminal import terminal
from gptloom.stages.quickstart import screen
from gptloom.stages.quickstart.corpus import Instructions
from gptloom.stages.quickstart.form_and_content import Answer, explain, score_names, score_numbers
from gptloom.stages.quickstart.pretrain import BASE
from gptloom.stages.quickstart.runs import finish_run
from gptloom.stages.quickstart.stage import Context, StageResult
from gptloom.stages.sft.stage import sft
from gptloom.stages.tuning.grown import grown
from gptloom.train.run import RunState

INSTRUCT = "instruct"
EPOCHS = 4.0  # at most
QUESTIONS = 100  # of each held-out part
ANSWER_TOKENS = 80  # the longest right answers have about 70
# With --fast: six steps teach next to nothing.
FAST = {"max_steps": 6, "smoke_prompts": 2}
FAST_QUESTIONS = 8


@dataclass(frozen=True)
class Answered:
    """Held-out questions of one part, and what was said to them."""

    questions: list[Conversation]
    base: list[Answer]
    tuned: list[Answer]

    @property
    def right(self) -> list[str]:
        return [question.answer for question in self.questions]

    def sample(self, number: int) -> dict[str, str]:
        """One question with all answers."""
        asked = self.questions[number]
        return {
            "question": asked.prompt[-1].content,
            "right": asked.answer,
            "base": self.base[number].text,
            "tuned": self.tuned[number].text,
        }


def instruct_base(context: Context) -> StageResult | None:
    """Tunes the base, or goes on with it, and measures what that changed; None when it was stopped on the way."""
    instructions = context.corpus.instructions
    assert instructions is not None, "the pipeline leaves this stage out where there are none"
    asked = resolve(SftOptions, _options(context, instructions), given_source="quickstart")
    state = finish_run(context.out / INSTRUCT, partial(sft, asked))
    if state.state != "finished":
        return None
    return _measure(context, instructions, state)


def _options(context: Context, instructions: Instructions) -> dict[str, Any]:
    """What ``gptloom sft`` is asked for."""
    held_out = (instructions.heldout_read, instructions.heldout_unread, instructions.heldout_arithmetic)
    length = FAST if context.fast else {"max_epochs": EPOCHS, "max_minutes": context.minutes}
    return {
        "base": str(context.out / BASE),
        "data": [str(instructions.names), str(instructions.arithmetic)],
        "valid": [str(path) for path in held_out],
        "out": str(context.out / INSTRUCT),
        "overwrite": True,
        **length,
        "limit_batches": 1,  # of each part, at each evaluation: a few thousand tokens
        "seed": context.seed,
        "log": ["none"],
        "quiet": True,
        **context.machine,
    }


# ---- what came of it -------------------------------------------------------------------------------------------------


def _measure(context: Context, instructions: Instructions, state: RunState) -> StageResult:
    """Asks both models what neither was tuned on, and says what they answer and what that means."""
    terminal.show_live("answering questions …")
    tuned = open_chat(context.out / INSTRUCT, device=context.machine.get("device", "auto"))
    base = _base_for(tuned, context)
    most = FAST_QUESTIONS if context.fast else QUESTIONS
    read, unread, arithmetic = (
        _ask(_read(path)[:most], base, tuned)
        for path in (instructions.heldout_read, instructions.heldout_unread, instructions.heldout_arithmetic)
    )
    names, results = ([row.answer for row in _read(path)] for path in (instructions.names, instructions.arithmetic))
    parts = {
        "read": score_names(read.right, read.base, read.tuned, names),
        "unread": score_names(unread.right, unread.base, unread.tuned, names),
        "arithmetic": score_numbers(arithmetic.right, arithmetic.base, arithmetic.tuned, results),
    }
    samples = [part.sample(0) for part in (read, unread, arithmetic)]
    meaning = explain(**parts)
    screen.say_instructed(samples, parts, meaning)
    figures = {
        "train_names": len(names),
        "train_arithmetic": len(results),
        "parts": {name: part.as_dict() for name, part in parts.items()},
        "samples": samples,
        "meaning": meaning,
    }
    parameters = count_parameters(tuned.language_model.model.config).total
    before = np.concatenate([part.base_form for part in parts.values()]).mean()
    after = np.concatenate([part.form for part in parts.values()]).mean()
    better = f"answers in form {before:.0%} → {after:.0%}"
    return StageResult(INSTRUCT, f"chat, {human_count(parameters)}", state.seconds, better, figures)


def _base_for(tuned: ChatModel, context: Context) -> ChatModel:
    """The base, to be asked as ``tuned`` is: the template's new tokens are in it as they were before the first step."""
    opened = load(context.out / BASE, device=context.machine.get("device", "auto"))
    tokenizer = tuned.renderer.tokenizer
    model = grown(opened.model, range(opened.tokenizer.vocab_size, tokenizer.vocab_size), context.seed, {})
    return ChatModel(LanguageModel(model.to(opened.model.head_weight.device), tokenizer), tuned.renderer)


def _read(path: Path) -> list[Conversation]:
    return read_conversations([str(path)]).conversations


def _ask(questions: list[Conversation], base: ChatModel, tuned: ChatModel) -> Answered:
    options = SamplingOptions(max_tokens=ANSWER_TOKENS, temperature=0)

    def answers(model: ChatModel) -> list[Answer]:
        said = model.complete(questions, options)
        return [Answer(completion.text, completion.finish_reason == "stop") for completion in said]

    return Answered(questions, answers(base), answers(tuned))
