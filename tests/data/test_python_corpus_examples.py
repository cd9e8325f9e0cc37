"""Interactive examples: the answers are Python's, and what is held out never stands in a training session."""

import random

import pytest

from gptloom.data.python_corpus import examples, sessions
from gptloom.data.python_corpus.examples import KINDS, Function, common_words, function_family

WORDS = [
    first + middle + last
    for first in "bdfglmnprst"
    for middle in ("a", "oo", "ee", "i")
    for last in ("n", "ther", "st", "p")
]


@pytest.fixture
def material() -> tuple[sessions.Material, sessions.Material]:
    return sessions.split_material(WORDS)


def lines(documents: list[str]) -> list[tuple[str, str]]:
    """(expression, answer) of every example in session documents."""
    flat = "\n".join(documents).split("\n")
    assert all(line.startswith(">>> ") for line in flat[::2])
    return [(asked.removeprefix(">>> "), answer) for asked, answer in zip(flat[::2], flat[1::2], strict=True)]


def test_every_answer_is_what_python_says(material):
    documents = sessions.write_sessions(material[0], 40_000, random.Random(1))
    asked = [(expression, answer) for expression, answer in lines(documents) if not expression.startswith("f(")]
    assert len(asked) > 500
    assert any(answer.startswith("-") for _, answer in asked)
    for expression, answer in asked:
        assert repr(eval(expression, {"__builtins__": {"len": len, "list": list}})) == answer


def test_functions_answer_as_their_source_says():
    for function in function_family():
        for argument in (0, 7, 99) if function.takes == "number" else ("shelf", "on"):
            asked = function.example(argument)
            value = eval(function.source, {"__builtins__": {"len": len}}, {"x": argument})
            assert (asked.expression, asked.answer) == (f"f({argument!r})", repr(value)), function.source


def test_no_two_functions_are_the_same():
    family = function_family()
    assert len({function.source for function in family}) == len(family) > 250
    behaviours = {
        tuple(repr(function.apply(x)) for x in (range(100) if function.takes == "number" else ("shelf", "Book", "aa")))
        for function in family
    }
    assert len(behaviours) == len(family)


def test_held_out_material_is_apart_and_about_a_seventh(material):
    train, heldout = material
    assert not set(train.words) & set(heldout.words)
    assert not set(train.pairs) & {pair[::-1] for pair in heldout.pairs}
    assert not {f.source for f in train.functions} & {f.source for f in heldout.functions}
    for mine, theirs in ((train.pairs, heldout.pairs), (train.functions, heldout.functions)):
        assert 0.10 < len(theirs) / (len(mine) + len(theirs)) < 0.19


def test_training_sessions_never_ask_with_held_out_operands_or_words(material):
    train, heldout = material
    words, pairs = {repr(word) for word in heldout.words}, set(heldout.pairs)
    for expression, _ in lines(sessions.write_sessions(train, 60_000, random.Random(2))):
        left, _, right = expression.partition(" + " if " + " in expression else " - ")
        if left.isdigit() and right.isdigit():
            assert (int(left), int(right)) not in pairs
        assert not any(word in expression for word in words)


def test_validation_sessions_ask_only_what_is_held_out(material):
    _, heldout = material
    for expression, _ in lines(sessions.write_sessions(heldout, 10_000, random.Random(3))):
        left, _, right = expression.partition(" + " if " + " in expression else " - ")
        if left.isdigit() and right.isdigit():
            assert examples.pair_is_held_out(int(left), int(right))


def test_a_session_stays_with_one_operation_and_never_repeats_a_question(material):
    rng = random.Random(4)
    for kind in KINDS * 20:
        session = material[0].session(kind, rng, 8)
        assert len({example.expression for example in session}) == 8
        if kind == "word":
            words = [word for word in WORDS if repr(word) in session[0].expression]
            assert session[0].expression.replace(repr(words[0]), "WORD") in examples.WORD_QUESTIONS


def test_sessions_are_drawn_by_seed_and_fill_the_bytes(material):
    one, again, other = (sessions.write_sessions(material[0], 9_000, random.Random(seed)) for seed in (5, 5, 6))
    assert one == again != other
    assert 9_000 <= sum(len(document) for document in one) < 10_500


def test_questions_carry_demonstrations_that_do_not_give_the_answer_away(material):
    train, heldout = material
    questions = sessions.draw_questions(train, heldout, 30, random.Random(7))
    assert [questions[i * 30].kind for i in range(4)] == list(KINDS)
    for question in questions:
        assert question.prompt not in question.demonstrations
        assert question.text(0) == question.prompt
        assert question.text(8) == "".join(question.demonstrations) + question.prompt
        assert question.text(2).count(">>> ") == 3
    with pytest.raises(ValueError, match="has 8 demonstrations"):
        questions[0].text(9)


def test_common_words_are_the_frequent_ones_in_alphabetical_order():
    texts = ["the shelf and the Shelf", "an x1 shelf_life and the encyclopaedias"]
    assert common_words(texts) == ["and", "shelf", "the"]


def test_holding_out_depends_on_the_name_alone():
    assert Function("x + 1", "number", abs).example(-3) == examples.Example("f(-3)", "3")
    assert [examples.is_held_out("word", word) for word in ("hello", "world", "shelf")] == [
        examples.is_held_out("word", word) for word in ("hello", "world", "shelf")
    ]
    assert examples.pair_is_held_out(3, 41) == examples.pair_is_held_out(41, 3)
