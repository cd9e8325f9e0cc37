"""Questions with answers to write: SQuAD's json, and tables of questions and answers (also GSM8K's)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gptloom.config.data_tools import InstructOptions
from gptloom.config.errors import Problem, UserError
from gptloom.data.answers import answer_and_start
from gptloom.data.column_names import LABEL_NAMES, SECOND_NAMES, TEXT_NAMES
from gptloom.data.columns import declared_names
from gptloom.data.findings import Findings, counted
from gptloom.data.inputs import data_suffix
from gptloom.data.instruct.asked import Asked, AskedRows, text_cell
from gptloom.data.instruct.named import named_columns, spelled_columns
from gptloom.data.instruct.wordings import QUESTION, QUESTION_ON_TEXT
from gptloom.data.reading import open_bytes
from gptloom.data.tables import Table, read_table

FINAL = "####"  # before the last line of an answer in GSM8K (Cobbe et al. 2021)
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator


def question_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task qa``: answers as they stand in the data, of several the first."""
    findings = Findings()
    rows: list[Asked] = []
    sentences = []
    for path in options.data:
        squad = _squad(path)
        if squad is None:
            table = read_table(path, options.header, declared_names(options))
            columns = named_columns(
                table, options, text=TEXT_NAMES["span"], second=SECOND_NAMES, label=LABEL_NAMES["span"]
            )
            rows += _from_table(table, columns, findings)
            sentences.append(f"{path} ({table.how}): {spelled_columns(columns)}")
        else:
            rows += squad
            sentences.append(f"{path}: passages with questions (SQuAD)")
    findings.check()
    if options.reasoning and not any(FINAL in row.answer for row in rows):
        what = f"--reasoning does nothing: no answer has steps and {FINAL} before its result"
        raise UserError(Problem(what, ", ".join(options.data), "leave it out"))
    rows = [replace(row, answer=final_answer(row.answer, options.reasoning)) for row in rows]
    left = [row for row in rows if not row.answer]
    warnings = [f"{counted(len(left), 'question has', 'questions have')} no answer and is left out"] if left else []
    kept = [row for row in rows if row.answer]
    on_text = {("text" in row.parts) for row in kept}
    if len(on_text) > 1:
        what = "some files have passages with their questions, others questions alone: they are asked in other wordings"
        raise UserError(Problem(what, mend="a command for each kind"))
    words = any(letter.isalpha() for row in kept for letter in row.answer)
    metric = "f1" if words else "exact"
    return AskedRows(kept, QUESTION_ON_TEXT if True in on_text else QUESTION, metric, sentences, warnings)


def _from_table(table: Table, columns: dict[str, str], findings: Findings) -> Iterator[Asked]:
    for i, row in enumerate(table.rows):
        where = table.where(i)
        parts = {"question": text_cell(row[columns["second"]], columns["second"], where, findings)}
        if "text" in columns:
            parts["text"] = text_cell(row[columns["text"]], columns["text"], where, findings)
        answer, _ = answer_and_start(row[columns["label"]], None)
        yield Asked(where, parts, answer or "")


def final_answer(answer: str, reasoning: bool) -> str:
    """What stands behind ``####``, where an answer has that; with ``reasoning`` the steps before it too."""
    steps, marked, final = answer.rpartition(FINAL)
    if not marked:
        return answer.strip()
    if not reasoning:
        return final.strip()
    return f"{_CALCULATOR.sub('', steps).strip()}\nThe answer is {final.strip()}."


def _squad(path: str) -> list[Asked] | None:
    """The questions of a SQuAD file, with their passages; None for a file of another form."""
    if data_suffix(Path(path)) != ".json" or not Path(path).is_file():
        return None
    with open_bytes(Path(path)) as stream:
        raw = stream.read()
    if not raw.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return None
    try:
        found = json.loads(raw.decode("utf-8-sig"))
        return [
            Asked(
                f"{path} question {asked.get('id', place)}",
                {"text": paragraph["context"].strip(), "question": asked["question"].strip()},
                asked["answers"][0]["text"] if asked["answers"] else "",
            )
            for article in found["data"]
            for paragraph in article["paragraphs"]
            for place, asked in enumerate(paragraph["qas"], start=1)
        ]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None  # a table's reader says what is wrong with it
