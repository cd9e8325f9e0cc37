"""A conversation with a model under way: what was said, how the next answer is drawn; taken back, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import check_new_file, write_named
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import Conversation, Message
from gptloom.data.instruction_formats import read_conversations
from gptloom.generation.chat import turns_of
from gptloom.generation.requests import Event
from gptloom.interop.open import OpenedModel
from gptloom.model.counting import count_parameters
from gptloom.observe.numbers import human_count

Answer = Generator[Event, None, None]


class Session:
    """One conversation with ``model``; of a base model, texts that are continued one by one.

    Attributes:
        chat: the model as one that answers; None: a base model.
        messages: what was said, but for the system message.
        sampling: how answers are drawn; answer i with its seed + i, so that the same inputs give the same conversation.
    """

    def __init__(self, model: OpenedModel, sampling: SamplingOptions) -> None:
        self.model = model
        self.chat = None if model.chat_format is None else model.chat_model
        self.system: str | None = None
        self.messages: list[Message] = []
        self.sampling = sampling
        self._tools: tuple[Mapping[str, Any], ...] = ()
        self._answers = 0

    @property
    def alone(self) -> bool:
        """Whether every message stands alone: the model sees nothing of what was said before."""
        return self.model.chat_format is None or not self.model.chat_format.several_turns

    @property
    def nature(self) -> str:
        """What kind of model this is, in a line."""
        name, config = self.model.reference, self.model.model.config
        if self.model.chat_format is None:
            teach = f"gptloom sft {name} --data FILE teaches it"
            return f"{name} is a base model: it was never taught to answer, and continues what you type ({teach})"
        size = f"{human_count(count_parameters(config).total)} parameters, context {config.context:,} tokens"
        if self.alone:
            size += "; every message stands alone: it learned single prompts, and does not see what was said before"
        return f"{name}: {size}"

    def ask(self, text: str) -> Answer:
        """Says ``text`` and gives the answer token by token; what was written is kept, however listening ends.

        ``UserError`` at the call, and nothing said, when it cannot be answered.
        """
        return self._ask(Message("user", text))

    def _ask(self, question: Message) -> Answer:
        options = self.sampling
        if options.seed is not None:
            options = options.model_copy(update={"seed": options.seed + self._answers})
        if self.chat is None:
            events = self.model.events(question.content, options)
        else:
            system = [] if self.system is None else [Message("system", self.system)]
            before = [] if self.alone else self.messages
            events = self.chat.events([*system, *before, question], options, tools=self._tools)
        self._answers += 1
        self.messages.append(question)
        return self._kept(events)

    def _kept(self, events: Iterator[Event]) -> Answer:
        text, ended = "", False
        try:
            for event in events:
                text += event.text
                ended = event.finish_reason == "stop"
                yield event
        finally:  # one that was broken off teaches nobody how to end: a training on the saved file leaves it out
            self.messages.append(Message("assistant", text, weight=1.0 if ended else 0.0))

    def retry(self) -> Answer:
        """Another answer to the last message. ``UserError`` when nothing was said, or it cannot be asked now: what was said
        stays."""
        before = list(self.messages)
        try:
            return self._ask(self.undo())
        except UserError:
            self.messages = before
            raise

    def undo(self) -> Message:
        """Takes back the last message and its answer. ``UserError`` when nothing was said."""
        if not any(message.role == "user" for message in self.messages):
            raise UserError(Problem("nothing was said yet"))
        while (taken := self.messages.pop()).role != "user":
            pass
        return taken

    def reset(self) -> None:
        """Begins anew; the system message and the settings stay."""
        self.messages, self._tools = [], ()

    def set_system(self, text: str | None) -> None:
        """The system message from now on; None takes it away. ``UserError`` where there is no place for it."""
        if text is not None:
            if self.chat is None or self.alone:
                what = (
                    "a base model knows no system message" if self.chat is None else "its template has no place for one"
                )
                raise UserError(Problem(what, mend="put it into the message"))
            self.chat.check_system(text)
        self.system = text

    def set_option(self, name: str, value: float | str) -> None:
        """A sampling option. ``UserError`` when the value is wrong."""
        self.sampling = SamplingOptions(**{**self.sampling.model_dump(), name: value})
        if name == "seed":
            self._answers = 0

    def save(self, path: Path) -> int:
        """Writes what was said as a file that ``sft`` reads, and returns its number of lines.

        A line is a conversation, in which answers that did not end by themselves have weight 0; where messages stand
        alone, a message and its answer, with the separator and the stop of the model if it has any. ``UserError`` when no
        answer is left that could be learned, the file exists, or it cannot be written.
        """
        turns = [turn for turn in turns_of(self.messages)[1] if _answered(turn)]
        learned = [turn for turn in turns if _answered(turn, 1.0)]
        if not learned:
            what = (
                "no answer ended by itself: there is nothing that a model could learn from"
                if turns
                else "nothing was said yet"
            )
            raise UserError(Problem(what, mend="/max_tokens N, then /retry" if turns else None))
        check_new_file(path)
        system = [] if self.system is None else [Message("system", self.system)]
        rows = map(self._bordered, learned) if self.alone else [[*system, *(one for turn in turns for one in turn)]]
        made = (Conversation(tuple(row), str(path), tools=self._tools) for row in rows)
        lines = [json.dumps(conversation.as_row(), ensure_ascii=False) for conversation in made]
        write_named(path, "\n".join([*lines, ""]))
        return len(lines)

    def _bordered(self, turn: list[Message]) -> list[Message]:
        """A message and its answer as the files have them from which a model learns such ends."""
        format = self.model.chat_format
        if format is None:
            return turn
        ends = {"user": format.separator, "assistant": format.stop}
        return [replace(one, content=one.content.removesuffix(ends[one.role]) + ends[one.role]) for one in turn]

    def load(self, path: Path, number: int = 1) -> int:
        """Goes on with conversation ``number`` (from 1) of a file in any format that ``sft`` reads; how many there are.

        ``UserError`` when it cannot be read, has no such conversation, or messages stand alone here.
        """
        if self.alone:
            raise UserError(Problem("every message stands alone here: there is no conversation to go on with"))
        found = read_conversations([str(path)]).conversations
        if not 1 <= number <= len(found):
            raise UserError(Problem(f"it has conversations 1 to {len(found):,}", str(path)))
        chosen = found[number - 1]
        system, turns = turns_of(chosen.messages)
        self.set_system("\n\n".join(message.content for message in system) or None)
        self.messages, self._tools = [message for turn in turns for message in turn], chosen.tools
        return len(found)


def _answered(turn: list[Message], weight: float = 0.0) -> bool:
    """Whether there is an answer in it that is not empty, of this weight at least."""
    return any(one.role == "assistant" and one.content.strip() and one.weight >= weight for one in turn)
