"""Opens any model reference to look at its attention: our own models with everything, another library's with its weights."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import TaskConfig
from gptloom.generation.attention_text import Watched
from gptloom.generation.attention_weights import AttentionMaps, Reading
from gptloom.interop.bodies import ForeignModel, is_foreign, open_foreign
from gptloom.interop.hub import resolve_model
from gptloom.interop.open import open_model
from gptloom.interop.witness import quiet
from gptloom.model.store import own_task, read_task
from gptloom.observe.numbers import human_count
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.train.precision import choose_device


def open_watched(
    reference: str, *, device: str = "auto", untrained: bool = False
) -> tuple[Watched, Tokenizer, TaskConfig | None]:
    """A model in fp32, its tokenizer, and the task that it was fine-tuned for, where it was.

    Raises:
        UserError: as ``gptloom.load``; a body of ``transformers`` that tells no attention weights.
    """
    found = resolve_model(reference)
    folder = None if untrained else found.path
    if folder is not None and is_foreign(folder):
        body, tokenizer = open_foreign(found, device=choose_device(device))
        return _foreign(body), tokenizer, own_task(folder)
    model, tokenizer = open_model(found, device=device, precision="fp32", untrained=untrained)
    task = None if folder is None or model.config.task_head is None else read_task(folder)
    return Watched.of(model), tokenizer, task


def _foreign(model: ForeignModel) -> Watched:
    body, config = cast(Any, model.body), model.config
    with quiet():
        body.set_attn_implementation("eager")  # the one that writes the softmax out
    theirs = body.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Watched(
        model=model,
        look=partial(_weights, model),
        kind=f"{config.model_type} of transformers, {human_count(parameters)} parameters",
        n_layer=theirs.num_hidden_layers,
        n_head=theirs.num_attention_heads,
        causal=config.mask == "causal",
        context=config.context,
        segments=config.segments,
        speaks=False,  # the head for words is no part of a body
    )


@torch.no_grad()
def _weights(model: ForeignModel, reading: Reading) -> AttentionMaps:
    model.eval()
    device = next(model.parameters()).device
    inputs = {"input_ids": torch.tensor([reading.ids], device=device)}
    if model.config.segments and reading.segments is not None:
        inputs["token_type_ids"] = torch.tensor([reading.segments], device=device)
    found = cast(Any, model.body)(**inputs, output_attentions=True)
    told = [layer for layer in found.attentions or () if layer is not None]
    if not all(_is_softmax(layer, len(reading), model.config.mask == "causal") for layer in told or [None]):
        what = f"{model.config.model_type} of transformers does not tell the attention weights of each layer"
        raise UserError(Problem(what, mend="a model in one of gptloom's own layouts, or another body"))
    return AttentionMaps(torch.cat(told).float().cpu(), found.last_hidden_state[0].float().cpu())


def _is_softmax(layer: Tensor | None, length: int, causal: bool) -> bool:
    """Whether ``layer`` is [1, H, T, T], its rows sum to 1 and see nothing they may not.

    What is not ready to write its softmax out gives other tensors in that place: without the mask, say, or of another size.
    """
    if layer is None or layer.shape[2:] != (length, length):
        return False
    ahead = layer.triu(1).abs().max() if causal else torch.zeros(())
    return bool((layer.sum(-1) - 1).abs().max() < 1e-3) and float(ahead) == 0.0
