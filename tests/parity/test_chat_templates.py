"""Rendered conversations beside ``transformers``: the saved folder's ``apply_chat_template`` gives the same ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import foreign_templates as foreign
import transformers

from gptloom.config.chat import ChatFormat
from gptloom.data.conversation import Conversation, Message
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in, own_format
from gptloom.tokenizer import Tokenizer, train_tokenizer

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "a & b", "parameters": {"a": {"type": "number"}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "ü"}}}


def talk(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    turns = [Message(role, text) for role, text in zip(("user", "assistant") * len(contents), contents, strict=False)]
    return (*([] if system is None else [Message("system", system)]), *turns)


TALKS = {
    "one turn": talk("What is this?", "An answer."),
    "several": talk("Hello", "I am fine. ", " And\n\nyou?\n", "So.\n\n  Yes."),
    "system": talk("Hello", "I am fine.", "And?", "So: 12 日本 😀", system="Be kind.\n"),
    "thinking": talk("Hello", "<think>\nhm\n</think>\n\nI am fine.", "And?", "<think>\nhm hm\n</think>\n\nSo."),
    "indented": talk("Hello", "  I am fine.", "x", "\n\ny"),
    "half a pair": talk("Hello", "I am fine.", "and <not> | a \\ token"),
}
TOOLS = (
    *talk("1 and 1?", system="Add."),
    Message("assistant", "", extra={"tool_calls": [CALL]}),
    Message("tool", '{"sum": 2}'),
    Message("assistant", "Two."),
)


def as_transformers(tokenizer: Tokenizer, format: ChatFormat, folder: Path) -> Any:
    """The tokenizer as it is saved with a model, opened by ``transformers``."""
    tokenizer.changed({}, {"chat_template": format.jinja}).save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def check(renderer: Renderer, theirs: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> int:
    """Equal ids up to the end of the last answer, and in every prompt. Returns how many examples it became."""
    told = [message.as_dict() for message in messages]
    places = [number for number, message in enumerate(messages) if message.role == "assistant"]
    examples = renderer.examples([Conversation(tuple(messages), "f:1", tools=tuple(tools))])
    apply = partial(theirs.apply_chat_template, tools=list(tools) or None, return_dict=False)
    turns = [(example, turn) for example in examples for turn in example.turns]
    for place, (example, (begin, end)) in zip(places, turns, strict=True):
        last = places[-1] if len(examples) == 1 else place
        whole = apply(told[: last + 1])
        assert whole[: len(example.ids)] == example.ids.tolist()
        rest = theirs.decode(whole[len(example.ids) :]).replace(theirs.eos_token, "")
        assert not rest.strip(), "nothing that is said is behind the last answer"
        prompt = renderer.prompt(messages[:place], tools)
        assert prompt == example.ids[:begin].tolist() == apply(told[:place], add_generation_prompt=True)
        assert example.ids[end - 1] == renderer.end_id
    return len(examples)


# ---- built-in templates ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> dict[str, Tokenizer]:
    return {
        "bpe": train_tokenizer("bpe", [foreign.TEXT * 4], None),
        "bytes": train_tokenizer("bytes", [], None),
        "chars": train_tokenizer("chars", [foreign.TEXT], None),
    }


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
@pytest.mark.parametrize("name", ["gptloom", "chatml", "llama", "alpaca"])
def test_built_in(name: str, kind: str, ours: dict[str, Tokenizer], tmp_path: Path) -> None:
    format, tokenizer = built_in(name, ours[kind])
    renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path)
    for about in ("one turn", "several", "system", "half a pair"):
        assert check(renderer, theirs, TALKS[about]) == 1
    if name != "alpaca":
        assert check(renderer, theirs, TOOLS, [TOOL]) == 1
    if kind != "bpe" or name == "gptloom":  # elsewhere a token could reach over the start of the answer: see `render`
        assert check(renderer, theirs, TALKS["indented"]) == 1


def test_plain(ours: dict[str, Tokenizer], tmp_path: Path) -> None:
    format, tokenizer = built_in("plain", ours["bpe"], separator="\n\n###\n\n")
    renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path)
    assert check(renderer, theirs, talk("What is this?\n\n###\n\n", " An answer.\n")) == 1
    typed = [{"role": "user", "content": "What is this?"}]
    asked = theirs.apply_chat_template(typed, add_generation_prompt=True, return_dict=False)
    assert asked == renderer.prompt([Message("user", "What is this?")]), "the separator is in the template itself"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gptloom", "chatml", "llama", "alpaca"])
def test_built_in_with_gpt2(name: str, gpt2: Tokenizer, tmp_path: Path) -> None:
    format, tokenizer = built_in(name, gpt2)
    renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path)
    for about in ("one turn", "several", "system", "half a pair"):
        check(renderer, theirs, TALKS[about])
    system, user, assistant, end = 50257, 50258, 50259, 50256
    if name == "gptloom":  # written down once
        ids = renderer.examples([Conversation(TALKS["system"], "f:1")])[0].ids.tolist()
        told = [system, 3856, 1611, 13, 198, user, 15496, assistant, 40, 716, 3734, 13, end, user, 1870, 30, assistant]
        assert ids[: len(told)] == told


# ---- templates and tokenizers of others ------------------------------------------------------------------------------

TOKENIZERS: dict[str, Callable[[Sequence[str], str | None], Tokenizer]] = {
    "llama-2-like": partial(foreign.sentencepiece_like, legacy=True),
    "mistral-like": partial(foreign.sentencepiece_like, legacy=False),
    "llama-3-like": foreign.byte_level,
    "space before each part": partial(foreign.byte_level, prefix_space=True),
    "phi-3-like": partial(foreign.byte_level, strip=True),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_others(kind: str, tmp_path: Path) -> None:
    for family, (template, special) in foreign.SPECIAL.items():
        tokenizer = TOKENIZERS[kind](special, template)
        format = own_format(tokenizer)
        assert format is not None and format.jinja == template and format.template == "tokenizer"
        renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path / family)
        for about, messages in TALKS.items():
            if about == "system" and family == "renamed":
                continue  # which refuses
            if about == "half a pair" and family == "thinking":
                continue  # ends in a question
            apart = family == "thinking" or (family, about) == ("late system", "system")
            answers = sum(message.role == "assistant" for message in messages)
            assert check(renderer, theirs, messages) == (answers if apart else 1), (family, about)


def test_special_tokens_in_texts_are_as_transformers_has_them_when_told_to(tmp_path: Path) -> None:
    """Its ``sanitize_control_tokens`` cuts a text around them, so only texts without neighbours are equal to the id."""
    tokenizer = foreign.byte_level(*reversed(foreign.SPECIAL["generation"]))
    format = own_format(tokenizer)
    assert format is not None
    renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path)
    said = "<|im_end|>\n<|im_start|>system\n"
    messages = talk(f"x {said} y", f"{said} z")
    (example,) = renderer.examples([Conversation(messages, "f:1")])
    told = [message.as_dict() for message in messages]
    whole = theirs.apply_chat_template(told, sanitize_control_tokens=True, return_dict=False)
    marks = {tokenizer.special_tokens[token] for token in ("<|im_start|>", "<|im_end|>")}
    assert [i for i in example.ids.tolist() if i in marks] == [i for i in whole if i in marks]
    assert tokenizer.decode(example.ids.tolist()) == tokenizer.decode(whole).rstrip("\n")


def test_what_a_template_marks_as_the_assistants_is_what_is_learned(tmp_path: Path) -> None:
    tokenizer = foreign.byte_level(*reversed(foreign.SPECIAL["generation"]))
    format = own_format(tokenizer)
    assert format is not None
    renderer, theirs = Renderer(tokenizer, format), as_transformers(tokenizer, format, tmp_path)
    for about in ("one turn", "several", "system", "thinking"):
        told = [message.as_dict() for message in TALKS[about]]
        marked = theirs.apply_chat_template(told, return_assistant_tokens_mask=True, return_dict=True)
        (example,) = renderer.examples([Conversation(TALKS[about], "f:1")])
        assert marked["assistant_masks"][: len(example.ids)] == example.weights.astype(int).tolist()
        assert sum(marked["assistant_masks"]) == example.weights.sum()
