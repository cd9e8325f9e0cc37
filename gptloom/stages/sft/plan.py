"""What an instruction tuning is made of: body, rendered conversations and batches, with every option settled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gptloom.config.errors import Problem, UserError
from gptloom.config.resolve import Resolved
from gptloom.config.sft import SftOptions
from gptloom.data.conversation import Conversation
from gptloom.data.conversation_batches import ConversationBatches, held_out
from gptloom.data.findings import counted, first_few
from gptloom.data.render import Rendered, Renderer, shortened
from gptloom.data.room import no_room_left, too_many_left_out
from gptloom.evaluation.answers import check_answers
from gptloom.observe.terminal import say
from gptloom.stages.sft.body import ChatBody, adopt
from gptloom.stages.sft.data import SftData, share_weights
from gptloom.stages.sft.final import leave, look_before
from gptloom.stages.sft.replay import BaseText, base_text
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.learning import choose_epochs, choose_rate
from gptloom.stages.tuning.part import choose_part
from gptloom.stages.tuning.plan import Plan, Validated
from gptloom.tokenizer import Tokenizer
from gptloom.train.form import About
from gptloom.train.memory import forget_peak
from gptloom.train.objective import NextToken
from gptloom.train.precision import choose_device, choose_dtype, use_threads
from gptloom.train.run import Run
from gptloom.train.validation import validate

EPOCHS = 3.0
ROW_TOKENS = 8192  # of one forward pass over held-out examples


@dataclass(frozen=True)
class SftPlan(Plan):
    """An instruction tuning."""

    command = "sft"

    resolved: Resolved[SftOptions]
    body: ChatBody
    objective: NextToken
    batches: ConversationBatches
    data: SftData
    valid: dict[str, list[Rendered]]
    trained: list[Conversation]  # those that fit, each once
    answerable: dict[str, list[Conversation]]  # the held-out ones that fit, of each task
    text: BaseText | None  # what the base was pretrained on

    metric = "loss"
    higher_is_better = False

    @property
    def measurable(self) -> list[Conversation]:
        """The held-out conversations that say by which metric their answers are compared with the right ones."""
        return [one for held in self.answerable.values() for one in held if one.metric]

    @property
    def data_hash(self) -> str:
        return self.data.hash

    @cached_property
    def made_of(self) -> dict[str, str]:
        template = hashlib.sha256(self.body.format.model_dump_json().encode()).hexdigest()
        found = {**super().made_of, "template": template}
        read_again = self.options.replay or self.options.replay_data
        return found if self.text is None or not read_again else {**found, "replay": self.text.hash}

    @property
    def sizes(self) -> str:
        return f"{self.batches.n_examples:,} training, {sum(map(len, self.valid.values())):,} held-out examples"

    def validated(self) -> Validated:
        """The loss per response token of all held-out examples together, and of each task (``loss/NAME``)."""
        pad = self.body.tokenizer.pad_id or 0
        losses: dict[str, float] = {}
        items: dict[str, int] = {}
        for task, examples in self.valid.items():
            found = validate(
                self.objective,
                self.body.model,
                held_out(examples, pad, ROW_TOKENS, self.options.packing, self.options.limit_batches),
                device=self.body.model.head_weight.device,  # at the end the model is back on the CPU
            )
            losses[task], items[task] = found.loss, found.items
        loss = sum(losses[task] * items[task] for task in losses) / sum(items.values())
        by_task = {f"loss/{task}": own for task, own in losses.items()} if len(losses) > 1 else {}
        return Validated(loss, {"loss": loss, **by_task}, loss if np.isfinite(loss) else None)

    def summary(self) -> dict[str, Any]:
        return {
            "model": f"{self.options.base}, template {self.body.format.template}",
            "examples": self.batches.n_examples,
            "context": self.body.max_length,
        }

    def described(self, about: About) -> About:
        return replace(about, chat=self.body.format)

    def begin(self, run: Run) -> None:
        look_before(self, run)

    def leave(self, run: Run, about: About, cost: Mapping[str, Any]) -> None:
        leave(self, run, about, cost)


def plan_run(resolved: Resolved[SftOptions], data: SftData) -> SftPlan:
    """Opens the body, renders every conversation and settles what follows; nothing is written.

    Raises:
        UserError: for all that cannot be: nothing to learn from, examples that do not fit, a base that cannot answer.
    """
    options = resolved.options
    device = choose_device(options.device)
    held = forget_peak(device)
    use_threads(options.threads)
    dtype, _ = choose_dtype(options.precision, device)
    body = adopt(options, data)
    renderer = Renderer(body.tokenizer, body.format, options.prompt_loss_weight)
    accepted = options.max_length is not None
    _check_system(data, body)
    fitting, trained = [], []
    for source in data.sources:
        examples = renderer.examples(source.conversations)
        fitting.append(fitted(examples, body.max_length, source.name, accepted=accepted))
        trained += _fitting(source.conversations, examples, body.max_length)
    plain = Renderer(body.tokenizer, body.format)  # held-out loss is that of responses, whatever is trained
    valid, answerable = {}, {}
    for task, conversations in data.valid.items():
        examples = plain.examples(conversations)
        valid[task] = fitted(examples, body.max_length, f"held out of {task}", accepted=True)
        answerable[task] = _fitting(conversations, examples, body.max_length)
    _say_supervised([example for made in fitting for example in made], body.tokenizer)
    check_answers([one for held in answerable.values() for one in held if one.metric])
    resolved = choose_rate(resolved, parameters_of(body.model))
    resolved = choose_epochs(resolved, EPOCHS)
    options = resolved.options
    text = base_text(options, body)
    lora = choose_part(body, options, words=True)
    asked = [source.weight for source in data.sources]
    weights = share_weights([len(made) for made in fitting], asked, options.mix_temperature)
    batches = ConversationBatches(
        list(zip(fitting, weights, strict=True)),
        options.batch_size,
        options.seed,
        body.tokenizer.pad_id or 0,
        packed=options.packing,
        replay=None if not options.replay or text is None else (text.train, options.replay, body.model.config.context),
    )
    return SftPlan(
        resolved, body, lora, NextToken(), batches, device, dtype, held, data, valid, trained, answerable, text
    )


def _check_system(data: SftData, body: ChatBody) -> None:
    """UserError for every system message that leaves no room for a conversation."""
    places: dict[str, list[str]] = {}
    for conversation in (*data.train, *(one for held in data.valid.values() for one in held)):
        for message in conversation.messages:
            if message.role == "system":
                places.setdefault(message.content, []).append(conversation.where)
    problems = []
    for ids, found in zip(body.tokenizer.encode_batch(list(places)), places.values(), strict=True):
        if problem := no_room_left(len(ids), body.max_length, first_few(found)):
            problems.append(problem)
    if problems:
        raise UserError(*problems)


def fitted(examples: Sequence[Rendered], max_length: int, name: str, *, accepted: bool) -> list[Rendered]:
    """The examples within ``max_length``: of longer ones the whole turns that fit, and nothing where not one does.

    Raises:
        UserError: none fits, or, unless that is ``accepted``, more than a tenth does not.
    """
    kept, out, shorter = [], [], []
    for example in examples:
        made = shortened(example, max_length)
        if made is None:
            out.append(example.where)
        else:
            kept.append(made)
            if len(made.ids) < len(example.ids):
                shorter.append(example.where)
    if shorter:
        cut = f"{counted(len(shorter), 'conversation')} longer than {max_length} tokens lose their last turns"
        say(f"{name}: {cut}: {first_few(shorter)}")
    if not out:
        return kept
    what = f"{name}: {len(out):,} of {len(examples):,} examples are longer than {max_length} tokens"
    if not kept:
        raise UserError(
            Problem(f"{what}: nothing is left", first_few(out), "a longer context, shorter examples, or --valid FILE")
        )
    refusal = too_many_left_out(name, len(out), len(examples), max_length, first_few(out))
    if refusal is not None and not accepted:
        raise UserError(refusal)
    say(f"{what} and left out: {first_few(out)}")
    return kept


def _fitting(
    conversations: Sequence[Conversation], examples: Sequence[Rendered], max_length: int
) -> list[Conversation]:
    """Those of which every example is within ``max_length``; a template that forgets makes several of one."""
    long = {example.where for example in examples if len(example.ids) > max_length}
    return [conversation for conversation in conversations if conversation.where not in long]


def _say_supervised(examples: Sequence[Rendered], tokenizer: Tokenizer) -> None:
    """What share of the tokens is learned from; UserError where it is none."""
    tokens = sum(len(example.ids) for example in examples)
    learned = sum(int((example.weights > 0).sum()) for example in examples)
    if not learned:
        what = "not a single token is to be learned: every answer has weight 0"
        raise UserError(Problem(what, examples[0].where, 'answers without "weight": 0'))
    say(
        f"{learned:,} of {tokens:,} tokens are learned from ({learned / tokens:.0%}); every answer ends in its end token"
    )
    if tokenizer.unk_id is None:
        return
    unknown = {example.where: int((example.ids[example.weights > 0] == tokenizer.unk_id).sum()) for example in examples}
    if total := sum(unknown.values()):
        places = first_few([where for where, count in unknown.items() if count])
        name = tokenizer.spelling_of(tokenizer.unk_id)
        say(f"warning: {counted(total, 'learned token')} are {name}, for what this tokenizer does not know: {places}")
