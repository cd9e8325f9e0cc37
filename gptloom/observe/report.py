"""One self-contained HTML page about a run: nothing is fetched, every word of the run is escaped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import gptloom
from gptloom.config.files import write_text
from gptloom.observe.charts import Line, legend, line_chart
from gptloom.observe.curves import Curves, Point, expected_band, shown_loss, smooth, thin, visible_range
from gptloom.observe.glossary import higher_is_better, main_metrics, written
from gptloom.observe.numbers import human_bytes, human_count, human_time
from gptloom.observe.page import metric_name, section, table
from gptloom.observe.runs import BROKEN_OFF, IsLocked, RunFiles, read_run, state_of
from gptloom.observe.sft_section import sft_section
from gptloom.observe.task_section import task_section
from gptloom.observe.times import time_section

MOMENTS = 6
"""Of each prompt's samples so many are shown, from the first to the last."""
NOISY = ("grad_norm", "tokens_per_second")
"""Curves that are drawn faint, with their moving average above."""


def write_report(folder: Path, is_locked: IsLocked) -> Path:
    """Writes ``report.html`` into a run folder and returns its path. Raises UserError when the folder is no run."""
    path = folder / "report.html"
    run = read_run(folder)
    write_text(path, render(run, state_of(run, is_locked)))
    return path


def render(run: RunFiles, state: str) -> str:
    """The page as text; ``state`` is what the run is in now."""
    curves = Curves.of(run.events)
    sections = [
        _head(run, state),
        _tiles(run),
        section("Curves", _curves(run, curves)),
        section("Where the time goes", time_section(run.events)),
        section("Task", task_section(run.scores)),
        section("Before and after", sft_section(run.scores)),
        section("What it wrote", _samples(run)),
        section("Evaluations", _evaluations(run)),
        section("Checkpoints", _checkpoints(run)),
        section("Guards", _guards(run)),
        section("Configuration", _configuration(run)),
        section("Lineage", _lineage(run)),
        section("Machine and versions", _machine(run)),
        f"<footer>gptloom {gptloom.__version__}, {time.strftime('%Y-%m-%d %H:%M')}. "
        "The numbers come from events.jsonl in the run folder.</footer>",
    ]
    template = Template(resources.files("gptloom.observe").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(_name(run)), body="\n".join(filter(None, sections)))


# ---- the parts of the page, top to bottom ----------------------------------------------------------------------------


def _head(run: RunFiles, state: str) -> str:
    about = []
    if run.start.get("model"):
        about.append(f"model {run.start['model']}")
    if run.start.get("parameters"):
        about.append(f"{human_count(run.start['parameters'])} parameters")
    if run.start.get("context"):
        about.append(f"context {run.start['context']:,} tokens")
    if _option(run, "tokenizer"):
        about.append(f"tokenizer {_shown(_option(run, 'tokenizer'))}")
    if _option(run, "data"):
        about.append(f"text {_shown(_option(run, 'data'))}")
    reason = run.state.get("reason")
    badge = f'<span class="state {escape(state.split()[0])}">{escape(state)}</span>'
    return "\n".join(
        [
            f"<h1>{escape(_name(run))} {badge}</h1>",
            f'<p class="about">{escape(" · ".join(about))}</p>' if about else "",
            f'<p class="about">Ended: {escape(str(reason))}</p>' if reason and state != BROKEN_OFF else "",
        ]
    )


def _tiles(run: RunFiles) -> str:
    step, steps = (run.events[-1]["step"] if run.events else 0), run.start.get("steps")
    seconds = run.state.get("seconds") or sum(_attempt_seconds(run.events))
    tiles = [
        *_metric_tile(run),
        (metric_name("bits_per_byte", "bits per byte"), _figure(run.last("evaluate", "bits_per_byte"))),
        (metric_name("valid_loss", "validation loss"), _figure(run.last("evaluate", "valid_loss"))),
        (metric_name("loss", "training loss"), _figure(_training_loss(run))),
        ("steps", f"{step:,}" + (f" of {steps:,}" if steps and steps != step else "")),
        (metric_name("tokens", "tokens"), _count(run.last("train", "tokens"))),
        (metric_name("tokens_per_second", "tokens a second"), _count(run.last("train", "tokens_per_second"))),
        (metric_name("mfu", "MFU"), _share(run.last("train", "mfu"))),
        ("time", human_time(seconds) if seconds else None),
    ]
    shown = [f'<div class="tile"><b>{escape(value)}</b><span>{label}</span></div>' for label, value in tiles if value]
    return f'<div class="tiles">{"".join(shown)}</div>'


