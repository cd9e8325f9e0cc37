"""Rows become examples with settled labels, in every way files write them; all that is wrong is told together."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from task_readers import TASK_SETS, task_examples, task_table

from gptloom.config.errors import UserError
from gptloom.config.task import Columns, Task, TaskConfig, TaskTokens
from gptloom.data.example import Example, Examples
from gptloom.data.splits import check_splits
from gptloom.data.tables import read_table
from gptloom.data.task_examples import for_prediction, read_examples

TEXT = Columns(text="text", label="label")
PAIR = Columns(text="text", second="second", label="label")
CHOICE = Columns(text="text", choices=("choices",), label="label")
SPAN = Columns(text="text", second="second", label="label", start="start")
WHOLE = {"text": "some text", "second": "another"}


def put(folder: Path, rows: list[dict[str, Any]], name: str = "a.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(
    folder: Path, task: Task, rows: list[dict[str, Any]], columns: Columns = TEXT, labels: Any = None, **options: Any
) -> Examples:
    """The examples of rows, which differ in what is given only."""
    full = [{**WHOLE, "text": f"text {i}"} | row for i, row in enumerate(rows)]
    return read_examples([read_table(put(folder, full))], task, columns, labels, **options)


def refused(*arguments: Any, **options: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        read(*arguments, **options)
    return [str(problem) for problem in error.value.problems]


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"label": label} for label in labels]


def answers(found: Examples) -> list[Any]:
    return [example.label for example in found.examples]


# ---- real sets -------------------------------------------------------------------------------------------------------

EXPECTED: dict[tuple[str, str], tuple[int, tuple[str, ...] | int]] = {  # rows, and labels or how many
    ("sst2", "valid"): (872, ("0", "1")),
    ("cola", "valid"): (527, ("0", "1")),
    ("sms_spam", "train"): (5574, ("ham", "spam")),
    ("ag_news", "train"): (7600, ("1", "2", "3", "4")),
    ("trec", "test"): (500, ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")),
    ("sick_entail", "valid"): (500, ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")),
    ("sick_similar", "valid"): (500, ()),
    ("stsb", "valid"): (1500, ()),
    ("msrp", "valid"): (500, ("0", "1")),
    ("rte", "valid"): (400, ("no", "yes")),
    ("rte1", "test"): (800, ("no", "yes")),
    ("cb", "train"): (218, ("contradiction", "entailment", "neutral")),
    ("copa", "train"): (368, ()),
    ("arc_easy", "test"): (2376, ()),
    ("arc_challenge", "train"): (1119, ()),
    ("wnut17", "valid"): (1009, 13),
    ("xquad", "train"): (1190, ()),
}


@pytest.mark.parametrize(("name", "split"), EXPECTED)
def test_real_sets_are_read_whole(name: str, split: str, tmp_path: Path) -> None:
    found = task_examples(name, split, tmp_path)
    rows, labels = EXPECTED[name, split]
    assert len(found.examples) == rows
    assert (len(found.labels) if isinstance(labels, int) else found.labels) == labels
    table = task_table(name, split, tmp_path)
    columns = TASK_SETS[name].columns
    for example in found.examples[:: rows // 20]:
        raw = table.rows[example.row]
        assert example.where == table.where(example.row)
        assert columns.label is not None
        if found.labels and TASK_SETS[name].task != "tokens":
            assert found.labels[example.label] == str(raw[columns.label])
        elif TASK_SETS[name].task == "span":
            assert example.texts[0][slice(*example.label)] == raw[columns.label]


def test_the_labels_of_training_are_those_of_validation(tmp_path: Path) -> None:
    train = task_examples("cb", "train", tmp_path)
    valid = task_examples("cb", "valid", tmp_path, train.labels)
    assert Counter(valid.labels[example.label] for example in valid.examples) == {
        "contradiction": 28,
        "entailment": 23,
        "neutral": 5,
    }


def test_words_of_real_sentences_keep_their_tags(tmp_path: Path) -> None:
    found = task_examples("wnut17", "valid", tmp_path)
    tags = Counter(found.labels[tag] for example in found.examples for tag in example.label)
    assert tags["B-person"] == 470 and sum(tags.values()) == 15733  # as counted in the file


def test_options_of_different_number_are_fine_and_counted(tmp_path: Path) -> None:
    found = task_examples("arc_challenge", "train", tmp_path)
    assert found.warnings == ["rows have different numbers of choices: 3 in 1 row, 4 in 1,117 rows, 5 in 1 row"]
    assert found.notes == ["the right choice in 'label' is taken as a number from 1"]


def test_rows_of_real_sets_that_leak_are_counted_and_named(tmp_path: Path) -> None:
    train = task_examples("cola", "train", tmp_path).examples
    valid = task_examples("cola", "valid", tmp_path).examples
    problems, warnings = check_splits(train, valid)
    both = {example.texts[0].casefold() for example in train} & {example.texts[0].casefold() for example in valid}
    leak = next(warning for warning in warnings if "validation" in warning)
    assert not problems and leak.startswith(f"{len(both)} validation rows are also in the training data")
    assert "in_domain_dev.tsv:19 = " in leak and "in_domain_train.tsv:337" in leak


# ---- classes and scores ----------------------------------------------------------------------------------------------


def test_classes_are_in_the_order_of_numbers_or_of_the_alphabet(tmp_path: Path) -> None:
    assert read(tmp_path, "classify", labelled(10, 9, 9, 10)).labels == ("9", "10")
    found = read(tmp_path, "classify", labelled("no", " yes ", "no", "yes"))
    assert found.labels == ("no", "yes") and answers(found) == [0, 1, 0, 1]
    assert read(tmp_path, "classify", labelled(True, False, True)).labels == ("false", "true")


def test_whether_labels_of_a_similarity_are_scores(tmp_path: Path) -> None:
    assert read(tmp_path, "similar", labelled(0, 1, 1, 0), PAIR).labels == ("0", "1")
    assert answers(read(tmp_path, "similar", labelled(0, 1.5, 1), PAIR)) == [0.0, 1.5, 1.0]
    assert read(tmp_path, "similar", labelled(*range(11)), PAIR).labels == ()
    assert read(tmp_path, "similar", labelled(0, 1), PAIR, labels=()).labels == ()  # as training had scores
    assert answers(read(tmp_path, "regress", labelled("3", 4))) == [3.0, 4.0]


def test_a_class_written_in_several_ways_is_named(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "classify", labelled(1, 1.0, "1", 0, 0))
    assert "one label is written in 3 ways: 1 (1 row, first " in problem and '"1" (1 row' in problem
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,1\nb,1.0\nc,0\n")
    with pytest.raises(UserError, match=r'in 2 ways: "1" \(1 row.*"1\.0"'):
        read_examples([read_table(str(path))], "classify", TEXT, None)


def test_one_class_and_a_class_for_each_row_are_refused(tmp_path: Path) -> None:
    assert "one class only: each of 3 rows is 'a'" in refused(tmp_path, "classify", labelled("a", "a", "a"))[0]
    assert "5 classes in 5 rows: a column of ids" in refused(tmp_path, "classify", labelled(*"abcde"))[0]
    nearly = labelled(*range(30), *range(10))
    assert "30 classes in 40 rows" in refused(tmp_path, "classify", nearly)[0]


def test_labels_that_training_has_not_seen_are_named(tmp_path: Path) -> None:
    rows = labelled("good", "fine", "fine", "GOOD", "1.0")
    problems = refused(tmp_path, "classify", rows, labels=("bad", "good", "1"))
    assert "'fine', 2 times, is not among those of training: bad, good, 1" in problems[0]
    assert "write it as in training: good" in problems[1] and "write it as in training: 1" in problems[2]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "nan", "-inf", "much"])
def test_scores_must_be_finite_numbers(score: Any, tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "regress", labelled(1.5, score, 2.5))
    expected = "no label in column 'label' (NaN)" if isinstance(score, float) and score != score else "the score"
    assert problem.startswith(f"{tmp_path / 'a.jsonl'}:2: {expected}")


def test_an_empty_score_is_no_label_and_equal_scores_teach_nothing(tmp_path: Path) -> None:
    assert "no label" in refused(tmp_path, "regress", labelled(1.5, None, ""))[0]
    assert "every score is 2" in refused(tmp_path, "regress", labelled(2, 2.0))[0]


def test_a_label_is_no_list(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "classify", labelled("a", ["a", "b"], "b"))
    assert "2: 'label' holds a list: a row has one label" in problem


def test_odd_classes_are_warned_of(tmp_path: Path) -> None:
    found = read(tmp_path, "classify", labelled(*["ham"] * 20, "Ham", "spam", "spam", "nan"))
    assert "a class is called 'nan' (1 row): rows without a label?" in found.warnings
    assert "2 classes have one example: Ham, nan" in found.warnings
    assert any("capitals only" in warning and "'Ham' (1 row)" in warning for warning in found.warnings)


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_every_problem_is_told_at_once_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [{"text": "", "label": "a"}] * 5 + [{"text": ["x"], "label": "b"}, {"label": None}]
    problems = refused(tmp_path, "classify", rows)
    assert [problem.split(":")[1] for problem in problems[:3]] == ["1", "2", "3"]
    assert problems[3] == "and 2 more: rows with an empty text"
    assert "'text' holds a list" in problems[4] and "no label in column 'label'" in problems[5]


def test_numbers_are_texts_too_and_texts_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": 1984, "label": "a"}, {"text": "  A b\n", "label": "b"}]
    assert [example.texts for example in read(tmp_path, "classify", rows).examples] == [("1984",), ("  A b\n",)]


def test_texts_are_preprocessed_and_those_left_empty_counted(tmp_path: Path) -> None:
    rows = [{"text": "The Cats", "label": "a"}, {"text": "to be", "label": "b"}]
    found = read(tmp_path, "classify", rows, preprocess=("stopwords", "lowercase"))
    assert [example.texts for example in found.examples] == [("cats",), ("",)]
    assert found.warnings == ["1 text has no word left after --preprocess stopwords lowercase"]


def test_several_files_are_one_set_and_each_needs_the_columns(tmp_path: Path) -> None:
    first = read_table(put(tmp_path, [{"text": "a", "label": 0}, {"text": "b", "label": 1}]))
    other = read_table(put(tmp_path, [{"text": "c", "label": 1}], "b.jsonl"))
    found = read_examples([first, other], "classify", TEXT, None)
    assert [(example.row, example.label) for example in found.examples] == [(0, 0), (1, 1), (0, 1)]
    broken = read_table(put(tmp_path, [{"text": "c", "labels": 1}], "c.jsonl"))
    with pytest.raises(UserError, match=r"c\.jsonl: no column 'label'\n.*labels"):
        read_examples([first, broken], "classify", TEXT, None)


# ---- choices ---------------------------------------------------------------------------------------------------------

WRITTEN = {
    "number from 0": ([0, 1, "2"], [0, 1, 2]),
    "number from 1": ([1, "3", 2.0], [0, 2, 1]),
    "letter": (["A", "c", "B"], [0, 2, 1]),
    "text": (["red", " Blue ", "green"], [0, 2, 1]),
}


@pytest.mark.parametrize("numbering", WRITTEN)
def test_the_right_choice_in_every_way_it_is_written(numbering: str, tmp_path: Path) -> None:
    written, expected = WRITTEN[numbering]
    rows = [{"choices": ["red", "green", "blue"], "label": label} for label in written]
    found = read(tmp_path, "choice", rows, CHOICE)
    assert answers(found) == expected
    assert found.notes == [f"the right choice in 'label' is taken as a {numbering}"]
    assert found.examples[0].texts == ("text 0", "red", "green", "blue")


def test_numbers_that_may_count_from_0_or_1_are_warned_of(tmp_path: Path) -> None:
    found = read(tmp_path, "choice", [{"choices": ["a", "b", "c"], "label": 1}] * 2, CHOICE)
    assert answers(found) == [1, 1] and "may count from 0 or from 1" in found.warnings[0]


def test_choices_in_columns_and_in_the_forms_of_other_libraries(tmp_path: Path) -> None:
    columns = Columns(text="text", choices=("c1", "c2", "c3"), label="label")
    rows = [{"c1": "a", "c2": "b", "c3": "", "label": 1}, {"c1": "a", "c2": "b", "c3": "c", "label": 0}]
    assert [len(example.texts) - 1 for example in read(tmp_path, "choice", rows, columns).examples] == [2, 3]
    lists = ['["x y", "z"]', "['x y', 'z']", ["x y", "z"]]
    found = read(tmp_path, "choice", [{"choices": cell, "label": "B"} for cell in lists], CHOICE)
    assert {example.texts[1:] for example in found.examples} == {("x y", "z")} and answers(found) == [1, 1, 1]


def test_choices_with_keys_as_arc_is_published(tmp_path: Path) -> None:
    rows = [
        {"choices": {"text": ["x", "y"], "label": keys}, "label": right}
        for keys, right in ((["A", "B"], "A"), (["1", "2"], "2"))
    ]
    assert answers(read(tmp_path, "choice", rows, CHOICE)) == [0, 1]


def test_what_is_wrong_with_choices(tmp_path: Path) -> None:
    rows = [
        {"choices": ["a", "b"], "label": 0},
        {"choices": ["a", "b"], "label": 5},
        {"choices": ["a", ""], "label": 0},
        {"choices": ["a"], "label": 0},
        {"choices": "a|b", "label": 0},
        {"choices": ["a", "b"], "label": "c"},
    ]
    said = "\n".join(refused(tmp_path, "choice", rows, CHOICE))
    assert "2: the right choice 5 is none of 2 choices" in said and "6: the right choice 'c'" in said
    assert "3: choice 2 is empty" in said and "4: 1 choice to choose from" in said
    assert "5: 'choices' holds \"a|b\", not a list" in said


# ---- tokens and spans ------------------------------------------------------------------------------------------------


def test_words_and_tags_as_lists_or_between_spaces(tmp_path: Path) -> None:
    rows = [{"text": ["New York", "is"], "label": ["B", "O"]}, {"text": "I am", "label": "O O"}]
    found = read(tmp_path, "tokens", rows, TEXT)
    assert found.labels == ("B", "O")
    assert [(example.texts, example.label) for example in found.examples] == [
        (("New York", "is"), (0, 1)),
        (("I", "am"), (1, 1)),
    ]
    numbers = [{"text": "a b c", "label": [0, 10, 9]}]
    assert read(tmp_path, "tokens", numbers, TEXT).labels == ("0", "9", "10")


def test_what_is_wrong_with_words_and_tags(tmp_path: Path) -> None:
    rows = [
        {"text": "a b", "label": "O B"},
        {"text": "a b c", "label": "O B"},
        {"text": ["a", ""], "label": ["O", "O"]},
        {"text": [], "label": ["O"]},
        {"text": "a", "label": [None]},
        {"text": "a", "label": ""},
    ]
    said = "\n".join(refused(tmp_path, "tokens", rows, TEXT))
    for part in ("2: 3 words and 2 tags", "3: word 2", "4: no words", "5: a tag", "6: no label"):
        assert f"a.jsonl:{part}" in said


def span(context: str, answer: Any, start: Any = None) -> dict[str, Any]:
    return {"text": context, "second": "what?", "label": answer, "start": start}


def test_answers_with_and_without_their_place(tmp_path: Path) -> None:
    squad = {"text": ["sat"], "answer_start": [8]}
    rows = [span("the cat sat", "cat", 4), span("the cat sat", "sat"), span("the cat sat", squad), span("a a", "a")]
    found = read(tmp_path, "span", rows, SPAN)
    assert answers(found) == [(4, 7), (8, 11), (8, 11), (0, 1)]
    assert found.examples[0].texts == ("the cat sat", "what?")


def test_answers_that_are_not_at_their_place(tmp_path: Path) -> None:
    rows = [
        span("the cat sat", "cat", 5),
        span("the cat sat", "dog", 4),
        span("a a a", "a", 1),
        span("the cat", "dog"),
        span("the cat", "cat", "x"),
        span("the cat", {"text": [], "answer_start": []}),
    ]
    said = "\n".join(refused(tmp_path, "span", rows, SPAN))
    assert "not at character 5 of the context, where 'at sat' stands; it occurs once, at 4" in said
    assert "it does not occur in it" in said and "it occurs 3 times elsewhere" in said
    assert 'the answer "dog" does not occur in the context' in said
    assert "the start 'x' is no whole number" in said and "6: no label" in said


# ---- splits ----------------------------------------------------------------------------------------------------------


def examples(*rows: tuple[str, int], file: str = "train.tsv") -> list[Example]:
    return [Example(f"{file}:{i + 1}", (text,), label, i) for i, (text, label) in enumerate(rows)]


def test_repeated_rows_and_those_with_another_label_are_counted() -> None:
    problems, warnings = check_splits(examples(("a b", 0), ("A  b", 0), ("a b", 1), ("c", 0)))
    assert not problems
    assert warnings == [
        "1 training row repeats an earlier one: train.tsv:2 = train.tsv:1",
        "1 training row has the text of an earlier one and another label: train.tsv:3 = train.tsv:1",
    ]


def test_a_test_set_that_is_the_training_set_is_a_problem_and_leaks_are_warnings() -> None:
    train = examples(("a", 0), ("b", 1), ("c", 0))
    problems, _ = check_splits(train, [], examples(("c", 0), ("a", 0), ("b", 1), file="test.tsv"))
    assert "the test rows are the training rows (3 rows)" in problems[0].what
    valid, test = (
        examples(("b", 1), ("d", 1), file="valid.tsv"),
        examples(("d", 1), ("e", 1), ("c", 0), file="test.tsv"),
    )
    problems, warnings = check_splits(train, valid, test)
    assert not problems
    assert [warning.split(" (")[0] for warning in warnings] == [
        "1 test row is also in the training data",
        "1 validation row is also in the training data",
        "1 test row is also in the validation data",
    ]
    assert "(33.3%)" in warnings[0] and "test.tsv:3 = train.tsv:3" in warnings[0]


# ---- prediction ------------------------------------------------------------------------------------------------------


def config(task: Task, columns: Columns, **fields: Any) -> TaskConfig:
    tokens = TaskTokens(start=0, delimiter=(1,), extract=2)
    return TaskConfig(task=task, columns=columns, inputs="gpt1", tokens=tokens, max_length=64, **fields)


def test_rows_without_label_are_predicted_and_those_with_one_are_checked(tmp_path: Path) -> None:
    task = config("classify", TEXT, labels=("no", "yes"), preprocess=("lowercase",))
    bare = for_prediction(read_table(put(tmp_path, [{"text": "A B"}])), task)
    assert (bare[0].texts, bare[0].label) == (("a b",), None)
    some = for_prediction(read_table(put(tmp_path, [{"text": "a", "label": "yes"}, {"text": "b", "label": ""}])), task)
    assert [example.label for example in some] == [1, None]
    with pytest.raises(UserError, match="'maybe', 1 time, is not among those of training: no, yes"):
        for_prediction(read_table(put(tmp_path, [{"text": "a", "label": "maybe"}])), task)
    with pytest.raises(UserError, match="'text' is empty"):
        for_prediction(read_table(put(tmp_path, [{"text": " "}])), task)


def test_columns_of_a_prediction_may_be_called_otherwise(tmp_path: Path) -> None:
    task = config("classify", TEXT, labels=("no", "yes"))
    table = read_table(put(tmp_path, [{"review": "a", "answer": "no"}]))
    assert for_prediction(table, task, ["text=review", "label=answer"])[0].label == 0
    with pytest.raises(UserError, match="no column 'anser'"):
        for_prediction(table, task, ["text=review", "label=anser"])


@pytest.mark.parametrize(
    ("task", "columns", "row"),
    [
        ("choice", CHOICE, {"text": "a", "choices": ["b", "c"]}),
        ("span", SPAN, {"text": "a", "second": "b"}),
        ("tokens", TEXT, {"text": "a b"}),
        ("regress", TEXT, {"text": "a"}),
        ("similar", PAIR, {"text": "a", "second": "b"}),
    ],
)
def test_every_task_predicts_rows_without_label(
    task: Task, columns: Columns, row: dict[str, Any], tmp_path: Path
) -> None:
    (example,) = for_prediction(read_table(put(tmp_path, [row])), config(task, columns))
    assert example.label is None and len(example.texts) >= 1
