"""``gptloom models [show NAME]``: presets beside their papers, and what was imported; counted, never built."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.doors import MODELS
from gptloom.config.errors import UserError
from gptloom.config.model import FAMILIES, ModelConfig, is_preset, preset, presets
from gptloom.config.options import POSITIONAL, JsonOption
from gptloom.config.papers import Paper, paper_of
from gptloom.config.python import python_function
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved
from gptloom.observe.numbers import human_bytes, human_count

DISK_BYTES = 4
"""A weight in a model folder: fp32."""
TRAINING_BYTES = 16
"""A weight in training: itself, its gradient and AdamW's two moments, each in fp32. Activations come on top."""
SERVING_BYTES = 2
"""A weight in service: bf16. The cache of one full context, in bf16 as well, is added."""
PF_DAY = 8.64e19
"""Floating-point operations of a petaFLOP/s in a day (Brown et al. 2020, table D.1)."""
WIDE = 110
"""Columns of a terminal from which on exact counts and vocabularies are shown in the table."""
LABELS = {
    "parameters": "parameters",
    "counted": "counted",
    "n_layer": "layers",
    "d_model": "width",
    "n_head": "heads",
    "head_dim": "head size",
    "d_ff": "MLP width",
    "rotary_dim": "rotated",
    "context": "context",
    "vocab_size": "vocabulary",
    "window": "band",
    "batch_tokens": "batch in tokens",
    "lr": "learning rate",
    "flops": "training FLOPs",
    "pf_days": "PF-days",
}


class ModelsOptions(JsonOption):
    """Options of ``gptloom models``."""


class ShowOptions(JsonOption):
    """Options of ``gptloom models show``."""

    name: Annotated[str, POSITIONAL] = Field(
        description="preset: FAMILY-SIZE, or a size, which means modern; or a model or run folder, or hf:NAME"
    )


@dataclass(frozen=True)
class ModelSummary:
    """A model, what follows from its configuration by counting, and what its paper says of its training.

    A preset has its own vocabulary and context; a run takes its tokenizer's vocabulary and differs by that.
    """

    name: str
    family: str
    imported_from: str | None
    year: int | None
    company: str | None
    paper: str | None
    parameters: int
    n_layer: int
    d_model: int
    n_head: int
    d_ff: int
    context: int
    vocab_size: int
    disk_bytes: int
    training_bytes: int
    serving_bytes: int
    training_data: str | None
    training_tokens: int | None
    tokens: str | None
    applications: str | None


@dataclass(frozen=True)
class Compared:
    """A quantity as the paper prints it, and as it is here."""

    quantity: str
    paper: str
    here: str
    source: str
    why: str | None


@dataclass(frozen=True)
class ShownModel:
    """What ``gptloom models show`` tells of one model."""

    summary: ModelSummary
    compared: list[Compared]
    config: dict[str, Any]


def summarise(name: str, config: ModelConfig, paper: Paper | None, imported_from: str | None = None) -> ModelSummary:
    """Counts a model of ``config``; ``paper`` is None for one that is no preset."""
    from gptloom.model.counting import count_parameters, kv_bytes_per_token

    parameters = count_parameters(config).total
    cache = kv_bytes_per_token(config) * config.context if config.mask == "causal" else 0
    return ModelSummary(
        name=name,
        family=config.family,
        imported_from=imported_from,
        year=paper.year if paper else None,
        company=paper.company if paper else None,
        paper=paper.paper if paper else None,
        parameters=parameters,
        n_layer=config.n_layer,
        d_model=config.d_model,
        n_head=config.n_head,
        d_ff=config.d_ff,
        context=config.context,
        vocab_size=config.vocab_size,
        disk_bytes=DISK_BYTES * parameters,
        training_bytes=TRAINING_BYTES * parameters,
        serving_bytes=SERVING_BYTES * parameters + cache,
        training_data=paper.data if paper else None,
        training_tokens=paper.seen if paper else None,
        tokens=paper.tokens if paper else None,
        applications=paper.applications if paper else None,
    )


