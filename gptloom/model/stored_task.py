"""The task of a folder that ``transformers`` wrote: as much of a ``TaskConfig`` as its config.json and tokenizer tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.task import Columns, HeadConfig, Task, TaskConfig, TaskTokens
from gptloom.model.layouts.task_heads import stored_labels
from gptloom.tokenizer.roles import framing
from gptloom.tokenizer.tokenizer import Tokenizer

_MEND = "fine-tune it with gptloom: gptloom finetune MODEL --task ... --data FILE"


def derived_task(raw: Mapping[str, Any], config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> TaskConfig:
    """The task of a classifier by its config.json, ``raw``; texts are framed as its tokenizer.json has it.

    Columns have their usual names, ``text`` and, where there are two texts, ``second``.

    Raises:
        UserError: a tokenizer that puts nothing after a text, as those of most decoders, or several labels at once.
    """
    assert config.task_head is not None, "a folder without a task's head has no task"
    named, where = raw["architectures"][0], str(folder)
    problems, tokens = [], _tokens_of(tokenizer)
    if tokens is None:
        what = f"{named} without a tokenizer that ends a text: nothing says how texts were framed in its training"
        problems.append(Problem(what, where, _MEND))
    if raw.get("problem_type") == "multi_label_classification":
        problems.append(Problem("problem_type is 'multi_label_classification'; gptloom has one label a text", where))
    if problems:
        raise UserError(*problems)
    assert tokens is not None
    task = _task_of(config.task_head, raw)
    return TaskConfig(
        task=task,
        labels=_labels(config.task_head, raw) if task in ("classify", "tokens") else (),
        columns=Columns(text="text", second="second" if task == "span" else None),
        inputs="bert" if config.segments else "gpt1",
        tokens=tokens,
        max_length=config.context,
    )


def _tokens_of(tokenizer: Tokenizer) -> TaskTokens | None:
    """By the post-processor of tokenizer.json; by ``[CLS]`` and ``[SEP]``, which BERT's own programs add without one."""
    if (found := framing(tokenizer)) is not None:
        return found
    if tokenizer.cls_id is None or tokenizer.sep_id is None:
        return None
    return TaskTokens(start=tokenizer.cls_id, delimiter=(tokenizer.sep_id,), extract=tokenizer.sep_id)


def _task_of(head: HeadConfig, raw: Mapping[str, Any]) -> Task:
    if head.kind == "choice" or head.kind == "tokens" or head.kind == "span":
        return head.kind
    return "regress" if head.n_labels == 1 or raw.get("problem_type") == "regression" else "classify"


def _labels(head: HeadConfig, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The stored names, else those that ``transformers`` gives to classes without one."""
    return stored_labels(raw) or tuple(f"LABEL_{index}" for index in range(head.n_labels))
