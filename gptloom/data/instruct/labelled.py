"""Rows with a class, a score or a right choice, read as fine-tuning reads them, become rows that can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gptloom.config.data_tools import InstructOptions
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.task import Columns
from gptloom.data.columns import declared_names, guess_columns
from gptloom.data.example import Example, Examples
from gptloom.data.findings import Findings
from gptloom.data.header import number_of
from gptloom.data.instruct.asked import Asked, AskedRows, text_cell
from gptloom.data.instruct.wordings import CHOICE, CLASSIFY, ENTAIL, SIMILAR, SIMILAR_SCORE
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import read_examples

SCORE_STEP = 0.2  # to which T5 rounds the scores of STS-B, so that they are words (Raffel et al. 2020, section 2.4)
CAUSAL = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}  # COPA's column "question"
WORDINGS = {"classify": CLASSIFY, "entail": ENTAIL, "similar": SIMILAR}


def labelled_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task classify``, ``entail`` and ``similar``; UserError with all that is wrong with them."""
    assert options.task in ("classify", "entail", "similar")
    tables, columns, sentences = read_tables(options)
    examples = read_examples(tables, options.task, columns, None)
    notes = [*sentences, *_kind(options, examples)]
    if not examples.labels:
        _refuse_words(options.labels)
        return AskedRows(_scored(examples), SIMILAR_SCORE, "exact", notes, examples.warnings)
    words = label_words(examples.labels, options.labels)
    warnings = [*examples.warnings, *_numbers(words)]
    about, wanted = options.about or "text", options.wanted or "class"
    given = {"about": about, "wanted": wanted} if options.task == "classify" else {}
    rows = [
        Asked(example.where, given | _texts(example), words[example.label], tuple(words))
        for example in examples.examples
    ]
    return AskedRows(rows, WORDINGS[options.task], "exact", notes, warnings)


def choice_rows(options: InstructOptions) -> AskedRows:
    """The rows of ``--task choice``: the answer is the text of the right choice."""
    tables, columns, sentences = read_tables(options)
    examples = read_examples(tables, "choice", columns.model_copy(update={"second": None}), None)
    findings = Findings()
    rows = []
    for example, question in zip(examples.examples, _questions(tables, columns, findings), strict=True):
        text, *choices = (part.strip() for part in example.texts)
        asked = f"{text}\n{question}" if question else text
        rows.append(Asked(example.where, {"text": asked}, choices[example.label], tuple(choices)))
    findings.check()
    return AskedRows(rows, CHOICE, "exact", [*sentences, *examples.notes], examples.warnings)


def read_tables(options: InstructOptions) -> tuple[list[Table], Columns, list[str]]:
    """The tables, their columns as the first one has them, and the sentence that says so."""
    assert options.task in ("classify", "entail", "similar", "choice")
    named = declared_names(options)
    tables = [read_table(path, options.header, named) for path in options.data]
    columns, sentence = guess_columns(tables[0], options.task, options)
    return tables, columns, [sentence]


def label_words(labels: Sequence[str], given: Sequence[str]) -> list[str]:
    """What an answer calls each label: as ``LABEL=WORDS`` says, else the label. UserError for what cannot be meant."""
    problems, words = [], {}
    for entry in given:
        label, equals, word = (part.strip() for part in entry.partition("="))
        if not equals or not word:
            problems.append(Problem(f"{entry!r} is not LABEL=WORDS", "--labels", f"{label or labels[0]}=WORDS"))
        elif label not in labels:
            problems.append(Problem(f"there is no label {label!r} in the data", "--labels", nearest(label, labels)))
        else:
            words[label] = word
    named = [words.get(label, label) for label in labels]
    doubled = sorted({word for word in named if named.count(word) > 1})
    problems += [
        Problem(f"two labels are called {word!r}: no answer would tell them apart", "--labels") for word in doubled
    ]
    if given and not problems and len(words) < len(labels):
        left = ", ".join(label for label in labels if label not in words)
        problems.append(Problem(f"no words for the label {left}", "--labels", "give each its words, or none"))
    if problems:
        raise UserError(*problems)
    return named


def _kind(options: InstructOptions, examples: Examples) -> list[str]:
    """How the labels of a similarity, which may be either, were understood."""
    return (
        [f"the labels are taken as {'classes' if examples.labels else 'scores'}"] if options.task == "similar" else []
    )


def _numbers(words: Sequence[str]) -> list[str]:
    """A warning where answers would be numbers of classes, which mean nothing to whoever asks."""
    if not all(number_of(word) is not None for word in words):
        return []
    example = " ".join(f"{word}=WORDS" for word in words[:3])
    return [f"the labels are numbers, and so will the answers be: --labels {example} gives them words"]


def _refuse_words(given: Sequence[str]) -> None:
    if given:
        what = "--labels does nothing: the label column holds scores, which are answered as numbers"
        raise UserError(Problem(what, mend="leave it out, or name a --label column of classes"))


def _scored(examples: Examples) -> list[Asked]:
    scores = [example.label for example in examples.examples]
    ends = {"lowest": f"{min(scores):g}", "highest": f"{max(scores):g}"}
    return [
        Asked(example.where, ends | _texts(example), f"{round(example.label / SCORE_STEP) * SCORE_STEP:.1f}")
        for example in examples.examples
    ]


def _texts(example: Example) -> dict[str, str]:
    return dict(zip(("text", "second"), (text.strip() for text in example.texts), strict=False))


def _questions(tables: Sequence[Table], columns: Columns, findings: Findings) -> Iterator[str]:
    """What ``--second`` asks about each row's text; "" without that column."""
    for table in tables:
        for i, row in enumerate(table.rows):
            if columns.second is None:
                yield ""
                continue
            question = text_cell(row[columns.second], columns.second, table.where(i), findings)
            yield CAUSAL.get(question, question)
