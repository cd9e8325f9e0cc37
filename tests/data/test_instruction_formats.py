"""Every format of instruction data becomes the same conversations; what is wrong with a row is said exactly."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data.conversation import Conversation, Message
from gptloom.data.findings import Findings
from gptloom.data.instruction_formats import (
    Conversations,
    conversations_of,
    format_of,
    looks_like_instructions,
    read_conversations,
)
from gptloom.data.rows import read_rows
from gptloom.data.turns import listed

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def put(path: Path, rows: Any) -> str:
    """A file of JSON lines, or of text."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def read(tmp_path: Path, *rows: Any, name: str = "greetings.v1.jsonl", format: str | None = None) -> Conversations:
    return read_conversations([put(tmp_path / name, rows)], format)


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def refused(tmp_path: Path, *rows: Any, **options: Any) -> list[str]:
    """Problems without the path."""
    with pytest.raises(UserError) as error:
        read(tmp_path, *rows, **options)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in error.value.problems]


# ---- formats ---------------------------------------------------------------------------------------------------------

OPENAI, PAIRS = "messages (OpenAI)", "chosen/rejected (preference pairs)"
HI = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "row, title, expected",
    [
        ({"prompt": "Hi", "completion": "Hello"}, "prompt/completion", HI),
        ({"Prompt": "Hi", "response": "Hello"}, "Prompt/response", HI),
        ({"question": "Hi", "answer": "Hello"}, "question/answer", HI),
        ({"prompt": "", "completion": " Hello"}, "prompt/completion", [("assistant", " Hello")]),
        ({"prompt": [USER], "completion": [ANSWER]}, "prompt/completion", HI),
        ({"prompt": "2+2", "completion": 4}, "prompt/completion", [("user", "2+2"), ("assistant", "4")]),
        (
            {"instruction": "Add", "input": "2 2", "output": "4"},
            "instruction/input/output (Alpaca)",
            [("user", "Add\n\n2 2"), ("assistant", "4")],
        ),
        ({"instruction": "Hi", "input": "", "response": "Hello"}, "instruction/input/response (Alpaca)", HI),
        (
            {"instruction": "Hi", "output": "Hello", "system": "Be kind", "history": [["a", "b"]]},
            "instruction/input/output (Alpaca)",
            [("system", "Be kind"), ("user", "a"), ("assistant", "b"), *HI],
        ),
        ({"messages": [USER, ANSWER]}, OPENAI, HI),
        (
            {"messages": [{"role": "developer", "content": "Be kind"}, USER, ANSWER]},
            OPENAI,
            [("system", "Be kind"), *HI],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                    ANSWER,
                ]
            },
            OPENAI,
            HI,
        ),
        ({"messages": json.dumps([USER, ANSWER])}, OPENAI, HI),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            "conversations (ShareGPT)",
            HI,
        ),
        ({"text": "\n\nHuman: Hi\n\nAssistant: Hello"}, "Human/Assistant transcripts (HH)", HI),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}, PAIRS, HI),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, PAIRS, HI),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello", "rejected": " Go"}, PAIRS, HI),
        ({"instruction": "Hi", "input": "", "output": "x", "chosen": "Hello", "rejected": "Go"}, PAIRS, HI),
        ({"prompt": "Hi ", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, PAIRS, HI),
        ({"prompt": "[3, 1]", "completion": "4"}, "prompt/completion", [("user", "[3, 1]"), ("assistant", "4")]),
        ({"prompt": '{"a": 1}', "completion": "4"}, "prompt/completion", [("user", '{"a": 1}'), ("assistant", "4")]),
        ({"prompt": json.dumps([USER]), "completion": "Hello"}, "prompt/completion", HI),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello"},
                "rejected": {"from": "gpt", "value": "Go"},
            },
            PAIRS,
            HI,
        ),
        (
            {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            "preferred_output/non_preferred_output (preference pairs)",
            HI,
        ),
        ({"text": "Once upon a time"}, "plain text", [("assistant", "Once upon a time")]),
    ],
)
def test_formats(tmp_path: Path, row: dict[str, Any], title: str, expected: list[tuple[str, str]]) -> None:
    found = read(tmp_path, row)
    assert [said(one) for one in found.conversations] == [expected]
    assert found.sentences == [f"{tmp_path}/greetings.v1.jsonl: {title}, 1 row"]
    assert found.conversations[0].task == "greetings"
    assert found.conversations[0].where == f"{tmp_path}/greetings.v1.jsonl:1"


