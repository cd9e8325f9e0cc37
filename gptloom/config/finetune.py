"""The options of ``gptloom finetune``, ``predict`` and ``compare``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import (
    POSITIONAL,
    BudgetOptions,
    DeviceOption,
    JsonOption,
    LimitOption,
    MachineOptions,
    Metavar,
    Options,
    OutOption,
    OutputOptions,
    OverwriteOption,
    PaceOptions,
    PrecisionOption,
    QuietOption,
    RecipeOptions,
    ThreadsOption,
)
from gptloom.config.task import Pooling, Preprocess, Task
from gptloom.config.tuning import AdapterOptions, LogOptions, PartOptions, TuningOptions

METHODS = ("feature", "last", "full", "lora")
Column = Annotated[str | None, Metavar("COLUMN")]


class ColumnOptions(Options):
    """Which column of a table is what."""

    text: Column = Field(None, description="column with the text, premise, context or words (default: guessed)")
    second: Column = Field(
        None, description="column with the hypothesis, second sentence, or the question about --text"
    )
    label: Column = Field(None, description="column with the class, score, choice, tags or answer (default: guessed)")
    choices: Annotated[list[str], Metavar("COLUMN")] = Field(
        [], description="choice: a column for each, or one with lists"
    )
    start: Column = Field(None, description="span: column with the character where the answer begins")
    header: bool | None = Field(None, description="whether csv and tsv begin with names (default: looked at)")


class TaskInputOptions(Options):
    """How a row becomes token ids."""

    max_length: int | None = Field(None, gt=4, description="longest row in tokens (default: the model's context)")
    cut: Literal["end", "start"] = Field("end", description="which side of a longer text is left out")
    preprocess: list[Preprocess] = Field([], description="changes to every text, in this order; they usually hurt")


class MethodOptions(Options):
    """What of the model is trained, and how."""

    method: Literal["feature", "last", "full", "lora", "all"] = Field(
        "full", description="frozen features, the last blocks, everything, low-rank adapters; all: each, compared"
    )
    classifier: Literal["logistic", "linear"] | None = Field(
        None,
        description="feature: scikit-learn's logistic regression, or the head on the task's loss (default: by task)",
    )
    pooling: Pooling | None = Field(
        None, description="whose hidden state stands for the text (default: the mean for feature, else by the model)"
    )


class LearningOptions(TuningOptions):
    """How the weights move, and by which loss."""

    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of body and head (default: the body's own, and 0.1)"
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="learning rate of each layer over that of the next one")
    lm_weight: float | None = Field(
        None, ge=0, description="weight of the next-word loss beside the task's (default: GPT-1's 0.5 for full, else 0)"
    )
    class_weights: list[str] = Field(
        [], description="balanced, or label=weight for each: how much an example of a class counts"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label spread over all classes")
    metric: str | None = Field(None, description="by which the best step is chosen (default: the task's)")
    seeds: int | None = Field(None, gt=1, description="train so often, with seeds from --seed on: mean and error")


class FinetuneOptions(
    ColumnOptions,
    TaskInputOptions,
    MethodOptions,
    PartOptions,
    AdapterOptions,
    LearningOptions,
    LogOptions,
    BudgetOptions,
    PaceOptions,
    LimitOption,
    MachineOptions,
    OutputOptions,
    RecipeOptions,
):
    """``gptloom finetune BASE --task ... --data ...``."""

    base: Annotated[str, POSITIONAL] = Field(description="run, model folder, hf:NAME, or preset with --untrained")
    task: Task = Field(description="what is asked of the model")
    data: Annotated[list[str], Metavar("FILE")] = Field(
        min_length=1, description="training rows: csv, tsv, jsonl, json, parquet or xlsx"
    )
    valid: Annotated[list[str], Metavar("FILE")] = Field([], description="rows that choose the best step")
    valid_share: float = Field(0.1, gt=0, lt=1, description="without --valid: share of the rows that is held out")
    test: Annotated[list[str], Metavar("FILE")] = Field([], description="rows for the final figures only")
    tokenizer: str | None = Field(None, description="for a preset: tokenizer folder, file or name")
    untrained: bool = Field(False, description="accept a preset, whose weights are random")
    fresh: bool = Field(False, description="random weights of the shape of BASE: what pretraining is worth")


class RolesOption(Options):
    columns: Annotated[list[str], Metavar("ROLE=COLUMN")] = Field(
        [], description="where columns are called otherwise than in training: text=review label=stars"
    )
    header: bool | None = Field(None, description="whether csv and tsv begin with names (default: looked at)")


class PredictOptions(
    RolesOption, DeviceOption, PrecisionOption, ThreadsOption, OutOption, OverwriteOption, JsonOption, QuietOption
):
    """``gptloom predict MODEL --data FILE`` or ``--text ...``."""

    model: Annotated[str, POSITIONAL] = Field(description="fine-tuned run, model folder or hf:NAME")
    data: Annotated[list[str], Metavar("FILE")] = Field([], description="rows: csv, tsv, jsonl, json, parquet or xlsx")
    text: list[str] = Field([], description="texts instead of --data; - reads standard input, a text a line")
    second: list[str] = Field([], description="the second text of each --text: hypothesis, sentence, question")
    choices: list[str] = Field([], description="choice: what a single --text may be answered with")
    rows: int = Field(10, ge=0, description="without --out: so many rows are printed")
    mistakes: int = Field(10, ge=0, description="with labels: so many of the most confident mistakes are shown")


class CompareOptions(RolesOption, DeviceOption, PrecisionOption, ThreadsOption, OutOption, JsonOption, QuietOption):
    """``gptloom compare MODEL MODEL ... --data FILE``."""

    models: Annotated[list[str], POSITIONAL] = Field(min_length=2, description="fine-tuned runs or model folders")
    data: Annotated[list[str], Metavar("FILE")] = Field(min_length=1, description="labelled rows")
    seed: int = Field(1337, ge=0, description="of the bootstrap")
