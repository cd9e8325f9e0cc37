"""Calculations with their results, alone (``25 - 759 =``) or already asked (``Q: What is 98 plus 45? A:``)."""

from __future__ import annotations

import re

from gptloom.config.data_tools import InstructOptions
from gptloom.data.columns import declared_names
from gptloom.data.findings import Findings
from gptloom.data.instruct.asked import Asked, AskedRows, text_cell
from gptloom.data.instruct.named import named_columns, spelled_columns
from gptloom.data.instruct.wordings import ARITHMETIC
from gptloom.data.tables import read_table

TEXT_NAMES = ("context", "question", "calculation", "expression", "problem", "prompt", "input", "text")
LABEL_NAMES = ("continuation", "completion", "answer", "result", "output", "label", "target")
_ASKED = re.compile(r"(?:Q:)?\s*(?:What is|How much is|Calculate|Compute)?\s*(.*?)\s*[?=]?\s*(?:A:)?", re.DOTALL)


def arithmetic_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task arithmetic``; UserError for those without a number, with all places."""
    findings = Findings()
    rows, sentences = [], []
    for path in options.data:
        table = read_table(path, options.header, declared_names(options))
        columns = named_columns(table, options, text=TEXT_NAMES, label=LABEL_NAMES)
        for i, row in enumerate(table.rows):
            where = table.where(i)
            asked = text_cell(row[columns["text"]], columns["text"], where, findings)
            result = text_cell(row[columns["label"]], columns["label"], where, findings)
            calculation = calculation_of(asked)
            if asked and not any(letter.isdigit() for letter in calculation):
                findings.add("rows without a calculation", f"{asked[:60]!r} holds no number", where, "--task qa")
            rows.append(Asked(where, {"calculation": calculation}, result))
        sentences.append(f"{path} ({table.how}): {spelled_columns(columns)}")
    findings.check()
    return AskedRows(rows, ARITHMETIC, "exact", sentences)


def calculation_of(asked: str) -> str:
    """``98 plus 45`` of ``Q: What is 98 plus 45?\\n\\nA:``; ``25 - 759`` of ``25 - 759 =``."""
    match = _ASKED.fullmatch(asked.strip())
    assert match is not None, "every part of the pattern may be empty"
    return match[1]
