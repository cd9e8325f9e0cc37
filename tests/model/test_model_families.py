"""What is new in each family: the place of norms, parallel branches, bands, BERT's heads; and that a cache agrees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.model.attention import Mask
from gptloom.model.block import Block
from gptloom.model.cache import KVCache
from gptloom.model.counting import count_parameters
from gptloom.model.transformer import Transformer

SMALL = {"vocab_size": 61, "context": 96, "n_layer": 3, "n_head": 2, "d_model": 16, "d_ff": 24, "head_dim": 8}


def tiny(name: str, **changes: Any) -> Transformer:
    """A shrunken preset with weights large enough that nothing can hide, in float64."""
    fields = {**preset(name), **SMALL, "n_kv_head": 2, "rotary_dim": 0, "dropout": 0.0, **changes}
    model = Transformer(ModelConfig(**fields)).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


def some_ids(rows: int = 2, length: int = 40) -> Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(1))


FAMILIES = ["gpt1", "gpt2", "gpt3-small", "neox-20b", "bert-tiny", "modern-nano", "fast-nano"]


@pytest.mark.parametrize("name", FAMILIES)
def test_counting_agrees_with_the_model(name: str) -> None:
    model = tiny(name)
    assert count_parameters(model.config).total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_fresh_weights_depend_on_the_seed_alone_and_know_nothing(name: str) -> None:
    config = tiny(name).config
    model, again = (Transformer.initialised(config, seed=3).eval() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    ids = some_ids(4)
    loss = F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
    assert abs(float(loss.detach()) - torch.tensor(61.0).log()) < 0.3


def by_hand(model: Transformer, block: Block, x: Tensor) -> Tensor:
    """The block of the papers, written out."""
    from gptloom.model.attention import CAUSAL

    attention, config = block.attention, model.config
    if config.norm_place == "post":
        x = block.attention_norm(x + attention(x, None, CAUSAL))
        return block.mlp_norm(x + block.mlp(x))
    assert config.parallel_residual
    return x + attention(block.attention_norm(x), None, CAUSAL) + block.mlp(block.mlp_norm(x))


@pytest.mark.parametrize("name", ["gpt1", "neox-20b"])
def test_where_norms_and_branches_sit(name: str) -> None:
    from gptloom.model.attention import CAUSAL

    model = tiny(name)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    block = model.blocks[0]
    assert isinstance(block, Block)
    torch.testing.assert_close(block(x, None, CAUSAL), by_hand(model, block, x), rtol=0, atol=1e-12)
    assert (model.norm is None) == (name == "gpt1")


def test_bert_sees_both_ways_and_gpt_only_back() -> None:
    for name, looks_ahead in (("bert-tiny", True), ("gpt1", False)):
        model, ids = tiny(name), some_ids()
        changed = ids.clone()
        changed[:, -1] = (ids[:, -1] + 1) % 61
        moved = (model.hidden(ids) - model.hidden(changed))[:, 0].abs().max()
        assert (float(moved) > 1e-6) == looks_ahead


def test_bands_limit_every_second_layer() -> None:
    model, ids = tiny("gpt3-small", window=4, n_layer=1, banded="all"), some_ids()
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % 61
    moved = (model.hidden(ids) - model.hidden(changed)).abs().amax((0, 2))
    assert moved[:4].all() and not moved[4:].any()
    assert [ModelConfig(**preset("gpt3-small")).window_of(layer) for layer in range(4)] == [None, 256, None, 256]


@pytest.mark.parametrize("padded", [False, True])
def test_fast_and_plain_attention_agree_in_every_layer_of_a_banded_model(padded: bool) -> None:
    model, ids = tiny("gpt3-small", window=5), some_ids()
    mask = None
    if padded:
        valid = torch.ones(ids.shape, dtype=torch.bool)
        valid[0, :7] = False
        mask = Mask(key_valid=valid)
    weights: list[Tensor] = []
    plain = model.hidden(ids, mask=mask, weights=weights)
    torch.testing.assert_close(model.hidden(ids, mask=mask), plain, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(ids, mask=mask), plain.detach(), rtol=0, atol=1e-10)
    seen = [(layer[1, 0] > 0).sum(-1).max().item() for layer in weights]
    assert seen == [40, 5, 40]


@pytest.mark.parametrize("name", ["gpt1", "gpt3-small", "neox-20b"])
@torch.no_grad()
def test_the_cache_gives_what_the_whole_text_gives(name: str) -> None:
    """Word by word, beyond the band, equals all at once."""
    model, ids = tiny(name, window=6 if name == "gpt3-small" else None), some_ids(2, 30)
    whole = model.hidden(ids)
    cache = KVCache(model.config, 2, 96, torch.float64)
    parts = [model.hidden(ids[:, :11], torch.arange(11)[None].expand(2, -1), cache=cache, reach=11)]
    for place in range(11, 30):
        parts.append(model.hidden(ids[:, place : place + 1], torch.full((2, 1), place), cache=cache, reach=place + 1))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)


def test_segments_change_what_bert_sees_and_absent_ones_are_the_first() -> None:
    model, ids = tiny("bert-tiny"), some_ids()
    first = torch.zeros_like(ids)
    torch.testing.assert_close(model.hidden(ids), model.hidden(ids, segments=first), rtol=0, atol=0)
    assert (model.hidden(ids) - model.hidden(ids, segments=first + 1)).abs().max() > 1e-3


def test_berts_heads_are_what_the_paper_has() -> None:
    model, ids = tiny("bert-tiny"), some_ids()
    hidden, head = model.hidden(ids), model.masked_head
    assert head is not None and model.pooler is not None and model.pair_head is not None
    words = F.layer_norm(F.gelu(head.dense(hidden)), (16,), head.norm.weight, head.norm.bias, 1e-12)
    torch.testing.assert_close(model.logits(hidden), words @ model.embedding.weight.T + head.bias, rtol=0, atol=1e-12)
    pooled = torch.tanh(hidden[:, 0] @ model.pooler.weight.T + model.pooler.bias)
    torch.testing.assert_close(model.pair_logits(hidden), model.pair_head(pooled), rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter_of_a_masked_pretraining() -> None:
    from gptloom.data.batch import Batch
    from gptloom.train.objective import MaskedWords

    model, ids = tiny("bert-tiny").train(), some_ids(4)
    weights = torch.zeros(ids.shape)
    weights[:, 3:9] = 1
    batch = Batch(ids, ids, weights, segment_ids=(torch.arange(40) > 19).long().expand(4, -1))
    batch = Batch(**{**vars(batch), "pair_labels": torch.tensor([0, 1, -1, 1])})
    objective = MaskedWords(pairs=True)
    assert objective.count(batch) == {"masked_words": 24.0, "pair": 3.0}
    losses = objective.loss(model, batch)
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    logits = model.logits(model.hidden(batch.ids, segments=batch.segment_ids))[:, 3:9]
    plain = F.cross_entropy(logits.flatten(0, 1), ids[:, 3:9].flatten(), reduction="sum")
    torch.testing.assert_close(losses["masked_words"].detach().double(), plain.detach(), rtol=1e-9, atol=0)
    parts = [objective.loss(model, part) for part in batch.split(1)]
    for term in losses:
        torch.testing.assert_close(sum(part[term] for part in parts), losses[term], rtol=1e-9, atol=0)
