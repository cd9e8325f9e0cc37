"""Columns are what the user says, else what names and contents make obvious; else the message shows them all."""

from pathlib import Path
from typing import Any

import pytest
from real_data import real_data
from task_readers import TASK_SETS, task_table

from gptloom.config.errors import UserError
from gptloom.config.finetune import ColumnOptions
from gptloom.config.task import Columns, Task
from gptloom.data.columns import check_columns, declared_names, guess_columns, with_roles
from gptloom.data.tables import read_table


def guess(path: Path | str, task: Task, **given: Any) -> tuple[Columns, str]:
    options = ColumnOptions(**given)
    return guess_columns(read_table(str(path), named=declared_names(options)), task, options)


def refused(path: Path | str, task: Task, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        guess(path, task, **given)
    return str(error.value)


def put(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(TASK_SETS.keys() - {"cola", "ag_news"}))
def test_the_columns_of_real_sets_are_guessed_right(name: str, tmp_path: Path) -> None:
    split = list(TASK_SETS[name].files)[-1]  # the smaller one
    columns, _ = guess_columns(task_table(name, split, tmp_path), TASK_SETS[name].task, ColumnOptions())
    assert columns == TASK_SETS[name].columns


def test_one_sentence_says_what_was_taken_and_what_was_not(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "id,review,stars\n7,good film it was,5\n8,what a bad film,1\n")
    columns, sentence = guess(path, "regress", label="stars")
    assert columns == Columns(text="review", label="stars")
    assert (
        sentence == f"{path} (csv, names in the first row): --text review --label stars (guessed: text); not used: id"
    )


def test_what_is_not_obvious_is_shown_with_a_value_of_each_column_and_the_options(tmp_path: Path) -> None:
    cola = real_data("cola/in_domain_train.tsv")
    said = refused(cola, "classify")
    assert "not obvious which column is the label (tsv, no header)" in said
    assert "\n    4  Our friends won't buy this analysis" in said
    assert "--label COLUMN, such as: --text 4 --label 2" in said and "--header" in said
    columns, _ = guess(cola, "classify", text="4", label="2")
    assert columns == Columns(text="4", label="2")


def test_a_table_with_too_few_columns_says_what_it_lacks(tmp_path: Path) -> None:
    said = refused(put(tmp_path / "a.csv", "text\na b c d\nd e f g\n"), "classify")
    assert "which column is the label" in said and "a column for each of: text, label" in said


def test_two_texts_are_no_text_to_classify(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2},a title number {i},and its text number {i}\n" for i in range(30))
    said = refused(put(tmp_path / "a.csv", rows), "classify")
    assert "which column is the text" in said and "--task entail" in said


def test_a_passage_beside_a_question_is_not_left_out_in_silence(tmp_path: Path) -> None:
    row = (
        '{"context": "It was a cold day.", "question": "What was the day like?", "choices": ["a", "b"], "answer": 0}\n'
    )
    assert "which column is the text" in refused(put(tmp_path / "a.jsonl", row * 3), "choice")


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "sentence,label\na b c,1\nd e f,0\n")
    assert "no column 'sentense'" in (said := refused(path, "classify", text="sentense"))
    assert "did you mean sentence?" in said
    bare = put(tmp_path / "b.csv", "a b c,1\nd e f,0\n")
    assert "called 1 to 2; --header" in refused(bare, "classify", text="sentence")
    assert refused(path, "classify", text="x", label="y").count("no column") == 2


def test_one_column_for_text_and_label_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "sentence,label\na b c,1\nd e f,0\n")
    said = refused(path, "classify", text="sentence", label="sentence")
    assert "column 'sentence' is taken for text and label at once" in said and "other columns: label" in said


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "a", "completion": "b"}',
        '{"instruction": "a", "input": "", "output": "b"}',
        '{"messages": [{"role": "user", "content": "a"}]}',
    ],
)
def test_instruction_data_are_for_sft(row: str, tmp_path: Path) -> None:
    assert "gptloom sft" in refused(put(tmp_path / "a.jsonl", row + "\n"), "classify")


def test_labelled_prompts_may_be_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"prompt": "a", "completion": "b"}\n')
    assert guess(path, "classify", text="prompt", label="completion")[0].text == "prompt"


def test_columns_may_be_called_otherwise_later(tmp_path: Path) -> None:
    columns = Columns(text="text", label="label")
    assert with_roles(columns, ["text=review", "choices=a,b"]) == Columns(
        text="review", label="label", choices=("a", "b")
    )
    with pytest.raises(UserError, match="did you mean text") as error:
        with_roles(columns, ["texts=review", "label"])
    assert len(error.value.problems) == 2


def test_a_label_column_may_be_absent_where_none_is_needed(tmp_path: Path) -> None:
    table = read_table(str(put(tmp_path / "a.csv", "text\na b c\n")))
    check_columns(table, Columns(text="text", label="label"), label_needed=False)
    with pytest.raises(UserError, match="no column 'label'"):
        check_columns(table, Columns(text="text", label="label"))


def test_files_that_differ_in_their_header(tmp_path: Path) -> None:
    rows = "good film\t1\nbad film\t0\nfine\t1\n"
    named = read_table(put(tmp_path / "named.tsv", f"text\tlabel\n{rows}"))
    bare = read_table(put(tmp_path / "bare.tsv", rows))
    with pytest.raises(UserError, match=r"bare\.tsv: no header, and the first --data file has one"):
        check_columns(bare, Columns(text="text", label="label"))
    with pytest.raises(UserError, match=r"named\.tsv: its first row was taken for names \(text, label\)"):
        check_columns(named, Columns(text="1", label="2"))


def test_a_text_that_is_given_as_the_label(tmp_path: Path) -> None:
    rows = "".join(f"a film for number {i},{'pos' if i % 2 else 'neg'}\n" for i in range(30))
    for name in ("text", "said"):
        told = refused(put(tmp_path / "a.csv", f"{name},label\n{rows}"), "classify", label=name)
        assert f"column '{name}' is given as the label, and looks like the text" in told
        assert f"try: --text {name} --label label" in told
