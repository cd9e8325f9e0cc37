"""What an instruction tuning leaves: the model, and how it answers, beside how the base answered the same prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.run_folder import FINAL, METRICS
from gptloom.data.conversation import Conversation
from gptloom.data.order import hash_words, permute
from gptloom.data.render import Renderer
from gptloom.evaluation.answers import answer_report
from gptloom.evaluation.smoke import smoke_test
from gptloom.generation.chat import ChatModel
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.chat import open_chat
from gptloom.model.lora import merge_lora
from gptloom.observe.sft_section import smoke_warnings
from gptloom.observe.terminal import say
from gptloom.stages.sft.result import BEFORE
from gptloom.stages.tuning.final import write_folders
from gptloom.train.form import About
from gptloom.train.run import Run

if TYPE_CHECKING:
    from gptloom.stages.sft.plan import SftPlan

ANSWERED = 50  # held-out prompts of each task whose answers are compared with the references
LONGEST_ANSWER = 256  # tokens
NEAR = 1.0  # nats above ln V that new tokens may cost a base that has learned little
SMOKE = 11  # what a draw decides


def look_before(plan: SftPlan, run: Run) -> None:
    """Writes ``before.json``: the base on what the tuned model will be measured on."""
    say("the base, before it is tuned: its loss on held-out answers, and how it answers")
    model = ChatModel(
        LanguageModel(plan.body.model, plan.body.tokenizer), Renderer(plan.body.tokenizer, plan.body.format)
    )
    losses = dict(plan.validated().metrics)
    check_first_loss(plan, losses["loss"])
    found = {"losses": losses, **look(plan, model)}
    write_text(run.path / BEFORE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def check_first_loss(plan: SftPlan, loss: float) -> None:
    """UserError where the base expects less of an answer than who knows nothing: ln V."""
    nothing = math.log(plan.body.model.config.vocab_size)
    if not loss <= nothing + NEAR and not plan.options.yes:
        what = f"the base's loss on held-out answers is {loss:.1f}; who knows nothing has ln V = {nothing:.1f}"
        mend = "a base whose weights and tokenizer belong together; --yes where it knows so little of such text; see "
        raise UserError(
            Problem(what, plan.options.base, mend + f"gptloom data show {plan.options.data[0]} --stage sft")
        )


def look(plan: SftPlan, model: ChatModel) -> dict[str, Any]:
    """How ``model`` answers, what its held-out answers are worth, and the bits per byte of base text."""
    longest, most, seed = answer_limit(plan), plan.options.smoke_prompts, plan.options.seed
    held = [one for conversations in plan.answerable.values() for one in conversations]
    found: dict[str, Any] = {}
    for name, whose, conversations in (("smoke", "training", plan.trained), ("smoke_held_out", "held-out", held)):
        if asked := some(conversations, most, seed):
            found[name] = smoke_test(model, asked, max_tokens=longest, seed=seed, whose=whose).as_dict()
    if plan.measurable:
        found["answers"] = answer_report(model, plan.measurable, ANSWERED, seed).as_dict()
    if plan.text is not None:
        found["base_bits_per_byte"] = plan.text.bits_per_byte(model.language_model)
    return found


def some(conversations: Sequence[Conversation], most: int, seed: int) -> list[Conversation]:
    """At most ``most`` of them, the same for equal ones and an equal seed."""
    n = len(conversations)
    order = permute(np.arange(n), n, hash_words(seed, SMOKE))
    return [conversations[place] for place in order[:most]]


def answer_limit(plan: SftPlan) -> int:
    """Tokens that an answer may have: twice as many as nine in ten of the held-out ones."""
    lengths = [end - begin for held in plan.valid.values() for example in held for begin, end in example.turns[-1:]]
    usual = int(np.percentile(lengths, 90)) if lengths else LONGEST_ANSWER
    return max(16, min(2 * usual, LONGEST_ANSWER, plan.body.model.config.context // 2))


def leave(plan: SftPlan, run: Run, told: About, cost: Mapping[str, Any]) -> None:
    """The model, fp32 and on the CPU, as a folder for everyone, adapters also as PEFT has them, and the figures."""
    learned = plan.learned()
    if learned:
        merge_lora(plan.body.model)
    write_folders(plan, run, told, learned, lambda: _write_metrics(plan, run.path, cost))


def _write_metrics(plan: SftPlan, folder: Path, cost: Mapping[str, Any]) -> None:
    """``metrics.json``: the stored folder beside the base."""
    before = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
    after = {"losses": dict(plan.validated().metrics), **look(plan, open_chat(folder / FINAL, device=plan.device.type))}
    document = {"version": 1, "metric": plan.metric, "cost": dict(cost), "before": before, "after": after}
    write_text(folder / METRICS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    for warning in smoke_warnings(after):
        say(warning)
