"""The options of ``gptloom fill-mask``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import POSITIONAL, DeviceOption, JsonOption, QuietOption, ThreadsOption


class FillMaskOptions(DeviceOption, ThreadsOption, JsonOption, QuietOption):
    """``gptloom fill-mask MODEL --text ...``."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder, hf:NAME, or preset with --untrained")
    text: list[str] = Field(
        min_length=1, description="texts with [MASK] where a word is missing; - reads standard input, a text a line"
    )
    top: int = Field(5, gt=0, description="words shown for each mask, likeliest first")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="numbers to compute with (auto: bf16 for large models where the hardware multiplies it fast)",
    )
    untrained: bool = Field(False, description="accept a preset, whose weights are random")
