"""GPT-1 and GPT-NeoX against `transformers`: hidden states, logits, loss, every gradient, padding, the cache.

GPT-2, whose logits are compared in test_parity_transformers.py, joins for padding and cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from decoders import decoded, differences, keep_float64
from safetensors.torch import load_file, save_file
from side_by_side import both, open_theirs, padding, randomise, randomised, relative, some_ids
from transformers.models.gpt_neox import modeling_gpt_neox

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.attention import Mask
from gptloom.model.store import load_model, save_model

SIZES = {"vocab_size": 97, "context": 24, "n_layer": 2, "d_model": 64, "n_head": 4}
GPT1 = preset("gpt1") | SIZES
NEOX = preset("neox-20b") | SIZES | {"rotary_dim": 4}
VARIANTS = {
    "gpt1": GPT1,
    "gpt1-relu-untied": GPT1 | {"activation": "relu", "tied_head": False, "norm_eps": 1e-3},
    "neox": NEOX,
    "neox-serial-erf": NEOX | {"parallel_residual": False, "activation": "gelu", "d_ff": 160, "rope_theta": 500.0},
    "neox-bare-tied": NEOX | {"qkv_bias": False, "out_bias": False, "tied_head": True, "rotary_dim": 16},
}
MORE = {
    "gpt2": preset("gpt2") | SIZES,
    "gpt2-erf": preset("gpt2") | SIZES | {"activation": "gelu", "dropout": 0.1, "attention_dropout": 0.2},
}
SCALED = {  # rotations, in a part of each head
    "neox-linear": NEOX | {"rotary_dim": 8, "rope_scaling": {"kind": "linear", "factor": 3.0}},
    "neox-llama3": NEOX
    | {
        "rotary_dim": 8,
        "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context": 12, "low_freq_factor": 1.0},
    },
    "neox-yarn": NEOX
    | {"rotary_dim": 8, "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 6, "beta_fast": 2.0}},
}


ALL = VARIANTS | SCALED | MORE


@pytest.fixture
def wide_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the fp32 casts out of the rotary table and the softmax of GPT-NeoX."""
    keep_float64(monkeypatch, modeling_gpt_neox)


def compared(variant: str, dtype: torch.dtype, folder: Path, side: str = "none") -> dict[str, float]:
    ours, theirs = both(ModelConfig(**ALL[variant]), dtype, folder)
    return differences(ours, theirs, some_ids(ours.config, rows=3), side)


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("variant", ALL)
def test_float64(variant: str, tmp_path: Path) -> None:
    found = compared(variant, torch.float64, tmp_path)
    assert max(found.values()) <= 1e-10, found


@pytest.mark.parametrize("variant", VARIANTS | SCALED)
def test_float64_with_the_reference_as_it_stands(variant: str, tmp_path: Path) -> None:
    found = compared(variant, torch.float64, tmp_path)
    assert max(found.values()) <= (1e-10 if variant.startswith("gpt1") else 1e-6), found


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32(variant: str, tmp_path: Path) -> None:
    found = compared(variant, torch.float32, tmp_path)
    assert max(found.values()) <= 1e-5, found


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt1", "gpt2", "neox"])
def test_padding(family: str, side: str, tmp_path: Path) -> None:
    found = compared(family, torch.float64, tmp_path, side)
    assert max(found.values()) <= 1e-10, found


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("family", ["gpt1", "gpt2", "neox"])
def test_positions_that_nobody_gives_are_those_of_the_cells(family: str, tmp_path: Path) -> None:
    ours, theirs = both(ModelConfig(**ALL[family]), torch.float64, tmp_path)
    ids = some_ids(ours.config, rows=3)
    valid = padding("left", *ids.shape)
    logits, wanted = ours(ids, mask=Mask(key_valid=valid)), theirs(ids, attention_mask=valid.long()).logits
    assert relative(logits[valid], wanted[valid]) <= 1e-10


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("family", ["gpt1", "gpt2", "neox"])
def test_the_cache(family: str, tmp_path: Path) -> None:
    ours, theirs = both(ModelConfig(**ALL[family]), torch.float64, tmp_path)
    ids = some_ids(ours.config)
    cached = decoded(ours, ids, prompt=8)
    with torch.no_grad():
        assert relative(cached, theirs(ids).logits) <= 1e-10
        if family != "gpt1":  # for which transformers has no cache
            prompt = theirs(ids[:, :8], use_cache=True)
            rest = theirs(ids[:, 8:], past_key_values=prompt.past_key_values).logits
            assert relative(cached[:, 8:], rest) <= 1e-10


