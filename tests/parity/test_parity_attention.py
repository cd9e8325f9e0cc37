"""The attention that is shown is that of ``transformers``: weights, raw scores, and sizes of what a head takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from side_by_side import both, some_ids

from gptloom.config.model import ModelConfig, preset
from gptloom.generation.attention_weights import AttentionMaps, Reading, attention_maps
from gptloom.model.transformer import Transformer

SIZES = {"vocab_size": 61, "context": 12, "n_layer": 2, "d_model": 32, "n_head": 4, "d_ff": 64, "dropout": 0.0}
FIELDS = {
    "gpt2": preset("gpt2"),
    "bert": preset("bert-tiny"),
    "qwen3": {**preset("modern-nano"), "n_kv_head": 2, "head_dim": 16},
}


def seen_by(ours: Transformer, ids: torch.Tensor, segments: torch.Tensor | None) -> AttentionMaps:
    row = tuple(ids[0].tolist())
    reading = Reading(row, (False,) * len(row), None if segments is None else tuple(segments[0].tolist()))
    return attention_maps(ours, reading)


@pytest.mark.parametrize("family", FIELDS)
def test_weights_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    config = ModelConfig(**{**FIELDS[family], **SIZES})
    ours, theirs = both(config, torch.float32, tmp_path, std=0.15)
    ids = some_ids(config, rows=1)
    segments = (torch.arange(config.context)[None] >= 5).long() if config.segments else None
    maps = seen_by(ours, ids, segments)
    extra = {} if segments is None else {"token_type_ids": segments}
    with torch.no_grad():
        attentions = theirs(ids, output_attentions=True, **extra).attentions
    wanted = torch.stack([layer[0] for layer in attentions])
    assert maps.weights.shape == wanted.shape == (2, 4, 12, 12)
    assert float(wanted.std()) > 0.05  # the heads differ, and prefer some words
    torch.testing.assert_close(maps.weights, wanted, atol=1e-5, rtol=0)


def test_sizes_are_the_norms_of_weight_times_transformed_value(tmp_path: Path) -> None:
    """The norms of Kobayashi et al. 2020, from BERT's own value and output layers."""
    config = ModelConfig(**{**FIELDS["bert"], **SIZES})
    ours, theirs = both(config, torch.float32, tmp_path, std=0.15)
    ids = some_ids(config, rows=1)
    values: list[torch.Tensor] = []
    layers = theirs.bert.encoder.layer
    for layer in layers:
        layer.attention.self.value.register_forward_hook(lambda _, __, out: values.append(out[0]))
    with torch.no_grad():
        attentions = theirs(ids, output_attentions=True).attentions
    maps = seen_by(ours, ids, torch.zeros_like(ids))
    for index, layer in enumerate(layers):
        matrix = layer.attention.output.dense.weight
        taken = torch.zeros(12, 12, 32)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            transformed = values[index][:, part] @ matrix[:, part].T  # f(x) of the head, [S, D]
            weighted = attentions[index][0, head][:, :, None] * transformed[None]
            found = maps.weights[index, head] * maps.value_sizes[index, head]
            torch.testing.assert_close(found, weighted.norm(dim=-1), atol=1e-5, rtol=1e-4)
            taken += weighted
        torch.testing.assert_close(maps.taken[index], taken.norm(dim=-1), atol=1e-5, rtol=1e-4)
