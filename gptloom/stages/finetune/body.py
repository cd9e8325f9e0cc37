"""Adopting a pretrained model: opened, given a head for the task, and told how its texts are framed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.model import ModelConfig, preset, preset_tokenizer
from gptloom.config.task import HeadConfig, HeadKind, Inputs, Pooling, TaskConfig
from gptloom.data.task_frame import frame
from gptloom.data.task_inputs import TaskInputs
from gptloom.interop.bodies import ForeignModel, is_foreign, open_foreign, suggested_pooling
from gptloom.interop.hub import resolve_model
from gptloom.interop.open import open_model
from gptloom.model.reference import Reference
from gptloom.model.transformer import Transformer
from gptloom.observe.terminal import say
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.tuning.bases import check_tokenizer, weights_for
from gptloom.stages.tuning.body import Body, hash_of, longest_row, named_folder
from gptloom.stages.tuning.grown import grown
from gptloom.stages.tuning.part import trains_embeddings
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer

KINDS: dict[str, HeadKind] = {"choice": "choice", "tokens": "tokens", "span": "span"}  # others: sequence
DROPOUT = 0.1  # before the scores, as GPT-1 and BERT


@dataclass(frozen=True)
class TaskBody(Body):
    """A model with a fresh head, in fp32 on the CPU, and all that turns an example into what it reads."""

    task: TaskConfig
    head: HeadConfig

    @property
    def inputs(self) -> TaskInputs:
        return TaskInputs(self.tokenizer, self.task, self.head)


def adopt(options: FinetuneOptions, data: TaskData, dtype: torch.dtype) -> TaskBody:
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
    new_tokens = inputs == "gpt1" and isinstance(opened, Transformer) and trains_embeddings(options)
    n_known = tokenizer.vocab_size
    tokenizer, tokens = frame(tokenizer, inputs, new_tokens)
    task = TaskConfig(
        task=options.task,
        labels=data.labels,
        columns=data.columns,
        inputs=inputs,
        tokens=tokens,
        max_length=longest_row(options.max_length, options.base, opened.config.context),
        cut=options.cut,
        preprocess=tuple(options.preprocess),
        metric=options.metric or "",
        **_scale(data),
    )
    model = _with_head(opened, head, range(n_known, tokenizer.vocab_size), options)
    named = named_folder(options.base, options.method, reference)
    fresh = ("task_head.", "pooler.") if _lacks_pooler(opened, model) else ("task_head.",)
    body = TaskBody(model, tokenizer, hash_of(named, options.base), named, fresh, task, head)
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
        return open_model(reference, device="cpu", precision="fp32")
    if options.fresh:
        what = "--fresh: the body is another library's, which gptloom does not initialise"
        raise UserError(Problem(what, str(reference.path), "a preset of ours with --untrained"))
    return open_foreign(reference, compute_dtype=dtype, dropout=options.dropout)


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


def _say_frame(body: TaskBody, new_tokens: bool) -> None:
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
    if options.fresh or options.untrained:
        return Transformer.initialised(ModelConfig(**{**old.model_dump(), **changes}), options.seed)
    return grown(opened, new_ids, options.seed, changes)


def _lacks_pooler(opened: Transformer | ForeignModel, model: Transformer | ForeignModel) -> bool:
    return isinstance(model, Transformer) and model.config.pooler and not opened.config.pooler
