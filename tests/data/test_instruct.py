"""Labelled sets become instructions: every task, the wordings, what is held back, and what is refused."""

from __future__ import annotations

import errno
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data

from gptloom.config import files
from gptloom.config.data_tools import InstructOptions
from gptloom.config.errors import UserError
from gptloom.data.instruct import wordings
from gptloom.data.instruct.calculations import calculation_of
from gptloom.data.instruct.mix import READERS, Instructed, either, instruct
from gptloom.data.instruct.questions import final_answer
from gptloom.data.instruction_formats import METRICS, read_conversations

REVIEWS = "sentence\tlabel\n" + "".join(
    f"{word} number {i}\t{label}\n" for i in range(40) for word, label in (("a fine film", 1), ("a dull film", 0))
)
WORDS = {"labels": ["0=negative", "1=positive"], "about": "film review", "wanted": "sentiment"}


def put(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def made(tmp_path: Path, content: str, task: str, name: str = "rows.tsv", **options: Any) -> Instructed:
    data = put(tmp_path / name, content)
    return instruct(
        InstructOptions(**{"data": data, "task": task, "out": tmp_path / "set.jsonl", "overwrite": True, **options})
    )


def refused(tmp_path: Path, content: str, task: str, name: str = "rows.tsv", **options: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        made(tmp_path, content, task, name, **options)
    assert not (tmp_path / "set.jsonl").exists()
    return [str(problem) for problem in error.value.problems]


def prompts(found: Instructed) -> list[str]:
    return [conversation.prompt[-1].content for conversation in found.conversations]


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- wordings --------------------------------------------------------------------------------------------------------

NEEDED = {
    "CLASSIFY": {"text", "options", "wanted", "about"},
    "ENTAIL": {"text", "second", "options"},
    "SIMILAR": {"text", "second", "options"},
    "SIMILAR_SCORE": {"text", "second", "lowest", "highest"},
    "CHOICE": {"text", "listed"},
    "QUESTION": {"question"},
    "QUESTION_ON_TEXT": {"text", "question"},
    "ARITHMETIC": {"calculation"},
    "TRANSLATE": {"text", "target"},
    "SUMMARIZE": {"text", "about", "wanted"},
}


@pytest.mark.parametrize("name", NEEDED)
def test_every_wording_asks_for_everything(name: str) -> None:
    found: Sequence[str] = getattr(wordings, name)
    assert 6 <= len(found) <= 10 and len(set(found)) == len(found)
    for wording in found:
        fields = {field for _, field, _, _ in string.Formatter().parse(wording) if field is not None}
        optional = {"source", "about"} if name in ("TRANSLATE", "SUMMARIZE") else set()
        assert NEEDED[name] - optional <= fields <= NEEDED[name] | optional, wording
        assert wording == wording.strip(), "no template may end in a space that a tokenizer would make a token of"


def test_rows_are_asked_in_many_wordings_and_answered_in_words(tmp_path: Path) -> None:
    found = made(tmp_path, REVIEWS, "classify", **WORDS)
    assert found.answers == {"negative": 40, "positive": 40} and found.metric == "exact"
    assert found.wordings == len(wordings.CLASSIFY)
    # Of equal rows but for a number the wordings tell apart what stands before it.
    begins = {text.split("number")[0].partition("a ")[0] for text in prompts(found)}
    assert len(begins) >= 6, "the wordings take turns"
    assert any("negative or positive" in text for text in prompts(found))
    assert any("positive or negative" in text for text in prompts(found)), "the order of the options varies"
    assert all(
        ("fine" in text) == (one.answer == "positive")
        for text, one in zip(prompts(found), found.conversations, strict=True)
    )


def test_a_row_is_asked_by_seed_and_place_alone(tmp_path: Path) -> None:
    once, again = (made(tmp_path, REVIEWS, "classify", seed=3, **WORDS) for _ in range(2))
    assert once.conversations == again.conversations
    assert made(tmp_path, REVIEWS, "classify", seed=4, **WORDS).conversations != once.conversations
    other_end = REVIEWS.replace("a dull film number 39", "something else")
    assert prompts(made(tmp_path, other_end, "classify", seed=3, **WORDS))[:-1] == prompts(once)[:-1]
    single = made(tmp_path, REVIEWS, "classify", templates=1, **WORDS)
    assert all(text.startswith("What is the sentiment of this film review") for text in prompts(single))


def test_the_file_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    en, de = put(tmp_path / "a.en", "A dog.\nA {cat}.\n"), put(tmp_path / "a.de", "Ein Hund.\nEine {Katze}.\n")
    options = {"task": "translate", "out": tmp_path / "en_de.v1.jsonl", "languages": ["English", "German"]}
    found = instruct(InstructOptions(data=[en, de], **options))
    back = read_conversations([str(found.out)])
    assert back.warnings == []
    assert [one.messages for one in back.conversations] == [one.messages for one in found.conversations]
    about = [(one.task, one.metric, one.source) for one in back.conversations]
    assert about == [("en_de", "bleu", "A dog."), ("en_de", "bleu", "A {cat}.")]


# ---- tasks -----------------------------------------------------------------------------------------------------------


def test_labels_that_are_numbers_are_warned_of(tmp_path: Path) -> None:
    found = made(tmp_path, REVIEWS, "classify")
    assert set(found.answers) == {"0", "1"}
    assert "--labels 0=WORDS 1=WORDS" in found.warnings[-1]


def test_every_wrong_label_is_told_at_once(tmp_path: Path) -> None:
    told = refused(tmp_path, REVIEWS, "classify", labels=["negative", "2=mixed", "1=good"])
    assert "'negative' is not LABEL=WORDS" in told[0] and "no label '2'" in told[1]
    assert "no words for the label 0" in refused(tmp_path, REVIEWS, "classify", labels=["1=good"])[0]
    assert "two labels are called 'good'" in refused(tmp_path, REVIEWS, "classify", labels=["0=good", "1=good"])[0]


def test_pairs(tmp_path: Path) -> None:
    rows = [
        {"premise": f"It rains {i}.", "hypothesis": "It is wet.", "label": "yes" if i % 2 else "no"} for i in range(20)
    ]
    found = made(tmp_path, jsonl(*rows), "entail", "rows.jsonl")
    assert all("It rains" in text and "It is wet." in text for text in prompts(found))
    assert found.answers == {"yes": 10, "no": 10}


def test_scores_are_rounded_to_words(tmp_path: Path) -> None:
    rows = [{"sentence1": f"one {i}", "sentence2": "two", "score": i / 4} for i in range(21)]
    found = made(tmp_path, jsonl(*rows), "similar", "rows.jsonl")
    assert {one.answer for one in found.conversations} <= {f"{step * 0.2:.1f}" for step in range(26)}
    assert [one.answer for one in found.conversations][4:7] == ["1.0", "1.2", "1.6"]
    assert all(
        "from 0 to 5" in text or "0 to 5" in text or "5 is equal" in text or "0 (not" in text for text in prompts(found)
    )
    (tmp_path / "set.jsonl").unlink()
    assert "--labels does nothing" in refused(tmp_path, jsonl(*rows), "similar", "rows.jsonl", labels=["0=no"])[0]


def test_choices_stand_in_the_question_in_any_order(tmp_path: Path) -> None:
    same = {"choice1": "He slipped.", "choice2": "He bled."}
    rows = [
        {"premise": f"The man fell {i} {kind}.", "question": kind, "label": label, **same}
        for i in range(12)
        for kind, label in (("cause", 0), ("effect", 1))
    ]
    found = made(tmp_path, jsonl(*rows), "choice", "rows.jsonl", second="question")
    assert found.answers == {"He slipped.": 12, "He bled.": 12}
    for text, one in zip(prompts(found), found.conversations, strict=True):
        assert ("What was the cause of this?" in text) == (one.answer == "He slipped.")
    assert len({text.index("He slipped.") < text.index("He bled.") for text in prompts(found)}) == 2


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Anna has 3 dogs.",
                    "qas": [
                        {"id": "a", "question": "How many?", "answers": [{"text": "3", "answer_start": 9}]},
                        {"id": "b", "question": "Who?", "answers": [{"text": "Anna"}, {"text": "Anna has"}]},
                        {"id": "c", "question": "Where?", "answers": []},
                    ],
                }
            ]
        }
    ]
}


