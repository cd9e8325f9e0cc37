"""Which part of a model is trained: the head alone, the last blocks, what patterns name, adapters, or everything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.interop.foreign import ForeignModel
from gptloom.interop.peft import read_adapter
from gptloom.model.lora import LoraConfig, add_lora, is_lora
from gptloom.observe.numbers import human_count
from gptloom.stages.tuning.body import Body, parameters_of
from gptloom.stages.tuning.patterns import matches, patterns_of

RANK = 8
LORA_OPTIONS = ("rank", "alpha", "lora_dropout", "target_modules", "adapter")


def choose_part(body: Body, options: Any, *, words: bool) -> LoraConfig | None:
    """Freezes what is not trained, after adapters are put in; the adapters' configuration where there are any.

    ``words``: a next-word loss is asked for; without, an output matrix for words gets no gradient.

    What the base did not have is always trained: a new head, say.

    Raises:
        UserError: a pattern that names no parameter, more --layers than there are blocks, unknown --target-modules.
    """
    model = body.model
    lora = _put_adapters(body, options) if options.method == "lora" and not options.train else None
    trains = _rule(body, options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name) or name.startswith(body.fresh))
    _leave_idle(model, words)
    return lora


def _rule(body: Body, options: Any) -> Callable[[str], bool]:
    """Whether the parameter of a name is trained, but for what is new."""
    names = [name for name, _ in body.model.named_parameters()]
    if options.train:
        return _named(options.train, names)
    if options.method == "lora":
        return is_lora
    if options.method == "last":
        top = max(body.depth_of(name) for name in names)
        if options.layers >= top:
            what = f"--layers {options.layers}: the body has {top - 1} blocks"
            raise UserError(Problem(what, mend=f"--layers {max(1, top - 2)}, or --method full"))
        return lambda name: body.depth_of(name) >= top - options.layers
    return lambda name: options.method == "full"


def _named(patterns: Iterable[str], names: Collection[str]) -> Callable[[str], bool]:
    wanted = patterns_of(patterns)
    unknown = [pattern for pattern in wanted if not any(matches(pattern, name) for name in names)]
    if unknown:
        holders = {name.rpartition(".")[0] for name in names} | set(names)
        problems = [
            Problem(f"--train {pattern}: no parameter is called so", mend=nearest(pattern, holders))
            for pattern in unknown
        ]
        raise UserError(*problems)
    return lambda name: any(matches(pattern, name) for pattern in wanted)


def _put_adapters(body: Body, options: Any) -> LoraConfig:
    """Fresh adapters, or those of --adapter to go on with."""
    if options.adapter is not None:
        return _begin_with(body, Path(options.adapter), options.seed)
    rank = options.rank or RANK
    lora = LoraConfig(
        rank=rank,
        alpha=options.alpha or 2.0 * rank,
        dropout=options.lora_dropout or 0.0,
        target_modules=tuple(options.target_modules) or ("q", "v"),
    )
    add_lora(body.model, lora, options.seed)
    return lora


def _begin_with(body: Body, folder: Path, seed: int) -> LoraConfig:
    """Adapters as a PEFT folder has them; its head is left out, since the task may be another."""
    if isinstance(body.model, ForeignModel):
        raise UserError(Problem("--adapter: only for models that gptloom reads itself", str(folder), "leave it out"))
    lora, tensors = read_adapter(folder, body.model.config, whole=False)
    add_lora(body.model, lora, seed)
    parameters = dict(body.model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            if is_lora(name):
                parameters[name].copy_(tensor)
    return lora


def _leave_idle(model: nn.Module, words: bool) -> None:
    """An output matrix for words gets no gradient where no next-word loss is asked for."""
    head = getattr(model, "head", None)
    if isinstance(head, nn.Linear) and not words and not isinstance(model, ForeignModel):
        head.requires_grad_(False)


def trains_embeddings(options: Any) -> bool:
    """Whether rows that are added to the vocabulary would learn anything."""
    if options.train:
        return any(matches(pattern, "embedding.weight") for pattern in patterns_of(options.train))
    return bool(options.method == "full")


def trained_parameters(model: nn.Module) -> int:
    """Numbers that a training moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def part_sentence(body: Body) -> str:
    """How many parameters are trained, and which."""
    trained = {name: parameter.numel() for name, parameter in body.model.named_parameters() if parameter.requires_grad}
    everything = parameters_of(body.model)
    count = sum(trained.values())
    if len(trained) == len(list(body.model.parameters())):
        return f"all {human_count(everything)} parameters are trained"
    holders = _places(trained)
    return f"{human_count(count)} of {human_count(everything)} parameters are trained ({count / everything:.2%}): {holders}"


def _places(names: Iterable[str]) -> str:
    """``blocks.4, blocks.5, norm, task_head``: where the parameters are, at most eight places named."""
    places: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        last = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
        kind = " adapters" if is_lora(name) else ""
        places[".".join(parts[: last + 1]) + kind] = None
    listed = list(places)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
