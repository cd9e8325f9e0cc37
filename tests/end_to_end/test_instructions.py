"""A stranger's messy table becomes a model that chats, in three commands; then all that can be asked of the run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.cli.main import main
from gptloom.config.model import ModelConfig, preset
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.render import Renderer
from gptloom.model.store import load_model, read_chat, save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import train_tokenizer

Command = Callable[..., Any]
PLACES = {
    "Oslo": "Norway",
    "Paris": "France",
    "Rome": "Italy",
    "Lima": "Peru",
    "Cairo": "Egypt",
    "Delhi": "India",
    "Tokyo": "Japan",
    "Quito": "Ecuador",
    "Accra": "Ghana",
    "Minsk": "Belarus",
    "Riga": "Latvia",
    "Bern": "Switzerland",
    "Baku": "Azerbaijan",
}
QUICK = ("--max-steps", "3", "--batch-size", "4", "--smoke-prompts", "2", "--threads", "1", "--log", "none")
GREEDY = ("--temperature", "0", "--max-tokens", "4", "--precision", "fp32")


@dataclass(frozen=True)
class Story:
    """What the three commands printed, and where their files are."""

    folder: Path
    prepare: tuple[str, str]  # (out, err) of each
    sft: tuple[str, str]
    chat: tuple[str, str]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def data(self) -> Path:
        return self.folder / "messy_prepared.jsonl"


def small_base(folder: Path) -> Path:
    """A model of Qwen3's layout with random weights, and a tokenizer of a few hundred pieces."""
    tokenizer = train_tokenizer("bpe", ["Where is it? In Norway, as far as I know. What is a river? " * 9], 280)
    shape = {"n_layer": 1, "d_model": 32, "n_head": 4, "n_kv_head": 4, "head_dim": 8, "d_ff": 48, "context": 320}
    config = ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": tokenizer.vocab_size})
    save_model(folder, Transformer.initialised(config, seed=1), config, tokenizer=tokenizer)
    return folder


def messy_table(path: Path) -> Path:
    """As a spreadsheet saves it: byte-order mark, CRLF, names of its own, a row twice, rows without an answer, a note."""
    rows = [f'{n},Where is {city}?,"In {land}, as far as I know."' for n, (city, land) in enumerate(PLACES.items(), 1)]
    rows = [
        "No.,Customer question,Our reply",
        *rows,
        rows[2],
        "15,Where is Ulm?,",
        '16,Where is Bonn?,"  "',
        "(exported)",
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*rows, ""]).encode())
    return path