def test_squad(tmp_path: Path) -> None:
    found = made(tmp_path, json.dumps(SQUAD), "qa", "squad.json")
    assert [one.answer for one in found.conversations] == ["3", "Anna"] and found.metric == "f1"
    assert all("Anna has 3 dogs." in text for text in prompts(found))
    assert "1 question has no answer" in found.warnings[0]


def test_a_declared_column_is_not_guessed_for_another_role(tmp_path: Path) -> None:
    """``context`` would be taken for a passage, were it not said to be the question."""
    rows = jsonl({"context": "HISTORY: This town", "continuation": "Rome"}, {"context": "Who?", "continuation": "Anna"})
    found = made(tmp_path, rows, "qa", "rows.jsonl", second="context", label="continuation")
    assert [one.answer for one in found.conversations] == ["Rome", "Anna"]


STEPS = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nTogether 48+24 = <<48+24=72>>72.\n#### 72"


def test_questions_with_steps(tmp_path: Path) -> None:
    rows = jsonl({"question": "How many clips?", "answer": STEPS}, {"question": "And then?", "answer": "#### 1,000"})
    found = made(tmp_path, rows, "qa", "rows.jsonl")
    assert [one.answer for one in found.conversations] == ["72", "1,000"] and found.metric == "exact"
    kept = made(tmp_path, rows, "qa", "rows.jsonl", reasoning=True)
    assert kept.conversations[0].answer == "Natalia sold 48/2 = 24 clips.\nTogether 48+24 = 72.\nThe answer is 72."
    assert kept.metric == "f1" and final_answer(" Paris ", False) == "Paris"


