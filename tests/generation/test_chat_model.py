"""ChatModel: messages in, answers out; what the model is fed is what its training rendered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import Conversation, Message
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in
from gptloom.generation.chat import ChatModel, as_messages
from gptloom.generation.engine import Engine
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
Make = Callable[..., ChatModel]


@pytest.fixture(scope="module")
def make_chat(make_model: Callable[..., Transformer], tokenizer: Tokenizer) -> Make:
    def make(template: str = "gptloom", context: int = 256, **parts: str) -> ChatModel:
        chat_format, words = built_in(template, tokenizer, **parts)
        model = make_model(vocab_size=words.vocab_size, context=context)
        return ChatModel(LanguageModel(model, words), Renderer(words, chat_format))

    return make


@pytest.fixture(scope="module")
def chat(make_chat: Make) -> ChatModel:
    return make_chat()


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of every prompt that reaches the engine."""
    seen: list[list[int]] = []
    add = Engine.add

    def watched(self: Engine, prompt: Sequence[int], options: SamplingOptions) -> int:
        seen.append(list(prompt))
        return add(self, prompt, options)

    monkeypatch.setattr(Engine, "add", watched)
    return seen


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("template", ["gptloom", "chatml", "llama", "alpaca"])
def test_the_model_reads_what_its_training_rendered(make_chat: Make, fed: list[list[int]], template: str) -> None:
    chat = make_chat(template)
    messages = [Message("user", "Hi!"), Message("assistant", "Yes?"), Message("user", "Why?")]
    chat.reply(messages, max_tokens=2, seed=1)
    list(chat.stream(messages, max_tokens=2, seed=1))
    answer = Message("assistant", "So.")
    whole = Conversation((*messages, answer), "a.jsonl:1")
    list(chat.complete([messages, whole], SamplingOptions(max_tokens=2, seed=1)))
    (trained,) = chat.renderer.examples([whole])
    start = trained.turns[-1][0]
    assert fed == [trained.ids[:start].tolist()] * 4
    assert len(trained.turns) == 2 and trained.ids[-1] == chat.renderer.end_id


def test_reply_stream_and_complete_agree(chat: ChatModel) -> None:
    answer = chat.reply(QUESTION, max_tokens=20, seed=3)
    assert "".join(chat.stream(QUESTION, max_tokens=20, seed=3)) == answer.text and answer.tokens <= 20
    options = SamplingOptions(max_tokens=20, seed=3)
    completed = list(chat.complete([QUESTION, QUESTION], options))
    assert completed[0].ids == answer.ids and completed[1].ids == chat.reply(QUESTION, max_tokens=20, seed=4).ids
    assert answer.prompt == chat.language_model.tokenizer.decode(chat.renderer.prompt(as_messages(QUESTION)))


def test_an_answer_ends_at_every_id_of_the_folder(chat: ChatModel) -> None:
    whole = chat.reply(QUESTION, temperature=0, max_tokens=12)
    assert whole.finish_reason == "length"
    for ends in ("renderer", "folder"):
        token = whole.ids[5]
        model = LanguageModel(
            chat.language_model.model, chat.language_model.tokenizer, stop_ids=[token] if ends == "folder" else []
        )
        renderer = Renderer(model.tokenizer, chat.renderer.format)
        if ends == "renderer":
            renderer.stop_ids = frozenset([token])
        answer = ChatModel(model, renderer).reply(QUESTION, temperature=0, max_tokens=12)
        assert answer.finish_reason == "stop" and answer.ids == whole.ids[: whole.ids.index(token) + 1]
        assert answer.text == model.tokenizer.decode(answer.ids[:-1], skip_special=True)


def test_raw_text_gets_nothing_added(chat: ChatModel, fed: list[list[int]]) -> None:
    chat.language_model.generate("Hi!", max_tokens=1)
    assert fed == [chat.language_model.tokenizer.encode("Hi!")]