def test_alpaca_keeps_its_parts_for_its_template(tmp_path: Path) -> None:
    found = read(tmp_path, {"instruction": "Add", "input": "2 2", "output": "4"})
    assert found.conversations[0].messages[0].extra == {"instruction": "Add", "input": "2 2"}


def test_self_instruct_has_several_instances(tmp_path: Path) -> None:
    row = {"instruction": "Add", "instances": [{"input": "1 1", "output": "2"}, {"input": "2 2", "output": "4"}]}
    found = read(tmp_path, row)
    assert [one.answer for one in found.conversations] == ["2", "4"]


def test_tools_and_weights_are_kept(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
            {"role": "assistant", "content": "4", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    one = read(tmp_path, row).conversations[0]
    assert [message.weight for message in one.messages] == [1.0, 0.0, 1.0, 1.0]
    assert one.messages[1] == Message("assistant", "", 0.0, {"tool_calls": [call]})
    assert one.messages[2].extra == {"tool_call_id": "1"} and one.tools[0]["function"] == {"name": "add"}


def test_metric_and_task_are_said_by_keys(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "task": "translate", "metric": "bleu", "source": "a"}
    one = read(tmp_path, row).conversations[0]
    assert (one.task, one.metric, one.source) == ("translate", "bleu", "a")
    one = read(tmp_path, {"prompt": "a", "completion": "b", "source": "somewhere"}).conversations[0]
    assert (one.metric, one.source) == ("", "")


def test_tables_and_text(tmp_path: Path) -> None:
    for name, text in (("a.csv", "prompt,completion\nHi,Hello\n"), ("a.tsv", "prompt\tcompletion\r\nHi\tHello\r\n")):
        assert said(read_conversations([put(tmp_path / name, text)]).conversations[0]) == HI
    found = read_conversations([put(tmp_path / "a.txt", "One.\nTwo.\n")])
    assert [one.answer for one in found.conversations] == ["One.", "Two."] and "plain text, 2 rows" in found.sentences[
        0
    ]
    found = read_conversations([put(tmp_path / "b.txt", "Human: Hi\n\nAssistant: Hello\n")])
    assert said(found.conversations[0]) == HI


def test_unused_columns_and_unknown_keys_are_warned_of(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "Hello", "wieght": 0}
    found = read(tmp_path, {"messages": [{**USER, "weight": 1}, message], "category": "greeting", "id": 7})
    warnings = "\n".join(found.warnings)
    assert "greetings.v1.jsonl: not used: category" in warnings
    assert "message 2 has a key 'wieght', which does nothing\n  try: did you mean weight?" in warnings
    assert "message 1 is the user's and has a weight" in warnings
    found = read(tmp_path, {"messages": [{**USER, "name": None, "wieght": None}, ANSWER]})  # as Parquet fills gaps
    assert not found.warnings


def test_weight_zero_everywhere(tmp_path: Path) -> None:
    quiet = {"messages": [USER, {**ANSWER, "weight": 0}]}
    found = read(tmp_path, quiet, {"messages": [USER, ANSWER]})
    assert len(found.conversations) == 1 and "weight 0: nothing is learned, the row is left out" in found.warnings[0]
    assert "no message of the assistant is learned" in refused(tmp_path, quiet, quiet)[0]


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": role} for role in roles]}


@pytest.mark.parametrize(
    "row, what",
    [
        (chat("user", "assistant", "system", "user", "assistant"), "message 3 is the system's, which must come first"),
        (chat("user", "user", "assistant"), "messages 1 and 2 are both the user's: an answer between them is missing"),
        (chat("user", "assistant", "assistant"), "messages 2 and 3 are both the assistant's: a question"),
        (chat("user", "assistant", "user"), "the last message is the user's: nothing is answered"),
        (chat("system"), "there is only a system message: nothing is answered"),
        (chat("user", "tool", "assistant"), "message 2 is a tool's, but nobody called one"),
        (chat("user", "assistant", "tool", "user", "assistant"), "message 4 is the user's behind a tool's"),
        (chat("user", "asistant"), "message 2 has the role 'asistant'\n  try: did you mean assistant"),
        (chat(), "'messages' is empty"),
        ({"messages": "Hi"}, "'messages' is text, not a list of messages"),
        ({"messages": [USER, "Hello"]}, 'message 2 is "Hello", not an object'),
        ({"messages": [USER, {"content": "Hello"}]}, "message 2 has no role (its keys: content)"),
        ({"messages": [USER, {"role": "assistant"}]}, "message 2 has no content (its keys: role)"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 has null as content"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "the answer is empty"),
        (
            {"messages": [USER, {"role": "assistant", "content": " "}, USER, ANSWER]},
            "message 2, the assistant's, is white space only",
        ),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "message 2 has the weight 2"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
            "message 1 has content of the type image_url",
        ),
    ],
)
def test_wrong_conversations(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    problems = refused(tmp_path, {"messages": [USER, ANSWER]}, row)
    assert len(problems) == 1 and problems[0].startswith(f"greetings.v1.jsonl:2: {what}"), problems
    assert "\n  try: " in problems[0]


@pytest.mark.parametrize(
    "row, what",
    [
        ({"prompt": "Hi", "completion": " \n"}, "the answer is white space only"),
        ({"prompt": "Hi", "completion": None}, "the answer is empty"),
        ({"prompt": "Hi", "completion": ["a"]}, "message 1 is"),
        ({"prompt": "Hi", "completon": "Hello"}, "no 'completion' (its keys: prompt, completon)\n  try: is it"),
        ({"messages": [USER, ANSWER]}, "messages (OpenAI) in a file of prompt/completion\n  try: one format in a file"),
        ({}, "no 'prompt' (its keys: none)"),
    ],
)
def test_wrong_pairs(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    good = {"prompt": "Hi", "completion": "Hello"}
    problems = refused(tmp_path, good, good, row)
    assert problems[0].startswith(f"greetings.v1.jsonl:3: {what}"), problems


def test_wrong_transcripts_and_pairs_of_answers(tmp_path: Path) -> None:
    good = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}
    problems = refused(tmp_path, good, {**good, "chosen": "\n\nHuman: Hi\n\nAssistant:"})
    assert problems[0].startswith("greetings.v1.jsonl:2: chosen: the answer is empty")
    text = {"text": "\n\nHuman: Hi\n\nAssistant: Hello"}
    problems = refused(tmp_path, text, {"text": "Note this.\n\nHuman: Hi\n\nAssistant: Hello"})
    assert "'Note this.' stands before the first turn" in problems[0]


def test_all_problems_of_all_files_come_together(tmp_path: Path) -> None:
    broken = "".join('{"prompt": "Hi", "completion": ""}\nbroken\n' for _ in range(5))
    paths = [
        put(tmp_path / "a.jsonl", '{"prompt": "Hi", "completion": "Hello"}\n' + broken),
        str(tmp_path / "missing.jsonl"),
        put(tmp_path / "empty.json", ""),
        put(tmp_path / "labelled.csv", "text,label\ngood,1\nbad,0\n"),
        put(tmp_path / "misspelled.jsonl", [{"promt": "a", "completon": "b"}]),
        put(tmp_path / "bare.csv", "How are you today?,I am fine\nWho are you?,Nobody\n"),
    ]
    with pytest.raises(UserError) as error:
        read_conversations(paths)
    told = str(error.value)
    for what in (
        "no such file",
        "empty file",
        "gptloom finetune, or gptloom data instruct",
        "'promt': did you mean prompt?",
        "no names of columns in the first row",
        "a.jsonl:2: the answer is empty",
        "a.jsonl:3: not JSON",
        "and 2 more: empty answers",
        "and 2 more: lines that are not JSON",
    ):
        assert what in told, told


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER], "prompt": "a", "completion": "b"}
    assert said(read(tmp_path, row).conversations[0]) == HI
    assert said(read(tmp_path, row, format="prompt-completion").conversations[0])[0] == ("user", "a")
    assert "not sharegpt data; its columns: messages, prompt" in refused(tmp_path, row, format="sharegpt")[0]


def test_a_cell_that_is_nested_too_deeply_is_text() -> None:
    assert listed("[" * 100_000) == "[" * 100_000


def test_rows_one_by_one(tmp_path: Path) -> None:
    findings = Findings()
    rows = read_rows(put(tmp_path / "a.jsonl", [chat("user"), {"messages": [USER, ANSWER]}]), findings)
    format = format_of(rows)
    found = [conversations_of(row, format, findings) for row in rows]
    assert found[0] == [] and [said(one) for one in found[1]] == [HI]
    assert findings.count == 1


# ---- real files, and files for other commands ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, title, conversations",
    [
        ("instruction/rasbt_instruction-data.json", "instruction/input/output (Alpaca)", 1100),
        ("instruction/alpaca_en_demo.json", "instruction/input/output (Alpaca)", 999),
        ("instruction/dolly_hhrlhf_train_small.jsonl", "prompt/response", 1000),
        ("instruction/gpteacher_roleplay-simple-deduped.json.gz", "instruction/input/response (Alpaca)", 1923),
        ("instruction/self_instruct_seed_tasks.jsonl", "instruction/instances (Alpaca)", 175),
        ("preference/rasbt_instruction-data-with-preference.json", "chosen/rejected (preference pairs)", 1100),
        ("preference/llamafactory_dpo_en_demo.json.gz", "chosen/rejected (preference pairs)", 300),
        ("gsm8k/train.jsonl.gz", "question/answer", 7473),
    ],
)
def test_published_files(name: str, title: str, conversations: int) -> None:
    found = read_conversations([str(real_data(name))])
    assert title in found.sentences[0] and len(found.conversations) == conversations
    assert all(one.messages[-1].role == "assistant" for one in found.conversations)


