"""``gptloom models [show NAME]``: the presets, counted from their configuration without building them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.model import FAMILIES, ModelConfig, preset, presets
from gptloom.config.options import POSITIONAL, JsonOption
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import human_bytes, human_count

DISK_BYTES = 4
"""A weight in a model folder: fp32."""
TRAINING_BYTES = 16
"""A weight in training: itself, its gradient and AdamW's two moments, each in fp32. Activations come on top."""


class ModelsOptions(JsonOption):
    """Options of ``gptloom models``."""


class ShowOptions(JsonOption):
    """Options of ``gptloom models show``."""

    name: Annotated[str, POSITIONAL] = Field(description="preset: FAMILY-SIZE, or a size, which means modern")


@dataclass(frozen=True)
class ModelSummary:
    """A preset with its own vocabulary and context, and what follows from them by counting."""

    name: str
    parameters: int
    n_layer: int
    d_model: int
    n_head: int
    context: int
    vocab_size: int
    disk_bytes: int
    training_bytes: int


def summarise(name: str) -> ModelSummary:
    """Counts the preset ``name``; a run takes its tokenizer's vocabulary instead and differs by that."""
    from gptloom.model.counting import count_parameters

    config = ModelConfig(**preset(name))
    parameters = count_parameters(config).total
    return ModelSummary(
        name=name,
        parameters=parameters,
        n_layer=config.n_layer,
        d_model=config.d_model,
        n_head=config.n_head,
        context=config.context,
        vocab_size=config.vocab_size,
        disk_bytes=DISK_BYTES * parameters,
        training_bytes=TRAINING_BYTES * parameters,
    )


def all_models(resolved: Resolved[ModelsOptions]) -> list[ModelSummary]:
    """Every preset, smallest first within its family."""
    rows = [summarise(name) for name in presets()]
    return sorted(rows, key=lambda row: (row.name.split("-")[0], row.parameters))


def one_model(resolved: Resolved[ShowOptions]) -> dict[str, Any]:
    """The whole configuration of a preset. ``UserError`` with the nearest names when there is none."""
    name = resolved.options.name
    if name in FAMILIES and name not in presets():
        sizes = [full.removeprefix(f"{name}-") for full in presets() if full.startswith(f"{name}-")]
        raise UserError(Problem(f"{name} is a family; its sizes are {', '.join(sizes)}", mend=f"{name}-{sizes[0]}"))
    return ModelConfig(**preset(name)).model_dump()


def run_models(resolved: Resolved[ModelsOptions], out: Output) -> None:
    """Lists the model presets with their sizes.

    A bare size means the modern family: small is modern-small. The vocabulary is the preset's own; a run takes its
    tokenizer's. Training memory is weights, gradients and AdamW's state in fp32; activations come on top.
    """
    models = all_models(resolved)
    header = ("preset", "parameters", "layers", "width", "heads", "context", "vocabulary", "on disk", "to train")
    rows = [
        (
            model.name,
            human_count(model.parameters),
            model.n_layer,
            model.d_model,
            model.n_head,
            f"{model.context:,}",
            f"{model.vocab_size:,}",
            human_bytes(model.disk_bytes),
            human_bytes(model.training_bytes),
        )
        for model in models
    ]
    out.table(header, rows, right=header[1:])
    out.document([asdict(model) for model in models])


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Prints the whole configuration of a preset."""
    config = one_model(resolved)
    out.table(("field", "value"), [(name, "none" if value is None else value) for name, value in config.items()])
    out.document(config)


COMMANDS = {"models": Command(ModelsOptions, run_models), "models show": Command(ShowOptions, run_show)}
models = python_function("models", ModelsOptions, all_models)
models_show = python_function("models_show", ShowOptions, one_model)
