"""Options of ``gptloom generate``, and the sampling options that every caller of the generation room uses. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import (
    POSITIONAL,
    CompileOption,
    DeviceOption,
    JsonOption,
    Metavar,
    Options,
    OutOption,
    OverwriteOption,
    QuietOption,
    ThreadsOption,
)

GenerationPrecision = Literal["auto", "fp32", "bf16", "fp16", "int8"]

# What beam search takes beside its own two options; every other sampling option would be ignored, so it is refused.
_BEAM_OPTIONS = frozenset({"beams", "length_penalty", "n", "max_tokens", "truncate_prompt"})


class SamplingOptions(Options):
    """How a completion is drawn. The order of the transformations is documented in ``gptloom.generation.sampling``."""

    max_tokens: int = Field(200, gt=0, description="most tokens a completion may have")
    temperature: float = Field(1.0, ge=0, description="divides the logits; 0 always takes the likeliest token")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens only (0: from all)")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the fewest tokens that hold this much probability")
    min_p: float = Field(0.0, ge=0, le=1, description="drop tokens below this share of the likeliest one's probability")
    repetition_penalty: float = Field(1.0, gt=0, description="weakens tokens of the prompt and the completion (1: off)")
    presence_penalty: float = Field(0.0, description="subtracted from the logit of every token written so far")
    frequency_penalty: float = Field(0.0, description="subtracted once for every time a token was written so far")
    logit_bias: Annotated[dict[int, float], Metavar("ID=BIAS,...")] = Field(
        {}, description="added to the logits of these token ids (in Python a dict)"
    )
    stop: list[str] = Field([], description="texts that end a completion; they are not part of it")
    seed: int | None = Field(
        None, ge=0, lt=2**62, description="makes the draws repeatable (default: a fresh one, told)"
    )
    n: int = Field(1, gt=0, description="completions per prompt")
    best_of: int | None = Field(
        None, gt=0, description="write this many and keep the n of highest log-probability per token (default: n)"
    )
    logprobs: int = Field(0, ge=0, description="tell this many of the likeliest tokens at each place")
    beams: int = Field(1, gt=0, description="beam search of this width instead of drawing (1: off)")
    length_penalty: float = Field(
        0.0, ge=0, description="α of beam search: scores are divided by ((5 + length) / 6)^α, as GPT-3's were"
    )
    ignore_eot: bool = Field(False, description="write on after end-of-text, up to max_tokens")
    truncate_prompt: bool = Field(
        False, description="of a prompt that is too long keep the last part instead of refusing it"
    )

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _read_biases(cls, value: Any) -> Any:
        """``50256=-100,13=2`` as typed on a command line."""
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(name.strip().isdigit() and bias for name, _, bias in pairs):
            raise ValueError("is not of the form ID=BIAS,ID=BIAS")
        return {name.strip(): bias for name, _, bias in pairs}

    @model_validator(mode="after")
    def _check(self) -> SamplingOptions:
        problems = []
        if self.best_of is not None and self.best_of < self.n:
            problems.append(
                Problem(f"best_of {self.best_of} is less than n {self.n}", mend="keep at most as many as are written")
            )
        if "" in self.stop:
            problems.append(Problem("a stop text is empty, so every completion would end at once"))
        negative = [token_id for token_id in self.logit_bias if token_id < 0]
        if negative:
            problems.append(Problem(f"logit_bias names the id {negative[0]}; ids start at 0"))
        if self.beams > 1:
            problems += self._beam_problems()
        elif self.length_penalty:
            problems.append(
                Problem("length_penalty belongs to beam search", mend="give beams as well, such as beams 4")
            )
        if problems:
            raise UserError(*problems)
        return self

    def _beam_problems(self) -> list[Problem]:
        problems = []
        for name in SamplingOptions.model_fields:
            default = SamplingOptions.model_fields[name].default
            if name not in _BEAM_OPTIONS and getattr(self, name) != default:
                problems.append(
                    Problem(f"beam search draws nothing, so {name} would be ignored", mend=f"drop {name} or beams")
                )
        if self.n > self.beams:
            problems.append(Problem(f"n {self.n} is more than the {self.beams} beams", mend=f"beams {self.n}"))
        return problems

    @property
    def written(self) -> int:
        """How many completions are written for a prompt, before the best are kept."""
        return self.best_of or self.n


class GenerateOptions(
    SamplingOptions, DeviceOption, ThreadsOption, CompileOption, OutOption, OverwriteOption, JsonOption, QuietOption
):
    """What ``gptloom generate`` takes."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder, hf:NAME, or preset with --untrained")
    prompt: list[str] = Field([], description="texts to continue; - reads standard input, '' starts a new document")
    prompts: Annotated[str | None, Metavar("FILE")] = Field(
        None, description="file with a prompt on each line, as text or as JSON lines with a field prompt (- is stdin)"
    )
    show_choices: int | None = Field(None, gt=0, description="instead of writing, show this many likeliest next tokens")
    stream: bool | None = Field(None, description="print text as it is written (default: one completion at a terminal)")
    slots: int = Field(16, gt=0, description="completions written side by side")
    precision: GenerationPrecision = Field(
        "auto", description="numbers the weights are kept in (auto: bf16 where the hardware multiplies it fast)"
    )
    untrained: bool = Field(False, description="accept a preset, whose weights are random")

    @model_validator(mode="after")
    def _check_command(self) -> GenerateOptions:
        problems = []
        if self.prompt and self.prompts is not None:
            problems.append(Problem("both prompt and prompts are given", mend="give one of them"))
        if not self.prompt and self.prompts is None:
            mend = "--prompt TEXT, --prompts FILE, or --prompt '' for a new document"
            problems.append(Problem("there is no prompt", mend=mend))
        if self.show_choices is not None:
            used = self.model_fields_set & {*SamplingOptions.model_fields, "out", "stream", "slots", "compile"}
            problems += [Problem(f"show_choices writes nothing, so {name} would be ignored") for name in sorted(used)]
        if self.stream and (self.out or self.json_ or self.prompts or len(self.prompt) > 1):
            problems.append(
                Problem("stream prints one completion as it is written, so it takes one prompt, no out, no json")
            )
        if self.stream and (self.written > 1 or self.beams > 1):
            problems.append(
                Problem("stream prints one completion as it is written, so n, best_of and beams exclude it")
            )
        if self.overwrite and self.out is None:
            problems.append(Problem("overwrite does nothing without out"))
        if problems:
            raise UserError(*problems)
        return self
