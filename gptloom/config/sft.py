"""The options of ``gptloom sft``: instruction tuning on prompts and responses, conversations, and mixtures of tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import (
    POSITIONAL,
    BudgetOptions,
    LimitOption,
    MachineOptions,
    Metavar,
    Options,
    OutputOptions,
    PaceOptions,
    RecipeOptions,
)
from gptloom.config.tuning import AdapterOptions, LogOptions, PartOptions, TuningOptions

Method = Literal["full", "lora", "last"]


class ConversationOptions(Options):
    """How rows become conversations, and conversations tokens."""

    format: (
        Literal["prompt-completion", "instruction", "messages", "sharegpt", "transcript", "preference", "text"] | None
    ) = Field(None, description="of the rows (default: looked at, file by file, and said)")
    template: Annotated[str | None, Metavar("NAME|FILE.jinja")] = Field(
        None,
        description="gptloom, chatml, alpaca, llama, plain, tokenizer, or a file (default: what BASE was tuned with; "
        "plain for prepared files; else gptloom, or alpaca where embeddings are frozen)",
    )
    max_length: int | None = Field(None, gt=4, description="longest example in tokens (default: the context of BASE)")


class SftOptions(
    ConversationOptions,
    PartOptions,
    AdapterOptions,
    TuningOptions,
    LogOptions,
    BudgetOptions,
    PaceOptions,
    LimitOption,
    MachineOptions,
    OutputOptions,
    RecipeOptions,
):
    """``gptloom sft BASE --data ...``."""

    base: Annotated[str, POSITIONAL] = Field(description="run, model folder, or hf:NAME")
    data: Annotated[list[str], Metavar("FILE[@WEIGHT]")] = Field(
        min_length=1, description="conversations, or prompts and responses; @0.5 takes half of a file in each pass"
    )
    valid: Annotated[list[str], Metavar("FILE")] = Field(
        [], description="held-out rows; each file is a task of its own"
    )
    valid_share: float = Field(0.05, gt=0, lt=1, description="without --valid: share of the rows that is held out")
    method: Method = Field("full", description="train everything, low-rank adapters, or the last blocks")
    mix_temperature: float | None = Field(
        None, gt=0, description="files count as their size to the power 1/T (1: by size; large: all alike)"
    )
    prompt_loss_weight: float = Field(0.0, ge=0, le=1, description="weight of the prompt's tokens in the loss")
    packing: bool = Field(True, description="examples behind one another without padding, each seeing itself alone")
    replay: float = Field(
        0.0, ge=0, lt=1, description="share of the tokens that is pretraining text, against forgetting"
    )
    replay_data: Annotated[list[str], Metavar("FILE")] = Field(
        [], description="that text (default: what BASE was pretrained on)"
    )
    smoke_prompts: int = Field(20, ge=0, description="training prompts, and held-out ones, answered before and after")
