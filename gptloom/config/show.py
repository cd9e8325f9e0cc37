"""The options of ``gptloom data show``: the batch of a step of a run, or examples of a file as a stage reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.finetune import ColumnOptions, TaskInputOptions
from gptloom.config.options import POSITIONAL, JsonOption, Metavar, Options, QuietOption
from gptloom.config.sft import ConversationOptions
from gptloom.config.task import Task

Stage = Literal["finetune", "sft"]


class RunStepOptions(Options):
    """Which batch of a run."""

    step: int | None = Field(None, ge=1, description="of a run: the step whose batch is shown; the first is 1")
    rows: int = Field(4, ge=1, description="of a run: windows or examples shown of the batch")


class StageOptions(ColumnOptions, TaskInputOptions, ConversationOptions):
    """How a stage reads a file: columns and task for ``finetune``, format and template for ``sft``."""

    task: Task | None = Field(
        None, description="what is asked of a model (default: what MODEL was fine-tuned for, else classify)"
    )
    model: Annotated[str | None, Metavar("MODEL")] = Field(
        None, description="who reads: run, model folder or hf:NAME; a fine-tuned one as it was taught to"
    )
    tokenizer: str | None = Field(
        None, description="instead of a model: tokenizer folder, file or name (default: words as they stand)"
    )
    n: int = Field(3, ge=1, description="examples shown")


class ShowOptions(RunStepOptions, StageOptions, JsonOption, QuietOption):
    """Options of ``gptloom data show``."""

    run: Annotated[str, POSITIONAL] = Field(description="run folder; with --stage, a file of examples")
    stage: Stage | None = Field(None, description="show examples of a file as they are read in this stage")