def test_published_transcripts() -> None:
    """12 of HH's 2,312 dialogues have an empty answer or somebody speaking twice; the others are read, turn by turn."""
    path = str(real_data("preference/hh_rlhf_harmless-base_test.jsonl.gz"))
    findings = Findings()
    rows = read_rows(path, findings)
    format = format_of(rows)
    found = [one for row in rows for one in conversations_of(row, format, findings)]
    assert (len(found), findings.count) == (2300, 12)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        first = json.loads(next(file))["chosen"]
    turns = "".join(f"\n\n{'Human' if m.role == 'user' else 'Assistant'}: {m.content}" for m in found[0].messages)
    assert turns == first


def test_instruction_data_are_recognised_by_others(tmp_path: Path) -> None:
    chats = put(tmp_path / "chats.jsonl", [{"messages": [USER, ANSWER]}])
    assert looks_like_instructions([chats]) == "messages (OpenAI)"
    texts = put(tmp_path / "texts.jsonl", [{"text": "a", "prompt": "b", "completion": "c"}])
    plays = put(tmp_path / "play.txt", "Human: a line of a play\n")
    assert looks_like_instructions([texts, plays, str(tmp_path / "missing"), str(tmp_path)]) is None
    assert looks_like_instructions([texts, chats]) == "messages (OpenAI)"