def said(*arguments: object) -> tuple[str, str]:
    """What ``gptloom ARGUMENTS`` printed (out, err), which must succeed."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    torch.set_num_threads(threads)
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    base = small_base(folder / "base")
    prepare = said("data", "prepare", messy_table(folder / "messy.csv"), "--yes")
    sft = said("sft", base, "--data", folder / "messy_prepared.jsonl", "--out", folder / "run", *QUICK)
    chat = said("chat", folder / "run", "--message", "Where is Oslo?", *GREEDY)
    return Story(folder, prepare, sft, chat)


def test_three_commands_without_documentation(story: Story) -> None:
    """Each says what it made of what it was given, and names the next."""
    out, err = story.prepare
    assert out.splitlines()[0] == f"  gptloom sft BASE --data {story.data}"
    for what in (
        "'Customer question' as prompt and 'Our reply' as completion",
        "messy.csv:18: 1 cell where the header has 3",
        "2 rows without a completion (",
        "1 row word for word as an earlier one (",
        "Put the separator ' ->' behind every prompt",
    ):
        assert what in err
    rows = [json.loads(line) for line in story.data.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(PLACES)
    assert rows[0] == {"prompt": "Where is Oslo? ->", "completion": " In Norway, as far as I know.\n"}

    out, err = story.sft
    assert f"{story.data}: prompt/completion, 13 rows" in err and "template plain: prompts end in a separator" in err
    assert "every answer ends in its end token" in err and "3 steps (--max-steps)" in err
    assert out.splitlines()[0].split() == ["base", "tuned"] and f"next:  gptloom chat {story.run}" in err

    out, err = story.chat
    assert out.endswith("\n") and "error" not in err


def test_the_chat_asks_as_the_training_did(story: Story, gptloom: Command) -> None:
    """What a person types gets the separator; what ``generate`` is given gets nothing."""
    chat = read_chat(story.run / "final")
    assert chat is not None and (chat.template, chat.separator, chat.stop) == ("plain", " ->", "\n")
    raw = gptloom("generate", story.run, "--prompt", "Where is Oslo? ->", "--stop", "\n", *GREEDY)
    assert raw.code == 0 and raw.out.rstrip("\n") == "Where is Oslo? ->" + story.chat[0].rstrip("\n")
    bare = gptloom("generate", story.run, "--prompt", "Where is Oslo?", *GREEDY)
    assert bare.out.startswith("Where is Oslo?") and " ->" not in bare.out[: len("Where is Oslo? ->")]


def test_what_can_be_asked_of_the_run(story: Story, gptloom: Command) -> None:
    check = gptloom("data", "check", story.data, "--model", story.run)
    assert check.code == 0, check.err
    assert f"fine for: gptloom sft {story.run} --data {story.data}" in check.out

    show = gptloom("data", "show", story.data, "--stage", "sft", "--model", story.run, "--n", 1)
    assert show.code == 0, show.err
    assert f"{story.data}:1 (" in show.out and "of them learned)" in show.out and "end[<|endoftext|>]" in show.out

    lineage = gptloom("lineage", story.run)
    assert lineage.code == 0 and "sft to step 3" in lineage.out and "base" in lineage.out.splitlines()[1]

    report = gptloom("report", story.run)
    page = (story.run / "report.html").read_text(encoding="utf-8")
    assert report.code == 0 and "Where is" in page and "answers to held-out prompts that end" in page

    again = gptloom("resume", story.run)
    assert again.code == 2 and "Traceback" not in again.err
    assert "the run is finished at step 3" in again.err and f"gptloom resume {story.run} --max-steps 6" in again.err


def test_transformers_renders_the_exported_folder_alike(story: Story, gptloom: Command, tmp_path: Path) -> None:
    """The chat template that the folder carries gives the ids of training, and of asking."""
    transformers = pytest.importorskip("transformers")
    exported = tmp_path / "exported"
    export = gptloom("export", story.run, "--to", "hf", "--out", exported)
    assert export.code == 0, export.err
    chatting = gptloom("chat", exported, "--message", "Where is Oslo?", *GREEDY)
    assert chatting.code == 0 and chatting.out == story.chat[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    chat = read_chat(story.run / "final")
    assert chat is not None and read_chat(exported) == chat
    renderer = Renderer(load_tokenizer(story.run / "final"), chat)
    conversations = read_conversations([str(story.data)]).conversations
    for conversation, example in zip(conversations, renderer.examples(conversations), strict=True):
        messages = [message.as_dict() for message in conversation.messages]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        assert whole == example.ids.tolist() and asked == whole[: example.turns[0][0]]
    assert transformers.GenerationConfig.from_pretrained(exported).eos_token_id == sorted(renderer.stop_ids)


def test_conversations_by_several_turns(story: Story, gptloom: Command, tmp_path: Path) -> None:
    """The other road: messages, the template of our own, adapters; further from a model that knows it already."""
    cities = list(PLACES)
    chats = [
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": f"Where is {city}?"},
            {"role": "assistant", "content": f"In {PLACES[city]}."},
            {"role": "user", "content": f"And {other}?"},
            {"role": "assistant", "content": f"In {PLACES[other]}."},
        ]
        for city, other in pairwise(cities)
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    quick = ("--data", data, *QUICK)
    first = gptloom("sft", story.folder / "base", *quick, "--out", tmp_path / "first", "--json")
    assert first.code == 0, first.err
    assert first.document["state"] == "finished" and first.document["after"]["smoke"]["max_tokens"] >= 16
    assert "template gptloom: roles are new tokens, learned now" in first.err

    lora = ("--method", "lora", "--rank", "2", "--out", tmp_path / "second")
    second = gptloom("sft", tmp_path / "first", *quick, *lora)
    assert second.code == 0, second.err
    assert "template gptloom: as BASE was taught" in second.err
    answers = [
        gptloom("chat", folder, "--message", "Where is Rome?", "And Lima?", "--system", "Be short.", *GREEDY)
        for folder in (tmp_path / "second", tmp_path / "second" / "adapter")
    ]
    assert [answer.code for answer in answers] == [0, 0] and answers[0].out == answers[1].out
    assert load_model(tmp_path / "second" / "final")[0].config.vocab_size == 284