def all_models(resolved: Resolved[ModelsOptions]) -> list[ModelSummary]:
    """Every preset, family by family as their papers came, then what was imported into ``models/`` or fetched by ``hf:``."""
    shown = [summarise(name, ModelConfig(**preset(name)), paper_of(name)) for name in presets()]
    return [*shown, *_imported(), *_fetched()]


def _imported() -> Iterator[ModelSummary]:
    """The models in ``models/`` that came from elsewhere; what cannot be read is left out of a list."""
    from gptloom.model.store import read_config, read_lineage

    for folder in sorted(MODELS.glob("*/")):
        try:
            lineage = read_lineage(folder).get("lineage", {})
            if lineage.get("stage") == "import":
                source = lineage.get("source", {}).get("name", "elsewhere")
                yield summarise(folder.as_posix(), read_config(folder), None, str(source))
        except (UserError, OSError):
            continue


def _fetched() -> Iterator[ModelSummary]:
    """The models of the hub that lie in its cache and that gptloom can read."""
    from gptloom.interop.hub import fetched_models
    from gptloom.model.store import read_config

    for name, folder in fetched_models():
        with contextlib.suppress(UserError, OSError):
            yield summarise(f"hf:{name}", read_config(folder), None, "the hub")


def one_model(resolved: Resolved[ShowOptions]) -> ShownModel:
    """A preset beside its paper, or a model that exists. ``UserError`` with the nearest names when there is none."""
    name = resolved.options.name
    if is_preset(name) and not Path(name).exists():
        config, paper = ModelConfig(**preset(name)), paper_of(name)
        shown = summarise(name, config, paper)
        return ShownModel(shown, list(_compare(name, config, shown.parameters, paper)), config.model_dump())
    from gptloom.interop.hub import resolve_model
    from gptloom.model.store import read_config, read_lineage

    folder = resolve_model(name).path
    assert folder is not None, "a preset that is a folder as well"
    config = read_config(folder)
    source = read_lineage(folder).get("lineage", {}).get("source", {}).get("name")
    return ShownModel(summarise(name, config, None, source), [], config.model_dump())


def _compare(name: str, config: ModelConfig, parameters: int, paper: Paper) -> Iterator[Compared]:
    """Each number that the paper prints of the preset ``name``, beside ours."""
    recipe = load_recipe(paper.recipe).for_model(name).options if paper.recipe else {}
    flops = 6 * parameters * paper.seen if paper.seen else None
    here: dict[str, str] = {
        "parameters": f"{parameters:,}",
        "counted": human_count(parameters) if parameters < 1e9 else f"{parameters / 1e6:,.0f}M",
        "rotary_dim": f"{config.rotary_dim} of {config.head_dim}",
        "window": "none" if config.window is None else f"{config.window}",
        "flops": f"{flops:.2e}".replace("e+", "e") if flops else "",
        "pf_days": f"{flops / PF_DAY:.3g}" if flops and flops < 1000 * PF_DAY else f"{(flops or 0) / PF_DAY:,.0f}",
        "batch_tokens": f"{recipe.get('batch_tokens', 0):,}",
        "lr": f"{recipe.get('lr', 0):.1e}".replace("e-0", "e-"),
    }
    printed, reasons = paper.printed(name), paper.repaired(name)
    for quantity in (quantity for quantity in LABELS if quantity in printed):
        ours = here.get(quantity) or f"{getattr(config, quantity):,}"
        told = printed[quantity]
        yield Compared(quantity, told.text, ours, told.source, reasons.get(quantity))


# ---- printed ---------------------------------------------------------------------------------------------------------