def _training_loss(run: RunFiles) -> float | None:
    """The newest, of what the validation loss is of as well."""
    known = [loss for event in run.of_type("train") if (loss := shown_loss(event)) is not None]
    return known[-1] if known else None


def _metric_tile(run: RunFiles) -> list[tuple[str, str | None]]:
    """The metric of a fine-tuning at its best step, which the finished model has."""
    events = run.of_type("evaluate")
    best = _best(events)
    if best is None or not best.get("metric"):
        return []
    name = best["metric"]
    return [(f"{metric_name(name)}, step {best['step']:,}", written(name, best["metrics"][name]))]


def _curves(run: RunFiles, curves: Curves) -> str:
    if not curves.train_loss and not curves.valid_loss:
        return ""
    band = expected_band(run.config)
    lines = [
        Line(thin(curves.train_loss), "", "train raw"),
        Line(thin(smooth(curves.train_loss)), "training loss, smoothed", "train"),
        Line(curves.valid_loss, "validation loss", "valid", dots=True),
    ]
    edges = [(tokens, edge) for tokens, low, high in band for edge in (low, high)]
    y_range = visible_range(curves.train_loss, curves.valid_loss, edges)
    big = line_chart(lines, "training and validation loss over tokens", y_range, band=band)
    small = [
        _small_chart(curves.metric_name or "metrics", curves.metric_name or "", curves.metric, "valid", dots=True),
        _small_chart("bits_per_byte", "bits per byte", curves.bits_per_byte, "valid", dots=True),
        _small_chart("lr", "learning rate", curves.lr, "other"),
        _small_chart("grad_norm", "gradient norm", curves.grad_norm, "other"),
        _small_chart("tokens_per_second", "tokens a second", curves.tokens_per_second, "other"),
    ]
    return (
        f'<div class="card">{legend(lines, band=bool(band))}{big}</div>'
        f'<div class="small">{"".join(small)}</div><p class="faint">Across: tokens trained on.</p>'
    )


def _small_chart(name: str, label: str, points: Sequence[Point], css: str, dots: bool = False) -> str:
    if not points:
        return ""
    low, high = visible_range(points)
    y_range = (low, high) if dots else (0.0, high)
    lines = [Line(thin(points), label, css, dots)]
    if name in NOISY:
        lines = [Line(thin(points), label, f"{css} raw"), Line(thin(smooth(points)), label, css)]
    chart = line_chart(lines, f"{label} over tokens", y_range, width=350, height=170)
    return f'<div class="card"><h3>{metric_name(name, label)}</h3>{chart}</div>'


def _samples(run: RunFiles) -> str:
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for event in run.of_type("sample"):
        by_prompt.setdefault(str(event.get("prompt", "")), []).append(event)
    parts = []
    for prompt, events in by_prompt.items():
        chosen = _spread(events, MOMENTS)
        for event in chosen:
            text = f'<span class="prompt">{escape(prompt)}</span>{escape(str(event.get("text", "")))}'
            parts.append(f'<div class="card"><h3>step {event["step"]:,}</h3><pre>{text}</pre></div>')
        if len(chosen) < len(events):
            parts.append(f'<p class="faint">{len(events) - len(chosen)} more in events.jsonl.</p>')
    return "".join(parts)


def _evaluations(run: RunFiles) -> str:
    """A row for each evaluation, with a column for what any of them measured."""
    events = run.of_type("evaluate")
    best = _best(events)
    names = [name for name in ("valid_loss", "bits_per_byte", "perplexity") if _any(events, name)]
    found = dict.fromkeys(name for event in events for name in event.get("metrics") or {})
    metrics = main_metrics(found, run.last("evaluate", "metric"))
    rows = [
        (
            f"{event['step']:,}",
            *(_figure(event.get(name)) for name in names),
            *(_written(name, (event.get("metrics") or {}).get(name)) for name in metrics),
            "best" if event is best else "",
        )
        for event in events
    ]
    headers = ("step", *(metric_name(name) for name in (*names, *metrics)), "")
    return table(headers, rows, right=range(len(headers) - 1))


