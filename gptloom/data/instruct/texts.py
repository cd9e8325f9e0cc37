"""Texts from texts: lines of two languages, and articles with their summaries or titles."""

from __future__ import annotations

from pathlib import Path

from gptloom.config.data_tools import InstructOptions
from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.columns import declared_names
from gptloom.data.findings import Findings, counted
from gptloom.data.inputs import similar_names
from gptloom.data.instruct.asked import Asked, AskedRows, text_cell
from gptloom.data.instruct.named import named_columns, spelled_columns
from gptloom.data.instruct.wordings import SUMMARIZE, TRANSLATE
from gptloom.data.lines import Place, text_lines
from gptloom.data.tables import read_table

ARTICLE_NAMES = ("article", "document", "text", "content", "body", "description", "story")
SUMMARY_NAMES = ("summary", "highlights", "title", "headline", "abstract", "target")
KINDS_OF_SUMMARY = ("title", "headline", "abstract")  # columns that say what they hold


def translation_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task translate``: line i of the second file is line i of the first in another language."""
    problems = []
    if len(options.data) != 2:
        what = f"{counted(len(options.data), 'file')}: a translation has two, line by line the same"
        problems.append(Problem(what, mend="gptloom data instruct FROM TO --task translate ..."))
    if len(options.languages) != 2:
        problems.append(Problem("the two languages have no names", mend="--languages English German"))
    if problems:
        raise UserError(*problems)
    findings = Findings()
    ours, theirs = (_lines(path, findings) for path in options.data)
    findings.check()
    if len(ours) != len(theirs):
        what = (
            f"{len(ours):,} lines, and {len(theirs):,} in {options.data[1]}: line i of one must be line i of the other"
        )
        raise UserError(Problem(what, options.data[0], "the files of one set"))
    names = dict(zip(("source", "target"), options.languages, strict=True))
    rows = [
        Asked(f"{options.data[0]}:{number}", names | {"text": text}, answer, source=text)
        for number, (text, answer) in enumerate(zip(ours, theirs, strict=True), start=1)
        if text and answer
    ]
    empty = len(ours) - len(rows)
    warnings = [f"{counted(empty, 'line is', 'lines are')} empty in one of the files and left out"] if empty else []
    sentence = f"{options.data[0]} ({names['source']}), line by line {options.data[1]} ({names['target']})"
    return AskedRows(rows, TRANSLATE, "bleu", [sentence], warnings)


def _lines(path: str, findings: Findings) -> list[str]:
    """The lines of a UTF-8 text without spaces around them."""
    file = Path(path)
    if not file.is_file():
        raise UserError(Problem("no such file", path, similar_names(file)))

    def find(number: int | Place, kind: str, what: str, mend: str | None) -> None:
        findings.add(kind, what, f"{path}:{number}", mend)

    return [line.text.strip() for line in text_lines(file, find)]


def summary_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task summarize``: a text, and its summary, title or what else is ``--wanted``."""
    findings = Findings()
    rows, sentences = [], []
    for path in options.data:
        table = read_table(path, options.header, declared_names(options))
        columns = named_columns(table, options, text=ARTICLE_NAMES, label=SUMMARY_NAMES)
        own = plain(columns["label"])
        wanted = options.wanted or (own if own in KINDS_OF_SUMMARY else "summary")
        given = {"about": options.about or "text", "wanted": wanted}
        for i, row in enumerate(table.rows):
            text, summary = (
                text_cell(row[columns[role]], columns[role], table.where(i), findings) for role in ("text", "label")
            )
            rows.append(Asked(table.where(i), given | {"text": text}, summary, source=text))
        sentences.append(f"{path} ({table.how}): {spelled_columns(columns)}")
    findings.check()
    return AskedRows(rows, SUMMARIZE, "rouge", sentences)
