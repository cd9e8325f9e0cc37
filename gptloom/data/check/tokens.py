"""How long a conversation is in the tokens of a model, rendered as training renders it."""

from __future__ import annotations

from collections.abc import Sequence

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import UserError
from gptloom.data.conversation import Conversation
from gptloom.data.findings import Findings
from gptloom.data.render import Rendered, Renderer, shortened
from gptloom.data.room import no_room_left
from gptloom.tokenizer import Tokenizer


class Tokens:
    """With a model: prompts, answers, roles and ends, and what of them is beyond its context."""

    unit = "tokens"

    def __init__(
        self, tokenizer: Tokenizer, format: ChatFormat | None, limit: int | None, *, accepted: bool = False
    ) -> None:
        """``format``: how conversations are written; None where only texts are measured. ``limit``: tokens that the model
        reads; None where its folder does not say. ``accepted``: it was set, and what is longer may go."""
        self.limit, self.accepted = limit, accepted
        self._tokenizer = tokenizer
        self._renderer = None if format is None else Renderer(tokenizer, format)
        self.usable = self.left_out = 0

    def of_texts(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)]

    def lengths(self, conversations: Sequence[Conversation], findings: Findings, warnings: Findings) -> list[int]:
        examples = self._examples(conversations, findings)
        assert self.limit is not None
        self._check_system(conversations, findings)
        for one in (one for rendered in examples for one in rendered):
            if len(one.ids) > self.limit and shortened(one, self.limit) is None:
                what = f"not even the first answer ends within {self.limit:,} tokens: nothing of the row is learned"
                mend = "a model with a longer context, or a shorter prompt"
                warnings.add("rows of which nothing fits the context", what, one.where, mend)
                self.left_out += 1
            else:
                self.usable += 1
        return [max((len(one.ids) for one in rendered), default=0) for rendered in examples]

    def _check_system(self, conversations: Sequence[Conversation], findings: Findings) -> None:
        assert self.limit is not None
        said = [(m.content, one.where) for one in conversations for m in one.messages if m.role == "system"]
        for tokens, (_, where) in zip(self.of_texts([content for content, _ in said]), said, strict=True):
            if problem := no_room_left(tokens, self.limit, where):
                findings.add("system messages that leave no room", problem.what, where, problem.mend)

    def _examples(self, conversations: Sequence[Conversation], findings: Findings) -> list[list[Rendered]]:
        """Of each conversation its examples: one, or one for each answer (see ``Renderer.examples``)."""
        assert self._renderer is not None
        try:
            rendered = self._renderer.examples(conversations)
        except UserError:
            rendered = []
        if len(rendered) == len(conversations):
            return [[one] for one in rendered]
        return [self._examples_of(conversation, findings) for conversation in conversations]

    def _examples_of(self, conversation: Conversation, findings: Findings) -> list[Rendered]:
        assert self._renderer is not None
        try:
            return self._renderer.examples([conversation])
        except UserError as error:
            for problem in error.problems:
                findings.add("conversations that cannot be rendered", problem.what, problem.where, problem.mend)
            return []
