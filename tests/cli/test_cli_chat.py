"""``gptloom chat``: pipes, Python, and the terminal with a person who types, mistypes, and presses Ctrl-C."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.chat import open_session
from gptloom.cli.chat_session import Session
from gptloom.cli.chat_terminal import ChatTerminal
from gptloom.cli.main import main
from gptloom.cli.output import Output
from gptloom.config.chat import ChatOptions
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.data.conversation import Message
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.templates import built_in
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

OPTIONS = {"precision": "fp32", "max_tokens": 5, "seed": 7}
SETTINGS = ("--precision", "fp32", "--max-tokens", "5", "--seed", "7")
KINDS = ("gptloom", "plain", "base")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        chat_format, words = None, train_tokenizer("bytes", [], None)
        if kind != "base":
            chat_format, words = built_in(kind, words)
        sizes = {"n_layer": 1, "d_model": 32, "n_head": 2, "context": 128, "vocab_size": words.vocab_size}
        config = ModelConfig(**preset("modern-nano") | sizes)
        lineage = {"stage": "pretrain" if kind == "base" else "sft"}
        model = Transformer.initialised(config, 0)
        save_model(place / kind, model, config, tokenizer=words, chat=chat_format, lineage=lineage)
    return {kind: str(place / kind) for kind in KINDS}


@pytest.fixture
def session(folders: dict[str, str]) -> Session:
    return open_session(ChatOptions(model=folders["gptloom"], **OPTIONS))


Talk = Callable[..., str]


@pytest.fixture
def talk(capsys: pytest.CaptureFixture[str]) -> Talk:
    """What a terminal shows when ``lines`` are typed; an exception among them is what pressing keys raises."""

    def run(session: Session, *lines: str | BaseException, colours: bool = False) -> str:
        typed: Iterator[str | BaseException] = iter(lines)

        def read(prompt: str) -> str:
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        ChatTerminal(session, Output(), colours=colours, read=read).talk()
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def said(session: Session) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in session.messages]


# ---- pipes and Python ------------------------------------------------------------------------------------------------


def test_messages_are_answered_one_after_another(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = gptloom.chat(folders["gptloom"], message=["Hi!", "Why?"], system="Be brief.", **OPTIONS)
    model = gptloom.load(folders["gptloom"], precision="fp32")
    settings = {"max_tokens": 5, "temperature": 0.7, "top_p": 0.9}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
    first = model.chat(messages, seed=7, **settings).text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    assert answers == [first, model.chat(messages, seed=8, **settings).text]
    command = ["chat", folders["gptloom"], *SETTINGS, "--system", "Be brief."]
    assert main([*command, "--message", "Hi!", "Why?"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{answers[0]}\n\n{answers[1]}\n" and printed.err == "", "an empty line between answers"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi!\n\nWhy?\n"))
    assert main(command) == 0 and capsys.readouterr().out == printed.out


def test_lines_that_are_not_utf8(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b"Hi!\nf\xfcr\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", piped)
    assert main(["chat", folders["gptloom"], *SETTINGS]) == 2
    assert "not UTF-8: byte 0xfc at byte 2 of the line\n  standard input:2\n" in capsys.readouterr().err


def test_a_base_model_continues(folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    answers = gptloom.chat(folders["base"], message=["Once ", "The"], **OPTIONS)
    writer, settings = gptloom.load(folders["base"], precision="fp32"), {"max_tokens": 5, "temperature": 0.7}
    assert answers[1] == writer.generate("The", seed=8, top_p=0.9, **settings).text, "each for itself, nothing added"
    assert main(["chat", folders["base"], *SETTINGS, "--message", "Once ", "The"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"Once {answers[0]}\n\nThe{answers[1]}\n"
    assert len(printed.err.splitlines()) == 1 and "is a base model" in printed.err and "gptloom sft" in printed.err


def test_plain_messages_stand_alone(folders: dict[str, str], talk: Talk) -> None:
    both = gptloom.chat(folders["plain"], message=["Hi!", "Why?"], **OPTIONS)
    assert both[1] == gptloom.chat(folders["plain"], message="Why?", **{**OPTIONS, "seed": 8})[0]
    session = open_session(ChatOptions(model=folders["plain"], **OPTIONS))
    assert "every message stands alone" in talk(session)
    with pytest.raises(UserError, match="no place for one"):
        session.set_system("Be brief.")


def test_refusals(folders: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = folders["gptloom"]

    def refused(*arguments: str, text: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["chat", *arguments]) == 2
        return capsys.readouterr().err

    assert "there is no message in it" in refused(model)
    assert "the system message has 300 tokens" in refused(model, "--system", "x" * 300, "--message", "Hi!")
    assert "a base model knows no system message" in refused(folders["base"], "--system", "x", "--message", "Hi!")
    assert "message 2" in refused(model, *SETTINGS, text="Hi!\n" + "y" * 300)
    assert "read only once" in refused(model, "--message", "-", "-")
    assert "at least 0" in refused(model, "--temperature", "-1")
    with pytest.raises(UserError, match="there is no message"):
        gptloom.chat(model)


# ---- the terminal ----------------------------------------------------------------------------------------------------


def test_a_conversation_at_the_terminal(session: Session, talk: Talk) -> None:
    shown = talk(session, "Hi!", "  ", "Why?")
    assert [role for role, _ in said(session)] == ["user", "assistant"] * 2
    assert said(session)[2] == ("user", "Why?") and said(session)[1][1].strip() in shown
    assert "5 tokens" in shown and "tok/s" in shown and "cut at max_tokens 5" in shown and "/help" in shown
    assert "\x1b" not in shown and "\x1b[2m" in talk(session, colours=True)


def test_a_missing_file_names_the_near_ones_only(session: Session, talk: Talk, tmp_path: Path) -> None:
    for name in ("talk.jsonl", *(f"{letter * 5}.txt" for letter in "abcdefgh")):
        (tmp_path / name).touch()
    assert "did you mean talk.jsonl?" in talk(session, f"/load {tmp_path}/tolk.jsonl")
    shown = talk(session, f"/load {tmp_path}/nothere")
    assert "no such file" in shown and "check the path" in shown and "aaaaa" not in shown


def test_several_lines(session: Session, talk: Talk) -> None:
    talk(session, "one\\", "two", '"""a', "", '  b"""', '"""whole"""', "//usr")
    asked = [content for role, content in said(session) if role == "user"]
    assert asked == ["one\ntwo", "a\n\n  b", "whole", "/usr"]


def test_ctrl_c_stops_an_answer_and_twice_leaves(session: Session, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.chat is not None
    events = session.chat.events

    def broken_off(*arguments: object, **options: object) -> Iterator[object]:
        yield next(events(*arguments, **options))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(session.chat, "events", broken_off)
    shown = talk(session, "Hi!", KeyboardInterrupt(), "Hi!", KeyboardInterrupt(), KeyboardInterrupt(), "never read")
    assert shown.count("stopped here") == 2 and shown.count("Ctrl-C once more leaves") == 2
    assert [message.role for message in session.messages] == ["user", "assistant"] * 2
    assert session.messages[-1].weight == 0, "what was broken off is not learned from"


def test_undo_retry_reset(session: Session, talk: Talk) -> None:
    talk(session, "Hi!", "Why?")
    first = said(session)
    assert "taken back: Why?" in talk(session, "/undo") and said(session) == first[:2]
    talk(session, "/retry")
    assert said(session)[0] == first[0] and said(session)[1] != first[1], "drawn anew"
    assert "user: Hi!" in talk(session, "/history")
    assert "a new conversation" in talk(session, "/reset") and said(session) == []
    assert talk(session, "/undo", "/retry").count("nothing was said yet") == 2
    talk(session, "/seed 7", "Hi!", "Why?")
    assert said(session) == first, "a seed and the messages give the conversation again"


def test_a_retry_that_cannot_be_asked_takes_nothing_back(session: Session, talk: Talk) -> None:
    talk(session, "Hi!", "x" * 60)
    before = said(session)
    shown = talk(session, "/system " + "y" * 80, "/retry")
    assert "does not fit" in shown and said(session) == before


def test_settings(session: Session, talk: Talk) -> None:
    shown = talk(session, "/temperature 0", "/top_p 0.5", "/max_tokens 3", "/system Be brief.", "/system", "/top_p 7")
    assert (session.sampling.temperature, session.sampling.top_p, session.sampling.max_tokens) == (0, 0.5, 3)
    assert shown.count("system: Be brief.") == 2 and "top_p 7" in shown and "at most 1" in shown
    assert (
        "temperature 'abc' is not a number" in talk(session, "/temperature abc") and session.sampling.temperature == 0
    )
    assert "system message has 300 tokens" in talk(session, "/system " + "x" * 300) and session.system == "Be brief."
    assert "no system message" in talk(session, '/system ""') and session.system is None


def test_commands_that_are_not_there(session: Session, talk: Talk) -> None:
    shown = talk(session, "/temprature 3", "/exit", "never read")
    assert "there is no command /temprature" in shown and "did you mean /temperature?" in shown
    assert said(session) == [] and "Traceback" not in shown
    assert "/save FILE" in talk(session, "/help")


def test_what_is_saved_is_read_again(session: Session, talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    assert "nothing was said yet" in talk(session, f"/save {path}")
    talk(session, "/system Be brief.", "Hi!", "Why?")
    session.messages[1], session.messages[3] = (Message("assistant", text, weight=0.0) for text in ("He", "Bec"))
    assert "no answer ended by itself" in talk(session, f"/save {path}") and not path.exists()
    session.messages[1] = Message("assistant", "Hello.")
    assert "1 line in" in talk(session, f"/save {path}") and "it exists already" in talk(session, f"/save {path}")
    before = list(session.messages)
    (row,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [message["role"] for message in row["messages"]] == ["system", *["user", "assistant"] * 2]
    weights = [message.get("weight") for message in row["messages"]]
    assert weights == [None] * 4 + [0], "a model that learned from what was cut would learn not to end"
    talk(session, "/reset", '/system ""')
    shown = talk(session, f"/load {path}", f"/load {path} 2", "/load", f"/load {tmp_path}/none.jsonl")
    assert "4 messages of conversation" in shown and "it has conversations 1 to 1" in shown
    assert "a file is missing" in shown and "none.jsonl" in shown
    assert session.messages == before and session.system == "Be brief."


def test_plain_saves_each_exchange(folders: dict[str, str], talk: Talk, tmp_path: Path) -> None:
    session = open_session(ChatOptions(model=folders["plain"], **OPTIONS))
    talk(session, "Hi!", "Why?", "How?")
    for place, weight in ((1, 1.0), (3, 0.0), (5, 1.0)):
        session.messages[place] = Message("assistant", "So.", weight=weight)
    assert "2 lines in" in talk(session, f"/save {tmp_path / 'p.jsonl'}")
    found = read_conversations([str(tmp_path / "p.jsonl")]).conversations
    assert [len(one.messages) for one in found] == [2, 2]
    assert "stands alone" in talk(session, f"/load {tmp_path / 'p.jsonl'}")


def test_plain_saves_the_ends_that_it_knows(folders: dict[str, str], talk: Talk, tmp_path: Path) -> None:
    session = open_session(ChatOptions(model=folders["plain"], **OPTIONS))
    assert session.model.chat_format is not None
    session.model.chat_format = session.model.chat_format.model_copy(update={"separator": " ->", "stop": "\n"})
    talk(session, "Hi!", "Why? ->")
    for place in (1, 3):
        session.messages[place] = Message("assistant", " So.")
    talk(session, f"/save {tmp_path / 'p.jsonl'}")
    found = read_conversations([str(tmp_path / "p.jsonl")]).conversations
    assert [[message.content for message in one.messages] for one in found] == [
        ["Hi! ->", " So.\n"],
        ["Why? ->", " So.\n"],
    ]


def test_a_base_model_at_the_terminal(folders: dict[str, str], talk: Talk, tmp_path: Path) -> None:
    session = open_session(ChatOptions(model=folders["base"], **OPTIONS))
    shown = talk(session, "Once upon ")
    assert "is a base model" in shown and "Once upon " + said(session)[1][1].split("\n")[0][:1] in shown
    assert said(session)[0] == ("user", "Once upon ")
    session.messages[1] = Message("assistant", "a time.")
    assert "1 line in" in talk(session, f"/save {tmp_path / 'b.jsonl'}")
