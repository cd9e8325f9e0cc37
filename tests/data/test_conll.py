"""Files with a word on each line are read as sentences; rows of single words without blank lines are refused."""

from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.config.finetune import ColumnOptions
from gptloom.data.columns import guess_columns
from gptloom.data.example import Examples
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import read_examples

LINES = '-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n" " O O\n\nPeter NNP B-NP B-PER\n, , O O\n'


def table(folder: Path, name: str, content: str) -> Table:
    (folder / name).write_text(content, encoding="utf-8")
    return read_table(str(folder / name))


def examples(found: Table) -> Examples:
    columns, sentence = guess_columns(found, "tokens", ColumnOptions())
    assert "a word on each line, a sentence between blank ones" in sentence
    return read_examples([found], "tokens", columns, None)


@pytest.mark.parametrize(
    ("name", "between"),
    [("a.txt", " "), ("a.conll", " "), ("a", "  "), ("a.txt", "\t"), ("a.tsv", "\t"), ("a.conll", "\t")],
)
def test_blank_lines_are_between_sentences(tmp_path: Path, name: str, between: str) -> None:
    found = examples(table(tmp_path, name, LINES.replace(" ", between)))
    assert [one.texts for one in found.examples] == [("EU", "rejects", '"'), ("Peter", ",")]
    assert found.labels == ("B-ORG", "B-PER", "O")
    assert [one.label for one in found.examples] == [(0, 2, 2), (1, 2)]
    assert [one.where.rpartition(":")[2] for one in found.examples] == ["3", "7"]


def test_commas_and_names_in_the_first_row(tmp_path: Path) -> None:
    found = examples(table(tmp_path, "a.csv", "word,tag\n\nEU,B\nis,O\n\nno,O\n"))
    assert [one.texts for one in found.examples] == [("EU", "is"), ("no",)]


def test_single_words_without_blank_lines_are_refused(tmp_path: Path) -> None:
    lines = "".join(line + "\n" for line in LINES.replace(" ", "\t").split("\n") if line)
    found = table(tmp_path, "a.tsv", lines)
    with pytest.raises(UserError, match=r"every row has a single word(.|\n)*a blank line after each sentence"):
        read_examples([found], "tokens", guess_columns(found, "tokens", ColumnOptions(text="1", label="4"))[0], None)


def test_other_tasks_read_rows(tmp_path: Path) -> None:
    found = table(tmp_path, "a.csv", "good film,1\n\nbad film,0\n")
    assert found.format == "csv" and len(found.rows) == 2
