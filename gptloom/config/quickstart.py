"""The options of ``gptloom quickstart``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import JsonOption, MachineOptions, Metavar, OverwriteOption, QuietOption


class QuickstartOptions(OverwriteOption, MachineOptions, JsonOption, QuietOption):
    """``gptloom quickstart``: which text, which stages, how long."""

    minutes: float | None = Field(
        None, gt=0, description="training time of all stages together (default: what each is made for)"
    )
    stages: Annotated[list[str], Metavar("NAME,NAME")] = Field([], description="run these stages only (default: all)")
    fast: bool = Field(False, description="a tiny model and few steps: try everything out in less than a minute")
    corpus: Annotated[str | None, Metavar("PATH|shakespeare")] = Field(
        None, description="text of your own, or Tiny Shakespeare (default: the text that this Python carries)"
    )
    out: Annotated[str, Metavar("PATH")] = Field("runs/quickstart", description="where to write")

    @field_validator("stages", mode="before")
    @classmethod
    def _part_at_commas(cls, value: Any) -> Any:
        """``pretrain,sft`` as typed on a command line."""
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            return value
        return [name.strip() for entry in value for name in entry.split(",") if name.strip()]

    @model_validator(mode="after")
    def _one_length(self) -> QuickstartOptions:
        if self.fast and self.minutes is not None:
            raise UserError(
                Problem("fast has a length of its own, so minutes would be ignored", mend="give one of them")
            )
        return self
