"""Adopting a pretrained model: opened, given a head for the task, and told how its texts are framed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.model import ModelConfig, preset, preset_tokenizer
from gptloom.config.task import HeadConfig, HeadKind, Inputs, Pooling, TaskConfig
from gptloom.data.task_frame import frame
from gptloom.data.task_inputs import TaskInputs
from gptloom.interop.bodies import ForeignModel, is_foreign, open_foreign, suggested_pooling
from gptloom.interop.hub import PREFIX, resolve_model
from gptloom.interop.open import open_model
from gptloom.model.reference import Resolved as Reference
from gptloom.model.reference import is_adapter, resolve_reference
from gptloom.model.store import content_hash
from gptloom.model.transformer import Transformer
from gptloom.observe.terminal import say
from gptloom.stages.finetune.bases import check_tokenizer, weights_for
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.patterns import matches, patterns_of
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer

KINDS: dict[str, HeadKind] = {"choice": "choice", "tokens": "tokens", "span": "span"}  # others: sequence
DROPOUT = 0.1  # before the scores, as GPT-1 and BERT


@dataclass(frozen=True)
class Body:
    """A model with a fresh head, in fp32 on the CPU, and all that turns an example into what it reads."""

    model: Transformer | ForeignModel
    tokenizer: Tokenizer
    task: TaskConfig
    head: HeadConfig
    base_hash: str  # of the weights that it began with
    path: Path | None  # of their folder
    new_pooler: bool  # whether the base had none, and it is as new as the head

    @property
    def inputs(self) -> TaskInputs:
        return TaskInputs(self.tokenizer, self.task, self.head)

    @property
    def next_words(self) -> bool:
        """Whether the model can also be asked for next words."""
        return isinstance(self.model, Transformer) and self.model.config.mask == "causal"

    def depth_of(self, name: str) -> int:
        """0 for embeddings, 1 ... L for blocks, L + 1 for what stands above them."""
        if isinstance(self.model, ForeignModel):
            return self.model.depth_of(name)
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        return 0 if "embedding" in name.partition(".")[0] else self.model.config.n_layer + 1


def adopt(options: FinetuneOptions, data: TaskData, dtype: torch.dtype) -> Body:
    """Opens BASE and puts the head of the task on it; what is random in both comes from ``options.seed``.

    ``dtype``: what another library's body computes in.

    Raises:
        UserError: nothing of that name, an untrained preset without --untrained, a base without tokenizer, texts that
            have no room in its context.
    """
    reference = resolve_model(options.base)
    opened, tokenizer = _open(reference, options, dtype)
    inputs: Inputs = "bert" if opened.config.mask == "bidirectional" else "gpt1"
    head = _head(options, data, opened)
    new_tokens = inputs == "gpt1" and isinstance(opened, Transformer) and _trains_embeddings(options)
    n_known = tokenizer.vocab_size
    tokenizer, tokens = frame(tokenizer, inputs, new_tokens)
    task = TaskConfig(
        task=options.task,
        labels=data.labels,
        columns=data.columns,
        inputs=inputs,
        tokens=tokens,
        max_length=_longest_row(options, opened.config.context),
        cut=options.cut,
        preprocess=tuple(options.preprocess),
        metric=options.metric or "",
        **_scale(data),
    )
    model = _with_head(opened, head, range(n_known, tokenizer.vocab_size), options)
    named = _named_folder(options, reference)
    body = Body(model, tokenizer, task, head, _hash(named, options.base), named, _lacks_pooler(opened, model))
    _say_frame(body, new_tokens)
    return body


def _open(
    reference: Reference, options: FinetuneOptions, dtype: torch.dtype
) -> tuple[Transformer | ForeignModel, Tokenizer]:
    if reference.path is None:
        return _untrained(str(reference.preset), options)
    given = {"--untrained": options.untrained, "--tokenizer": options.tokenizer is not None}
    if idle := [name for name, there in given.items() if there]:
        what = f"{' and '.join(idle)} is for presets; this has weights and a tokenizer"
        raise UserError(Problem(what, str(reference.path), "--fresh begins with random weights of its shape"))
    if not is_foreign(reference.path):
        check_tokenizer(reference)
        return open_model(options.base, device="cpu", precision="fp32")
    if options.fresh:
        what = "--fresh: the body is another library's, which gptloom does not initialise"
        raise UserError(Problem(what, str(reference.path), "a preset of ours with --untrained"))
    return open_foreign(options.base, compute_dtype=dtype, dropout=options.dropout)


def _untrained(name: str, options: FinetuneOptions) -> tuple[Transformer, Tokenizer]:
    """A preset's shape, which ``_with_head`` fills with random weights."""
    if not options.untrained:
        raise UserError(Problem(f"{name} is a preset: it has no trained weights", mend=weights_for(name)))
    published = options.tokenizer or preset_tokenizer(name)
    if published is None:
        what = f"{name} takes any tokenizer, and none was given"
        raise UserError(Problem(what, "--tokenizer", "--tokenizer gpt2, or one by gptloom tokenizer train"))
    tokenizer = load_tokenizer(published)
    fields = {**preset(name), "vocab_size": tokenizer.vocab_size}
    return Transformer.initialised(ModelConfig(**fields), options.seed), tokenizer


