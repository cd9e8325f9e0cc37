"""Several fine-tunings beside each other: every method, or several seeds, in one table and one picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.finetune import METHODS, FinetuneOptions
from gptloom.config.options import option_fields
from gptloom.config.resolve import Resolved
from gptloom.evaluation.significance import mean_and_error
from gptloom.observe.glossary import interval_text, written
from gptloom.observe.task_pictures import Bar, draw_methods
from gptloom.observe.terminal import human_count, human_time, say
from gptloom.stages.finetune.conflicts import STEPS
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.train.run import Hook

COMPARISON = "comparison"
FinetuneOne = Callable[[Resolved[FinetuneOptions], TaskData, Path, Sequence[Hook]], FinetunedRun]
OF_A_METHOD = {
    "last": ("layers",),
    "feature": ("classifier",),
    "lora": ("rank", "alpha", "lora_dropout", "target_modules", "adapter"),
}
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's, of 1, 2, ... degrees of freedom


@dataclass(frozen=True)
class Line:
    """One method: its runs and what they came to, on the test rows where there are any, else on validation."""

    method: str
    runs: tuple[str, ...]
    values: tuple[float, ...]  # of the metric, a run each
    mean: float
    error: float | None  # standard error of the mean over seeds; None for a single run
    low: float  # 95 %: over seeds where there are several, else over examples
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


def compare_runs(
    resolved: Resolved[FinetuneOptions], data: TaskData, folder: Path, callbacks: Sequence[Hook], work: FinetuneOne
) -> Comparison:
    """A run for each method and seed below ``folder``; those that are finished already stay.

    UserError when the folder holds something else, or a comparison that was begun with other options.
    """
    options = resolved.options
    methods = METHODS if options.method == "all" else (options.method,)
    seeds = [options.seed + number for number in range(options.seeds or 1)]
    _claim(folder, resolved)
    lines: list[Line] = []
    metric = options.metric or ""
    side = "test" if data.test else "valid"
    for method in methods:
        runs = []
        for seed in seeds:
            name = "/".join([*([method] if len(methods) > 1 else []), *([f"seed-{seed}"] if len(seeds) > 1 else [])])
            say(f"\n{name}")
            own = _options_of(resolved, method, seed, folder / name)
            runs.append(_done(folder / name) or work(own, data, folder / name, callbacks))
            if runs[-1].state.state != "finished":
                say(f"stopped: {runs[-1].state.reason}; the same command goes on with what is not done")
                return Comparison(folder, metric, side, tuple(lines), done=False)
        metric = runs[0].figures["metric"]
        lines.append(_line(method, runs, side))
        _write(Comparison(folder, metric, side, tuple(lines), done=False))
    return _write(Comparison(folder, metric, side, tuple(lines)))


def _options_of(resolved: Resolved[FinetuneOptions], method: str, seed: int, out: Path) -> Resolved[FinetuneOptions]:
    """The options of one run: without those that its method would not heed."""
    changes: dict[str, Any] = {"method": method, "seed": seed, "seeds": None, "out": str(out), "overwrite": True}
    dropped = [name for other, names in OF_A_METHOD.items() if other != method for name in names]
    dropped += STEPS if method == "feature" else ()
    fields = option_fields(FinetuneOptions)
    if resolved.options.method == "all":
        changes |= {name: fields[name].get_default(call_default_factory=True) for name in dropped}
    sources = {name: source for name, source in resolved.sources.items() if name not in dropped or name in changes}
    return Resolved(resolved.options.model_copy(update=changes), sources, resolved.rules)


def _claim(folder: Path, resolved: Resolved[FinetuneOptions]) -> None:
    """Makes the folder one of a comparison: of these options, or empty."""
    path = folder / "options.json"
    loud = {"out", "overwrite", "quiet", "json", "yes", "threads", "device"}
    given = {name: setting.value for name, setting in resolved.settings().items() if name not in loud}
    text = json.dumps(given, sort_keys=True, default=str)
    if path.is_file() and not resolved.options.overwrite:
        if path.read_text(encoding="utf-8").strip() != text:
            what = "a comparison with other options is in this folder"
            raise UserError(Problem(what, str(folder), "another --out, or --overwrite"))
    elif folder.is_dir() and any(folder.iterdir()) and not path.is_file():
        raise UserError(Problem("the folder is not empty and holds no comparison", str(folder), "another --out"))
    elif path.is_file():
        for run in sorted(folder.rglob("state.json")):
            run.rename(run.with_name("state.replaced.json"))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")


def _done(folder: Path) -> FinetunedRun | None:
    if not (folder / "state.json").is_file():
        return None
    run = FinetunedRun(folder)
    return run if run.state.state == "finished" and run.figures else None


def _line(method: str, runs: Sequence[FinetunedRun], side: str) -> Line:
    reports = [run.figures[side] for run in runs]
    metric = runs[0].figures["metric"]
    values = tuple(report["metrics"][metric] for report in reports)
    mean, error = mean_and_error(values)
    if error is None:
        low, high = reports[0]["intervals"].get(metric, (mean, mean))
    else:
        reach = error * (T_95[len(values) - 2] if len(values) - 2 < len(T_95) else 1.96)
        low, high = mean - reach, mean + reach
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


def _write(comparison: Comparison) -> Comparison:
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
    return comparison
