"""The checks and repairs of ``data prepare``, on files of a few rows, asked and answered without a terminal."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.config.errors import UserError
from gptloom.data.prepare import Prepared, Reader, prepare
from gptloom.data.prepare.load import load
from gptloom.data.prepare.mojibake import repaired
from gptloom.tokenizer import Tokenizer

QUESTIONS = ("Who wrote Emma?", "What is 2 + 2?", "When did it rain?", "Where is Oslo?", "Why is grass green?")
ANSWERS = ("Jane Austen did.", "It is 4.", "Yesterday.", "In Norway", "Chlorophyll")


class Answers:
    """Answers questions from a list, then with their defaults; keeps what was said and asked."""

    def __init__(self, *answers: bool, before: Callable[[], None] = lambda: None) -> None:
        self.answers = list(answers)
        self.before = before
        self.said: list[str] = []
        self.asked: list[tuple[str, bool]] = []

    def say(self, text: str = "") -> None:
        self.said.append(text)

    def ask(self, question: str, default: bool) -> bool:
        self.before()
        self.asked.append((question, default))
        return self.answers.pop(0) if self.answers else default

    @property
    def text(self) -> str:
        return "\n".join([*self.said, *(question for question, _ in self.asked)])


def rows_of(prepared: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for path in prepared.paths for line in path.read_text(encoding="utf-8").splitlines()]


def jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(path: Path, prompts: Iterable[str], completions: Iterable[str]) -> str:
    return jsonl(path, [{"prompt": p, "completion": c} for p, c in zip(prompts, completions, strict=True)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: str, desk: Answers | None = None, out: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        prepare(path, Reader(), desk or Answers(), out)
    return str(error.value)


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_a_messy_csv_becomes_rows_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "messy.csv"
    path.write_text(
        "Question ,ANSWER,notes\nWho wrote Emma?,Jane Austen,book\nWho wrote Emma?,Jane Austen,book\n"
        '"What is a cafÃ©?","A place, donâ€™t you know",\nWhat is 2 + 2?,4,\nWhere is Oslo?,  ,\n',
        encoding="utf-8-sig",
    )
    desk = Answers()
    prepared = prepare(str(path), Reader(), desk)
    assert prepared.paths == [tmp_path / "messy_prepared.jsonl"]
    assert rows_of(prepared) == [
        {"prompt": "Who wrote Emma? ->", "completion": " Jane Austen\n"},
        {"prompt": "What is a café? ->", "completion": " A place, don’t you know\n"},
        {"prompt": "What is 2 + 2? ->", "completion": " 4\n"},
    ]
    checks = [one.check for one in prepared.findings]
    assert checks == [
        *("format", "columns", "columns", "number", "empty", "encoding", "duplicates", "length"),
        *("separator", "stop", "leading space"),
    ]
    assert "'Question' as prompt and 'ANSWER' as completion" in desk.text
    assert "messy.csv:6" in next(one.text for one in prepared.findings if one.check == "empty")
    assert prepared.next is not None
    assert prepared.next.commands[0] == f"gptloom sft BASE --data {prepared.paths[0]}"
    assert (prepared.next.separator, prepared.next.stop) == (" ->", "\n")


def test_a_file_with_nothing_to_repair_is_left_alone(tmp_path: Path) -> None:
    path = pairs(tmp_path / "good.jsonl", [q + " ->" for q in QUESTIONS], [f" {a}\n" for a in ANSWERS])
    desk = Answers()
    prepared = prepare(path, Reader(), desk)
    assert prepared.paths == [] and desk.asked == [] and "No remediations found." in desk.text
    assert prepared.next is not None and prepared.next.commands[0] == f"gptloom sft BASE --data {path}"
    assert names(tmp_path) == ["good.jsonl"]


def test_every_answer_is_heard(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.jsonl", QUESTIONS, ANSWERS)
    desk = Answers(False, True, False)  # separator, stop, space
    prepared = prepare(path, Reader(), desk)
    assert rows_of(prepared)[0] == {"prompt": "Who wrote Emma?", "completion": "Jane Austen did.\n"}
    applied = dict(zip((one.check for one in prepared.findings), prepared.applied, strict=True))
    assert (applied["separator"], applied["stop"], applied["leading space"]) == (False, True, False)


def test_no_at_the_last_question_writes_nothing(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.jsonl", QUESTIONS, ANSWERS)
    prepared = prepare(path, Reader(), Answers(True, True, True, False))
    assert prepared.paths == [] and prepared.next is None and names(tmp_path) == ["a.jsonl"]


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "prompt", "completion"),
    [
        ("prompt,completion", "a", "b"),
        (" Prompt ,COMPLETION", "a", "b"),
        ("completion,prompt", "b", "a"),
        ("question,answer", "a", "b"),
        ("input,output", "a", "b"),
        ("promt,completition", "a", "b"),
        ("Frage,Antwort", "a", "b"),
        ("label,text", "b", "a"),
        ("response,note to self", "b", "a"),
    ],
)
def test_columns_by_any_name(tmp_path: Path, header: str, prompt: str, completion: str) -> None:
    path = tmp_path / "x.csv"
    lines = [f"a{i} is a long enough text,b{i} is one too" for i in range(5)]
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    first = rows_of(prepare(str(path), Reader(), Answers()))[0]
    assert first["prompt"].startswith(f"{prompt}0") and first["completion"].strip().startswith(f"{completion}0")


def test_columns_without_names(tmp_path: Path) -> None:
    path = tmp_path / "sms.tsv"
    path.write_text("".join(f"{'ham' if i % 3 else 'spam'}\tmessage {i} to you\n" for i in range(12)), encoding="utf-8")
    desk = Answers()
    prepared = prepare(str(path), Reader(), desk)
    assert prepared.kind == "classification" and "column 2 as prompt and column 1 as completion" in desk.text


@pytest.mark.parametrize(
    "lines",
    [
        [f"question {i}?,answer {i}" for i in range(10)],
        [
            f"{question},{answer}"
            for question, answer in zip(QUESTIONS, ("good", "bad", "good", "bad", "bad"), strict=True)
        ],
        [f"{name} saw {place} today,{i % 2}" for i, name in enumerate("ABCDEF") for place in ("Oslo", "Rome")],
    ],
    ids=["numbered", "questions", "sentences"],
)
def test_a_first_row_like_the_others_is_an_example(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    answers = Answers()
    loaded = load(str(path))
    assert len(loaded.rows) == len(lines) and loaded.rows.wheres[0].endswith(":1")
    prepare(str(path), Reader(), answers)
    assert "column 1 as prompt" in answers.text and "looks like names" not in answers.text


def test_names_that_nobody_knows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Great film,joy\n" + "".join(f"{q},{i % 2 * 'anger' or 'fear'}\n" for i, q in enumerate(QUESTIONS)))
    answers = Answers()
    prepare(str(path), Reader(), answers)
    assert "the first row, 'Great film', 'joy', looks like names of columns; if it is an example" in answers.text
    known = Answers()
    prepare(pairs(tmp_path / "a.jsonl", QUESTIONS, ANSWERS), Reader(), known)
    assert "looks like names" not in known.text


def test_columns_that_could_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("one,two,three\n" + "some words,other words,a few words more\n" * 3, encoding="utf-8")
    assert "'one', 'two', 'three'" in refusal(str(path)) and "call one column prompt" in refusal(str(path))
    path.write_text("question\nWhat is it?\nWho is it?\n", encoding="utf-8")
    assert "no column is called completion" in refusal(str(path))


def test_one_column_is_text_that_nothing_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\nThe first line.\nThe second one.\n", encoding="utf-8")
    desk = Answers()
    prepared = prepare(str(path), Reader(), desk)
    assert prepared.kind == "open-ended" and "there are no prompts" in desk.text
    assert rows_of(prepared)[0] == {"prompt": "", "completion": "The first line."}
    space = next((question, default) for question, default in desk.asked if "space" in question)
    assert space == ("- [Possible] Put a space before every completion that has none [y/N]", False)


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "kant.txt"
    path.write_text("Reason number 1.\r\n\r\nReason number 2.\r\n", encoding="utf-8")
    desk = Answers()
    assert [row["completion"] for row in rows_of(prepare(str(path), Reader(), desk))] == [
        "Reason number 1.",
        "Reason number 2.",
    ]
    assert "- [Possible] Remove 'Reason number ' from every completion [y/N]" in desk.text


def test_a_single_line_of_jsonl_is_a_row(tmp_path: Path) -> None:
    path = pairs(tmp_path / "one.jsonl", ["Who?"], ["me"])
    assert rows_of(prepare(path, Reader(), Answers())) == [{"prompt": "Who? ->", "completion": " me\n"}]


def test_json_becomes_jsonl_even_where_nothing_else_is_to_do(tmp_path: Path) -> None:
    rows = [{"prompt": q + " ->", "completion": f" {a}\n"} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    assert rows_of(prepare(str(path), Reader(), Answers())) == rows


def test_numbers_are_text_and_lists_are_not(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": q, "completion": i} for i, q in enumerate(QUESTIONS * 4)]
    path = jsonl(tmp_path / "x.jsonl", [*rows, {"prompt": "Which?", "completion": {"a": 1}}])
    desk = Answers(False, False)
    prepared = prepare(path, Reader(), desk)
    assert rows_of(prepared)[1]["completion"].strip() == "1" and prepared.rows == [20]
    assert "x.jsonl:21" in desk.text and "[Necessary] Leave out 1 broken row" in desk.text


def windows(path: Path, completions: list[bytes]) -> str:
    rows = [f"{q} {i};".encode() + completions[i % len(completions)] for i in range(4) for q in QUESTIONS]
    path.write_bytes(b"\r\n".join([b"Frage;Antwort", *rows]))
    return str(path)


@pytest.mark.parametrize(
    "completions", [[b"Town", b"f\xfcr \x80 5 \x96 ja", b"City", b"Village"], [b"sch\xf6n", b"5\xa0000"]]
)
def test_a_file_of_windows_is_read_as_it_is_meant(tmp_path: Path, completions: list[bytes]) -> None:
    prepared = prepare(windows(tmp_path / "x.csv", completions), Reader(), desk := Answers())
    assert f"- [Recommended] Read {tmp_path / 'x.csv'} as Windows-1252 [Y/n]" in desk.text
    answers = {row["completion"].strip() for row in rows_of(prepared)}
    assert answers == {one.decode("cp1252") for one in completions} and "broken" not in desk.text


def test_a_file_of_windows_without_its_lines_where_the_answer_is_no(tmp_path: Path) -> None:
    rows = [f"{q} {i};Town {i}".encode() for i in range(10) for q in QUESTIONS]
    (tmp_path / "x.csv").write_bytes(b"\n".join([b"Frage;Antwort", *rows, b"Wo;f\xfcr", b""]))
    assert len(rows_of(prepare(str(tmp_path / "x.csv"), Reader(), Answers(False)))) == 50
    assert "not UTF-8: byte 0xfc" in refusal(windows(tmp_path / "y.csv", [b"a", b"f\xfcr"]), Answers(False))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("привет", "cp1251"), ("γεια", "cp1253"), ("był", "cp1250"), ("für", "cp850"), ("café", "mac_roman")],
)
def test_other_encodings_are_not_taken_for_that_of_windows(tmp_path: Path, text: str, encoding: str) -> None:
    assert "not UTF-8" in refusal(windows(tmp_path / "x.csv", [b"a", f"Oh {text} ja".encode(encoding)]))


def test_a_row_that_lacks_its_prompt_is_broken(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{q} {i}", "completion": f"{a} {i}"}
        for i in range(6)
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    path = jsonl(tmp_path / "x.jsonl", [*rows, {"promt": "What?", "completion": "This."}, {"completion": "That."}])
    prepared = prepare(path, Reader(), desk := Answers())
    assert f"{path}:31: no 'prompt' (its keys: promt, completion)" in desk.text
    assert "is it called promt? rename it to prompt" in desk.text
    assert f"{path}:32: no 'prompt'" in desk.text and "Leave out 2 broken rows" in desk.text
    assert len(rows_of(prepared)) == 30


@pytest.mark.parametrize("empty", ["NaN", "null", '" "'])
def test_a_few_empty_prompts_are_told_and_go_only_when_asked_for(tmp_path: Path, empty: str) -> None:
    lines = [json.dumps({"prompt": f"{q} {i}", "completion": f"{i}"}) for i in range(4) for q in QUESTIONS]
    lines.append(f'{{"prompt": {empty}, "completion": "That."}}')
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    prepared = prepare(str(tmp_path / "x.jsonl"), Reader(), desk := Answers())
    assert "1 row without a prompt, where the others have one (" in desk.text and "x.jsonl:21)" in desk.text
    assert ("- [Possible] Remove 1 row without a prompt [y/N]", False) in desk.asked
    assert len(rows_of(prepared)) == 21


def test_broken_lines_are_named_and_many_refuse_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = [json.dumps({"prompt": f"{q} {i}", "completion": f"{q} {i}"}) for i in range(4) for q in QUESTIONS]
    path.write_text("\n".join([*good[:7], '{"prompt": "a", ', *good[7:]]), encoding="utf-8")
    desk = Answers()
    prepared = prepare(str(path), Reader(), desk)
    assert prepared.rows == [20] and f"{path}:8" in desk.text
    path.write_text("\n".join(["{}x", "{", *good[:7]]), encoding="utf-8")
    told = refusal(str(path))
    assert f"{path}:1" in told and f"{path}:2" in told


def test_a_file_that_is_not_read_to_its_end_is_refused(tmp_path: Path) -> None:
    rows = [f"{q} {i},{q} {i}" for i in range(10) for q in QUESTIONS]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["prompt,completion", *rows[:40], '"Where is it,lost', *rows[40:]]), encoding="utf-8")
    assert "lines 42 to 52 are in one cell" in refusal(str(path))
    report = gptloom.data_check(data=[str(path)], quiet=True)
    assert not report.is_fine and "data prepare" not in report.verdict, "what it would refuse is not advised"
    path = tmp_path / "x.json"
    objects = [json.dumps({"prompt": row, "completion": row}) for row in rows]
    path.write_text("[\n" + ",\n".join(objects[:49]) + "\n" + objects[49] + "\n]", encoding="utf-8")
    assert "lines 51 to 52 are not read" in refusal(str(path))
    assert names(tmp_path) == ["x.csv", "x.json"]


def test_preferences_are_sent_to_where_they_belong(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    assert "gptloom data check" in refusal(path)


@pytest.mark.parametrize("content", ["", "\n \n", "prompt,completion\n"])
def test_files_without_rows(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8")
    assert str(path) in refusal(str(path))


def test_completions_of_nothing_leave_nothing(tmp_path: Path) -> None:
    assert "no row is left" in refusal(pairs(tmp_path / "x.jsonl", QUESTIONS[:3], ["", " ", "\n"]))


# ---- conversations ---------------------------------------------------------------------------------------------------


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}],
    }


def test_conversations_are_checked_and_written_as_messages(tmp_path: Path) -> None:
    rows = [chat(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    path = jsonl(tmp_path / "x.jsonl", [*rows, rows[0], chat("CafÃ©?", "Yes", weight=0.5)])
    prepared = prepare(path, Reader(), Answers())
    assert prepared.kind == "chat"
    assert rows_of(prepared) == [*rows, chat("Café?", "Yes", weight=0.5)]
    assert prepared.next is not None and prepared.next.separator == ""
    assert all("openai api fine_tunes" not in command for command in prepared.next.commands)


def test_good_conversations_are_left_alone(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [chat(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)])
    assert prepare(path, Reader(), Answers()).paths == []


def call(city: str, offered: str = "get_weather", text: str | None = None) -> dict[str, Any]:
    """One who asks for the weather is answered by a call."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": "c", "type": "function", "function": function}]
    messages = [
        {"role": "user", "content": "weather please"},
        {"role": "assistant", "content": text, "tool_calls": calls},
    ]
    return {"messages": messages, "tools": [{"type": "function", "function": {"name": offered}}]}


