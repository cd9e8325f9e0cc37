"""The base of every command's options, and the mixins that give an option the same name and meaning everywhere.

A command's options are one flat model, put together from the mixins it can honour (an option that would do nothing
for a command is left out, so that giving it is an error)::

    class ShowOptions(JsonOption):
        tokenizer: Annotated[str, POSITIONAL] = Field(description="tokenizer folder, file, or gpt2")
        text: list[str] = Field([], description="texts to show the tokens of")
        vocab_size: int | None = Field(None, gt=0, description="number of ids (default: from the amount of text)")

* The description of a field is its line in ``--help``; a field that is None until derived says by what in parentheses.
* ``list[...]`` options take several values, repeats, or both; a plain string in Python or YAML is a list of one.
* ``bool`` with default False is a plain flag, ``bool | None`` (and default True) is ``--name/--no-name``.
* ``Annotated[..., POSITIONAL]`` is given without a name (BASE, RUN, MODEL); ``Metavar("FILE")`` names a value in help.
* Wrong values raise ``UserError`` with every problem at once, worded for the place they came from.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

from gptloom.config.problems import Origins, problems_of


@dataclass(frozen=True)
class Positional:
    """Marks an option that is given by its place: the BASE, RUN or MODEL of a command."""


@dataclass(frozen=True)
class CommandLineOnly:
    """Marks an option that only means something in a terminal, so that Python refuses it."""


@dataclass(frozen=True)
class Metavar:
    """What ``--help`` calls the value of an option (``FILE``) instead of its type."""

    text: str


@dataclass(frozen=True)
class Short:
    """A second spelling of a flag on the command line, with one dash: ``-q``."""

    spelling: str


POSITIONAL = Positional()
COMMAND_LINE_ONLY = CommandLineOnly()


class Options(BaseModel):
    """Options of one command: unknown names are refused, values never change. ``UserError`` when a value is wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @model_validator(mode="wrap")
    @classmethod
    def _translate(cls, values: Any, handler: Callable[[Any], Self], info: ValidationInfo) -> Self:
        """Accepts paths as text and one text as a list of one, and turns pydantic's errors into ours."""
        if not isinstance(values, Mapping):
            return handler(values)
        kinds = option_fields(cls)
        plain = {name: _plain(value, kinds.get(name)) for name, value in values.items()}
        try:
            return handler(plain)
        except ValidationError as error:
            origins = info.context if isinstance(info.context, Origins) else Origins()
            needed = [name for name, field in kinds.items() if is_positional(field)]
            raise problems_of(error, list(kinds), needed, origins) from None

    def option(self, name: str) -> Any:
        """The value of the option ``name`` (its public name: ``json``, where the attribute is ``json_``)."""
        return getattr(self, attribute_name(type(self), name))


def option_fields(options: type[Options]) -> dict[str, FieldInfo]:
    """Option name → field, in the order of ``--help``: a command's own options first, then each mixin's."""
    names: dict[str, FieldInfo] = {}
    for base in options.__mro__:
        for attribute in inspect.get_annotations(base):
            field = options.model_fields.get(attribute)
            if field is not None:
                names.setdefault(field.alias or attribute, field)
    return names


def attribute_name(options: type[Options], name: str) -> str:
    """The Python attribute of an option: its name, unless ``BaseModel`` has something of that name already."""
    return next(attribute for attribute, field in options.model_fields.items() if (field.alias or attribute) == name)


def is_positional(field: FieldInfo) -> bool:
    """Whether the option is given by its place on the command line."""
    return POSITIONAL in field.metadata


def is_list(field: FieldInfo) -> bool:
    """Whether the option takes several values."""
    return any(get_origin(kind) in (list, tuple) for kind in (field.annotation, *get_args(field.annotation)))


def _plain(value: Any, field: FieldInfo | None) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if field is None or not is_list(field):
        return value
    if isinstance(value, list | tuple):
        return [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
    return value if value is None else [value]


# ---- the machine -----------------------------------------------------------------------------------------------------


class DeviceOption(Options):
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute (auto: the fastest)")


class PrecisionOption(Options):
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="numbers to compute with (auto: bf16 where the hardware multiplies it fast)"
    )


class ThreadsOption(Options):
    threads: int | None = Field(None, gt=0, description="CPU threads (default: the physical cores)")


