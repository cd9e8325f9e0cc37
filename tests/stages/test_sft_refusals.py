"""``gptloom sft`` refuses before it begins: each message is what, where and the mend; exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from gptloom.cli.main import main
from gptloom.config.chat import ChatFormat
from gptloom.config.model import ModelConfig, preset
from gptloom.config.sft import SftOptions
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.templates import built_in, from_file
from gptloom.model.store import read_chat, save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.sft.template import choose_template
from gptloom.stages.tuning import preflight
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

SHAPE = {"n_layer": 1, "d_model": 32, "n_head": 4, "n_kv_head": 4, "head_dim": 8, "d_ff": 48, "context": 64}
QUICK = ("--max-steps", "1", "--batch-size", "4", "--smoke-prompts", "0", "--threads", "1", "--log", "none")
LOOP = "{% for m in messages %}"
WRITES = "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}assistant: {% endif %}"


def base_in(
    folder: Path, *, tokenizer: Tokenizer | None = None, chat: str | ChatFormat | None = None, scale: float = 1.0
) -> Path:
    """A tiny model (of bytes); ``chat``: what it was taught; ``scale``: of what the head reads: sure of much."""
    tokenizer = tokenizer or train_tokenizer("bytes", [], None)
    format = chat if isinstance(chat, ChatFormat) else None
    if isinstance(chat, str):
        format, tokenizer = built_in(chat, tokenizer)
    config = ModelConfig(**{**preset("modern-nano"), **SHAPE, "vocab_size": tokenizer.vocab_size})
    model = Transformer.initialised(config, seed=1)
    with torch.no_grad():
        model.get_parameter("norm.weight").mul_(scale)
        for parameter in model.parameters():
            if not parameter.any():  # of a fresh model nothing would reach an adapter
                torch.nn.init.normal_(parameter, std=0.02)
    save_model(folder, model, config, tokenizer=tokenizer, chat=format)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_in(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """``--threads`` is of the process; the tests behind these get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Refusal(NamedTuple):
    what: str
    where: str
    mend: str
    before: list[str]  # what was said earlier


Refused = Callable[..., Refusal]


