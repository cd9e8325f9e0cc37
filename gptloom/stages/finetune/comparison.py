"""Several fine-tunings beside each other: every method, or several seeds, in one table and one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptloom.config.errors import UserError
from gptloom.config.files import write_text
from gptloom.config.run_folder import COMPARISON
from gptloom.evaluation.significance import LEVEL, mean_and_error
from gptloom.observe.glossary import interval_text, is_share, written
from gptloom.observe.numbers import human_count, human_time
from gptloom.observe.task_pictures import Bar, draw_methods
from gptloom.observe.terminal import say
from gptloom.stages.finetune.result import FinetunedRun


@dataclass(frozen=True)
class Line:
    """One method: its runs and what they came to, on the test rows where there are any, else on validation."""

    method: str
    runs: tuple[str, ...]
    values: tuple[float, ...]  # of the metric, a run each
    mean: float
    error: float | None  # standard error of the mean over seeds; None for a single run
    low: float  # 95 %: over examples, and over seeds as well where there are several
    high: float
    baseline: float  # of a constant answer
    trained_parameters: int
    seconds: float  # of training, evaluation and saving, the mean of the runs
    peak_memory: int | None  # bytes, the most of the runs


@dataclass(frozen=True)
class Comparison:
    """All lines, in the order in which they ran; ``comparison.json``, ``.md`` and ``.png`` in the folder show them."""

    path: Path
    metric: str
    side: str
    lines: tuple[Line, ...]
    done: bool = True

    def as_dict(self) -> dict[str, Any]:
        lines = [asdict(line) | {"runs": list(line.runs), "values": list(line.values)} for line in self.lines]
        return {
            "version": 1,
            "path": str(self.path),
            "metric": self.metric,
            "side": self.side,
            "done": self.done,
            "lines": lines,
        }

    @property
    def header(self) -> tuple[str, ...]:
        return ("method", self.metric, "95 % interval", "constant answer", "trained parameters", "time", "memory")

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text."""
        return [
            (
                line.method,
                written(self.metric, line.mean)
                + ("" if line.error is None else f" ± {written(self.metric, line.error)}"),
                interval_text(self.metric, (line.low, line.high)),
                written(self.metric, line.baseline),
                human_count(line.trained_parameters),
                human_time(line.seconds),
                "–" if line.peak_memory is None else f"{line.peak_memory / 1e6:,.0f} MB",
            )
            for line in self.lines
        ]


def line_of(method: str, runs: Sequence[FinetunedRun], side: str) -> Line:
    """What the finished runs of one method, a seed each, came to.

    Of one run the interval is the report's: what other rows would tell of this model. Of several it is that of the mean
    over seeds and rows: half its width is the root of the sum of two squares, Student's t times the standard error of
    the mean over seeds, and half the width of the runs' intervals over rows, which all runs share and no seed makes
    narrower. So it is narrower than neither, and a share stays within 0 and 1.
    """
    reports = [run.figures[side] for run in runs]
    metric = runs[0].figures["metric"]
    values = tuple(report["metrics"][metric] for report in reports)
    mean, error = mean_and_error(values)
    own = [report["intervals"].get(metric, (value, value)) for report, value in zip(reports, values, strict=True)]
    low, high = own[0] if error is None else _of_seeds_and_rows(values, error, own)
    if is_share(metric):
        low, high = max(0.0, low), min(1.0, high)
    costs = [run.figures["cost"] for run in runs]
    return Line(
        method,
        tuple(str(run.path) for run in runs),
        values,
        mean,
        error,
        low,
        high,
        reports[0]["baseline"][metric],
        costs[0]["trained_parameters"],
        sum(cost["seconds"] for cost in costs) / len(costs),
        None if costs[0]["peak_memory"] is None else max(cost["peak_memory"] for cost in costs),
    )


def _of_seeds_and_rows(values: Sequence[float], error: float, own: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The interval of the mean of ``values``, whose standard error over seeds and intervals over rows are given."""
    from scipy.stats import t

    mean, n = math.fsum(values) / len(values), len(values)
    seeds = float(t.ppf((1 + LEVEL) / 2, n - 1)) * error
    below = math.fsum(value - low for value, (low, _) in zip(values, own, strict=True)) / n
    above = math.fsum(high - value for value, (_, high) in zip(values, own, strict=True)) / n
    return mean - math.hypot(seeds, below), mean + math.hypot(seeds, above)


def write_comparison(comparison: Comparison) -> None:
    """The table as JSON, as Markdown, and as a picture."""
    path = comparison.path / COMPARISON
    write_text(path.with_suffix(".json"), json.dumps(comparison.as_dict(), indent=1) + "\n")
    header = comparison.header
    table = [header, ["---"] * len(header), *comparison.rows()]
    write_text(path.with_suffix(".md"), "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n")
    if comparison.done:
        bars = [Bar(line.method, line.mean, (line.low, line.high)) for line in comparison.lines]
        baseline = comparison.lines[0].baseline
        title = f"{comparison.path.name}: {comparison.side} rows"
        try:
            draw_methods(bars, path.with_suffix(".png"), metric=comparison.metric, baseline=baseline, title=title)
        except UserError as error:
            say(f"no picture: {error.problems[0].what} ({error.problems[0].mend})")