def test_plain_ends_at_its_stop_text(make_chat: Make) -> None:
    text = make_chat("plain").reply([Message("user", "Hi!")], temperature=0, max_tokens=30).text
    stop = text[6:8]
    plain = make_chat("plain", separator="->", stop=stop)
    question = [Message("user", "Hi!")]
    assert plain.renderer.stop == [stop]
    assert plain.prompt(question, 5).ids == plain.language_model.tokenizer.encode("Hi!->")
    same_start = make_chat("plain", stop=stop).reply(question, temperature=0, max_tokens=30)
    assert same_start.text == text[: text.index(stop)] and same_start.finish_reason == "stop"
    assert "beam search" in refusal(lambda: plain.reply(question, beams=2))


def test_a_long_conversation_loses_its_oldest_turns(make_chat: Make) -> None:
    chat = make_chat(context=128)
    system = Message("system", "Be brief.")
    turns = [(Message("user", f"{number}" * 30), Message("assistant", "Ok.")) for number in range(5)]
    messages = [system, *(message for turn in turns for message in turn), Message("user", "Now?")]
    prompt = chat.prompt(messages, max_tokens=40)
    assert len(prompt.ids) <= 128 - 40 and prompt.left_out % 2 == 0 and prompt.left_out > 0
    assert prompt.ids == chat.renderer.prompt([system, *messages[1 + prompt.left_out :]])
    with pytest.warns(UserWarning, match=f"of the oldest turns {prompt.left_out} messages"):
        chat.reply(messages, max_tokens=40, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.reply(messages, max_tokens=40, seed=1)  # told once
    assert chat.prompt(messages[:2], 40).left_out == 0


def test_what_cannot_fit(make_chat: Make) -> None:
    chat = make_chat(context=64)
    said = refusal(lambda: chat.reply([Message("system", "x" * 80), Message("user", "Hi!")]))
    assert "the system message has 80 tokens" in said and "context is 64" in said
    said = refusal(lambda: chat.reply([Message("user", "Hi!"), Message("assistant", "a"), Message("user", "y" * 80)]))
    assert "the last message alone does not fit" in said
    assert "system message has 64 tokens" in refusal(lambda: chat.check_system("x" * 64))
    whole = Conversation((Message("user", "y" * 80), Message("assistant", "a")), "a.jsonl:7")
    said = refusal(lambda: list(chat.complete([whole, QUESTION, [Message("user", "z" * 80)]], SamplingOptions())))
    assert "a.jsonl:7" in said and "conversation 3" in said and "conversation 2" not in said
    nearly = chat.prompt([Message("user", "y" * 50)], max_tokens=40)
    assert 32 < len(nearly.ids) < 64, "the last turn may take more than half of the context"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "humen", "content": "a"}], "message 1: there is no role 'humen'"),
        ([{"role": "usr", "content": "a"}], "did you mean user?"),
        ([{"content": "a"}], "it has no role"),
        ([{"role": "user", "content": 3}], "its content is no text"),
        ([*QUESTION, {"role": "assistant", "content": "a"}], "there is nothing to answer"),
    ],
)
def test_messages_that_are_wrong(chat: ChatModel, messages: Any, message: str) -> None:
    assert message in refusal(lambda: chat.reply(messages))


def test_all_wrong_messages_are_named() -> None:
    said = refusal(lambda: as_messages([{"role": "x", "content": ""}, {"role": "user", "content": None}]))
    assert "message 1" in said and "message 2" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 2}, "one answer"), ({"truncate_prompt": True}, "whole turns"), ({"temperature": -1}, "temperature -1")],
)
def test_options_that_mean_nothing_here(chat: ChatModel, options: Any, message: str) -> None:
    assert message in refusal(lambda: chat.reply(QUESTION, **options))


def test_tools_are_shown_as_in_training(chat: ChatModel, fed: list[list[int]]) -> None:
    tools = ({"type": "function", "function": {"name": "add", "parameters": {}}},)
    asked = Message("user", "2 + 3?")
    whole = Conversation((asked, Message("assistant", "5")), "a.jsonl:1", tools=tools)
    (trained,) = chat.renderer.examples([whole])
    list(chat.complete([whole], SamplingOptions(max_tokens=1)))
    chat.reply([asked], tools=tools, max_tokens=1)
    assert fed == [trained.ids[: trained.turns[0][0]].tolist()] * 2
    assert fed[0] != chat.renderer.prompt([asked])
