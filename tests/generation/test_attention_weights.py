"""What is seen of a model's attention: the same weights as the plain twin, in every family, and sizes that add up."""

from __future__ import annotations

import pytest
import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.generation.attention_weights import Reading, attention_maps
from gptloom.model.transformer import Transformer

SIZES = {"vocab_size": 61, "context": 16, "n_layer": 2, "d_model": 32, "n_head": 4, "head_dim": 0, "d_ff": 64}
FAMILIES = {
    "gpt1": preset("gpt1"),
    "gpt2": preset("gpt2"),
    "gpt3, banded": {**preset("gpt3-small"), "window": 3},
    "neox": {**preset("neox-20b"), "rotary_dim": 4},
    "gpt_neo, unscaled": {**preset("gpt2"), "scale_attention": False},
    "bert": preset("bert-tiny"),
    "modern, grouped heads": {**preset("modern-nano"), "n_kv_head": 2},
    "fast": {**preset("fast-nano"), "n_kv_head": 0},
}
IDS = tuple(torch.randint(61, (11,), generator=torch.Generator().manual_seed(5)).tolist())


def make(**fields: object) -> Transformer:
    model = Transformer(ModelConfig(**{**fields, **SIZES, "dropout": 0.0}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def reading(model: Transformer, ids: tuple[int, ...] = IDS) -> Reading:
    segments = tuple(int(place > 4) for place in range(len(ids))) if model.config.segments else None
    return Reading(ids, (False,) * len(ids), segments)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_the_model_computes(family: str) -> None:
    model = make(**FAMILIES[family])
    row = reading(model)
    maps = attention_maps(model, row)
    plain: list[torch.Tensor] = []
    segments = None if row.segments is None else torch.tensor([row.segments])
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([IDS]), weights=plain, segments=segments)
    torch.testing.assert_close(maps.weights, torch.cat(plain), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.hidden, hidden[0], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(maps.scores.softmax(-1), maps.weights)
    unseen = maps.scores == float("-inf")
    later = torch.ones(11, 11).triu(1).bool()
    assert bool((unseen & later).any()) == (model.config.mask == "causal")
    if "banded" in family:  # the second layer of two sees three words, the first all before
        assert unseen[1, :, 10, :8].all() and not unseen[1, :, 10, 8:].any() and not unseen[0, :, 10].any()


def test_unscaled_scores_are_not_divided() -> None:
    scaled, unscaled = make(**preset("gpt2")), make(**{**preset("gpt2"), "scale_attention": False})
    first = attention_maps(scaled, reading(scaled)).scores[0]
    torch.testing.assert_close(attention_maps(unscaled, reading(unscaled)).scores[0], first * 8**0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_single_word_all_of_the_attentions_output_is_taken(family: str) -> None:
    model = make(**FAMILIES[family])
    outputs: list[torch.Tensor] = []
    for block in model.blocks:
        bias = 0 if block.attention.out.bias is None else block.attention.out.bias
        block.attention.register_forward_hook(lambda _, __, out, bias=bias: outputs.append((out - bias)[0]))
    maps = attention_maps(model, reading(model, IDS[:1]))
    torch.testing.assert_close(maps.taken[:, 0], torch.stack(outputs).norm(dim=-1).detach(), atol=1e-5, rtol=1e-4)


def test_one_heads_size_is_its_weight_times_the_size_of_the_value() -> None:
    model = make(**preset("gpt2"))
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight[:, 8:] = 0  # all heads but the first add nothing
    maps = attention_maps(model, reading(model))
    for layer in range(2):
        torch.testing.assert_close(
            maps.taken[layer], maps.weights[layer, 0] * maps.value_sizes[layer, 0], atol=1e-6, rtol=1e-4
        )
    assert maps.value_sizes[:, 1:].abs().max() == 0


def test_no_hook_is_left_behind() -> None:
    model = make(**preset("gpt2"))
    attention_maps(model, reading(model))
    with pytest.raises(IndexError):
        attention_maps(model, reading(model, (61,)))  # an id that is none: the run breaks off
    assert not any(block.attention._forward_pre_hooks for block in model.blocks)