@pytest.fixture
def refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What ``gptloom sft`` says of ``rows``, having written nothing."""

    def run(rows: list[dict[str, Any]], *options: str, base: Path = base) -> Refusal:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        there = sorted(tmp_path.rglob("*"))
        code = main(["sft", str(base), "--data", str(data), "--out", str(tmp_path / "run"), *QUICK, *options])
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and "Traceback" not in err, err
        assert sorted(tmp_path.rglob("*")) == there
        before, _, told = err.partition("error: ")
        what, *rest = told.splitlines()
        places = [line.strip() for line in rest if not line.startswith("  try: ")]
        mends = [line.removeprefix("  try: ") for line in rest if line.startswith("  try: ")]
        return Refusal(what, "\n".join(places), "\n".join(mends), before.splitlines())

    return run


def pairs(n: int = 12) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {i}", "completion": f"a {i}"} for i in range(n)]


def chats(*before: dict[str, Any], n: int = 12, **answer: Any) -> list[dict[str, Any]]:
    turns = [
        [{"role": "user", "content": f"what is {i}"}, {"role": "assistant", "content": f"a {i}", **answer}]
        for i in range(n)
    ]
    return [{"messages": [*before, *turn]} for turn in turns]


# ---- the rows --------------------------------------------------------------------------------------------------------


def test_no_supervised_token(refused: Refused, tmp_path: Path) -> None:
    told = refused(chats(weight=0))
    assert told.what == "no message of the assistant is learned" and told.where == str(tmp_path / "rows.jsonl")
    assert told.mend == '"weight": 1 for the messages that are to be learned'


def test_a_system_message_longer_than_the_context(refused: Refused, tmp_path: Path) -> None:
    told = refused(chats({"role": "system", "content": "be kind " * 9}))
    assert told.what.startswith("a system message has 72 tokens, and an example at most 64")
    assert f"{tmp_path / 'rows.jsonl'}:" in told.where and told.mend.startswith("a shorter system message")


def test_some_examples_longer_than_the_context(refused: Refused, tmp_path: Path) -> None:
    """A few are left out and told; more than a tenth are left out only when that is asked for."""
    long = {"prompt": "why " * 30, "completion": "so"}
    told = refused([*pairs(18), *[{**long, "prompt": f"{i} {long['prompt']}"} for i in range(6)]])
    assert "examples are longer than 64 tokens" in told.what and f"{tmp_path / 'rows.jsonl'}:19" in told.where
    assert told.mend == "a base with a longer context; --max-length 64 goes on without them"


@pytest.mark.parametrize(
    "rows",
    [
        chats({"role": "system", "content": "be kind " * 9}),
        [*pairs(18), *[{"prompt": f"{i} " + "why " * 30, "completion": "so"} for i in range(6)]],
        chats(weight=0),
    ],
    ids=["system", "long", "unlearned"],
)
def test_a_check_finds_it_before(
    rows: list[dict[str, Any]], base: Path, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(rows)
    assert main(["data", "check", str(tmp_path / "rows.jsonl"), "--model", str(base)]) == 2
    out = capsys.readouterr().out
    reasons = ("a system message has", "examples are longer than 64 tokens", "no message of the assistant is learned")
    (reason,) = (reason for reason in reasons if reason in told.what)
    assert reason in out and "not yet fit for sft" in out


def test_what_is_not_learned_at_the_end_is_asked_of_nobody(base: Path, tmp_path: Path) -> None:
    """An example ends with its last learned answer: a long question behind it breaks nothing."""
    behind = [{"role": "user", "content": "why " * 40}, {"role": "assistant", "content": "x", "weight": 0}]
    data = tmp_path / "rows.jsonl"
    rows = [{"messages": [*one["messages"], *behind]} for one in chats()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = [*QUICK, "--smoke-prompts", "2"]
    assert main(["sft", str(base), "--data", str(data), "--out", str(tmp_path / "run"), *asked]) == 0


# ---- the template ----------------------------------------------------------------------------------------------------


def template(path: Path, source: str) -> str:
    path.write_text(source, encoding="utf-8")
    return str(path)


def test_a_template_that_drops_messages(refused: Refused, tmp_path: Path) -> None:
    dropping = template(tmp_path / "mine.jinja", "{% for m in messages if m.role != 'system' %}" + WRITES + ASKS)
    told = refused(chats({"role": "system", "content": "be kind"}), "--template", dropping)
    assert told.what == "template mine.jinja leaves out message 1 (system)"
    assert told.where.startswith(str(tmp_path / "rows.jsonl") + ":")
    assert "more: " in told.where, "the first few, and a count of the others"


def test_answers_without_a_labelled_end(refused: Refused, tmp_path: Path) -> None:
    """A template that writes no end gets one; where one would be lost, or stands before the answer is over, it is refused."""
    losing = template(tmp_path / "mine.jinja", LOOP + "{{ m.content.split('<|')[0] }}{% endfor %}")
    told = refused(chats(), "--template", losing)
    assert told.what == "ends its answers in no special token, and loses <|endoftext|> where that is put behind them"
    assert told.where == losing and told.mend == "write {{ eos_token }} behind the content of assistant messages"

    short = "{{ m.role + ': ' + m.content + (eos_token if m.content | length < 12 else '') }}{% endfor %}"
    told = refused(chats(content="a long answer"), "--template", template(tmp_path / "mine.jinja", LOOP + short + ASKS))
    assert told.what == "template mine.jinja puts no <|endoftext|> behind message 2: the model would never stop"
    assert told.where.startswith(str(tmp_path / "rows.jsonl") + ":") and told.mend.startswith("another --template")


def test_a_template_that_asks_otherwise_than_it_trains(refused: Refused, tmp_path: Path) -> None:
    asking = template(tmp_path / "mine.jinja", LOOP + WRITES + ASKS.replace("assistant", "Assistant"))
    told = refused(chats(), "--template", asking)
    assert "asks for message 2 with 'Assistant: '" in told.what and "service would differ from training" in told.what
    assert "another --template, or mend its add_generation_prompt" in told.mend


def test_a_template_that_is_none(refused: Refused, tmp_path: Path) -> None:
    broken = template(tmp_path / "mine.jinja", "{% for m in messages %}\n{{ m.content }")
    told = refused(chats(), "--template", broken)
    assert told.what.startswith("not a Jinja template") and told.where == f"{broken}:2"
    told = refused(chats(), "--template", "chatlm")
    assert told.what == "--template chatlm: no template or file is called so" and "did you mean chatml" in told.mend
    told = refused(chats(), "--template", "tokenizer")
    assert told.what == "--template tokenizer: the tokenizer of BASE has no chat template"


def test_another_template_than_the_base_was_tuned_with(refused: Refused, tmp_path: Path) -> None:
    tuned = base_in(tmp_path / "tuned", chat="chatml")
    told = refused(chats(), "--template", "alpaca", base=tuned)
    assert told.what == "template alpaca: BASE was taught chatml, and would have to unlearn it"
    assert told.where == str(tuned) and told.mend == "leave it out, or --template chatml; --yes does it all the same"
    mine = template(tmp_path / "mine.jinja", LOOP + WRITES + ASKS)
    assert "BASE was taught chatml" in refused(chats(), "--template", mine, base=tuned).what


def test_another_text_of_the_template_that_the_base_was_tuned_with(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is told by its text, whatever path leads to it; what nobody asked for is not looked at."""
    monkeypatch.chdir(tmp_path)
    mine, data = tmp_path / "mine.jinja", tmp_path / "rows.jsonl"
    template(mine, LOOP + WRITES + ASKS)
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs()), encoding="utf-8")
    taught = from_file(mine, train_tokenizer("bytes", [], None))
    tuned = base_in(tmp_path / "tuned", chat=taught)
    dry = ["sft", str(tuned), "--data", str(data), *QUICK, "--dry-run"]
    assert main([*dry, "--template", "./mine.jinja"]) == 0, "the same text"
    template(mine, LOOP + WRITES.replace(": ", " says ") + ASKS.replace(": ", " says "))
    for path in ("mine.jinja", "./mine.jinja", str(mine)):
        told = refused(pairs(), "--template", path, base=tuned)
        assert told.what == f"template {path}: BASE was taught another text of mine.jinja, and would have to unlearn it"
        assert told.where == str(tuned)
        assert told.mend == "leave it out, and BASE goes on with its own; --yes teaches the new one"
    assert main(dry) == 0
    assert "template mine.jinja: as BASE was taught" in capsys.readouterr().err
    tokenizer = load_tokenizer(tuned)
    conversations = read_conversations([str(data)]).conversations
    for given, expected in (({}, taught), ({"template": str(mine), "yes": True}, from_file(mine, tokenizer))):
        options = SftOptions(base=str(tuned), data=[str(data)], **given)
        assert choose_template(options, tokenizer, taught, conversations, embeds=True)[0] == expected