def test_steps_that_are_not_there_are_not_kept(tmp_path: Path) -> None:
    told = refused(tmp_path, jsonl({"question": "Who?", "answer": "Anna"}), "qa", "rows.jsonl", reasoning=True)
    assert "--reasoning does nothing" in told[0]
    assert "no row has both" in refused(tmp_path, jsonl({"question": "Who?", "answer": ""}), "qa", "rows.jsonl")[0]


def test_columns_that_no_name_tells_are_asked_for(tmp_path: Path) -> None:
    told = refused(tmp_path, jsonl({"q": "Who?", "a": "Anna"}), "qa", "rows.jsonl")
    assert any("--second COLUMN" in problem for problem in told) and any(
        "--label COLUMN" in problem for problem in told
    )
    found = made(tmp_path, jsonl({"q": "Who?", "a": "Anna"}), "qa", "rows.jsonl", second="q", label="a")
    assert found.conversations[0].answer == "Anna"
    (tmp_path / "set.jsonl").unlink()
    told = refused(tmp_path, jsonl({"q": "Who?", "a": "Anna"}), "qa", "rows.jsonl", second="q", label="q")
    assert "'q' is taken for label and for something else" in told[0]


@pytest.mark.parametrize(
    ("asked", "calculation"),
    [
        ("25 - 759 =", "25 - 759"),
        ("25-759=", "25-759"),
        ("\n\nQ: What is 98 plus 45?\n\nA:", "98 plus 45"),
        ("Q: What is (2 * 3) * 4?\n\nA:", "(2 * 3) * 4"),
    ],
)
def test_the_calculation_in_a_question(asked: str, calculation: str) -> None:
    assert calculation_of(asked) == calculation


def test_calculations(tmp_path: Path) -> None:
    found = made(tmp_path, jsonl({"context": "25 - 759 =", "continuation": " -734"}), "arithmetic", "rows.jsonl")
    assert found.conversations[0].answer == "-734" and "25 - 759" in prompts(found)[0]
    (tmp_path / "set.jsonl").unlink()
    told = refused(tmp_path, jsonl({"context": "Who?", "continuation": " I"}), "arithmetic", "rows.jsonl")
    assert "rows.jsonl:1" in told[0] and "holds no number" in told[0]


def test_titles_are_asked_for_by_their_name(tmp_path: Path) -> None:
    row = {"description": "A long story about much.", "title": "Much"}
    found = made(tmp_path, jsonl(*[row | {"description": f"Story {i}."} for i in range(9)]), "summarize", "r.jsonl")
    assert found.metric == "rouge" and all("title" in text for text in prompts(found))
    assert found.conversations[3].source == "Story 3."


def test_cells_are_spelled_as_everywhere(tmp_path: Path) -> None:
    row = {"description": True, "title": "Much"}
    assert made(tmp_path, jsonl(row), "summarize", "r.jsonl").conversations[0].source == "true"
    (tmp_path / "set.jsonl").unlink()
    told = refused(tmp_path, jsonl(row | {"title": float("nan")}, row | {"title": ["Much"]}), "summarize", "r.jsonl")
    assert "r.jsonl:1: 'title' is empty" in told[0] and "r.jsonl:2: 'title' holds a list, not text" in told[1]


def test_lines_that_are_no_text_are_refused_together(tmp_path: Path) -> None:
    for name in ("a.en", "a.de"):
        (tmp_path / name).write_bytes(b"one\ncaf\xe9\n")
    options = {"task": "translate", "out": tmp_path / "set.jsonl", "languages": ["English", "German"]}
    with pytest.raises(UserError) as error:
        instruct(InstructOptions(data=[str(tmp_path / "a.en"), str(tmp_path / "a.de")], **options))
    told = [str(problem) for problem in error.value.problems]
    assert all(f"a.{end}:2: not UTF-8: byte 0xe9" in problem for end, problem in zip(("en", "de"), told, strict=True))


def test_lines_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    other = put(tmp_path / "b.de", "Ein Hund.\n")
    told = refused(
        tmp_path, "A dog.\nA cat.\n", "translate", "a.en", data=[tmp_path / "a.en", other], languages=["en", "de"]
    )
    assert "2 lines, and 1 in" in told[0]
    told = refused(tmp_path, "A dog.\n", "translate", "a.en")
    assert "1 file" in told[0] and "--languages English German" in told[1]