Alone = Callable[[], transformers.PreTrainedModel]


def alone_gpt1() -> transformers.PreTrainedModel:
    config = transformers.OpenAIGPTConfig(
        vocab_size=61, n_positions=24, n_embd=48, n_layer=2, n_head=4, attn_pdrop=0.25, attn_implementation="eager"
    )
    return transformers.OpenAIGPTLMHeadModel(config)


def alone_neox() -> transformers.PreTrainedModel:
    config = transformers.GPTNeoXConfig(
        vocab_size=61,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=24,
        attention_dropout=0.25,
        hidden_dropout=0.1,
        hidden_act="gelu_fast",
        rotary_pct=0.5,
        rotary_emb_base=300,
        attn_implementation="eager",
    )
    return transformers.GPTNeoXForCausalLM(config)


@pytest.mark.parametrize("make", [alone_gpt1, alone_neox])
def test_a_folder_that_transformers_made_alone_opens_here_and_goes_back(make: Alone, tmp_path: Path) -> None:
    theirs = make().eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    ours, config = load_model(tmp_path / "theirs")
    assert (config.dropout, config.attention_dropout) == (0.1, 0.25)
    ids = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    save_model(tmp_path / "again", ours, config)
    again = open_theirs(tmp_path / "again", torch.float32)
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


def test_the_published_spelling_of_gpt1(tmp_path: Path) -> None:
    # Without the prefix and with the causal masks.
    config = ModelConfig(**GPT1)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    file = tmp_path / "m" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24).tril(), "position_ids": torch.arange(24)}
    tensors["lm_head.weight"] = tensors["tokens_embed.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    again, _ = load_model(tmp_path / "m")
    assert torch.equal(again(some_ids(config)), ours(some_ids(config)))


@pytest.mark.parametrize("head", ["embed_out.weight", "lm_head.weight"])
def test_the_published_spellings_of_neox(head: str, tmp_path: Path) -> None:
    config = ModelConfig(**NEOX)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors[head] = tensors.pop("embed_out.weight")
    tensors["gpt_neox.layers.1.attention.bias"] = torch.ones(1, 1, 24, 24, dtype=torch.bool).tril()
    tensors["gpt_neox.layers.1.attention.masked_bias"] = torch.tensor(-1e9)
    tensors["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, file, metadata={"format": "pt"})
    again, _ = load_model(tmp_path / "m")
    assert torch.equal(again(some_ids(config)), ours(some_ids(config)))


@pytest.mark.parametrize("variant", ["gpt1", "neox"])
def test_every_missing_extra_and_misshapen_tensor_is_named(variant: str, tmp_path: Path) -> None:
    config = ModelConfig(**VARIANTS[variant])
    save_model(tmp_path / "m", randomised(config, torch.float32), config)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    fused = "transformer.h.1.attn.c_attn" if variant == "gpt1" else "gpt_neox.layers.1.attention.query_key_value"
    shape = list(tensors[f"{fused}.weight"].shape)
    del tensors[f"{fused}.bias"]
    tensors[f"{fused}.weight"] = torch.zeros(64, 64)
    tensors["adapter.weight"] = torch.zeros(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert f"{fused}.bias is missing" in text and "adapter.weight belongs to nothing" in text
    assert "[64, 64]" in text and str(shape) in text