class CompileOption(Options):
    compile: bool | None = Field(None, description="compile with torch.compile (default: where it pays and works)")


class SeedOption(Options):
    seed: int = Field(1337, ge=0, description="seed of every random draw")


class MachineOptions(DeviceOption, PrecisionOption, ThreadsOption, CompileOption, SeedOption):
    """Where and how to compute."""


class ParallelOptions(Options):
    """Which processes train together, and how they share the model."""

    processes: int | None = Field(None, gt=0, description="training processes on each machine (default: 1)")
    nodes: Annotated[list[str], Metavar("HOST")] = Field(
        [], description="the machines that train together; the same command is run on each, they meet at the first"
    )
    port: int = Field(29400, gt=0, lt=65536, description="where the processes of --nodes meet, on the first machine")
    elastic: bool = Field(False, description="when a machine is lost, go on from the last checkpoint with the others")
    strategy: Literal["ddp", "fsdp", "hsdp"] | None = Field(
        None, description="the model whole in each process, sharded over all, or over each machine (default: what fits)"
    )
    tensor_parallel: int = Field(1, gt=0, description="processes that share each layer's matrices")
    offload: bool = Field(False, description="keep parameters and optimizer in the memory of the CPU (GPUs only)")
    recompute: bool = Field(False, description="compute activations again in the backward pass instead of keeping them")
    timeout: float = Field(600.0, gt=0, description="seconds without progress after which a run is given up")


class DurabilityOptions(Options):
    """What a run does about signals, disks and repeatability."""

    save_on_signal: Annotated[list[str], Metavar("NAME")] = Field(
        [], description="further signals that save and end the run, e.g. USR1 for Slurm (always: TERM, INT, HUP)"
    )
    async_save: bool = Field(False, description="copy a checkpoint aside and write it while training goes on")
    wait_for_disk: float = Field(30.0, ge=0, description="minutes to wait for room when the disk is full in mid-run")
    deterministic: bool = Field(False, description="refuse operations whose result may differ from run to run")


# ---- how long, how often ---------------------------------------------------------------------------------------------


class BudgetOptions(Options):
    """When to stop: the first budget that is reached ends the run."""

    max_steps: int | None = Field(None, gt=0, description="stop after this many optimizer steps")
    max_epochs: float | None = Field(None, gt=0, description="stop after this many passes over the training text")
    max_minutes: float | None = Field(None, gt=0, description="stop after about this many minutes")
    max_train_tokens: int | None = Field(None, gt=0, description="stop after this many training tokens")


class LimitOption(Options):
    limit_batches: int | None = Field(None, gt=0, description="use at most this many batches in each evaluation")


class PaceOptions(Options):
    """How often a run speaks, evaluates and saves, in optimizer steps."""

    log_every: int | None = Field(None, gt=0, description="steps between log lines (default: from the run's length)")
    eval_every: int | None = Field(None, gt=0, description="steps between evaluations (default: from the run's length)")
    save_every: int | None = Field(None, gt=0, description="steps between checkpoints (default: from the run's length)")


# ---- output ----------------------------------------------------------------------------------------------------------


class OutOption(Options):
    out: Annotated[str | None, Metavar("PATH")] = Field(None, description="where to write")


class OverwriteOption(Options):
    overwrite: bool = Field(False, description="replace what is already there")


class JsonOption(Options):
    # The attribute is json_ because BaseModel has a method json; on the command line the option is --json.
    json_: Annotated[bool, COMMAND_LINE_ONLY] = Field(
        False, alias="json", description="print one JSON document on stdout, messages on stderr"
    )


class QuietOption(Options):
    quiet: bool = Field(False, description="print only the result and errors")


class YesOption(Options):
    yes: bool = Field(False, description="answer every question with yes")


class DryRunOption(Options):
    dry_run: bool = Field(False, description="check everything and say what it will cost; write nothing")


class OutputOptions(OutOption, OverwriteOption, DryRunOption, JsonOption, QuietOption, YesOption):
    """What a command that makes a run writes and prints."""


class RecipeOptions(Options):
    recipe: Annotated[str | None, Metavar("NAME|FILE.yaml")] = Field(
        None, description="named options to start from (gptloom recipes list); options given here win"
    )
