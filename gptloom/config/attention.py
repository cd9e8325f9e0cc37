"""The options of ``gptloom attention``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gptloom.config.options import (
    POSITIONAL,
    DeviceOption,
    JsonOption,
    Metavar,
    OverwriteOption,
    QuietOption,
    ThreadsOption,
)


class AttentionOptions(DeviceOption, ThreadsOption, OverwriteOption, JsonOption, QuietOption):
    """``gptloom attention MODEL --text ... --out attention.html``."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder, hf:NAME, or preset with --untrained")
    text: str = Field(min_length=1, description="what the model reads")
    second: str | None = Field(None, description="the second text of a pair, for models that read pairs")
    out: Annotated[str, Metavar("FILE.html")] = Field("attention.html", description="the page to write")
    untrained: bool = Field(False, description="accept a preset, whose weights are random")
