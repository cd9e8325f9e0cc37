"""The options of ``gptloom launch``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gptloom.config.options import POSITIONAL, JsonOption, Metavar, ParallelOptions, QuietOption

_PARALLEL = ParallelOptions.model_fields


class LaunchOptions(JsonOption, QuietOption):
    """``gptloom launch --nodes ... -- pretrain --data ...``."""

    command: Annotated[list[str], POSITIONAL, Metavar("-- COMMAND")] = Field(
        min_length=1, description="the training, after two dashes: -- pretrain --data ... --out ..."
    )
    nodes: Annotated[list[str], Metavar("HOST|NUMBER")] = Field(
        min_length=1, description="the machines that train together; for Slurm their number is enough"
    )
    processes: int = Field(1, gt=0, description="training processes on each machine, usually one for each GPU")
    port: int = Field(_PARALLEL["port"].default, gt=0, lt=65536, description=_PARALLEL["port"].description)
    elastic: bool = Field(False, description=_PARALLEL["elastic"].description)
    slurm: bool = Field(False, description="print a Slurm script instead of a line for each machine")
    time: Annotated[str | None, Metavar("HH:MM:SS")] = Field(None, description="time limit of the Slurm job")
    partition: str | None = Field(None, description="partition of the Slurm job")