# ---- which rows ------------------------------------------------------------------------------------------------------


def test_rows_are_held_back_with_their_copies(tmp_path: Path) -> None:
    found = made(tmp_path, REVIEWS + REVIEWS.split("\n", 1)[1], "classify", valid_rows=30, **WORDS)
    texts = [{one.where for one in part} for part in (found.conversations, found.valid)]
    assert not texts[0] & texts[1] and len(found.valid) + len(found.conversations) == 160

    def numbers(part: Sequence[Any]) -> set[str]:
        words = "".join(one.prompt[-1].content for one in part).split()
        return {f"{words[i - 2]} {words[i + 1].strip(chr(34))}" for i, word in enumerate(words) if word == "number"}

    assert len(found.valid) in (30, 31) and not numbers(found.valid) & numbers(found.conversations)
    assert found.valid_out is not None and found.valid_out.name == "set_valid.jsonl"
    assert {one.task for one in read_conversations([str(found.valid_out)]).conversations} == {"set"}


def test_fewer_rows_are_a_draw_of_the_seed(tmp_path: Path) -> None:
    few = made(tmp_path, REVIEWS, "classify", rows=10, **WORDS)
    more = made(tmp_path, REVIEWS, "classify", rows=20, **WORDS)
    assert len(few.conversations) == 10 and set(prompts(few)) < set(prompts(more))
    (tmp_path / "set.jsonl").unlink()
    assert "there are 80 rows" in refused(tmp_path, REVIEWS, "classify", rows=81)[0]
    assert "there are 80 rows" in refused(tmp_path, REVIEWS, "classify", valid_rows=80)[0]


def test_options_that_do_nothing_are_refused_together(tmp_path: Path) -> None:
    told = refused(
        tmp_path, REVIEWS, "classify", languages=["English", "German"], reasoning=True, out=tmp_path / "a.json"
    )
    assert "a.json: what is written goes by the file's ending: .jsonl" in told[0] and len(told) == 3
    assert any("--languages does nothing for --task classify" in problem for problem in told)
    assert "there are 8 wordings" in refused(tmp_path, REVIEWS, "classify", templates=9)[0]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    made(tmp_path, REVIEWS, "classify", **WORDS)
    with pytest.raises(UserError, match="it exists already"):
        made(tmp_path, REVIEWS, "classify", overwrite=False, **WORDS)


def test_a_place_that_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, text: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write_text", read_only)
    with pytest.raises(UserError, match="it cannot be written: Read-only file system"):
        made(tmp_path, REVIEWS, "classify", **WORDS)


def test_options_in_words() -> None:
    assert (either([]), either(["a"]), either(["a", "b", "c"])) == ("", "a", "a, b or c")


def test_every_task_has_a_reader_and_a_known_metric(tmp_path: Path) -> None:
    assert set(READERS) == set(InstructOptions.model_fields["task"].annotation.__args__)
    assert made(tmp_path, REVIEWS, "classify").metric in METRICS


# ---- real sets -------------------------------------------------------------------------------------------------------

SETS: dict[str, tuple[list[str], dict[str, Any], int]] = {
    "sst2": (["sst2/dev.tsv"], {"task": "classify", **WORDS}, 872),
    "sick": (["sick/SICK_trial.txt"], {"task": "entail", "label": "entailment_judgment"}, 500),
    "cb": (["cb/val.jsonl"], {"task": "entail"}, 56),
    "copa": (["copa/val.jsonl"], {"task": "choice", "second": "question"}, 100),
    "arithmetic": (["lm_eval_sets/simple_arithmetic_withspaces.jsonl"], {"task": "arithmetic"}, 1000),
    "multi30k": (
        ["multilingual/multi30k_val.en", "multilingual/multi30k_val.de"],
        {"task": "translate", "languages": ["English", "German"]},
        1014,
    ),
    "stsb": (["stsb/stsb-en-dev.csv"], {"task": "similar"}, 1500),
    "xquad": (["xquad/xquad.en.json"], {"task": "qa"}, 1190),
    "titles": (["ag_news/test.csv.gz"], {"task": "summarize", "text": "3", "label": "2", "rows": 500}, 500),
}


@pytest.mark.parametrize("name", SETS)
def test_published_sets(name: str, tmp_path: Path) -> None:
    files, options, rows = SETS[name]
    found = instruct(
        InstructOptions(data=[real_data(file) for file in files], out=tmp_path / f"{name}.jsonl", **options)
    )
    assert len(found.conversations) == rows
    assert all(one.answer and one.answer == one.answer.strip() for one in found.conversations)
    back = read_conversations([str(found.out)])
    assert [one.messages for one in back.conversations] == [one.messages for one in found.conversations]
