"""``gptloom.load`` of models that were taught to answer, here and elsewhere, and of those that were not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gptloom
from gptloom.config.chat import ChatFormat
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in
from gptloom.generation.chat import ChatModel
from gptloom.interop.chat import open_chat
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

QUESTION = [{"role": "user", "content": "Hi!"}]
BYTES = train_tokenizer("bytes", [], None)


def save(folder: Path, tokenizer: Tokenizer, chat: ChatFormat | None = None, stage: str = "import") -> Path:
    sizes = {"n_layer": 1, "d_model": 32, "n_head": 2, "context": 64, "vocab_size": tokenizer.vocab_size}
    config = ModelConfig(**preset("modern-nano") | sizes)
    save_model(
        folder, Transformer.initialised(config, 0), config, tokenizer=tokenizer, chat=chat, lineage={"stage": stage}
    )
    return folder


@pytest.mark.parametrize("template", ["gptloom", "chatml"])
def test_a_tuned_model_chats_and_writes(tmp_path: Path, template: str) -> None:
    chat_format, words = built_in(template, BYTES)
    model = gptloom.load(save(tmp_path / "m", words, chat_format, "sft"), precision="fp32")
    assert model.chat_format == chat_format
    assert model.stop_ids == {words.special_tokens[chat_format.end], words.eot_id} <= model.chat_model.renderer.stop_ids
    answer = model.chat(QUESTION, max_tokens=4, seed=1)
    assert answer.ids == open_chat(tmp_path / "m", precision="fp32").reply(QUESTION, max_tokens=4, seed=1).ids
    assert "Hi!" in answer.prompt and answer.prompt != "Hi!"
    assert model.generate("Hi!", max_tokens=4).prompt == "Hi!"


def test_the_template_of_a_foreign_tokenizer(tmp_path: Path) -> None:
    chat_format, words = built_in("chatml", BYTES)
    foreign = words.changed({}, {"chat_template": chat_format.jinja})
    folder = save(tmp_path / "m", foreign)
    (folder / LINEAGE_FILE).unlink()
    model = gptloom.load(f"hf:{folder}", precision="fp32")
    assert model.chat_format is not None and model.chat_format.template == "tokenizer"
    assert model.chat_format.end == chat_format.end
    ours = ChatModel(model, Renderer(words, chat_format))
    assert model.chat(QUESTION, max_tokens=4, seed=1).ids == ours.reply(QUESTION, max_tokens=4, seed=1).ids


def test_a_template_that_cannot_be_used_hinders_no_writing(tmp_path: Path) -> None:
    model = gptloom.load(save(tmp_path / "m", BYTES.changed({}, {"chat_template": "{% if %}"})), precision="fp32")
    assert model.generate("Hi!", max_tokens=2).tokens == 2
    with pytest.raises(UserError, match="template"):
        model.chat(QUESTION)


def test_a_base_model_says_so(tmp_path: Path) -> None:
    borrowed = BYTES.changed({}, {"chat_template": built_in("chatml", BYTES)[0].jinja})
    for folder in (save(tmp_path / "own", BYTES), save(tmp_path / "borrowed", borrowed, stage="pretrain")):
        model = gptloom.load(folder, precision="fp32")
        assert model.chat_format is None, "pretraining never used the template that came with a tokenizer"
        with pytest.raises(UserError, match="base model") as caught:
            open_chat(folder)
        assert f"gptloom sft {folder}" in str(caught.value) and f"gptloom generate {folder}" in str(caught.value)


def test_a_damaged_format_is_told(tmp_path: Path) -> None:
    chat_format, words = built_in("gptloom", BYTES)
    folder = save(tmp_path / "m", words, chat_format, "sft")
    card = json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8"))
    del card["chat"]["end"]
    (folder / LINEAGE_FILE).write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(UserError, match='"chat" is not one that this gptloom'):
        gptloom.load(folder)
