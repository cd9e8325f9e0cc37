"""The options of ``gptloom evaluate``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import (
    POSITIONAL,
    DeviceOption,
    JsonOption,
    Metavar,
    QuietOption,
    SeedOption,
    ThreadsOption,
)


class AnswerOptions(SeedOption):
    """Scoring what an instructed model answers, instead of how well it predicts text."""

    answers: bool | None = Field(
        None, description="let the model answer, and score that (default: an instructed model, and conversations)"
    )
    rows: int | None = Field(None, gt=0, description="answers: so many of each task, chosen by --seed (default: all)")
    max_tokens: int | None = Field(
        None, gt=0, description="answers: longest one in tokens (default: from the task's longest right answer)"
    )
    samples: int = Field(3, ge=0, description="answers: so many of each task are printed")


class EvaluateOptions(AnswerOptions, DeviceOption, ThreadsOption, JsonOption, QuietOption):
    """``gptloom evaluate MODEL --data ...``."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder, hf:NAME, or preset with --untrained")
    data: Annotated[list[str], Metavar("FILE|FOLDER|GLOB")] = Field(
        min_length=1, description="text to predict, token shards, or conversations to answer; - reads standard input"
    )
    stride: int | None = Field(
        None, gt=0, description="tokens between the beginnings of windows (default: the context, windows end to end)"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="numbers to compute with (auto: bf16 for large models where the hardware multiplies it fast)",
    )
    text_column: str | None = Field(None, description="column or key of the text in tables and JSON lines")
    document_separator: str | None = Field(None, description="string that parts documents inside text files")
    encoding: str = Field("utf-8", description="character encoding of text files")
    untrained: bool = Field(False, description="accept a preset, whose weights are random")
