"""From options to a ModelConfig: that of a base model, or a preset, what was changed in it and what follows from the text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import SIZED_FAMILIES, ModelConfig, family_presets, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved
from gptloom.interop.hub import resolve_model
from gptloom.model.store import content_hash, read_body
from gptloom.stages.derive import AIM_MINUTES, AIM_PASSES, choose_context, choose_size

SHAPE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
SMALLEST, SMALLEST_BERT = "modern-nano", "bert-tiny"


@dataclass(frozen=True)
class Base:
    """The model that a training goes on from."""

    folder: Path
    config: ModelConfig
    hash: str


def open_base(resolved: Resolved[PretrainOptions]) -> Base | None:
    """The base model, if one is named."""
    if resolved.options.base is None:
        return None
    folder = base_folder(resolved.options.base)
    return Base(folder, read_body(folder), content_hash(folder))


def settle_objective(resolved: Resolved[PretrainOptions], base: Base | None) -> Resolved[PretrainOptions]:
    """What is learned follows from who sees whom in the model, where a model is named."""
    if resolved.options.objective is not None:
        return resolved
    if base is not None:
        return resolved.derive("objective", objective_of(base.config), "the base model's")
    name = named_preset(resolved.options) or resolved.options.model
    if name is None:
        return resolved.derive("objective", "next", "a GPT's")
    member = family_presets(name)[0] if name in SIZED_FAMILIES else name
    return resolved.derive("objective", objective_of(ModelConfig(**preset(member))), "the model's")


def objective_of(config: ModelConfig) -> Literal["next", "masked"]:
    """What a model of this kind is trained on."""
    return "masked" if config.mask == "bidirectional" else "next"


def base_folder(reference: str) -> Path:
    """The model folder that BASE names. UserError when there is none, or it names a preset, which is no trained model."""
    found = resolve_model(reference)
    if found.path is None:
        mend = f"gptloom pretrain --model {found.preset} --data ..."
        raise UserError(Problem(f"{reference} is a preset, not a trained model", mend=mend))
    return found.path


def named_preset(options: PretrainOptions) -> str | None:
    """The preset that the options of a new model start from; None where its size follows from text and machine."""
    if options.model is None:
        smallest = SMALLEST_BERT if options.objective == "masked" else SMALLEST
        return smallest if any(getattr(options, field) is not None for field in SHAPE) else None
    return None if options.model in SIZED_FAMILIES else options.model


def fields_of(options: PretrainOptions, name: str) -> dict[str, Any]:
    """The fields of the preset ``name``, with what the options change in them."""
    given = {field: getattr(options, field) for field in SHAPE if getattr(options, field) is not None}
    if "d_model" in given and "n_head" not in given:
        wanted = max(1, given["d_model"] // 64)  # heads of about 64, as many as divide the width
        given["n_head"] = next(n for n in range(wanted, 0, -1) if given["d_model"] % n == 0)
    for field in ("dropout", "context"):
        if getattr(options, field) is not None:
            given[field] = getattr(options, field)
    return {**preset(name), **given}


def choose_config(
    resolved: Resolved[PretrainOptions], base: Base | None, vocab_size: int, n_tokens: int, peak: float
) -> tuple[ModelConfig, Resolved[PretrainOptions]]:
    """The base's shape, or one for this text and machine."""
    if base is None:
        return choose_model(resolved, vocab_size, n_tokens, peak)
    config = base.config
    if resolved.options.dropout is not None:
        config = config.model_copy(update={"dropout": resolved.options.dropout})
    return config, resolved.derive("context", config.context, "the base model's")


def choose_model(
    resolved: Resolved[PretrainOptions], vocab_size: int, n_tokens: int, peak: float
) -> tuple[ModelConfig, Resolved[PretrainOptions]]:
    """The model for ``n_tokens`` of training text on a machine of ``peak`` FLOP/s."""
    options = resolved.options
    name = named_preset(options)
    if name is None:
        minutes, passes = options.max_minutes or AIM_MINUTES, options.max_epochs or AIM_PASSES
        family = "bert" if options.objective == "masked" else "modern"
        chosen = choose_size(options.model or family, n_tokens, vocab_size, peak, minutes, passes, options.scored_share)
        name = str(chosen.value)
        if options.model is None:
            resolved = resolved.derive("model", name, chosen.rule)
    elif options.model is None:
        resolved = resolved.derive("model", name, "a shape of one's own starts from the smallest")
    fields = fields_of(options, name) | {"vocab_size": vocab_size}
    if options.objective == "masked" and options.pairs == "none":
        fields |= {"pooler": False, "pair_head": False}  # nothing would train them
    config = ModelConfig(**fields)
    if options.context is not None:
        return config, resolved
    context = choose_context(config, n_tokens)
    resolved = resolved.derive("context", context.value, context.rule)
    return config.model_copy(update={"context": context.value}), resolved