def test_other_ends_than_a_plain_base_was_tuned_with(refused: Refused, tmp_path: Path) -> None:
    """``--yes`` teaches them, in the template's text as in its fields."""
    tokenizer = train_tokenizer("bytes", [], None)
    taught, _ = built_in("plain", tokenizer, separator=" ->", stop="\n")
    tuned = base_in(tmp_path / "tuned", chat=taught)
    ended = [{"prompt": f"what is {i}\n\n###\n\n", "completion": f" a {i} END"} for i in range(12)]
    told = refused(ended, base=tuned)
    assert told.what.startswith(
        r"prompts end in '\n\n###\n\n' and completions in ' END'; BASE was taught ' ->' and '\n',"
    )
    assert told.mend.startswith("rows that end so (gptloom data prepare FILE puts such ends") and "--yes" in told.mend
    data = tmp_path / "rows.jsonl"
    run = tmp_path / "run"
    assert main(["sft", str(tuned), "--data", str(data), "--out", str(run), *QUICK, "--yes"]) == 0
    expected, _ = built_in("plain", tokenizer, separator="\n\n###\n\n", stop=" END")
    assert read_chat(run / "final") == expected


def test_another_template_than_the_adapter_was_tuned_with(
    refused: Refused, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an adapter was taught counts, though the base below it was taught nothing."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs()), encoding="utf-8")
    lora = ["sft", str(base), "--data", str(data), *QUICK, "--method", "lora"]
    assert main([*lora, "--rank", "2", "--template", "plain", "--out", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    adapter = ["--method", "lora", "--adapter", str(tmp_path / "first" / "adapter")]
    told = refused(pairs(), *adapter, "--template", "alpaca")
    assert told.what == "template alpaca: BASE was taught plain, and would have to unlearn it"
    assert main([*lora, *adapter[2:], "--dry-run"]) == 0
    assert "template plain: as BASE was taught" in capsys.readouterr().err


def test_a_new_end_token_under_frozen_embeddings(refused: Refused, tmp_path: Path, gpt1_letters: Tokenizer) -> None:
    """Its row would stay as it was drawn, and no answer would ever end."""
    base = base_in(tmp_path / "gpt1", tokenizer=gpt1_letters)
    told = refused(pairs(), "--method", "last", "--layers", "1", base=base)
    assert told.what.startswith("template alpaca: <|endoftext|> would be new, and embeddings are frozen")
    assert told.mend == "--method full"
    told = refused(pairs(), "--method", "last", "--layers", "1", "--template", "chatml", base=base)
    assert told.what.startswith("template chatml: <|im_start|>, <|im_end|> would be new")
    assert told.mend == "--template alpaca, or --method full"


def test_conversations_for_a_base_that_knows_pairs_only(refused: Refused, tmp_path: Path) -> None:
    tuned = base_in(tmp_path / "tuned", chat="plain")
    told = refused(chats({"role": "system", "content": "be kind"}), base=tuned)
    assert "plain is one prompt and one completion, and these are: system user" in told.what
    assert told.where.startswith(str(tmp_path / "rows.jsonl") + ":")


# ---- the machine, and the base ---------------------------------------------------------------------------------------


def test_the_longest_batch_is_too_big(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "device_memory", lambda device: 2**20)
    told = refused(pairs())
    assert told.what.startswith("the longest batch, one example at a time, needs ")
    assert told.what.endswith("of 1 MB memory") and told.mend == "--method lora, a smaller model"
    told = refused(pairs(), "--micro-batch", "4")
    assert told.what.startswith("the longest batch, 4 examples at a time, needs ")
    assert told.mend == "--micro-batch 1, --method lora, a smaller model"


def test_the_longest_batch_is_computed_in_parts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where parts of it fit, nothing is refused: they are as many as are needed, and the figures are those of the whole."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs()), encoding="utf-8")
    monkeypatch.setattr(preflight, "training_memory", lambda config, tokens, dtype, trained: tokens)
    monkeypatch.setattr(preflight, "device_memory", lambda device: 40)
    assert main(["sft", str(base), "--data", str(data), "--out", str(tmp_path / "run"), *QUICK]) == 0
    assert "--micro-batch 2: the longest batch whole would need " in capsys.readouterr().err


def test_padding_takes_memory_too(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"what is {i}", "completion": "a " * (20 if i % 4 == 0 else 1)} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    places: list[int] = []
    monkeypatch.setattr(preflight, "training_memory", lambda config, n, dtype, trained: places.append(n) or n)
    foreseen = ["sft", str(base), "--data", str(data), *QUICK, "--batch-size", "12", "--dry-run"]
    assert main([*foreseen, "--no-packing"]) == main(foreseen) == 0
    assert max(places) > 2 * min(places)


def test_the_disk_is_too_small(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    told = refused(pairs())
    assert told.what.startswith("the run needs ") and told.what.endswith(" of disk, 1 B are free")
    assert told.where == str(tmp_path / "run") and "--keep 1" in told.mend


def test_a_base_that_foretells_less_than_nothing(refused: Refused, tmp_path: Path) -> None:
    """Weights and tokenizer of different models: sure of the wrong thing at every place."""
    mad = base_in(tmp_path / "mad", scale=1e4)
    told = refused(pairs(), base=mad)
    assert told.what.startswith("the base's loss on held-out answers is ") and "ln V = 5.6" in told.what
    assert told.where == str(mad) and f"gptloom data show {tmp_path / 'rows.jsonl'} --stage sft" in told.mend


def test_a_folder_that_is_there(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept", encoding="utf-8")
    told = refused(pairs())
    assert told.what == "the folder is not empty and holds no run"
    assert told.where == str(tmp_path / "run") and told.mend == "another --out"
