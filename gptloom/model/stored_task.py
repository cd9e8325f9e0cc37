"""The task of a folder that ``transformers`` wrote: as much of a ``TaskConfig`` as its config.json and tokenizer tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.task import Columns, HeadConfig, Task, TaskConfig, TaskTokens
from gptloom.model.layouts.task_heads import stored_labels
from gptloom.tokenizer.tokenizer import Tokenizer

_MEND = "fine-tune it with gptloom: gptloom finetune MODEL --task ... --data FILE"


def derived_task(raw: Mapping[str, Any], config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> TaskConfig:
    """The task of a classifier by its config.json, ``raw``; its texts are framed as BERT's are.

    Columns have their usual names, ``text`` and, where there are two texts, ``second``.

    Raises:
        UserError: a decoder, whose class does not say how a text ends, several labels at once, or a tokenizer without
            ``[CLS]`` and ``[SEP]``.
    """
    assert config.task_head is not None, "a folder without a task's head has no task"
    named, where = raw["architectures"][0], str(folder)
    problems = []
    if config.mask == "causal":
        what = f"{named} reads a text's last token and does not say how a text was framed when it was trained"
        problems.append(Problem(what, where, _MEND))
    elif tokenizer.cls_id is None or tokenizer.sep_id is None:
        problems.append(Problem("the tokenizer names no cls_token and sep_token, which frame a text", where))
    if raw.get("problem_type") == "multi_label_classification":
        problems.append(Problem("problem_type is 'multi_label_classification'; gptloom has one label a text", where))
    if problems:
        raise UserError(*problems)
    assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
    task = _task_of(config.task_head, raw)
    return TaskConfig(
        task=task,
        labels=_labels(config.task_head, raw) if task in ("classify", "tokens") else (),
        columns=Columns(text="text", second="second" if task == "span" else None),
        inputs="bert",
        tokens=TaskTokens(start=tokenizer.cls_id, delimiter=(tokenizer.sep_id,), extract=tokenizer.sep_id),
        max_length=config.context,
    )


def _task_of(head: HeadConfig, raw: Mapping[str, Any]) -> Task:
    if head.kind == "choice" or head.kind == "tokens" or head.kind == "span":
        return head.kind
    return "regress" if head.n_labels == 1 or raw.get("problem_type") == "regression" else "classify"


def _labels(head: HeadConfig, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The stored names, else those that ``transformers`` gives to classes without one."""
    return stored_labels(raw) or tuple(f"LABEL_{index}" for index in range(head.n_labels))