def _any(events: Iterable[dict[str, Any]], name: str) -> bool:
    return any(event.get(name) is not None for event in events)


def _best(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The best evaluation, by the metric of a fine-tuning, else by the validation loss."""
    metric = next((event["metric"] for event in reversed(events) if event.get("metric")), None)
    values = [(event.get("metrics") or {}).get(metric) if metric else event.get("valid_loss") for event in events]
    known = [(value, event) for value, event in zip(values, events, strict=True) if value is not None]
    sign = 1 if metric and higher_is_better(metric) else -1
    return max(known, key=lambda found: sign * found[0])[1] if known else None


def _checkpoints(run: RunFiles) -> str:
    newest = {str(event.get("path")): event for event in run.of_type("checkpoint")}
    kept = {path: event for path, event in newest.items() if (run.folder / path).exists()}
    rows = [(f"{event['step']:,}", event.get("kind"), path) for path, event in kept.items()]
    removed = len(newest) - len(kept)
    note = f'<p class="faint">{removed} more were written and made room for these.</p>' if removed else ""
    return table(("step", "kind", "folder"), rows, right=[0]) + note


def _guards(run: RunFiles) -> str:
    if not run.events:
        return ""
    rows = [(f"{event['step']:,}", event.get("reason"), event.get("action")) for event in run.of_type("guard")]
    return table(("step", "what was seen", "what was done"), rows, right=[0]) or "<p>None had to act.</p>"


def _configuration(run: RunFiles) -> str:
    options = run.config.get("options") or {}
    rows = [
        (name, _shown(setting.get("value")), setting.get("source"), setting.get("rule"))
        for name, setting in options.items()
        if isinstance(setting, dict)
    ]
    return table(("option", "value", "set by", "by which rule"), rows)


def _lineage(run: RunFiles) -> str:
    record = run.card.get("lineage") or {}
    rows = [
        ("parent", f"{parent.get('path')}  {str(parent.get('hash'))[:16]}") for parent in record.get("parents") or []
    ]
    facts = (("data", record.get("data_hash")), ("tokenizer", run.card.get("tokenizer_hash")))
    rows += [(f"{name} hash", value) for name, value in facts if value]
    if run.card and not record.get("parents"):
        rows.insert(0, ("parents", "none: trained from random weights"))
    return table(("", ""), rows)


def _machine(run: RunFiles) -> str:
    found = {**(run.card.get("versions") or {}), **(run.start.get("machine") or {})}
    if run.config.get("gptloom"):
        found.setdefault("gptloom", run.config["gptloom"])
    if run.start.get("precision"):
        found["precision"] = run.start["precision"]
    rows = [(name.replace("_", " "), _machine_value(name, value)) for name, value in found.items() if value]
    attempts = len(run.of_type("start"))
    return table(("", ""), [*rows, ("attempts", attempts)] if rows and attempts > 1 else rows)


# ---- small pieces ----------------------------------------------------------------------------------------------------


def _name(run: RunFiles) -> str:
    return run.folder.resolve().name


def _option(run: RunFiles, name: str) -> Any:
    setting = (run.config.get("options") or {}).get(name)
    return setting.get("value") if isinstance(setting, dict) else None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


def _machine_value(name: str, value: Any) -> str:
    return human_bytes(value) if name.startswith(("memory", "disk")) else _shown(value)


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value < 1000 else f"{value:,.0f}"


def _written(name: str, value: float | None) -> str | None:
    return None if value is None else written(name, value)


def _count(value: float | None) -> str | None:
    return None if value is None else human_count(value)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items: the first, the last, and evenly between."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _attempt_seconds(events: Iterable[dict[str, Any]]) -> list[float]:
    """How long each attempt lasted, from its first event to its last."""
    spans: dict[int, tuple[float, float]] = {}
    for event in events:
        first, _ = spans.get(event["attempt"], (event["time"], 0.0))
        spans[event["attempt"]] = (first, event["time"])
    return [last - first for first, last in spans.values()]
