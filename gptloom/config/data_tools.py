"""The options of ``gptloom data check``, ``data prepare`` and ``data instruct``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.finetune import ColumnOptions
from gptloom.config.options import (
    POSITIONAL,
    JsonOption,
    Metavar,
    Options,
    OutOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    YesOption,
)
from gptloom.config.sft import ConversationOptions
from gptloom.config.task import Task

CheckedStage = Literal["sft", "dpo", "reward", "finetune", "pretrain"]


class ReaderOption(Options):
    model: Annotated[str | None, Metavar("MODEL")] = Field(
        None, description="whose tokenizer counts, and whose template and context hold: run, folder or hf:NAME"
    )


class CheckOptions(ConversationOptions, ReaderOption, JsonOption, QuietOption):
    """``gptloom data check FILE ... --stage STAGE``."""

    data: Annotated[list[str], POSITIONAL] = Field(min_length=1, description="files to check")
    stage: CheckedStage = Field("sft", description="what the data is for")
    valid: Annotated[list[str], Metavar("FILE")] = Field([], description="held-out files: rows of both are told")
    task: Task = Field("classify", description="finetune: what is asked of the model")


class PrepareOptions(ReaderOption, OutOption, JsonOption, QuietOption, YesOption):
    """``gptloom data prepare FILE``."""

    data: Annotated[str, POSITIONAL] = Field(description="csv, tsv, xlsx, txt, json, jsonl or parquet")


class InstructOptions(ColumnOptions, OverwriteOption, JsonOption, QuietOption, SeedOption):
    """``gptloom data instruct FILE --task ... --out FILE``: a labelled set as instructions and answers."""

    data: Annotated[list[str], POSITIONAL] = Field(min_length=1, description="labelled rows, or lines of two languages")
    task: Literal["classify", "entail", "similar", "choice", "qa", "arithmetic", "translate", "summarize"] = Field(
        description="what the rows are, which decides how they are asked"
    )
    out: Annotated[str, Metavar("FILE.jsonl")] = Field(description="where the conversations go")
    labels: Annotated[list[str], Metavar("LABEL=WORDS")] = Field(
        [], description="what an answer calls each label, e.g. 0=negative 1=positive"
    )
    languages: Annotated[list[str], Metavar("NAME")] = Field(
        [], description="translate: from and to, e.g. English German"
    )
    about: str | None = Field(None, description='what a text is, e.g. "film review" (default: text)')
    rows: int | None = Field(None, gt=0, description="take so many, chosen by --seed (default: all)")
    templates: int | None = Field(None, gt=0, description="wordings of the instruction (default: all there are)")
