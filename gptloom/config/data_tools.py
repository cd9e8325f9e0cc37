"""The options of ``gptloom data check``, ``data prepare`` and ``data instruct``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import (
    POSITIONAL,
    JsonOption,
    Metavar,
    Options,
    OverwriteOption,
    QuietOption,
    SeedOption,
    Short,
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


class PrepareOptions(ReaderOption, JsonOption, QuietOption):
    """``gptloom data prepare FILE``."""

    data: Annotated[str, POSITIONAL] = Field(description="csv, tsv, xlsx, txt, json, jsonl or parquet")
    out: Annotated[str | None, Metavar("FILE.jsonl|FOLDER")] = Field(
        None, description="where to write (default: beside the input, as FILE_prepared.jsonl)"
    )
    yes: Annotated[bool, Short("-q")] = Field(False, description="do what is recommended, ask nothing (also -q)")


InstructTask = Literal["classify", "entail", "similar", "choice", "qa", "arithmetic", "translate", "summarize"]


class InstructColumnOptions(Options):
    """Which column of a labelled table is what."""

    text: Annotated[str | None, Metavar("COLUMN")] = Field(
        None, description="column with the text, premise, passage, calculation or article (default: guessed)"
    )
    second: Annotated[str | None, Metavar("COLUMN")] = Field(
        None, description="column with the hypothesis, second sentence, or the question about --text"
    )
    label: Annotated[str | None, Metavar("COLUMN")] = Field(
        None, description="column with the class, right choice, answer, result or summary (default: guessed)"
    )
    choices: Annotated[list[str], Metavar("COLUMN")] = Field(
        [], description="choice: a column for each, or one with lists"
    )
    header: bool | None = Field(None, description="whether csv and tsv begin with names (default: looked at)")

    @property
    def start(self) -> None:
        """The place of an answer in its passage is not asked for: answers are written, not pointed at."""


class InstructOptions(InstructColumnOptions, OverwriteOption, JsonOption, QuietOption, SeedOption):
    """``gptloom data instruct FILE --task ... --out FILE``: a labelled set as instructions and answers."""

    data: Annotated[list[str], POSITIONAL] = Field(
        min_length=1, description="labelled rows; SQuAD's json; or lines of two languages, a file of each"
    )
    task: InstructTask = Field(description="what the rows are, which decides how they are asked")
    out: Annotated[str, Metavar("FILE.jsonl")] = Field(
        description="where the conversations go; its name is that of the task"
    )
    labels: Annotated[list[str], Metavar("LABEL=WORDS")] = Field(
        [], description="what an answer calls each label, e.g. 0=negative 1=positive (default: the label itself)"
    )
    languages: Annotated[list[str], Metavar("NAME")] = Field(
        [], description="translate: from and to, e.g. English German"
    )
    about: str | None = Field(
        None, description='classify, summarize: what a text is, e.g. "film review" (default: text)'
    )
    wanted: str | None = Field(
        None,
        description="classify, summarize: what of it is asked for, e.g. sentiment, headline (default: class, summary)",
    )
    reasoning: bool = Field(False, description="qa: answers keep the steps before a final #### ANSWER")
    rows: int | None = Field(None, gt=0, description="take so many, chosen by --seed (default: all)")
    valid_rows: int | None = Field(
        None, gt=0, description="hold so many back, chosen by --seed: they go to FILE_valid.jsonl"
    )
    templates: int | None = Field(None, gt=0, description="wordings of the instruction (default: all there are)")
