"""Rows of every kind of file: the same rows from each, what is broken by line, and a second reading finds nothing new."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.data.findings import Findings
from gptloom.data.header import is_header_or_short
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.lines import LOST_ROWS
from gptloom.data.rows import Row, RowFile, read_rows

ROWS = [{"prompt": 'he said "no",\ntwice', "completion": "1"}, {"prompt": "naïve ☃", "completion": "0"}]


def put(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return str(path)


def read(path: str, **options: Any) -> tuple[RowFile, list[Row], list[str]]:
    findings = Findings()
    file = read_rows(path, findings, **options)
    rows = list(file)
    return file, rows, [str(problem) for problem in findings.problems()]


def places(path: str) -> tuple[list[str], list[str]]:
    """Line numbers of the rows, and of the problems without the path before them."""
    _, rows, problems = read(path)
    return [row.where.removeprefix(path) for row in rows], [problem.removeprefix(path) for problem in problems]


def always(first: Sequence[Any], below: Sequence[Sequence[Any]]) -> bool:
    return True


def refused(path: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, **options)
    return str(error.value)


# ---- formats ---------------------------------------------------------------------------------------------------------


def as_csv(path: Path) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(ROWS)
    return str(path)


def as_json(path: Path) -> str:
    return put(path, json.dumps(ROWS, indent=1))


def as_jsonl(path: Path) -> str:
    return put(path, "".join(json.dumps(row) + "\n" for row in ROWS))


def as_stream(path: Path) -> str:
    return put(path, "\n".join(json.dumps(row, indent=2) for row in ROWS))


def as_parquet(path: Path) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return str(path)


def as_xlsx(path: Path) -> str:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["prompt", "completion"])
    for row in ROWS:
        book.active.append([*row.values()])
    book.save(path)
    return str(path)


@pytest.mark.parametrize(
    "name, write, format, first",
    [
        ("a.csv", as_csv, "csv", ":2"),
        ("a.json", as_json, "json", ":2"),
        ("a.jsonl", as_jsonl, "jsonl", ":1"),
        ("named_otherwise.json", as_jsonl, "jsonl", ":1"),
        ("named_otherwise.jsonl", as_json, "json", ":2"),
        ("objects_over_lines.jsonl", as_stream, "json", ":1"),
        ("a.parquet", as_parquet, "parquet", " row 1"),
        ("a.xlsx", as_xlsx, "xlsx", " row 2"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, write: Any, format: str, first: str) -> None:
    path = write(tmp_path / name)
    file, rows, problems = read(path)
    assert [row.values for row in rows] == ROWS
    assert (file.format, file.names, problems) == (format, ("prompt", "completion"), [])
    assert rows[0].where == path + first
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes()))
    assert [row.values for row in read(str(packed))[1]] == ROWS


def test_tsv_and_text(tmp_path: Path) -> None:
    file, rows, _ = read(put(tmp_path / "a.tsv", 'prompt\tcompletion\r\n"quoted"\tb\r\n\r\nc\td\r\n'))
    assert [row.values for row in rows] == [
        {"prompt": '"quoted"', "completion": "b"},
        {"prompt": "c", "completion": "d"},
    ]
    assert rows[1].where.endswith(":4") and file.has_header
    _, rows, _ = read(put(tmp_path / "a.txt", "one\n\n  two \n"))
    assert [(row.where[-2:], row.values["text"]) for row in rows] == [(":1", "one"), (":3", "  two ")]
    _, rows, _ = read(
        put(tmp_path / "dialogue.txt", "Human: Hi\nthere\nAssistant: Hello\n\nHuman: Bye\nAssistant: Bye\n")
    )
    assert rows[0].values["text"].count("\n\nHuman:") == 2 and len(rows) == 1


def test_mark_and_line_ends_vanish(tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    for name, text in (
        ("marked", "\ufeff" + "\r\n".join(lines) + "\r\n"),
        ("joined", "\ufeff" + lines[0] + "\n\ufeff" + lines[1]),
        ("old", "\r".join(lines) + "\r"),
    ):
        _, rows, problems = read(put(tmp_path / f"{name}.jsonl", text))
        assert ([row.values for row in rows], problems) == (ROWS, []), name


def test_separators_and_headers_of_csv(tmp_path: Path) -> None:
    _, rows, _ = read(put(tmp_path / "a.csv", "Prompt;Completion;;\na;1,5;;\n"))
    assert rows[0].values["Prompt"] == "a" and rows[0].values["Completion"] == "1,5"
    file, rows, _ = read(put(tmp_path / "b.csv", "How are you today?,I am fine\nWho are you?,Nobody\n"))
    assert not file.has_header and file.names == ("1", "2") and len(rows) == 2
    file, rows, _ = read(put(tmp_path / "c.csv", "a,b\nc,d\n"), has_names=always)
    assert file.names == ("a", "b") and len(rows) == 1
    assert "two columns are called 'a'" in refused(put(tmp_path / "d.csv", "a,a\n1,2\n"), has_names=always)


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    long = {"prompt": "x" * 10_000_000, "completion": "y"}
    path = put(tmp_path / "a.jsonl", json.dumps(ROWS[0]) + "\n" + json.dumps(long) + "\n" + json.dumps(ROWS[1]))
    _, rows, problems = read(path)
    assert [len(row.values["prompt"]) for row in rows] == [19, 10_000_000, 7] and not problems
    assert rows[2].where == f"{path}:3"


# ---- what is broken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, what",
    [
        ('{"prompt": "a" "completion": "b"}', "a comma is missing, or a quote"),
        ('{"prompt": "a", "completion": "b"', "cut off"),
        ("{'prompt': 'a'}", "double quotes only"),
        ('{"prompt": "a", "completion": None}', "null"),
        ('{"prompt": "a",}', "delete the comma"),
        ('{"a": 1}{"b": 2}', "break the line there"),
        ('{"prompt": "a\tb"}', r"written \t"),
        ('{"prompt": "C:\\Users"}', "written twice"),
        ("[" * 100_000, "nested too deeply"),
        ('["a", "b"]', "a JSON list, not an object"),
        ("12", "a JSON number, not an object"),
        ('{"prompt": "\\ud83d", "completion": "b"}', "half of a surrogate pair"),
        ('{"prompt": "a\0b"}', "a NUL byte, at byte 14 of the line"),
    ],
)
def test_broken_line_is_found_and_left_out(tmp_path: Path, line: str, what: str) -> None:
    good = json.dumps(ROWS[0])
    found, problems = places(put(tmp_path / "a.jsonl", f"{good}\n{line}\n{good}\n"))
    assert found == [":1", ":3"]
    assert len(problems) == 1 and problems[0].startswith(":2: ") and what in problems[0]


def test_json_file_says_line_and_stops(tmp_path: Path) -> None:
    begin = '[\n {"prompt": "a", "completion": "b"}'
    for text, place, what in (
        (begin + '\n {"prompt"', ":3", "where a comma or ] was expected"),
        (begin + ',\n {"prompt": "a"\n "completion": "b"}]', ":4", "a comma is missing"),
        (begin, ":2", "the list is not closed"),
        (begin + ",\n]", ":3", "delete the comma before ]"),
        (begin + "\n] trailing", ":3", "text behind the end of the list"),
    ):
        found, problems = places(put(tmp_path / "a.json", text))
        assert found == [":2"] and len(problems) == 1
        assert problems[0].startswith(f"{place}: ") and what in problems[0], problems


def test_items_that_share_a_line_are_counted(tmp_path: Path) -> None:
    rows, problems = places(put(tmp_path / "line.json", '[{"a": 1}, 2, {"a": 3}, 4, {"a": 5}]'))
    assert rows == [":1 item 1", ":1 item 3", ":1 item 5"]
    assert [problem.split(": ")[0] for problem in problems] == [":1 item 2", ":1 item 4"], "each of them is found"
    rows, _ = places(
        put(tmp_path / "lines.json", '[{"a": 1},\n{"a": 2}, {"a":\n 3},\n{"a": 4\n}, {"a": 5}, {"a": 6}\n]')
    )
    assert rows == [":1", ":2 item 2", ":2 item 3", ":4", ":5 item 5", ":5 item 6"]
    assert places(put(tmp_path / "one.json", '[{"a": 1}]'))[0] == [":1"]


def test_rows_in_an_object_are_read_where_they_can_only_be_one_list(tmp_path: Path) -> None:
    text = json.dumps({"version": {"a": [1]}, "data": ROWS, "more": "}"}, indent=1)
    file, rows, problems = read(put(tmp_path / "a.json", text))
    assert [row.values for row in rows] == ROWS and not problems and file.note == "its rows are those of 'data'"
    assert [row.where.rpartition(":")[2] for row in rows] == ["8", "12"]
    assert "'data'" in read_conversations([file.path]).sentences[0]
    for beside in ({"held_out": ROWS}, {"prompt": "of its own"}):
        path = put(tmp_path / "b.json", json.dumps({"data": ROWS, **beside}))
        found, problems = places(path)
        assert not found and "not a list of rows" in problems[0]
        mend = problems[0].partition("try: ")[2]
        subprocess.run(mend.replace("python", sys.executable, 1), shell=True, check=True)
        assert [row.values for row in read(str(tmp_path / "b.data.json"))[1]] == ROWS, (
            "the mend is a command that mends"
        )


def test_undecodable_line_by_line_and_byte(tmp_path: Path) -> None:
    text = b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"}\n{"prompt": "c", "completion": "d"}\n'
    found, problems = places(put(tmp_path / "a.jsonl", text))
    assert found == [":1", ":3"]
    assert problems[0].startswith(":2: not UTF-8: byte 0xe9 ('é' in latin-1) at byte 16 of the line")
    assert "iconv -f latin1 -t utf-8" in problems[0]
    found, problems = places(put(tmp_path / "a.csv", b"prompt,completion\na,b\n\xff,d\ne,f\n"))
    assert found == [":2", ":4"] and problems[0].startswith(":3: not UTF-8: byte 0xff")
    found, problems = places(put(tmp_path / "a.json", b'[{"a": "b"},\n{"a": "\xe9"},\n{"a": "c"}]'))
    assert found == [":1", ":3"] and problems[0].startswith(":2: not UTF-8")


def test_broken_csv_goes_on(tmp_path: Path) -> None:
    text = 'prompt,completion\na,b\n"c"x,d\ne,f,g\ni,j\n"never closed,k\nl,m\n'
    found, problems = places(put(tmp_path / "a.csv", text))
    assert found == [":2", ":5"]
    assert [problem.split(":")[1] for problem in problems] == ["3", "4", "6"]
    assert "3 cells where the header has 2" in problems[1]
    assert "lines 6 to 7 are in one cell: a quote opens in line 6 and does not close" in problems[2]
    _, problems = places(put(tmp_path / "b.csv", 'prompt,completion\na,b\n"last,k'))
    assert "a quote that opens in this row is never closed" in problems[0], "nothing but this row is lost"


def lost(path: str) -> tuple[int, str]:
    """How many findings more rows are lost from, and all of them."""
    findings = Findings()
    list(read_rows(path, findings))
    return findings.count_of(LOST_ROWS), "\n".join(map(str, findings.problems()))


def test_a_quote_that_swallows_rows_is_told_from_a_cell_of_many_lines(tmp_path: Path) -> None:
    rows = [f"question {i},answer {i}" for i in range(60)]
    for last, how in (
        (None, "lines 11 to 61 are in one cell: a quote opens in line 11 and does not close"),
        ('"What, really?",yes', "lines 11 to 41 are in one cell: a quote opens in line 11 and meets the next one"),
        ('It is 5",so', "lines 11 to 41 are in one cell: a quote opens in line 11 and closes in line 41"),
    ):
        broken = [*rows[:9], '"Where is it,lost', *rows[10:]]
        broken[39] = last or broken[39]
        count, told = lost(put(tmp_path / "a.csv", "\n".join(["prompt,completion", *broken])))
        assert count == 1 and how in told, told
    poem = "\n".join(f"line {i} of it" if i % 2 else f"line, {i}" for i in range(60))
    assert lost(put(tmp_path / "b.csv", f'prompt,completion\n"{poem}",a\nb,c\n')) == (0, "")


@pytest.mark.parametrize("text", ['[\n{"a": 1}\n{"a": 2},\n{"a": 3}\n]', '[\n{"a": 1},\n{"a": 2,\n{"a": 3}\n]'])
def test_json_says_which_lines_are_lost(tmp_path: Path, text: str) -> None:
    count, told = lost(put(tmp_path / "a.json", text))
    assert count == 1 and "lines 3 to 5 are not read" in told


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    expected = [{"Frage": "Wer ist es, bitte?", "Antwort": "Ann"}, {"Frage": "Wo wohnt sie?", "Antwort": "Oslo, so"}]
    for text in (
        "sep=;\r\nFrage;Antwort\r\nWer ist es, bitte?;Ann\r\nWo wohnt sie?;Oslo, so\r\n",
        "Frage;Antwort;;\nWer ist es, bitte?;Ann;;\nWo wohnt sie?;Oslo, so;;\n",
    ):
        file, rows, problems = read(put(tmp_path / "a.csv", text), has_names=is_header_or_short)
        assert ([row.values for row in rows], problems, file.names) == (expected, [], ("Frage", "Antwort"))
    assert rows[0].where.endswith(":2")
    assert read(put(tmp_path / "s.csv", "sep=|\na|b\nc|d\n"))[1][0].where.endswith(":2"), "no line is counted twice"
    file, rows, _ = read(put(tmp_path / "b.csv", "Frage, Kunde;Antwort\nWer?;Ann\nWo, bitte?;Oslo\nWas?;Eis\n"))
    assert len(file.names) == 2 and rows[-1].values[file.names[1]] == "Eis"


def test_rows_that_end_early_are_filled(tmp_path: Path) -> None:
    _, rows, problems = read(put(tmp_path / "a.csv", "question,answer,comment\na,b\nc,d,e\npiece of a cell\n"))
    assert [tuple(row.values.values()) for row in rows] == [("a", "b", ""), ("c", "d", "e")]
    assert len(problems) == 1 and "a.csv:4: 1 cell where the header has 3" in problems[0]


def test_a_tsv_is_quoted_where_a_spreadsheet_wrote_it(tmp_path: Path) -> None:
    written = 'prompt\tcompletion\n"one, two"\t"she said ""yes""\nand ""no"", twice"\nthree\tfour\n"five\tsix"\tseven\n'
    file, rows, problems = read(put(tmp_path / "a.tsv", written))
    assert [row.values["prompt"] for row in rows] == ["one, two", "three", "five\tsix"] and not problems
    assert rows[0].values["completion"] == 'she said "yes"\nand "no", twice' and "quotes" in file.note
    meant = 'prompt\tcompletion\n"Hello," he said.\t"Yes!"\n"No", "maybe"\tso\nthree\tfour\nfive\tsix\n'
    file, rows, _ = read(put(tmp_path / "b.tsv", meant))
    assert rows[0].values == {"prompt": '"Hello," he said.', "completion": '"Yes!"'} and not file.note


def test_a_second_reading_finds_nothing_new(tmp_path: Path) -> None:
    findings = Findings()
    file = read_rows(put(tmp_path / "a.jsonl", "{}\nbroken\n" * 10), findings)
    assert len(list(file)) == len(list(file)) == 10
    assert findings.count == 10
    assert str(findings.problems()[-1]) == "and 7 more: lines that are not JSON"


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("a.jsonl", "", "empty file"),
        ("a.jsonl", "\ufeff\n \n", "empty file"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "prompt,completion\n", "no rows, only names of columns"),
        ("a.csv", "\ufeffprompt".encode("utf-16"), "text in utf-16"),
        ("a.csv", b"PK\x03\x04rest", "an xlsx workbook or a zip"),
        ("a.xlsx", b"no workbook", "not an xlsx workbook"),
        ("a.parquet", b"no table", "not a Parquet file"),
        ("a.jsonl.gz", b"\x1f\x8bbroken", "damaged or cut-off"),
        ("a.pdf", "%PDF", "a PDF"),
        ("a.data", "what is this", "its name does not say what it is"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: Any, what: str) -> None:
    path = put(tmp_path / name, content)
    assert what in refused(path) and path in refused(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", "{}")
    assert "did you mean train.jsonl?" in refused(str(tmp_path / "trian.jsonl"))
    assert "a folder" in refused(str(tmp_path))
