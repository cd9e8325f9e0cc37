from __future__ import annotations

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset, presets
from gptloom.model.layouts import LAYOUTS, layout_for, layout_of
from gptloom.model.transformer import Transformer

BASE = {
    "gpt1": preset("gpt1"),
    "gpt2": preset("gpt2"),
    "gpt3": preset("gpt3-small"),
    "neox": preset("neox-20b") | {"rotary_dim": 4},
    "bert": preset("bert-tiny"),
    "gpt_neo": preset("gpt2") | {"family": "gpt_neo", "scale_attention": False, "qkv_bias": False},
    "llama": preset("modern-nano") | {"family": "llama", "qk_norm": "none"},
    "mistral": preset("modern-nano") | {"family": "mistral", "qk_norm": "none", "window": 4, "banded": "all"},
    "qwen2": preset("modern-nano") | {"family": "qwen2", "qk_norm": "none", "qkv_bias": True},
    "modern": preset("modern-nano"),
    "fast": preset("fast-nano"),
}
GPT2_WRONG = {
    "activation_function": "silu",
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
    "add_cross_attention": True,
    "embd_pdrop": 0.3,
    "quantization_config": {"bits": 4},
}
WRONG = {
    "gpt1": {"afn": "silu", "embd_pdrop": 0.3},
    "gpt2": GPT2_WRONG,
    "gpt3": GPT2_WRONG | {"banded": "some"},
    "neox": {
        "hidden_act": "silu",
        "rotary_pct": 0.0,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "quantization_config": {"bits": 4},
    },
    "bert": {
        "hidden_act": "silu",
        "is_decoder": True,
        "add_cross_attention": True,
        "position_embedding_type": "relative_key",
        "type_vocab_size": 0,
    },
    "gpt_neo": {
        "activation_function": "silu",
        "attention_layers": ["global"] * 12,
        "attention_types": [[["global", "chunked"], 6]],
        "embed_dropout": 0.3,
        "is_causal": False,
        "quantization_config": {"bits": 4},
    },
    "llama": {
        "hidden_act": "gelu",
        "pretraining_tp": 2,
        "partial_rotary_factor": 0.5,
        "per_layer_config": {"0": {}},
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "auto_map": {"AutoModel": "x"},
    },
    "mistral": {
        "hidden_act": "gelu",
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
    },
    "qwen2": {
        "hidden_act": "gelu",
        "layer_types": ["full_attention", "linear_attention"],
        "rope_scaling": "yarn",
    },
    "modern": {
        "hidden_act": "gelu",
        "is_causal": False,
        "layer_types": ["sliding_attention"] * 4,
        "rope_parameters": {"rope_type": "default", "full_attention": {"rope_type": "default"}},
    },
    "fast": {
        "hidden_act": "silu",
        "rope_scaling": {"rope_type": "linear"},
    },
}


@pytest.mark.parametrize("name", presets())
def test_every_preset_survives_its_config_json(name: str) -> None:
    config = ModelConfig(**preset(name))
    raw = layout_for(config).to_config(config)
    again = layout_of(raw).from_config(raw)
    assert again == config


@pytest.mark.parametrize("family", BASE)
def test_every_tensor_has_one_place_and_comes_back(family: str) -> None:
    config = ModelConfig(**BASE[family] | {"n_layer": 2, "d_model": 32, "n_head": 4, "vocab_size": 19, "context": 8})
    state = {name: torch.randn_like(tensor) for name, tensor in Transformer(config).state_dict().items()}
    layout = layout_for(config)
    folder = dict(layout.to_tensors(state, config))
    again = {
        name: tensor
        for rule in layout.rules(config)
        for name, tensor in zip(rule.ours, rule.read(folder[rule.theirs]), strict=True)
    }
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert sum(t.numel() for t in folder.values()) == sum(t.numel() for t in state.values())


@pytest.mark.parametrize("family", BASE)
def test_every_field_that_is_not_implemented_is_named_at_once(family: str) -> None:
    config = ModelConfig(**BASE[family])
    raw = layout_for(config).to_config(config) | WRONG[family]
    with pytest.raises(UserError) as caught:
        layout_of(raw, "m/config.json").from_config(raw, "m/config.json")
    text = str(caught.value)
    assert len(caught.value.problems) == len(WRONG[family])
    assert all(name in text for name in WRONG[family])
    assert text.count("m/config.json") == len(WRONG[family])


@pytest.mark.parametrize("family", BASE)
def test_values_of_the_wrong_type_are_named(family: str) -> None:
    raw = layout_for(ModelConfig(**BASE[family])).to_config(ModelConfig(**BASE[family])) | {"vocab_size": "many"}
    with pytest.raises(UserError, match="vocab_size is 'many'"):
        layout_of(raw).from_config(raw)


@pytest.mark.parametrize(
    ("family", "change", "names"),
    [
        ("gpt2", {"positions": "rotary", "bias": False, "head_dim": 32}, ["positions", "bias", "head_dim"]),
        ("gpt2", {"n_kv_head": 4}, ["n_kv_head"]),
        ("modern", {"logit_softcap": 15.0, "norm": "layernorm"}, ["logit_softcap", "norm"]),
        ("modern", {"qk_norm": "none", "embedding_norm": True, "activation": "relu2"}, ["qk_norm", "embedding_norm"]),
        ("fast", {"positions": "learned", "norm": "rmsnorm", "bias": True}, ["positions", "norm", "mlp_bias"]),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_by_name(family: str, change: dict, names: list[str]) -> None:
    config = ModelConfig(**BASE[family] | change)
    with pytest.raises(UserError) as caught:
        layout_for(config).to_config(config)
    assert all(any(problem.what.startswith(name) for problem in caught.value.problems) for name in names)


def test_an_unknown_model_type_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'t5'.*openai-gpt, gpt2, gptloom-gpt3, gpt_neox, bert, .*qwen3, nanochat"):
        layout_of({"model_type": "t5"})
    with pytest.raises(UserError, match="model_type None"):
        layout_of({})


def test_ids_are_written_even_when_there_are_none() -> None:
    # transformers' own defaults (GPT-2's 50256, nanochat's 0 and 1) must not creep into another vocabulary.
    for layout in LAYOUTS:
        raw = layout.to_config(ModelConfig(**BASE[layout.family]))
        assert [raw[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [None, None, None]


def test_older_spellings_of_the_rotary_base_are_read() -> None:
    raw = layout_for(ModelConfig(**BASE["modern"])).to_config(ModelConfig(**BASE["modern"]))
    del raw["rope_parameters"]
    assert layout_of(raw).from_config(raw | {"rope_theta": 5e5}).rope_theta == 5e5
    new = raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 2e5}, "rope_theta": 1.0}
    assert layout_of(new).from_config(new).rope_theta == 2e5


def test_fields_that_the_class_does_not_know_are_ignored() -> None:
    raw = layout_for(ModelConfig(**BASE["modern"])).to_config(ModelConfig(**BASE["modern"]))
    assert layout_of(raw).from_config(raw | {"_name_or_path": "x", "use_cache": True}) == ModelConfig(**BASE["modern"])
