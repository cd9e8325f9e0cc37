"""The one way in which a conversation becomes token ids, and in which it is known which of them are learned.

Training, evaluation, reinforcement and service all call ``Renderer``. What an answer is follows from roles: it begins
where ``prompt`` of the messages before it ends, and ends with the template's end token, which is learned too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError
from gptloom.data.conversation import Conversation, Message
from gptloom.data.findings import Findings
from gptloom.data.templates import writer_of
from gptloom.data.written import Span, Tools, Unrenderable, Written
from gptloom.data.written_ids import Cut, Ids, IdsOfText
from gptloom.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as token ids, from its start to the end of its last learned answer.

    Attributes:
        ids: int32 [T].
        weights: float32 [T]: how much predicting ``ids[i]`` counts in the loss; 0 for the first, which nothing predicts.
        turns: of each learned answer the first of its ids, and one past the last, which is the end token.
        where: file:line.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    turns: tuple[tuple[int, int], ...]
    where: str


@dataclass(frozen=True)
class _Answer:
    """A learned answer in a text: its characters, end token included."""

    begin: int
    end: int
    weight: float


@dataclass(frozen=True)
class _Example:
    """A text that is learned from."""

    written: Written
    begins: list[int]  # characters at which answers begin, learned or not
    answers: list[_Answer]
    others: list[Span]  # what the assistant says and is not learned here, end tokens included
    where: str

    @property
    def cut(self) -> Cut:
        """Up to the end of the last answer: what a template writes behind it is learned by nobody."""
        end = self.answers[-1].end
        return Cut(self.written.text[:end], [s for s in self.written.specials if s[0][1] <= end], self.begins)


class Renderer:
    """Renders conversations for one model.

    Attributes:
        end_id: ends every answer, in training and in service.
        stop_ids: at which writing an answer stops: that one and the end of a text (not GPT-1's, which is a line end).
        stop: texts at which it stops: the one of ``plain``, if it has any.
    """

    def __init__(self, tokenizer: Tokenizer, format: ChatFormat, prompt_weight: float = 0.0) -> None:
        """``prompt_weight``: how much what is no answer counts in the loss (OpenAI's ``prompt_loss_weight``).

        Raises:
            UserError: the tokenizer lacks the format's end token.
        """
        if format.end not in tokenizer.special_tokens:
            what = f"answers end in {format.end}, which is no special token of this tokenizer"
            raise UserError(Problem(what, f"template {format.template}", "the tokenizer that the model was tuned with"))
        self.tokenizer, self.format, self.prompt_weight = tokenizer, format, prompt_weight
        self.end_id = tokenizer.special_tokens[format.end]
        self.stop_ids = frozenset({self.end_id, tokenizer.eot_id} & set(tokenizer.special_tokens.values()))
        self.stop = [format.stop] if format.stop else []
        self._writer = writer_of(tokenizer, format.template, format.jinja)
        self._ids = IdsOfText(tokenizer)

    # ---- service -------------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """The ids after which the model writes its answer to ``messages``.

        Raises:
            UserError: the template refuses the messages or leaves some out.
        """
        now = datetime.now()
        try:
            written = self._writer.write(messages, tools, answer=True, now=now)
        except Unrenderable as error:
            raise UserError(Problem(error.what, mend=error.mend)) from error
        begins = _begins(written.text, self._prompts(messages, tools, now))
        return self._ids.encode([Cut(written.text, written.specials, begins.values())])[0].values

    def _prompts(self, messages: Sequence[Message], tools: Tools, now: datetime) -> dict[int, str]:
        """Number of an assistant's message -> the text after which a model would write it, if the template has one."""
        prompts = {}
        for number, message in enumerate(messages):
            if message.role == "assistant":
                with suppress(Unrenderable):  # where the template does not let anyone ask so
                    prompts[number] = self._writer.text(messages[:number], tools, answer=True, now=now)
        return prompts

    # ---- training ------------------------------------------------------------------------------------------------------

    def examples(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """Every conversation to learn from, in order.

        Mostly that is one example each. Where a template writes an answer otherwise once others follow (those that
        forget earlier thinking), there is one for each answer of the conversation, as it is when it is the last.

        Raises:
            UserError: all that cannot be rendered: no answer, or an empty one; messages that the template refuses,
                leaves out or rewrites; answers that do not begin where the prompt in service ends, or have no end.
        """
        findings = Findings()
        now = datetime.now()
        examples: list[_Example] = []
        for conversation in conversations:
            try:
                examples += self._examples_of(conversation, now)
            except Unrenderable as error:
                findings.add(error.kind, error.what, conversation.where, error.mend)
        findings.check()
        encoded = self._ids.encode([example.cut for example in examples])
        self._check_ids(examples, encoded)
        return [self._rendered(example, ids) for example, ids in zip(examples, encoded, strict=True)]

    def _examples_of(self, conversation: Conversation, now: datetime) -> list[_Example]:
        learned = [n for n, m in enumerate(conversation.messages) if m.role == "assistant" and m.weight > 0]
        _check_answers(conversation.messages, learned)
        if len(learned) > 1:
            with suppress(Unrenderable):  # each alone tells what is wrong, if anything is
                return [self._together(conversation, learned, now)]
        return [self._together(conversation, [number], now) for number in learned]

    def _together(self, conversation: Conversation, learned: Sequence[int], now: datetime) -> _Example:
        """One text from which the answers ``learned`` are learned; what comes after the last of them is left out.

        Raises:
            Unrenderable: it cannot be; one is that an answer stands there otherwise than it does as the last message.
        """
        messages, tools = conversation.messages[: learned[-1] + 1], conversation.tools
        written = self._writer.write(messages, tools, answer=False, now=now)
        prompts = self._prompts(messages, tools, now)
        answers = [self._answer(messages, tools, number, written, prompts, now) for number in learned]
        begins = _begins(written.text, prompts)
        others = [
            self._said(number, written, begins)
            for number, message in enumerate(messages)
            if message.role == "assistant" and number not in learned and (number in begins or written.ends.get(number))
        ]
        return _Example(written, list(begins.values()), answers, others, conversation.where)

    def _answer(
        self,
        messages: Sequence[Message],
        tools: Tools,
        number: int,
        written: Written,
        prompts: Mapping[int, str],
        now: datetime,
    ) -> _Answer:
        """Where a message that is to be learned stands with its end token, and that it would stand so in service."""
        if number in prompts:
            prompt = prompts[number]
        else:  # raises what the template says
            prompt = self._writer.text(messages[:number], tools, answer=True, now=now)
        if not written.text.startswith(prompt):
            raise self._begins_otherwise(written.text, prompt, number)
        begin, name = len(prompt), f"message {number + 1}"
        end = self._end(written, max([begin, *written.ends.get(number, ())]))
        if end is None:
            what = f"{self._writer.name} puts no {self.format.end} behind {name}: the model would never stop"
            raise Unrenderable("answers without an end", what, "another --template")
        said = "".join(messages[number].content.split())
        if said not in "".join(written.text[begin:end].split()):  # templates may trim it, or set its parts apart
            what = f"{self._writer.name} rewrites {name}, which is to be learned"
            raise Unrenderable("rewritten by the template", what, "another --template")
        if any(begin <= start < end for other, starts in written.starts.items() if other != number for start in starts):
            what = f"{self._writer.name} puts other messages between {name} and its end"
            raise Unrenderable("answers without an end of their own", what, "another --template")
        if number < len(messages) - 1:
            alone = self._writer.text(messages[: number + 1], tools, answer=False, now=now)
            if not alone.startswith(written.text[:end]):
                what = f"{self._writer.name} writes message {number + 1} otherwise when others follow"
                raise Unrenderable("answers that look different later", what)
        return _Answer(begin, end, messages[number].weight)

    def _end(self, written: Written, content: int) -> int | None:
        """One past the end token of an answer whose text is over at ``content``."""
        ends = (end for (first, end), token in written.specials if first >= content and token == self.format.end)
        return next(ends, None)

    def _said(self, number: int, written: Written, begins: Mapping[int, int]) -> Span:
        """What an answer that is not learned takes up."""
        places = [*written.starts.get(number, ()), *written.ends.get(number, ())]
        first = begins.get(number, min(places, default=0))
        last = max([first, *places])
        return first, self._end(written, last) or last

    def _begins_otherwise(self, text: str, prompt: str, number: int) -> Unrenderable:
        kind = "whose answer begins otherwise in service"
        separator = self.format.separator
        if separator and prompt == text[: len(prompt) - len(separator)] + separator:
            what = f"the prompt does not end in {separator!r}, as those that the model knows do"
            return Unrenderable(kind, what, "gptloom data prepare FILE")
        same = next(
            (n for n, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), min(len(text), len(prompt))
        )
        what = (
            f"{self._writer.name} asks for message {number + 1} with {prompt[same:][:40]!r}"
            f" where it is then written as {text[same:][:40]!r}: service would differ from training"
        )
        return Unrenderable(kind, what, "another --template, or mend its add_generation_prompt")

    def _check_ids(self, examples: Sequence[_Example], encoded: Sequence[Ids]) -> None:
        """UserError where the ids are not those of the text in one piece, as far as nobody spelled a special token in it.

        By construction they are with the tokenizers that are trained here; others may treat the borders of special
        tokens in ways of their own.
        """
        if self.tokenizer.kind != "other":
            return
        findings = Findings()
        pairs = [(one, ids) for one, ids in zip(examples, encoded, strict=True) if ids.whole]
        pairs = [(one, ids) for one, ids in pairs if not one.written.quoted]
        whole = self.tokenizer.encode_batch([one.cut.text for one, _ in pairs], special=True) if pairs else []
        for (example, ids), values in zip(pairs, whole, strict=True):
            if ids.values != values:
                what = "this tokenizer makes other ids of the whole text than of the parts between special tokens"
                findings.add("with other ids", what, example.where, "a base with another tokenizer")
        findings.check()

    def _rendered(self, example: _Example, ids: Ids) -> Rendered:
        weights = np.full(len(ids.values), self.prompt_weight, dtype=np.float32)
        for first, end in example.others:
            before = max((place for place in ids.before if place <= first), default=0)
            behind = min((place for place in ids.before if place >= end), default=len(example.written.text))
            weights[ids.before.get(before, 0) : ids.before.get(behind)] = 0.0
        turns = []
        for answer in example.answers:
            begin, end = ids.before[answer.begin], ids.before[answer.end]
            assert begin < end and ids.values[end - 1] == self.end_id, "an answer ends in the end token"
            weights[begin:end] = answer.weight
            turns.append((begin, end))
        weights[:1] = 0.0
        return Rendered(np.array(ids.values, dtype=np.int32), weights, tuple(turns), example.where)


def _check_answers(messages: Sequence[Message], learned: Sequence[int]) -> None:
    if not learned:
        answers = any(message.role == "assistant" for message in messages)
        what = "every answer has weight 0" if answers else "there is no answer in it"
        raise Unrenderable("without anything to learn", f"{what}: nothing is to be learned", "leave the row out")
    for number in learned:
        message = messages[number]
        if not message.content.strip() and not message.extra.get("tool_calls"):
            what = f"message {number + 1} (assistant) is empty" + (", but for white space" if message.content else "")
            raise Unrenderable("with an empty answer", what, 'write the answer, or give the message "weight": 0')


def _begins(text: str, prompts: Mapping[int, str]) -> dict[int, int]:
    """Message number -> where in ``text`` it begins, if that is where its prompt ends."""
    return {number: len(prompt) for number, prompt in prompts.items() if text.startswith(prompt)}


def shortened(rendered: Rendered, max_length: int) -> Rendered | None:
    """The whole turns of an example that fit ``max_length`` tokens; None where not even the first does."""
    if len(rendered.ids) <= max_length:
        return rendered
    fitting = tuple(turn for turn in rendered.turns if turn[1] <= max_length)
    if not fitting:
        return None
    end = fitting[-1][1]
    return Rendered(rendered.ids[:end], rendered.weights[:end], fitting, rendered.where)
