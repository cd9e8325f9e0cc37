"""The corpus of the running Python: built once for these tests, since it takes some seconds."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.data.python_corpus import DOCUMENT_SEPARATOR, PythonCorpus, build, build_python_corpus, heldout_examples
from gptloom.data.python_corpus.first_sentence import is_sentence
from gptloom.data.python_corpus.pages import Entry, Page

pytestmark = pytest.mark.slow  # the whole corpus is built twice


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PythonCorpus:
    return build_python_corpus(tmp_path_factory.mktemp("corpus") / "python")


def documents(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split(DOCUMENT_SEPARATOR)


def test_one_byte_in_five_is_an_interactive_example_in_both_parts(corpus):
    for part in ("train", "valid"):
        share = corpus.counts[f"{part}_example_bytes"] / corpus.counts[f"{part}_bytes"]
        assert 0.19 < share < 0.21
    assert corpus.counts["train_bytes"] == corpus.train.stat().st_size > 1_000_000


def test_valid_is_the_held_out_pages_and_then_the_sessions(corpus):
    both = documents(corpus.valid_text)[:-1] + documents(corpus.valid_examples)[:-1]
    valid = documents(corpus.valid)
    assert [document for document in valid if document in set(both)] == both
    assert len(valid) == len(both) + 2


def test_no_held_out_module_is_trained_on(corpus):
    modules = {name for name in corpus.held_out if not name.startswith("topic ")}
    assert modules and len(modules) < len(corpus.held_out)

    def modules_of(path: Path) -> set[str]:
        headings = [text.split(":", 1)[0] for text in documents(path) if text.startswith("Help on module ")]
        return {heading.removeprefix("Help on module ").split(".")[0].lstrip("_") for heading in headings}

    assert modules_of(corpus.valid_text) <= modules
    assert not modules_of(corpus.train) & modules


def test_kinds_are_interleaved(corpus):
    is_session = [text.startswith(">>> ") for text in documents(corpus.train)]
    halves = is_session[: len(is_session) // 2], is_session[len(is_session) // 2 :]
    assert all(0.4 * sum(is_session) < sum(half) < 0.6 * sum(is_session) for half in halves)


def test_held_out_questions_never_stand_in_training(corpus):
    questions = heldout_examples(corpus.folder)
    assert len(questions) == corpus.counts["heldout_examples"] == 1000
    train = set(corpus.train.read_text(encoding="utf-8").split("\n"))
    assert not [q.prompt for q in questions if q.kind != "function" and q.prompt.rstrip("\n") in train]
    described = json.loads((corpus.folder / "corpus.json").read_text(encoding="utf-8"))["held_out"]
    assert described["words"] and described["pairs"] and described["functions"]


def test_docstrings_are_tables_of_families_and_their_modules_are_apart(corpus):
    train, held_out = (
        [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (corpus.train_docstrings, corpus.heldout_docstrings)
    )
    assert train.pop(0) == held_out.pop(0) == ["text", "family", "module"]
    assert all(len(row) == 3 for row in train + held_out)
    assert (len(train), len(held_out)) == (corpus.counts["train_docstrings"], corpus.counts["heldout_docstrings"])
    assert len(train) > 1000 and 0.15 < len(held_out) / len(train) < 0.4
    assert not {row[2] for row in train} & {row[2] for row in held_out}
    labels = Counter(row[1] for row in train)
    assert len(labels) >= 7 and max(labels.values()) < 0.3 * len(train)
    assert {row[1] for row in held_out} <= set(labels)
    assert {row[2] for row in held_out} & set(corpus.held_out)
    assert not [row for row in train + held_out if f" {row[2]} " in row[0].lower()]


def test_instructions_ask_what_their_part_may_ask(corpus):
    def asked(part):
        lines = corpus.instructions(part).read_text(encoding="utf-8").splitlines()
        assert len(lines) == corpus.counts[f"instructions_{part}"] > 100
        return [tuple(message["content"] for message in json.loads(line)["messages"]) for line in lines]

    learned, read, unread = asked("names"), asked("heldout_read"), asked("heldout_unread")
    assert 3000 < len(learned) + len(read) + len(unread) < 9000
    answers = [answer.lower() for _, answer in [*learned, *read, *unread]]
    assert len(set(answers)) == len(answers) and all(is_sentence(answer) for _, answer in [*learned, *read, *unread])
    train = corpus.train.read_text(encoding="utf-8")

    def pages_that_are_read(questions):
        names = [
            re.search(r"(\w+)(\.\w+)*( do\?| for\?| does\.| in one sentence\.|\.)$", text)[1] for text, _ in questions
        ]
        return sum(f"\n{name}." in train or f"Help on module {name}" in train for name in names) / len(names)

    assert pages_that_are_read(read) > 0.8 and pages_that_are_read(unread) < 0.1
    assert not {question for question, _ in asked("arithmetic")} & {
        question for question, _ in asked("heldout_arithmetic")
    }


def test_the_same_python_and_seed_give_the_same_corpus_even_without_docstrings(corpus, tmp_path):
    code = (
        "import sys; from pathlib import Path; from gptloom.data.python_corpus import build_python_corpus;"
        "corpus = build_python_corpus(Path(sys.argv[1])); print(corpus.hash, len(corpus.notes))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-OO", "-c", code, str(tmp_path / "again")]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    assert printed == [corpus.hash, str(len(corpus.notes))]


def test_a_finished_corpus_is_taken_as_it_is_and_a_changed_one_is_written_again(corpus):
    before = corpus.train.stat().st_mtime_ns
    assert build_python_corpus(corpus.folder) == corpus
    assert corpus.train.stat().st_mtime_ns == before
    text = corpus.valid.read_text(encoding="utf-8")
    corpus.valid.write_text("spoilt", encoding="utf-8")
    assert build_python_corpus(corpus.folder) == corpus
    assert corpus.valid.read_text(encoding="utf-8") == text


def library(n_pages: int) -> list[Page]:
    words = [a + b + c for a in "bdfghklmnprst" for b in "aeiou" for c in "bdfghklmnprst"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=600)) for _ in range(n_pages)]
    return [Page("module", f"m{number}", "Help", (Entry("", text),)) for number, text in enumerate(texts)]


def test_another_seed_changes_the_examples_but_nothing_that_is_held_out(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "collect_pages", lambda: (library(30), ["a note"]))
    one, other = (build_python_corpus(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert one.hash != other.hash
    assert one.held_out == other.held_out and one.counts["valid_pages"] == len(one.held_out) > 0
    assert one.valid_text.read_text(encoding="utf-8") == other.valid_text.read_text(encoding="utf-8")
    assert one.notes == ("a note",)


def test_a_python_without_any_text_is_refused_with_the_reasons(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "collect_pages", lambda: (library(1), ["no sources", "no manual"]))
    with pytest.raises(UserError, match=r"no sources; no manual\n.*--corpus PATH"):
        build_python_corpus(tmp_path / "out")
    assert not (tmp_path / "out").exists()
