"""Columns and ways to read them that a task has no use for."""

from __future__ import annotations

from collections.abc import Iterator

from gptloom.config.errors import Problem
from gptloom.config.finetune import ColumnOptions, TaskInputOptions
from gptloom.config.task import Task

PAIRED = ("entail", "similar", "span", "regress", "choice")


def idle_columns(task: Task, options: ColumnOptions) -> Iterator[Problem]:
    """A problem for every column that was named and would not be read."""
    if options.second is not None and task not in PAIRED:
        mend = "--task entail or similar read two texts" if task == "classify" else "leave it out"
        yield Problem(f"--second: {task} reads one text", mend=mend)
    if options.choices and task != "choice":
        yield Problem(f"--choices: {task} has none", mend="--task choice, or leave it out")
    if options.start is not None and task != "span":
        yield Problem(f"--start: {task} has no answer in a text", mend="--task span, or leave it out")


def idle_inputs(task: Task, options: TaskInputOptions) -> Iterator[Problem]:
    """A problem for --cut where it has no say."""
    if options.cut == "start" and task == "tokens":
        yield Problem("--cut start: of words the last ones are left out", mend="leave it out")
