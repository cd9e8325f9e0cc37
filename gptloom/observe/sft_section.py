"""What an instruction tuning changed, as HTML: losses, answers that stop, answers that are right, side by side."""

from __future__ import annotations

from html import escape
from typing import Any

from gptloom.config.excerpt import beginning
from gptloom.observe.glossary import written
from gptloom.observe.page import table

LONGEST_ANSWER = 400
SMOKES = {"smoke": "training", "smoke_held_out": "held-out"}
"""The smoke tests in ``metrics.json``, and whose prompts were answered in them."""


def sft_section(figures: dict[str, Any]) -> str:
    """From ``metrics.json``; empty for other runs."""
    before, after = figures.get("before"), figures.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    parts = [table(("", "base", "tuned"), changes(before, after), right=(1, 2))]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in smoke_warnings(after)]
    parts += [_answers(task, before["answers"][task], report) for task, report in after.get("answers", {}).items()]
    for name, whose in SMOKES.items():
        if name in after:
            pairs = zip(before[name]["samples"], after[name]["samples"], strict=True)
            shown = [(beginning(new["prompt"], LONGEST_ANSWER), _answer(old), _answer(new)) for old, new in pairs]
            parts.append(
                f"<h3>The same {whose} prompts, before and after</h3>{table(('prompt', 'base', 'tuned'), shown)}"
            )
    return "".join(parts)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, before, after) as people read them; the answers of tasks by their first figure."""
    rows = []
    for name, value in after["losses"].items():
        meaning = "loss per answer token" if name == "loss" else f"of {name.removeprefix('loss/')}"
        rows.append((meaning, f"{before['losses'][name]:.3f}", f"{value:.3f}"))
    for name, whose in SMOKES.items():
        if name in after:
            figures = (("stopping", f"answers to {whose} prompts that end"), ("repetition", "their repeated 4-grams"))
            for figure, meaning in figures:
                rows.append((meaning, f"{before[name][figure]:.0%}", f"{after[name][figure]:.0%}"))
    for task, report in after.get("answers", {}).items():
        first, earlier = report["first"], before["answers"][task]["figures"]
        rows.append((f"{task}: {first}", written(first, earlier[first]), written(first, report["figures"][first])))
    if after.get("base_bits_per_byte") is not None:
        old, new = before["base_bits_per_byte"], after["base_bits_per_byte"]
        rows.append(("bits per byte of pretraining text", f"{old:.3f}", f"{new:.3f}"))
    return rows


def smoke_warnings(after: dict[str, Any]) -> list[str]:
    """What is to be said of the answers that do not end."""
    return [after[name]["warning"] for name in SMOKES if after.get(name, {}).get("warning")]


def _answer(sample: dict[str, Any]) -> str:
    text = beginning(sample["answer"], LONGEST_ANSWER) if sample["answer"].strip() else "[empty]"
    return text + ("" if sample["stopped"] else " [does not end]")


def _answers(task: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    baseline = after.get("baseline") or {}
    rows = [
        (
            name.replace("_", " "),
            written(name, before["figures"][name]),
            written(name, value),
            written(name, baseline[name]) if name in baseline else "",
        )
        for name, value in after["figures"].items()
    ]
    head = ("", "base", "tuned", f"baseline: {escape(str(after.get('baseline_answer', '')))}")
    return f"<h3>{escape(task)}: {after['n']:,} held-out answers</h3>{table(head, rows, right=(1, 2, 3))}"
