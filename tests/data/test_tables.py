"""Tables of every kind read like the outside readers read them; what is broken is named by file and line."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data.header import is_header
from gptloom.data.tables import Table, read_table

ROWS = [{"text": 'he said "no", twice', "label": "1"}, {"text": "naïve ☃", "label": "0"}]


def put(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refused(path: str, **options: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        read_table(path, **options)
    return [str(problem) for problem in error.value.problems]


# ---- formats ---------------------------------------------------------------------------------------------------------


def as_csv(path: Path) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    return str(path)


def as_jsonl(path: Path) -> str:
    return put(path, "".join(json.dumps(row) + "\n" for row in ROWS))


def as_json(path: Path) -> str:
    return put(path, json.dumps(ROWS, indent=1))


def as_tsv(path: Path) -> str:
    return put(path, "\ufefftext\tlabel\r\n" + "".join(f"{row['text']}\t{row['label']}\r\n" for row in ROWS))


def as_parquet(path: Path) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return str(path)


def as_xlsx(path: Path) -> str:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (["text", "label"], *(list(row.values()) for row in ROWS)):
        book.active.append(cells)
    book.save(path)
    return str(path)


WRITERS: dict[str, Callable[[Path], str]] = {
    "csv": as_csv,
    "tsv": as_tsv,
    "jsonl": as_jsonl,
    "json": as_json,
    "parquet": as_parquet,
    "xlsx": as_xlsx,
}
SECOND_ROW = {"csv": ":3", "tsv": ":3", "jsonl": ":2", "json": ":6", "parquet": " row 2", "xlsx": " row 3"}


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_gives_the_same_rows_and_their_places(format: str, tmp_path: Path) -> None:
    path = WRITERS[format](tmp_path / f"a.{format}")
    table = read_table(path)
    assert table.rows == ROWS
    assert table.names == ("text", "label") and table.has_header
    assert table.where(1) == path + SECOND_ROW[format]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json"])
def test_the_content_tells_the_format_where_the_name_does_not(format: str, tmp_path: Path) -> None:
    packed = gzip.compress(Path(WRITERS[format](tmp_path / f"a.{format}")).read_bytes())
    assert read_table(put(tmp_path / "a.gz", packed)).rows == ROWS
    assert read_table(put(tmp_path / f"b.{format}.gz", packed)).format == format


def test_json_lines_in_a_json_file_are_rows(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "a.json")
    assert read_table(path).where(1) == f"{path}:2"


def test_a_row_of_json_without_a_field_has_none(tmp_path: Path) -> None:
    table = read_table(put(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b", "label": 1.5}\n'))
    assert table.rows == [{"text": "a", "label": None}, {"text": "b", "label": 1.5}]
    assert table.where(1).endswith(":3")


def test_cells_of_a_csv_may_hold_line_ends_and_places_stay_right(tmp_path: Path) -> None:
    table = read_table(put(tmp_path / "a.csv", 'text,label\n"one\ntwo",1\n\nthree,0\n,\n'))
    assert [row["text"] for row in table.rows] == ["one\ntwo", "three"]
    assert [table.where(i)[-2:] for i in (0, 1)] == [":2", ":5"]


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    odd = "a\u2028b\x85c\x0bd"
    assert read_table(put(tmp_path / "a.tsv", f"{odd}\t1\nx\ty\n"), header=False).rows[0]["1"] == odd


def test_spreadsheets_write_semicolons_where_commas_are_in_numbers(tmp_path: Path) -> None:
    assert read_table(put(tmp_path / "a.csv", "text;score\nso, so;3,5\n")).rows == [{"text": "so, so", "score": "3,5"}]


def test_a_column_of_row_numbers_without_a_name_is_called_by_its_place(tmp_path: Path) -> None:
    table = read_table(put(tmp_path / "a.csv", ",text,label\n0,good film,pos\n1,bad film,neg\n"))
    assert table.names == ("1", "text", "label")


# ---- header ----------------------------------------------------------------------------------------------------------

HEADERS = {
    "known names": ("text,label\ngood,a\nbad,b\n", True),
    "names of another language over classes": ("kommentar,klasse\n" + "gut so,a\nsehr schlecht,b\n" * 3, True),
    "names over numbers": ("kommentar,note\nsehr gut so,1.5\nnaja so,2\n", True),
    "a number in the first row": ("good film,1\nbad film,0\n", False),
    "a first cell that comes again": ("ham,see you later\nspam,win now\nham,ok\n", False),
    "sentences": ("this was a good film indeed,so it was said\nbad film,no\n", False),
    "numbers of a frame without names": ("0,1\ngood film,pos\nbad film,neg\n", True),
    "an empty cell": ("good film,,1a\nbad film,,1b\n", False),
    "empty cells at the end": ("text,label,,\ngood,a,,\nbad,b,,\n", True),
    "a name of instructions beside a long one": ("answer,what three people made of the answer\nso,a\nno,b\n", True),
    "a class that is called like a column": ("answer,There it is.\nquestion,Who?\nanswer,I\n", False),
}


@pytest.mark.parametrize("case", HEADERS)
def test_the_first_row_is_known_as_names_or_as_a_row(case: str, tmp_path: Path) -> None:
    content, expected = HEADERS[case]
    assert read_table(put(tmp_path / "a.csv", content)).has_header is expected


def test_a_sheet_whose_row_numbers_have_no_name_begins_with_names() -> None:
    assert is_header([None, "text", "label"], [[0, "good film", "pos"], [1, "bad film", "neg"]])


def test_declared_columns_and_options_decide_about_the_header(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "x y,z\n" + "one thing,other thing\n")
    assert read_table(path).has_header is False
    assert read_table(path, named=["x y"]).has_header is True
    assert read_table(path, header=True).names == ("x y", "z")
    labels = put(tmp_path / "b.csv", "text,label\nsome text,1\n")
    assert read_table(labels, named=["1", "2"]).has_header is False


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("sst2/train.tsv", 2),
        ("cola/in_domain_train.tsv", 4),
        ("sms_spam/SMSSpamCollection", 2),
        ("stsb/stsb-en-train.csv", 3),
        ("ag_news/test.csv.gz", 3),
        ("sick/SICK_train.txt", ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")),
        ("msrp/msr-para-train.tsv", ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")),
    ],
)
def test_real_tables_are_read_as_python_reads_them(name: str, names: int | tuple[str, ...]) -> None:
    path = real_data(name)
    table = read_table(str(path))
    has_header = not isinstance(names, int)
    assert table.has_header is has_header
    assert table.names == (tuple(map(str, range(1, names + 1))) if isinstance(names, int) else names)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = raw.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    expected = list(csv.reader(lines)) if table.format == "csv" else [line.split("\t") for line in lines]
    assert [list(row.values()) for row in table.rows] == expected[has_header:]


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_no_file_no_rows_nothing_in_it(tmp_path: Path) -> None:
    put(tmp_path / "train.tsv", "a\t1\n")
    assert "did you mean train.tsv" in refused(str(tmp_path / "trian.tsv"))[0]
    assert "a folder" in refused(str(tmp_path))[0]
    assert "empty file" in refused(put(tmp_path / "b.csv", "\n \n"))[0]
    assert "no rows" in refused(put(tmp_path / "c.csv", "text,label\n"), header=True)[0]
    assert "no rows" in refused(put(tmp_path / "d.json", "[]"))[0]
    assert "no rows" in refused(put(tmp_path / "e.jsonl", "{}\n{}\n"))[0]


def test_another_encoding_is_named_with_byte_and_line_and_its_conversion() -> None:
    path = real_data("trec/TREC.train")
    line = next(i for i, raw in enumerate(path.read_bytes().split(b"\n"), 1) if not raw.isascii())
    problem = next(problem for problem in refused(str(path)) if "not UTF-8" in problem)
    assert problem.startswith(f"{path}:{line}: not UTF-8: byte 0xf0")
    assert "iconv -f latin1 -t utf-8" in problem


def test_binary_files_are_named_as_what_they_are(tmp_path: Path) -> None:
    assert "utf-16" in refused(put(tmp_path / "a.csv", "text,label\na,1\n".encode("utf-16")))[0]
    assert "xlsx" in refused(put(tmp_path / "b.csv", b"PK\x03\x04..."))[0]
    assert ":1: a NUL byte, at byte 5 of the line" in refused(put(tmp_path / "c.csv", b"text\0"))[0]
    assert "binary, not text: a NUL byte at byte 4" in refused(put(tmp_path / "c.data", b"text\0"))[0]
    pytest.importorskip("pyarrow")
    assert "not a Parquet file" in refused(put(tmp_path / "d.parquet", b"PAR1 no"))[0]
    pytest.importorskip("openpyxl")
    assert "not an xlsx" in refused(put(tmp_path / "e.xlsx", b"PK no"))[0]


def test_empty_cells_at_the_end_of_a_row_are_no_cells(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "text;label\ngood film;a;;\nbad film;b;\n")
    assert read_table(path).rows == [{"text": "good film", "label": "a"}, {"text": "bad film", "label": "b"}]


def test_lists_of_objects_in_a_row_are_no_rows(tmp_path: Path) -> None:
    row = {"text": "a", "entities": [{"at": 1}, {"at": 2}]}
    assert read_table(put(tmp_path / "a.json", json.dumps([row, row]))).rows == [row, row]
    alone = {"text": "a", "label": "b"}
    assert read_table(put(tmp_path / "b.json", json.dumps(alone))).rows == [alone]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_that_python_does_not_take_is_named(name: str, tmp_path: Path) -> None:
    for value, what in (("[" * 100_000, "nested too deeply"), ("1" * 5000, "write the number as text")):
        path = put(tmp_path / name, f'{{"text": "a", "label": {value}}}\n')
        assert refused(path)[0].startswith(f"{path}:1: not JSON") and what in refused(path)[0]


def test_tagged_words_are_known_by_their_beginning_and_held_to_it(tmp_path: Path) -> None:
    sentence = "EU B-ORG\nrejects O\n\n"
    path = put(tmp_path / "words", sentence * 5000 + "broken\n")
    assert refused(path)[0].startswith(f"{path}:15001: 1 cell where the first row has 2")
    assert read_table(put(tmp_path / "words", sentence * 5000)).format == "conll"


def test_rows_of_another_length_are_named_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "text,label\na,1\n" + "so, so,1\n" * 5)
    problems = refused(path)
    assert problems[0].startswith(f"{path}:3: 3 cells where the header has 2") and "quote" in problems[0]
    assert problems[-1] == "and 2 more: rows of another length"


def test_broken_quotes_and_broken_json_are_named_by_line(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'text,label\na,1\n"open,1\nb,2\n')
    assert refused(path)[0].startswith(f"{path}:3: broken csv")
    path = put(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": \n[1]\n{"text": "\\ud800"}\n')
    first, second, third = refused(path)
    assert first.startswith(f"{path}:2: not JSON") and second.startswith(f"{path}:3: a JSON list")
    assert third.startswith(f"{path}:4: half of a surrogate pair")


def test_names_that_come_twice_and_sheets_beside_each_other_are_refused(tmp_path: Path) -> None:
    doubled = refused(put(tmp_path / "a.csv", "text,a,text,a\na,b,c,d\n"), header=True)
    assert ":1: two columns are called 'text'" in doubled[0] and "'a'" in doubled[1]
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    book.create_sheet("more").append(["text", "label"])
    book.save(tmp_path / "a.xlsx")
    assert "2 sheets hold rows: Sheet, more" in refused(str(tmp_path / "a.xlsx"))[0]


def test_a_header_option_for_json_does_nothing_and_is_refused(tmp_path: Path) -> None:
    assert "jsonl names its columns itself" in refused(as_jsonl(tmp_path / "a.jsonl"), header=False)[0]


def test_a_table_says_how_it_was_taken(tmp_path: Path) -> None:
    table: Table = read_table(as_tsv(tmp_path / "a.tsv"))
    assert table.how == "tsv, names in the first row"
    table = read_table(put(tmp_path / "b.json", json.dumps({"version": 1, "data": ROWS})))
    assert table.how == "json, its rows are those of 'data'" and len(table.rows) == len(ROWS)
