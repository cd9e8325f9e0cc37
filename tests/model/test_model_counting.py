from __future__ import annotations

import pytest
import torch

from gptloom.config.model import ModelConfig, preset, presets
from gptloom.model.cache import KVCache
from gptloom.model.counting import count_parameters, kv_bytes_per_token, training_flops_per_token
from gptloom.model.transformer import Transformer

# Total, without positions (nanoGPT's count), without any embedding.
GPT2_SIZES = {
    "gpt2": (124_439_808, 123_653_376, 85_056_000),
    "gpt2-medium": (354_823_168, 353_774_592, 302_311_424),
    "gpt2-large": (774_030_080, 772_719_360, 708_390_400),
    "gpt2-xl": (1_557_611_200, 1_555_972_800, 1_475_561_600),
}


def on_meta(config: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.parametrize("name", presets())
def test_counts_equal_what_is_built(name: str) -> None:
    config = ModelConfig(**preset(name))
    model = on_meta(config)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    count = count_parameters(config)
    assert count.total == sum(sizes.values())
    assert count.embedding == sizes["embedding.weight"]
    assert count.positions == sizes.get("position_embedding.weight", 0)
    assert count.blocks == sum(size for key, size in sizes.items() if key.startswith("blocks."))
    assert count.final_norm == sum(size for key, size in sizes.items() if key.startswith(("norm.", "embedding_norm.")))
    assert count.head == sizes.get("head.weight", 0)


@pytest.mark.parametrize(
    "change",
    [
        {"n_kv_head": 2, "head_dim": 40},
        {"bias": True, "norm": "layernorm"},
        {"activation": "relu2", "qk_norm": "none", "tied_head": False},
        {"embedding_norm": True, "positions": "learned"},
    ],
)
def test_counts_follow_every_switch(change: dict[str, object]) -> None:
    config = ModelConfig(**preset("modern-nano") | change)
    assert count_parameters(config).total == sum(p.numel() for p in on_meta(config).parameters())


@pytest.mark.parametrize("name", GPT2_SIZES)
def test_published_gpt2_sizes(name: str) -> None:
    count = count_parameters(ModelConfig(**preset(name)))
    assert (count.total, count.total - count.positions, count.non_embedding) == GPT2_SIZES[name]


def test_gpt2_flops_a_token() -> None:
    assert training_flops_per_token(ModelConfig(**preset("gpt2"))) == 855_166_464


def test_flops_count_every_matrix_product_of_a_forward_pass() -> None:
    # 6 N counts gains, too, and 12 L H K T the whole square; measured: matrix products alone, a third of the training cost.
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(**preset("modern-nano"))
    ids = torch.zeros(1, config.context, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = on_meta(config).hidden(ids, weights=[])
        on_meta(config).logits(hidden)
    counted = training_flops_per_token(config) * config.context / 3
    assert counter.get_total_flops() == pytest.approx(counted, rel=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "modern-nano"])
def test_kv_bytes_are_those_of_the_cache(name: str) -> None:
    config = ModelConfig(**preset(name) | {"context": 64})
    cache = KVCache(config, batch=1, length=64, dtype=torch.bfloat16)
    assert kv_bytes_per_token(config) * 64 == cache.k.nbytes + cache.v.nbytes


def test_masked_words_alone_meet_the_vocabulary() -> None:
    config = ModelConfig(**preset("bert-base"))
    count = count_parameters(config)
    saved = training_flops_per_token(config) - training_flops_per_token(config, scored=0.15)
    assert saved == pytest.approx(6 * 0.85 * (count.masked_head + count.embedding))
