"""The options of ``gptloom verify-resume`` and ``gptloom rerun``."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import (
    POSITIONAL,
    JsonOption,
    Metavar,
    Options,
    OutOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)
from gptloom.config.pretrain import Files


class VerifyResumeOptions(ThreadsOption, SeedOption, JsonOption, QuietOption):
    """``gptloom verify-resume [MODEL]``: what is trained, how often it is killed, and with how many processes."""

    model: Annotated[str | None, POSITIONAL] = Field(
        None, description="preset to train (default: the quickstart's model, on short sequences)"
    )
    data: Files = Field([], description="text to train on (default: text that this Python carries)")
    steps: int = Field(24, ge=4, description="length of the training")
    kills: int = Field(3, gt=0, description="how often it is killed and resumed, for each entry of --processes")
    processes: Annotated[list[str], Metavar("FROM:TO")] = Field(
        ["1:1"], description="training processes before the first kill, and after it"
    )
    strategy: Literal["ddp", "fsdp", "hsdp"] | None = Field(
        None, description="how several processes share the model (as in gptloom pretrain)"
    )
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="what moves the weights")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="numbers to compute with")
    keep_files: bool = Field(False, description="keep the runs that were compared (always kept when they differ)")

    @field_validator("processes")
    @classmethod
    def _are_pairs(cls, value: list[str]) -> list[str]:
        wrong = [entry for entry in value if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", entry)]
        if wrong:
            what = "two numbers of processes are expected, before and after the kill"
            raise UserError(*(Problem(what, f"--processes {entry}", "--processes 1:2") for entry in wrong))
        if not value:
            raise UserError(Problem("--processes names nothing to try", mend="--processes 1:1"))
        return value

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """``--processes`` as numbers; a single one stays the same all along."""
        return [(int(entry.split(":")[0]), int(entry.split(":")[-1])) for entry in self.processes]


class RerunOptions(OutOption, JsonOption, QuietOption, Options):
    """``gptloom rerun RUN``: everything else is stored in the run."""

    run: Annotated[str, POSITIONAL] = Field(description="finished run folder")
    verify: bool = Field(False, description="compare the repetition with the run")
    tolerance: float | None = Field(
        None, gt=0, description="relative difference of losses to allow (default: where nothing changed, no bit)"
    )