def _head(options: FinetuneOptions, data: TaskData, model: Transformer | ForeignModel) -> HeadConfig:
    kind = KINDS.get(options.task, "sequence")
    decoder = model.config.mask == "causal"
    classes = len(data.labels)
    outputs = {"choice": 1, "span": 2}.get(kind, 1 if data.is_score else classes)
    pooling, own_pooler = _pooling(options, model)
    orders = 2 if options.task == "similar" and decoder else 1
    # transformers' decoders have no bias where they score a text; a number or a mean needs one, and no class has those.
    as_theirs = kind == "choice" or (kind == "sequence" and pooling == "last" and orders == 1 and not data.is_score)
    return HeadConfig(
        kind=kind,
        n_labels=outputs,
        pooling=pooling,
        pooler=own_pooler and kind in ("sequence", "choice"),
        orders=orders,
        bias=not (decoder and as_theirs),
        dropout=DROPOUT if options.dropout is None else options.dropout,
    )


def _pooling(options: FinetuneOptions, model: Transformer | ForeignModel) -> tuple[Pooling, bool]:
    """Whose hidden state stands for a text, and whether the head puts a layer over it.

    Frozen states are averaged: no single one was trained to stand for the whole.
    """
    if options.pooling is not None:
        return options.pooling, False
    if options.method == "feature":
        return "mean", False
    if isinstance(model, ForeignModel):
        return suggested_pooling(model)
    return ("last", False) if model.config.mask == "causal" else ("first", False)


def _trains_embeddings(options: FinetuneOptions) -> bool:
    """Whether rows that are added to the vocabulary would learn anything."""
    if options.train:
        return any(matches(pattern, "embedding.weight") for pattern in patterns_of(options.train))
    return options.method == "full"


def _say_frame(body: Body, new_tokens: bool) -> None:
    if body.task.inputs == "gpt1":
        own = (
            "three new tokens, learned now"
            if new_tokens
            else "its end-of-text token and $, since embeddings are frozen"
        )
        say(f"texts are framed as GPT-1's, by {own}")


def _scale(data: TaskData) -> dict[str, Any]:
    """Mean and deviation of the training scores: the head starts at the mean, whatever the scale."""
    if not data.is_score:
        return {}
    scores = torch.tensor([example.label for example in data.train], dtype=torch.float64)
    return {"score_mean": float(scores.mean()), "score_std": float(scores.std(correction=0)) or 1.0}


def _with_head(
    opened: Transformer | ForeignModel, head: HeadConfig, new_ids: range, options: FinetuneOptions
) -> Transformer | ForeignModel:
    """``opened`` under a configuration with the head; that and the rows of ``new_ids`` come from the seed."""
    if isinstance(opened, ForeignModel):
        opened.add_head(head, options.seed)
        return opened
    old = opened.config
    changes: dict[str, Any] = {"task_head": head, "masked_head": False, "pair_head": False}
    changes["vocab_size"] = max(old.vocab_size, new_ids.stop)
    if old.mask == "bidirectional" and head.pooling == "first" and head.kind in ("sequence", "choice"):
        changes["pooler"] = True  # a body pretrained without pairs has none yet
    if options.dropout is not None:
        changes |= {"dropout": options.dropout, "attention_dropout": options.dropout}
    if not old.tied_head and old.masked_head:
        changes["tied_head"] = True  # its output matrix goes with the head for masked words
    model = Transformer.initialised(ModelConfig(**{**old.model_dump(), **changes}), options.seed)
    if options.fresh or options.untrained:
        return model
    with torch.no_grad():
        state = opened.state_dict()
        for name, parameter in model.named_parameters():
            if name.startswith("task_head.") or name not in state:
                continue
            stored = state[name]
            parameter[: len(stored)].copy_(stored)
            if name == "embedding.weight":  # new rows N(0, 0.02), as GPT-1 (train.py)
                drawn = torch.Generator().manual_seed(options.seed)
                rows = parameter[new_ids.start : new_ids.stop]
                rows.copy_(torch.empty(rows.shape).normal_(std=0.02, generator=drawn))
    return model


def _named_folder(options: FinetuneOptions, opened: Reference) -> Path | None:
    """The folder that BASE names: of an adapter its own, since what was opened is merged and goes with this process."""
    if options.base.startswith(PREFIX) or opened.path is None:
        return opened.path
    named = resolve_reference(options.base).path
    if named is not None and is_adapter(named) and options.method == "lora":
        what = "BASE is an adapter: on top of it another one would have no base to go with"
        raise UserError(Problem(what, str(named), f"--adapter {named} with its base, or the final/ of its run as BASE"))
    return named


def _lacks_pooler(opened: Transformer | ForeignModel, model: Transformer | ForeignModel) -> bool:
    return isinstance(model, Transformer) and model.config.pooler and not opened.config.pooler


def _longest_row(options: FinetuneOptions, context: int) -> int:
    """Tokens that a row may have: as many as the context reaches, or fewer where that is asked for."""
    if options.max_length is not None and options.max_length > context:
        what = f"--max-length {options.max_length} is more than the context of the body, {context}"
        raise UserError(Problem(what, str(options.base), f"--max-length {context} or less"))
    return options.max_length or context


def _hash(folder: Path | None, preset: str) -> str:
    """SHA-256 (hex) of the model, as lineages have it, or of the name where the weights come from a seed."""
    return hashlib.sha256(preset.encode()).hexdigest() if folder is None else content_hash(folder)


def parameters_of(model: nn.Module) -> int:
    """Numbers that the model is made of."""
    return sum(parameter.numel() for parameter in model.parameters())
