"""Questions about Python and their answers: first sentences, wordings, and what is held out."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from gptloom.data.python_corpus.examples import pair_is_held_out
from gptloom.data.python_corpus.first_sentence import first_sentence, is_sentence
from gptloom.data.python_corpus.holdout import PageSplit
from gptloom.data.python_corpus.instructions import Pair, as_conversations, make_instructions
from gptloom.data.python_corpus.pages import Entry, Page


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Remove any common leading whitespace.\n\nMore.", "Remove any common leading whitespace."),
        ("Return the path\nof the file. It must be there.", "Return the path of the file."),
        ("Return a file, e.g. one of os.open. Then go on.", "Return a file, e.g. one of os.open."),
        ("Text wrapping and filling", "Text wrapping and filling."),
        ("S.find(sub[, start]) -> int\n\nReturn the lowest index.", "Return the lowest index."),
        ("Return ``None`` or what :func:`~os.walk` gives.", "Return None or what os.walk gives."),
        ("Split the text.\n>>> split('a b')\n['a', 'b']", "Split the text."),
        ("Set the options\n  width: of a line\n  tabs: kept or not", "Set the options."),
        ("Return one of:\n- a list\n- a tuple", None),
        ("get(key) -> value for the key.", None),
        (">>> two + two\n4", None),
        ("Is it a file or a folder?", None),
        ("Return it.", None),
        ("Return " + "very " * 24 + "much.", None),
        ("Return the mapping {a -> b} of names.", None),
        ("", None),
    ],
)
def test_the_first_sentence_of_a_docstring(docstring: str, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence
    assert sentence is None or (is_sentence(sentence) and first_sentence(sentence) == sentence)


def test_a_sentence_is_one_on_one_line_with_its_period() -> None:
    assert is_sentence("Return the name.") and is_sentence("Return " + "very " * 40 + "much.")
    for text in ("Return the name", "Return the name. It is long.", "Return the\nname.", "12", "", "Name."):
        assert not is_sentence(text)


def page(module: str, *entries: tuple[str, str]) -> Page:
    made = tuple(Entry(heading, text) for heading, text in entries)
    return Page("module", module, f"Help on module {module}:", made)


def functions(module: str, count: int) -> Page:
    return page(module, *((f"{module}.f{i}(a, b)", f"Return the {module} number {i}.") for i in range(count)))


def split(train: list[Page], valid: list[Page]) -> PageSplit:
    return PageSplit(train, valid, [one.group for one in valid], 0)


def test_functions_classes_methods_and_modules_are_asked_about() -> None:
    documented = page(
        "textwrap",
        ("", "Text wrapping and filling."),
        ("class textwrap.TextWrapper", "Object for wrapping or filling text."),
        ("textwrap.TextWrapper.wrap(self, text)", "Wrap the single paragraph in text."),
        ("async textwrap.wait(seconds)", "Wait for the next text."),
        ("textwrap.TextWrapper._munge(self, text)", "Munge whitespace in this text."),
        ("textwrap.TextWrapper.__init__(self)", "Initialize this new wrapper."),
        ("textwrap.fill(text)", "Wrap the single paragraph in text."),  # said already
    )
    made = make_instructions(split([], [documented]))["heldout_unread"]
    names = {pair.answer: pair.question for pair in made}
    assert len(made) == len(names) == 4
    assert "the module textwrap" in names["Text wrapping and filling."]
    assert "the class textwrap.TextWrapper" in names["Object for wrapping or filling text."]
    assert "textwrap.TextWrapper.wrap" in names["Wrap the single paragraph in text."]
    assert " textwrap.wait" in names["Wait for the next text."]


def test_names_are_held_out_by_hash_and_whole_modules_with_them() -> None:
    made = make_instructions(split([functions("json", 700)], [functions("ftplib", 40)]))
    learned, read, unread = (made[part] for part in ("names", "heldout_read", "heldout_unread"))
    assert len(learned) + len(read) == 700 and 70 < len(read) < 130 and len(unread) == 40
    assert not {pair.answer for pair in learned} & {pair.answer for pair in [*read, *unread]}
    assert all("ftplib.f" in pair.question for pair in unread)
    assert not [pair for pair in [*learned, *read] if "ftplib" in pair.question]
    numbers = [int(pair.question.split(".f")[1].split()[0].rstrip(".?")) for pair in read]
    assert numbers != sorted(numbers)  # the first of them are a sample
    wordings = Counter(pair.question.partition(" json.")[0] for pair in learned)
    assert len(wordings) == 5 and min(wordings.values()) > 0.5 * len(learned) / 5
    fewer = make_instructions(split([functions("json", 350)], []))
    assert set(fewer["names"]) <= set(learned)  # what is held out depends on the name alone


def test_an_answer_that_is_learned_is_not_asked_of_another_name() -> None:
    same = ("a.f()", "Return the name of it.")
    made = make_instructions(split([page("a", same)], [page("b", ("b.f()", "Return the NAME of it."))]))
    assert made["heldout_unread"] == [] and len(made["names"]) + len(made["heldout_read"]) == 1


def test_operands_are_held_out_with_their_mirror_image_and_answers_are_right() -> None:
    made = make_instructions(split([], []))
    learned, asked = made["arithmetic"], made["heldout_arithmetic"]
    assert len(learned) + len(asked) == 3 * 21 * 21 and 0.07 < len(asked) / (3 * 441) < 0.25

    def operation(pair: Pair) -> tuple[int, str, int]:
        left, sign, right = pair.question.rstrip(".?").split()[-3:]
        return int(left), sign, int(right)

    results = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for pairs, held_out in ((learned, False), (asked, True)):
        for pair in pairs:
            left, sign, right = operation(pair)
            assert pair_is_held_out(left, right) == held_out and str(results[sign](left, right)) == pair.answer
    assert {sign for _, sign, _ in map(operation, asked)} == {"+", "-", "*"}
    assert len({pair.question.partition(f" {operation(pair)[0]} ")[0] for pair in learned}) == 4


def test_pairs_are_conversations_in_openais_form() -> None:
    lines = as_conversations([Pair("What is “7 + 5”?", "12"), Pair("a", "b")]).splitlines()
    assert len(lines) == 2 and "“7" in lines[0]
    messages = [{"role": "user", "content": "What is “7 + 5”?"}, {"role": "assistant", "content": "12"}]
    assert json.loads(lines[0]) == {"messages": messages}