def run_models(resolved: Resolved[ModelsOptions], out: Output) -> None:
    """Lists the model presets as the tables of lectures do, family by family, and what was imported into models/.

    A bare size means the modern family: small is modern-small. The vocabulary is the preset's own; a run takes its
    tokenizer's. Disk: weights in fp32. Training: weights, gradients and AdamW's state in fp32; activations come on top.
    Serving: weights in bf16, and the cache of one full context, which banded layers keep whole as well.
    """
    models = all_models(resolved)
    columns = shutil.get_terminal_size().columns
    for family in FAMILIES:
        members = [model for model in models if _heading(model) == family]
        dense = [model for model in members if model.name.endswith("-dense")]
        for line in _about(paper_of(members[0].name), columns):
            out.result(line)
        _table(out, [model for model in members if model not in dense], columns)
        if dense:
            text = f"Each also as {dense[0].name} and so on: without the bands, in the layout of {dense[0].family}."
            out.result(textwrap.fill(text, min(columns, 100)))
        out.result()
    imported = [model for model in models if model.imported_from is not None]
    if imported:
        out.result("From elsewhere")
        _table(out, imported, columns)
        for model in imported:
            out.result(f"{model.name} came from {model.imported_from}")
        out.result()
    out.result("gptloom models show NAME: the numbers of its paper beside those here")
    out.document([asdict(model) for model in models])


def _heading(model: ModelSummary) -> str | None:
    """The family that a preset is listed under."""
    return None if model.imported_from is not None else model.name.split("-")[0]


def _about(paper: Paper, columns: int) -> Iterator[str]:
    """The lines above a family's table."""
    yield " · ".join(filter(None, (paper.title, paper.company, str(paper.year or ""))))
    for what, text in (
        ("", paper.paper),
        ("data: ", paper.data),
        ("tokens: ", paper.tokens),
        ("for: ", paper.applications),
    ):
        yield from textwrap.wrap(what + text, min(columns, 100) - 2, initial_indent="  ", subsequent_indent="    ")


def _table(out: Output, models: Sequence[ModelSummary], columns: int) -> None:
    """The sizes: within 80 columns, and with exact numbers where there is room."""
    wide = columns >= WIDE
    header = ["model", "params", "layers", "width", "heads", "context", "vocab", "disk", "train", "serve"]
    rows = [
        [
            model.name,
            f"{model.parameters:,}" if wide else human_count(model.parameters),
            model.n_layer,
            model.d_model,
            model.n_head,
            f"{model.context:,}" if wide else model.context,
            f"{model.vocab_size:,}" if wide else model.vocab_size,
            *(_bytes(n) for n in (model.disk_bytes, model.training_bytes, model.serving_bytes)),
        ]
        for model in models
    ]
    out.table(header, rows, right=header[1:])


def _bytes(number: int) -> str:
    """``4.3MB``, ``27GB``: at most five characters."""
    figure, unit = human_bytes(number).split(" ")
    return f"{figure if len(figure) <= 3 else f'{float(figure):.0f}'}{unit}"


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Prints a preset's numbers beside its paper's, what it takes, and every choice of its architecture.

    What the paper misprints or does not say is told. Takes models that exist as well.
    """
    shown = one_model(resolved)
    model, width = shown.summary, min(shutil.get_terminal_size().columns, 100)
    if is_preset(model.name):
        for line in _about(paper_of(model.name), width):
            out.result(line)
    elif model.imported_from is not None:
        out.result(f"{model.name}, from {model.imported_from}")
    out.result()
    if shown.compared:
        rows = [(LABELS[row.quantity], row.paper, row.here, row.source) for row in shown.compared]
        out.table(("", "the paper", "here", "where in the paper"), rows)
        for row in shown.compared:
            if row.why is not None:
                text = f"{LABELS[row.quantity]}: {row.why}"
                out.result(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))
        out.result()
    costs = f"{model.parameters:,} parameters: {human_bytes(model.disk_bytes)} on disk in fp32, "
    costs += (
        f"{human_bytes(model.training_bytes)} and activations to train, {human_bytes(model.serving_bytes)} to serve"
    )
    out.result(textwrap.fill(f"{costs} in bf16 with one full context", width))
    out.result()
    config = shown.config
    out.table(("field", "value"), [(name, "none" if value is None else value) for name, value in config.items()])
    out.document(asdict(shown))


COMMANDS = {"models": Command(ModelsOptions, run_models), "models show": Command(ShowOptions, run_show)}
models = python_function("models", ModelsOptions, all_models)
models_show = python_function("models_show", ShowOptions, one_model)