def test_conversations_that_differ_in_calls_or_tools_are_no_duplicates(tmp_path: Path) -> None:
    rows = [call("Oslo"), call("Rome"), call("Oslo", "get_time"), call("Oslo")]
    prepared = prepare(jsonl(tmp_path / "x.jsonl", rows), Reader(), desk := Answers())
    assert "1 row word for word as an earlier one (" in desk.text
    assert [row["messages"][1]["tool_calls"] for row in rows_of(prepared)] == [
        row["messages"][1]["tool_calls"] for row in rows[:3]
    ]


def test_calls_and_tools_are_measured(tmp_path: Path) -> None:
    rows = load(jsonl(tmp_path / "x.jsonl", [call("Oslo"), call("O" * 4000)])).rows
    assert Reader().counts(rows.texts())[1] > 1000 > Reader().counts(rows.texts())[0] > 30


def test_instructions_with_an_input_become_messages(tmp_path: Path) -> None:
    rows = [{"instruction": q, "input": "in short", "output": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert rows_of(prepare(str(path), Reader(), Answers()))[0] == chat(f"{QUESTIONS[0]}\n\nin short", ANSWERS[0])


def test_a_broken_conversation_is_told_by_its_line(tmp_path: Path) -> None:
    rows = [chat(f"{q} {i}", "a") for i in range(4) for q in QUESTIONS]
    rows[2]["messages"][0].pop("role")
    desk = Answers()
    assert prepare(jsonl(tmp_path / "x.jsonl", rows), Reader(), desk).rows == [19]
    assert "x.jsonl:3" in desk.text and "role" in desk.text


# ---- checks ----------------------------------------------------------------------------------------------------------


def test_all_the_same_is_refused(tmp_path: Path) -> None:
    told = refusal(pairs(tmp_path / "x.jsonl", ["same"] * 5, ANSWERS))
    assert "all 5 prompts are the same" in told
    told = refusal(pairs(tmp_path / "y.jsonl", QUESTIONS, [" yes"] * 5))  # OpenAI's tool took it for one class
    assert "all 5 completions are the same" in told


def test_capitals(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", [q.upper() + " ->" for q in QUESTIONS], [f" {a}\n" for a in ANSWERS])
    assert rows_of(prepare(path, Reader(), Answers()))[0]["prompt"] == "who wrote emma? ->"


@pytest.mark.parametrize(
    ("prompts", "separator"),
    [
        (["a", "b"], " ->"),
        (["a\nx", "b"], "\n\n###\n\n"),
        (["a -> b", "b"], "\n\n###\n\n"),
        (["a\n\n###\n\nb", "b"], "\n\n===\n\n"),
        (["cherry", "may"], " ->"),  # the letter y is none
    ],
)
def test_the_first_separator_that_is_in_no_prompt(tmp_path: Path, prompts: list[str], separator: str) -> None:
    path = pairs(tmp_path / "x.jsonl", prompts, [" one\n", " two\n"])
    assert [row["prompt"] for row in rows_of(prepare(path, Reader(), Answers()))] == [p + separator for p in prompts]


def test_a_separator_that_is_there_is_kept_and_told(tmp_path: Path) -> None:
    prompts = ["one\n\n###\n\ntwo\n\n###\n\n", "three\n\n###\n\n"]
    desk = Answers()
    prepare(pairs(tmp_path / "x.jsonl", prompts, [" one\n", " two\n"]), Reader(), desk)
    assert "all prompts end in '\\n\\n###\\n\\n'" in desk.text and "inside 1 of them" in desk.text and not desk.asked


def test_words_in_front_of_everything_go_only_when_asked_for(tmp_path: Path) -> None:
    prompts = [f"Translate into German: {q} ->" for q in QUESTIONS]
    path = pairs(tmp_path / "x.jsonl", prompts, [f" {a}\n" for a in ANSWERS])
    desk = Answers()
    assert prepare(path, Reader(), desk).paths == []
    assert desk.asked == [("- [Possible] Remove 'Translate into German: ' from every prompt [y/N]", False)]
    assert rows_of(prepare(path, Reader(), Answers(True)))[0]["prompt"] == "Who wrote Emma? ->"


def test_signs_in_front_of_everything_go(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", [f"{q} ->" for q in QUESTIONS], [f" ### > {a}\n" for a in ANSWERS])
    assert rows_of(prepare(path, Reader(), Answers()))[0]["completion"] == " Jane Austen did.\n"


def test_the_space_in_front_depends_on_the_tokenizer(
    tmp_path: Path, gpt2: Tokenizer, byte_tokenizer: Tokenizer
) -> None:
    path = pairs(tmp_path / "x.jsonl", [f"{q} ->" for q in QUESTIONS], [f"{a}\n" for a in ANSWERS])
    assert prepare(path, Reader("bytes", byte_tokenizer, 512), Answers()).paths == []
    assert rows_of(prepare(path, Reader("gpt2", gpt2, 1024), Answers()))[0]["completion"] == " Jane Austen did.\n"


def test_long_examples_by_tokens(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    completions = [*(f" {a}\n" for a in ANSWERS[:4]), " " + "long " * 20 + "\n"]
    path = pairs(tmp_path / "x.jsonl", [f"{q} ->" for q in QUESTIONS], completions)
    desk = Answers()
    prepared = prepare(path, Reader("runs/base", byte_tokenizer, 64), desk)
    assert prepared.rows == [4] and "[Recommended] Remove 1 long example" in desk.text
    assert "by the tokenizer of runs/base" in desk.text and "x.jsonl:5 (" in desk.text
    desk = Answers()
    assert prepare(path, Reader(), desk).paths == [] and "estimated from 4 bytes a token" in desk.text


def test_time_is_told_only_where_a_training_measured_it(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    path = pairs(tmp_path / "x.jsonl", QUESTIONS, ANSWERS)
    measured = prepare(path, Reader("runs/base", byte_tokenizer, 512, 100.0), Answers()).next
    unknown = prepare(path, Reader("runs/base", byte_tokenizer, 512), Answers()).next
    assert measured is not None and unknown is not None
    assert measured.seconds == measured.tokens / 100 and "100 a second" in measured.reminders[-1]
    assert unknown.seconds is None and "--dry-run" in unknown.reminders[-1]


# ---- classes ---------------------------------------------------------------------------------------------------------


def spam(path: Path, n: int = 30, labels: tuple[str, ...] = ("spam", "ham")) -> str:
    return pairs(path, [f"message {i:02} ->" for i in range(n)], [f" {labels[i % len(labels)]}" for i in range(n)])


def test_classes_are_split(tmp_path: Path) -> None:
    desk = Answers()
    prepared = prepare(spam(tmp_path / "x.jsonl"), Reader(), desk)
    assert [path.name for path in prepared.paths] == ["x_prepared_train.jsonl", "x_prepared_valid.jsonl"]
    assert prepared.rows == [24, 6] and prepared.kind == "classification"
    assert len({row["prompt"] for row in rows_of(prepared)}) == 30
    assert prepared.next is not None
    sft, finetune, openai = prepared.next.commands
    assert sft.endswith(f"--data {prepared.paths[0]} --valid {prepared.paths[1]}") and "--task classify" in finetune
    assert openai.endswith('--compute_classification_metrics --classification_positive_class " spam"')
    assert "2 classes: 'spam' 15 (50%), 'ham' 15 (50%)" in desk.text


def test_what_is_trained_on_does_not_validate(tmp_path: Path) -> None:
    prompts = [f"message {i % 20} ->" if i % 2 else f"Message  {i % 20} ->" for i in range(40)]
    path = pairs(tmp_path / "x.jsonl", prompts, [f" {'ab'[i < 20]}" for i in range(40)])
    desk = Answers()
    prepared = prepare(path, Reader(), desk)
    train, valid = (
        {" ".join(json.loads(line)["prompt"].lower().split()) for line in path.read_text("utf-8").splitlines()}
        for path in prepared.paths
    )
    assert not train & valid and sum(prepared.rows) == 40 and "went to training, which has their prompt" in desk.text


def test_spellings_of_a_class(tmp_path: Path) -> None:
    path = spam(tmp_path / "x.jsonl", 40, ("spam", "ham", "spam", "Ham ", "spam", "ham", "spam", "ham"))
    prepared = prepare(path, Reader(), Answers())
    assert {row["completion"] for row in rows_of(prepared)} == {" spam", " ham"}


def test_rare_and_overwhelming_classes_are_told(tmp_path: Path) -> None:
    completions = [" ham"] * 38 + [" spam"] * 2
    desk = Answers()
    prepare(pairs(tmp_path / "x.jsonl", [f"m {i:02} ->" for i in range(40)], completions), Reader(), desk)
    assert "'ham' is right in 95% of the rows" in desk.text and "Fewer than 10 examples of 'spam'" in desk.text


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", QUESTIONS, ANSWERS)
    written = [prepare(path, Reader(), Answers()).paths[0].name for _ in range(3)]
    assert written == ["x_prepared.jsonl", "x_prepared (1).jsonl", "x_prepared (2).jsonl"]
    spam_path = spam(tmp_path / "s.jsonl")
    (tmp_path / "s_prepared_valid.jsonl").write_text("mine", encoding="utf-8")
    written = [path.name for path in prepare(spam_path, Reader(), Answers()).paths]
    assert written == ["s_prepared_train (1).jsonl", "s_prepared_valid (1).jsonl"]
    assert (tmp_path / "s_prepared_valid.jsonl").read_text(encoding="utf-8") == "mine"


def test_out_is_a_file_or_a_folder(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", QUESTIONS, ANSWERS)
    (tmp_path / "made").mkdir()
    assert prepare(path, Reader(), Answers(), str(tmp_path / "made")).paths == [tmp_path / "made" / "x_prepared.jsonl"]
    out = str(tmp_path / "new.jsonl")
    assert prepare(path, Reader(), Answers(), out).paths == [Path(out)]
    assert "it exists already" in refusal(path, out=out)
    assert "it exists already" in refusal(path, out=path)
    assert "ending: .jsonl" in refusal(path, out=str(tmp_path / "new.csv"))
    assert "does not exist" in refusal(path, out=str(tmp_path / "nowhere" / "new.jsonl"))


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", QUESTIONS, ANSWERS)

    def change() -> None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n")

    assert "changed" in refusal(path, Answers(before=change))
    assert names(tmp_path) == ["x.jsonl"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who runs this may write anywhere")
def test_a_folder_that_takes_nothing(tmp_path: Path) -> None:
    path = pairs(tmp_path / "x.jsonl", QUESTIONS, ANSWERS)
    tmp_path.chmod(0o500)
    try:
        assert "it cannot be written: " in refusal(path)
    finally:
        tmp_path.chmod(0o700)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptloom.config import files as module

    path, whole = spam(tmp_path / "x.jsonl"), module.write_text

    def half(target: Path, text: str) -> None:
        if "valid" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        whole(target, text)

    monkeypatch.setattr(module, "write_text", half)
    assert "it cannot be written: No space left on device" in refusal(path)
    assert names(tmp_path) == ["x.jsonl"]


# ---- encoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["café", "naïve façade", "don’t — “so”", "Привет, мир", "😀 smile", "£5 à Noël", "ÇA"])
def test_misread_text_is_turned_back(text: str) -> None:
    misread = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode())
    assert misread != text and repaired(misread) == text


@pytest.mark.parametrize("text", ["café", "MAÇÃ”", "CAFÉ…", "Â", "â €", "à »", "100 £", "Ð Ñ", "Привет", "“É”", "你好"])
def test_text_that_is_right_stays(text: str) -> None:
    assert repaired(text) == text
