"""``ChatModel``: a language model that answers messages, rendered for it exactly as in its training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import ROLES, Conversation, Message
from gptloom.data.findings import counted
from gptloom.data.render import Renderer
from gptloom.generation.language_model import Completion, LanguageModel
from gptloom.generation.requests import Event

Messages = Sequence[Message | Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class ChatPrompt(NamedTuple):
    """What a model is given of a conversation: ids up to where the answer begins, and how many messages do not fit."""

    ids: list[int]
    left_out: int


class ChatModel:
    """Answers conversations. Messages are ``Message`` or dicts with ``role`` and ``content``, as OpenAI's.

    An answer ends at the ids that the model folder names (the template's end token, end-of-text, those of
    generation_config.json) and, for ``plain``, at its stop text. Of a conversation that is longer than the context the
    oldest whole turns are left out, never the system message; a warning says so, once.
    """

    def __init__(self, language_model: LanguageModel, renderer: Renderer) -> None:
        self.language_model = language_model
        self.renderer = renderer
        self.stop_ids = renderer.stop_ids | language_model.folder_stop_ids
        self._said_left_out = False

    def reply(self, messages: Messages, *, tools: Tools = (), **options: Any) -> Completion:
        """The answer to the last message.

        The options are the fields of ``SamplingOptions``; ``tools`` are descriptions for templates that show them.

        Raises:
            UserError: a message or an option is wrong, the template cannot render the messages, or the last of them does
                not fit the context.
        """
        sampling = self._sampling(SamplingOptions(**options))
        prompt = self._prompt(messages, sampling.max_tokens, tools)
        return next(self.language_model.complete_ids([prompt], sampling, self.stop_ids))[0]

    def stream(self, messages: Messages, *, tools: Tools = (), **options: Any) -> Iterator[str]:
        """The text of ``reply`` in pieces, as it is written."""
        return (event.text for event in self.events(messages, SamplingOptions(**options), tools=tools) if event.text)

    def events(self, messages: Messages, options: SamplingOptions, *, tools: Tools = ()) -> Iterator[Event]:
        """The answer token by token; raises at the call, as ``reply``."""
        sampling = self._sampling(options)
        prompt = self._prompt(messages, sampling.max_tokens, tools)
        return self.language_model.events_ids(prompt, sampling, self.stop_ids)

    def complete(
        self, conversations: Sequence[Messages | Conversation], options: SamplingOptions
    ) -> Iterator[Completion]:
        """The answer to each conversation, in order, many written side by side; conversation i draws with ``seed`` + i.

        Of a ``Conversation`` it is what goes before its last answer, with its tools. ``UserError`` names all that are
        wrong or do not fit, before any is answered.
        """
        sampling = self._sampling(options)
        prompts, problems = [], []
        for number, one in enumerate(conversations, start=1):
            messages, tools = (one.prompt, one.tools) if isinstance(one, Conversation) else (one, ())
            try:
                prompts.append(self._prompt(messages, sampling.max_tokens, tools))
            except UserError as error:
                place = one.where if isinstance(one, Conversation) else f"conversation {number}"
                problems += [Problem(problem.what, place, problem.mend) for problem in error.problems]
        if problems:
            raise UserError(*problems)
        for (completion,) in self.language_model.complete_ids(prompts, sampling, self.stop_ids):
            yield completion

    def prompt(self, messages: Messages, max_tokens: int, tools: Tools = ()) -> ChatPrompt:
        """What the model is given, where an answer may have ``max_tokens``.

        Turns are left out until so much room is free, but at most half a context; the last turn may take more.
        A turn is a user's message with everything up to the next one. Raises ``UserError`` as ``reply``.
        """
        context = self.language_model.model.config.context
        most = max(context - max_tokens, context // 2)
        system, turns = turns_of(as_messages(messages))
        left_out, ids = 0, []
        for place, turn in enumerate(turns):
            kept = [message for later in turns[place:] for message in later]
            ids = self.renderer.prompt([*system, *kept], tools)
            if len(ids) <= most or (place == len(turns) - 1 and len(ids) < context):
                return ChatPrompt(ids, left_out)
            left_out += len(turn)
        raise UserError(self._too_long(system, len(ids)))

    def check_system(self, text: str) -> None:
        """``UserError`` when a system message alone is longer than the context."""
        if self._count([Message("system", text)]) >= self.language_model.model.config.context:
            raise UserError(self._too_long([Message("system", text)], 0))

    def _prompt(self, messages: Messages, max_tokens: int, tools: Tools) -> list[int]:
        ids, left_out = self.prompt(messages, max_tokens, tools)
        if left_out and not self._said_left_out:
            self._said_left_out = True
            context = self.language_model.model.config.context
            warnings.warn(
                f"the conversation is longer than the context of {context:,} tokens: of the oldest turns "
                f"{counted(left_out, 'message')} are not read any more",
                stacklevel=3,
            )
        return ids

    def _sampling(self, options: SamplingOptions) -> SamplingOptions:
        """The options with the stop text of the format; ``UserError`` for what has no meaning in a conversation."""
        problems = []
        if options.n > 1:
            problems.append(Problem(f"a conversation goes on with one answer, not with n {options.n}", mend="drop n"))
        if options.truncate_prompt:
            what = "of a long conversation whole turns are left out; truncate_prompt would cut one in the middle"
            problems.append(Problem(what, mend="drop truncate_prompt"))
        if options.beams > 1 and self.renderer.stop:
            what = f"this model's answers end in {self.renderer.stop[0]!r}, and beam search knows no stop texts"
            problems.append(Problem(what, mend="drop beams"))
        if problems:
            raise UserError(*problems)
        return options.model_copy(update={"stop": [*options.stop, *self.renderer.stop]})

    def _too_long(self, system: Sequence[Message], tokens: int) -> Problem:
        context = self.language_model.model.config.context
        whole = f"this model's context is {context:,}, conversation and answer together"
        if (count := self._count(system)) >= context:
            return Problem(f"the system message has {count:,} tokens; {whole}", mend="a shorter system message")
        beside = f", {count:,} of them the system message's" if count else ""
        what = f"the last message alone does not fit: rendered it has {tokens:,} tokens{beside}; {whole}"
        return Problem(what, mend="a shorter message, or several")

    def _count(self, messages: Sequence[Message]) -> int:
        return sum(self.language_model.count(message.content) for message in messages)


def as_messages(messages: Messages) -> list[Message]:
    """Messages of dicts; what else a dict holds (name, tool_calls, tool_call_id) is for the template.

    Raises:
        UserError: every message without a known role or without text, and a last one that is an answer already.
    """
    found, problems = [], []
    for number, message in enumerate(messages, start=1):
        if isinstance(message, Message):
            found.append(message)
            continue
        extra = {name: value for name, value in message.items() if name not in ("role", "content", "weight")}
        role, content = message.get("role"), message.get("content")
        where = f"message {number}"
        if role not in ROLES:
            what = "it has no role" if role is None else f"there is no role {role!r}"
            problems.append(Problem(what, where, nearest(str(role), ROLES)))
        elif not isinstance(content, str) and not (content is None and extra):
            problems.append(Problem("its content is no text", where, '{"role": "user", "content": "Hello"}'))
        else:
            found.append(Message(role, content or "", extra=extra))
    if not problems and found and found[-1].role == "assistant":
        what = "the last message is the assistant's: there is nothing to answer"
        problems.append(Problem(what, mend="end in a message of the user"))
    if problems:
        raise UserError(*problems)
    return found


def turns_of(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages at the start, and the turns after them (at least one, which may be empty)."""
    start = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    turns: list[list[Message]] = [[]]
    for message in messages[start:]:
        if message.role == "user" and turns[-1]:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns
