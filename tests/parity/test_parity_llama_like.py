"""Llama, Mistral, Qwen2, Qwen3, nanochat and GPT-Neo against `transformers`, with what each config.json may ask for.

Logits, hidden states, the loss and every gradient; padded left, right and not at all; with and without a cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoders import decoded, differences, keep_float64
from side_by_side import both, relative, some_ids
from torch import Tensor, nn
from transformers.models.gpt_neo import modeling_gpt_neo
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.nanochat import modeling_nanochat
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.counting import count_parameters
from gptloom.model.layouts import layout_for
from gptloom.model.store import load_model
from gptloom.model.transformer import Transformer

LLAMA = preset("modern-nano") | {
    **{"family": "llama", "qk_norm": "none", "tied_head": False, "norm_eps": 1e-3},
    **{"vocab_size": 97, "context": 24, "n_layer": 3, "d_model": 64, "n_head": 4, "d_ff": 80},
}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_context": 12, "high_freq_factor": 3.0}
YARN = {"kind": "yarn", "factor": 4.0, "original_context": 6, "beta_fast": 2.0, "beta_slow": 0.05}
QWEN2 = LLAMA | {"family": "qwen2", "qkv_bias": True, "n_kv_head": 2}
QWEN3 = LLAMA | {"family": "modern", "qk_norm": "before_rotary"}
FAST = preset("fast-nano") | {"vocab_size": 97, "context": 24, "n_layer": 3, "d_model": 64, "n_head": 4, "d_ff": 80}
NEO = preset("gpt2") | {
    **{"family": "gpt_neo", "scale_attention": False, "qkv_bias": False, "window": 5, "banded": "alternate"},
    **{"vocab_size": 97, "context": 24, "n_layer": 3, "d_model": 64, "n_head": 4},
}
VARIANTS = {
    "llama": LLAMA,
    "llama-grouped-tied": LLAMA | {"n_kv_head": 2, "tied_head": True, "rope_theta": 500.0, "head_dim": 24},
    "llama-biases": LLAMA | {"bias": True, "n_kv_head": 1},
    "llama-attention-biases": LLAMA | {"qkv_bias": True, "out_bias": True},
    "llama-linear": LLAMA | {"rope_scaling": {"kind": "linear", "factor": 3.0}},
    "llama-llama3": LLAMA | {"rope_scaling": LLAMA3, "rope_theta": 200.0},
    "llama-yarn": LLAMA | {"rope_scaling": YARN, "rope_theta": 200.0},
    "mistral": LLAMA | {"family": "mistral", "n_kv_head": 2, "head_dim": 24},
    "mistral-window": LLAMA | {"family": "mistral", "n_kv_head": 2, "window": 5, "banded": "all"},
    "qwen2": QWEN2,
    "qwen2-windows": QWEN2 | {"window": 5, "banded": (1, 2), "tied_head": True, "head_dim": 24},
    "qwen2-yarn": QWEN2 | {"rope_scaling": YARN | {"attention_factor": 1.3, "truncate": False}},
    "qwen3-windows": QWEN3 | {"window": 5, "banded": (0, 2), "n_kv_head": 2, "head_dim": 24},
    "qwen3-biases": QWEN3 | {"qkv_bias": True, "out_bias": True, "rope_scaling": LLAMA3},
    "nanochat-biases": FAST | {"qkv_bias": True, "out_bias": True, "n_kv_head": 2, "head_dim": 24, "norm_eps": 1e-3},
    "nanochat-yarn": FAST | {"rope_scaling": YARN, "tied_head": True},
    "gpt_neo": NEO,
    "gpt_neo-untied-wide": NEO
    | {"banded": (0,), "tied_head": False, "d_ff": 160, "activation": "gelu", "norm_eps": 1e-3},
    "gpt_neo-global": NEO | {"window": None, "banded": "none", "activation": "relu"},
}
CLASSES = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "modern": transformers.Qwen3ForCausalLM,
    "fast": transformers.NanoChatForCausalLM,
    "gpt_neo": transformers.GPTNeoForCausalLM,
}
MODULES = (modeling_gpt_neo, modeling_llama, modeling_mistral, modeling_nanochat, modeling_qwen2, modeling_qwen3)
Twins = tuple[Transformer, transformers.PreTrainedModel]
SIDES = ("none", "left", "right")


@pytest.fixture
def wide_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def nanochat_norm(self: nn.Module, x: Tensor) -> Tensor:
        return self._norm(x)

    keep_float64(monkeypatch, *MODULES)
    monkeypatch.setattr(modeling_nanochat.NanoChatRMSNorm, "forward", nanochat_norm)


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_with_a_reference_that_keeps_float64(variant: str, tmp_path: Path) -> None:
    config = ModelConfig(**VARIANTS[variant])
    ours, theirs = both(config, torch.float64, tmp_path)
    assert type(theirs) is CLASSES[config.family]
    for side in SIDES:
        found = differences(ours, theirs, some_ids(config), side)
        assert max(found.values()) <= 1e-10, (side, found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_with_the_reference_as_it_stands(variant: str, tmp_path: Path) -> None:
    config = ModelConfig(**VARIANTS[variant])
    found = differences(*both(config, torch.float64, tmp_path), some_ids(config))
    assert max(found["logits, in norm"], found["hidden, in norm"], found["loss"]) <= 1e-6, found
    assert max(found.values()) <= 5e-6, (
        found
    )  # single numbers, and gradients, are off by several of their fp32 roundings


@pytest.fixture(scope="module", params=VARIANTS)
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return both(ModelConfig(**VARIANTS[request.param]), torch.float32, tmp_path_factory.mktemp(request.param))


def test_float32(twins: Twins) -> None:
    for side in SIDES:
        found = differences(*twins, some_ids(twins[0].config), side)
        assert max(found.values()) <= 1e-5, (side, found)


def test_a_cache_decodes_what_the_reference_computes_at_once(twins: Twins) -> None:
    ours, theirs = twins
    ids = some_ids(ours.config)
    with torch.no_grad():
        wanted = theirs(ids).logits
    assert relative(decoded(ours, ids, prompt=9), wanted) <= 1e-5


def test_what_they_save_from_our_folder_opens_here(twins: Twins, tmp_path: Path) -> None:
    ours, theirs = twins
    theirs.save_pretrained(tmp_path / "theirs")
    again, found = load_model(tmp_path / "theirs")
    assert found.model_dump(exclude={"init", "dropout"}) == ours.config.model_dump(exclude={"init", "dropout"})
    ids = some_ids(ours.config)
    assert torch.equal(again(ids), ours(ids))


SMALL = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4}
YARN_THEIRS = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 100.0}
QWEN2_THEIRS = {
    **{"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3},
    **{"head_dim": 16, "num_key_value_heads": 2},
}
MADE_BY_THEM = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-yarn-weights": ("llama", {"rope_parameters": YARN_THEIRS | {"mscale": 0.7, "mscale_all_dim": 0.4}}),
    "mistral": ("mistral", {"sliding_window": 6, "num_key_value_heads": 2}),
    "qwen2": ("qwen2", QWEN2_THEIRS),
    "qwen3": ("modern", {"attention_bias": True, "num_key_value_heads": 2}),
    "nanochat": ("fast", {"attention_bias": True, "num_key_value_heads": 2}),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": 6}),
}


@pytest.mark.parametrize("made", MADE_BY_THEM)
def test_a_folder_that_transformers_made_alone_opens_here(made: str, tmp_path: Path) -> None:
    family, fields = MADE_BY_THEM[made]
    known = CLASSES[family].config_class(**SMALL, **fields, max_position_embeddings=32, attn_implementation="eager")
    theirs = CLASSES[family](known).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    ours, config = load_model(tmp_path / "theirs")
    assert config.family == family
    found = differences(ours, theirs, torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(3)), "left")
    assert max(found.values()) <= 1e-5, found


def test_the_greedy_text_of_transformers_is_ours_far_beyond_the_window(tmp_path: Path) -> None:
    config = ModelConfig(**VARIANTS["mistral-window"] | {"context": 64, "window": 4})
    ours, theirs = both(config, torch.float64, tmp_path)
    prompt = some_ids(config)[:1, :8]
    written = theirs.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)
    chosen = decoded(ours, written, prompt=8).argmax(-1)
    assert written[0, 8:].tolist() == chosen[0, 7:-1].tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_counted(variant: str) -> None:
    config = ModelConfig(**VARIANTS[variant])
    with torch.device("meta"):
        model = Transformer(config)
    assert count_parameters(config).total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("variant", "change", "reason"),
    [
        ("llama", {"d_model": 63, "head_dim": 16}, "d_model 63 is not a multiple of n_head 4"),
        ("llama", {"out_bias": True}, "out_bias is True"),
        ("mistral", {"qkv_bias": True, "mlp_bias": True}, "qkv_bias is True.*\n.*mlp_bias is True"),
        ("qwen2", {"qkv_bias": False}, "qkv_bias is False; the qwen2 layout holds only True"),
        (
            "qwen2",
            {"parallel_residual": True, "norm_place": "post"},
            "norm_place is 'post'.*\n.*parallel_residual is True",
        ),
        ("gpt_neo", {"scale_attention": True, "n_kv_head": 2}, "n_kv_head is 2.*\n.*scale_attention is True"),
        ("gpt_neo", {"mask": "bidirectional"}, "mask is 'bidirectional'"),
    ],
)
def test_what_a_family_cannot_hold_is_refused_by_name(variant: str, change: dict[str, Any], reason: str) -> None:
    config = ModelConfig(**VARIANTS[variant] | change)
    with pytest.raises(UserError, match=reason):
        layout_for(config).to_config(config)
