"""Conversations of a file as ``gptloom sft`` renders them: every token, and whether it is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError
from gptloom.config.resolve import Resolved
from gptloom.config.sft import SftOptions
from gptloom.config.show import ShowOptions
from gptloom.data.conversation import Conversation
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.render import Rendered, Renderer, shortened
from gptloom.interop.open import trained
from gptloom.model.store import read_chat
from gptloom.observe.terminal import say
from gptloom.stages.sft.template import choose_template
from gptloom.stages.shown_tokens import ShownExample, ShownToken
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gptloom.tokenizer.added import with_special_tokens


def conversation_examples(resolved: Resolved[ShowOptions]) -> list[ShownExample]:
    """The first conversations of a file with the template that ``gptloom sft`` would take for all of it.

    Raises:
        UserError: all that is wrong with the file, or with those of its rows that are shown; no such template.
    """
    options = resolved.options
    found = read_conversations([options.run], options.format)
    for sentence in (*found.sentences, *found.warnings):
        say(sentence)
    shown = found.conversations[: options.n]
    tokenizer, taught = _reader(options)
    asked = SftOptions(base=options.model or "", data=[options.run], template=options.template, yes=True)
    known = tokenizer or train_tokenizer("bytes", [], None)
    format, known = choose_template(asked, known, taught, found.conversations, embeds=True)
    renderer = Renderer(known, format)
    if tokenizer is None:
        say("words are shown as they stand; --model or --tokenizer shows them as a model reads them")
        renderer = _of_words(renderer, shown)
    return [_shown(example, renderer, options.max_length) for example in renderer.examples(shown)]


def _reader(options: ShowOptions) -> tuple[Tokenizer | None, ChatFormat | None]:
    """Who reads, and what it was taught."""
    if options.model is None:
        return (None if options.tokenizer is None else load_tokenizer(options.tokenizer)), None
    folder, tokenizer = trained(options.model, "--tokenizer gpt2")
    return tokenizer, read_chat(folder)


def _of_words(renderer: Renderer, shown: Sequence[Conversation]) -> Renderer:
    """One whose tokens are the words of what ``renderer`` writes."""
    texts = [renderer.tokenizer.decode(example.ids.tolist()) for example in renderer.examples(shown)]
    words = with_special_tokens(train_tokenizer("words", texts, None), list(renderer.tokenizer.special_tokens))
    return Renderer(words, renderer.format)


def _shown(example: Rendered, renderer: Renderer, max_length: int | None) -> ShownExample:
    kept = example if max_length is None else shortened(example, max_length)
    if kept is None:
        first = example.turns[0][1]
        what = f"its first answer ends with token {first:,}, beyond --max-length {max_length:,}: it is left out"
        raise UserError(Problem(what, example.where, f"--max-length {first}"))
    return shown_conversation(kept, renderer.tokenizer, len(example.ids) - len(kept.ids))


def shown_conversation(example: Rendered, tokenizer: Tokenizer, cut: int = 0) -> ShownExample:
    """Every token of ``example``, from which ``cut`` tokens were left out, by whether it is learned."""
    roles = np.full(len(example.ids), "prompt", dtype=object)
    for begin, end in example.turns:
        roles[begin:end] = "answer"
        roles[end - 1] = "end"
    texts = map(tokenizer.token_text, example.ids.tolist())
    tokens = [ShownToken(*one) for one in zip(example.ids.tolist(), texts, roles.tolist(), strict=True)]
    return ShownExample(example.where, None, [tokens], cut)
