"""How a conversation becomes text for one model: what lies in its folder, and the options of ``gptloom chat``. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gptloom.config.options import (
    POSITIONAL,
    CompileOption,
    DeviceOption,
    Metavar,
    QuietOption,
    ThreadsOption,
)

Template = Literal["gptloom", "chatml", "alpaca", "llama", "plain", "tokenizer"]


class ChatFormat(BaseModel):
    """Everything that turns messages into token ids; lies in the model folder (``gptloom.json``, key ``chat``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    template: str = Field(description="its name: a built-in one, tokenizer (the model's own), or the name of a file")
    jinja: str = Field(description="the template itself, as transformers' chat_template")
    end: str = Field(description="spelling of the special token that ends each answer, in training and in service")
    separator: str = Field("", description="plain: what ends a prompt; chat puts it behind what a person typed")
    stop: str = Field("", description="plain: the text that ends a completion, before the end token")

    @property
    def several_turns(self) -> bool:
        """Whether more than one question and answer can be rendered."""
        return self.template != "plain"


class ChatOptions(DeviceOption, ThreadsOption, CompileOption, QuietOption):
    """``gptloom chat MODEL``."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder or hf:NAME")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto", description="what the weights are kept in"
    )
    system: Annotated[str | None, Metavar("TEXT")] = Field(None, description="system message at the start")
    message: Annotated[list[str], Metavar("TEXT")] = Field(
        [], description="ask these one after another and end; - reads standard input, a message a line"
    )
    max_tokens: int = Field(512, gt=0, description="most tokens of an answer")
    temperature: float = Field(0.7, ge=0, description="divides the logits; 0 always takes the likeliest token")
    top_p: float = Field(0.9, gt=0, le=1, description="draw from the fewest tokens that hold this much probability")
    repetition_penalty: float = Field(1.0, gt=0, description="weakens tokens that are there already (1: off)")
    seed: int | None = Field(None, ge=0, lt=2**62, description="makes the draws repeatable")
