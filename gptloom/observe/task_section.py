"""What a fine-tuned model reached on labelled examples, as HTML: scores beside their baseline, classes, mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from gptloom.config.excerpt import beginning
from gptloom.observe.glossary import written
from gptloom.observe.page import metric_name, table

Scores = dict[str, Any]
"""One report of ``metrics.json``, as ``TaskReport.as_dict`` makes it."""

MOST_CLASSES = 20
"""Of more classes the commonest confusions are listed instead of a matrix."""
MOST_PAIRS = 15
LONGEST_TEXT = 400


def task_section(scores: dict[str, Scores]) -> str:
    """Each set's figures; of the last set (the test rows, where there are any) also its classes and worst mistakes."""
    sets = {name: found for name, found in scores.items() if isinstance(found, dict) and found.get("metrics")}
    if not sets:
        return ""
    parts = [_figures(name, found) for name, found in sets.items()]
    name, last = list(sets.items())[-1]
    parts += [_classes(name, last), _confusion(name, last), _mistakes(name, last)]
    return "".join(parts)


def _figures(name: str, scores: Scores) -> str:
    baseline, intervals = scores.get("baseline") or {}, scores.get("intervals") or {}
    rows = []
    for metric, value in scores["metrics"].items():
        spread = " to ".join(written(metric, edge) for edge in intervals.get(metric) or ())
        known = written(metric, baseline[metric]) if metric in baseline else None
        rows.append((metric.replace("_", " "), written(metric, value), spread, known))
    answer = escape(str(scores.get("baseline_answer", "")))
    head = ("", "score", "95 % interval", f"baseline: {answer}")
    return f"<h3>{escape(name)}: {scores['n']:,} examples</h3>{table(head, rows, right=(1, 2, 3))}"


def _classes(name: str, scores: Scores) -> str:
    figures = ("precision", "recall", "f1")
    rows = [
        (
            row["label"],
            *(written(figure, row[figure]) for figure in figures),
            f"{row['support']:,}",
            f"{row['predicted']:,}",
        )
        for row in scores.get("per_class") or []
    ]
    head = ("class", *map(metric_name, figures), "there", "answered")
    return f"<h3>{escape(name)}, by class</h3>{table(head, rows, right=range(1, 6))}" if rows else ""


def _confusion(name: str, scores: Scores) -> str:
    matrix, labels = scores.get("confusion"), scores.get("labels") or []
    if not matrix:
        return ""
    title = f"<h3>{escape(name)}: right class (row) and answer (column)</h3>"
    if len(labels) > MOST_CLASSES:
        rows = [
            (truth, answer, f"{count:,}") for truth, answer, count in commonest_confusions(labels, matrix, MOST_PAIRS)
        ]
        return title + table(("right", "answered", "how often"), rows, right=[2])
    head = "".join(f'<th class="right">{escape(label)}</th>' for label in labels)
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(_cells(row, place))}</tr>"
        for place, (label, row) in enumerate(zip(labels, matrix, strict=True))
    )
    return f'{title}<div class="card"><table class="confusion"><tr><th></th>{head}</tr>{body}</table></div>'


def _cells(row: Sequence[int], place: int) -> Iterator[str]:
    """A row of the matrix, each cell as dark as its share of the row: green where right, red where not."""
    for column, count in enumerate(row):
        share = count / max(1, sum(row))
        kind = "right hit" if column == place else "right miss"
        yield f'<td class="{kind}" style="--share: {share:.3f}">{count:,}</td>'


def commonest_confusions(
    labels: Sequence[str], matrix: Sequence[Sequence[int]], most: int
) -> list[tuple[str, str, int]]:
    """Right class, wrong answer and how often, the commonest first."""
    pairs = [
        (labels[row], labels[column], count)
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def _mistakes(name: str, scores: Scores) -> str:
    rows = [
        (
            " / ".join(beginning(text, LONGEST_TEXT) for text in mistake["texts"]),
            mistake["truth"],
            mistake["answer"],
            None if mistake.get("confidence") is None else written("accuracy", mistake["confidence"]),
            mistake["where"],
        )
        for mistake in scores.get("mistakes") or []
    ]
    head = ("text", "right", "answered", "how surely", "where")
    if not rows:
        return ""
    kind = "the most confident mistakes" if any(row[3] for row in rows) else "farthest off"  # scores have no confidence
    title = f"<h3>{escape(name)}: {kind}</h3>"
    return f'{title}<div class="mistakes">{table(head, rows, right=[3])}</div>'
