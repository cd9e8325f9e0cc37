"""What each layout can hold, what it refuses by name, and what a folder tells of its heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.layouts import layout_for, layout_of
from gptloom.model.layouts.bert import BertLayout
from gptloom.model.store import read_config, save_model
from gptloom.model.transformer import Transformer

SIZES = {"vocab_size": 37, "context": 8, "n_layer": 2, "d_model": 32, "n_head": 4}
BASE = {
    "gpt1": preset("gpt1") | SIZES,
    "gpt2": preset("gpt2") | SIZES,
    "gpt3": preset("gpt3-small") | SIZES | {"window": 3},
    "neox": preset("neox-20b") | SIZES | {"rotary_dim": 4},
    "bert": preset("bert-tiny") | SIZES,
    "modern": preset("modern-nano") | SIZES,
}


@pytest.mark.parametrize(
    ("family", "change", "names"),
    [
        ("gpt1", {"d_ff": 96, "norm_place": "pre"}, ["d_ff", "norm_place"]),
        ("gpt1", {"activation": "gelu"}, ["activation"]),
        ("gpt2", {"banded": "alternate", "window": 4}, ["banded"]),
        ("gpt2", {"mask": "bidirectional", "parallel_residual": True}, ["mask", "parallel_residual"]),
        ("gpt2", {"activation": "swiglu", "scale_attention": False}, ["activation", "scale_attention"]),
        ("gpt2", {"bias": False, "qkv_bias": False, "out_bias": False, "mlp_bias": False}, ["bias"]),
        ("gpt2", {"qkv_bias": False}, ["qkv_bias"]),
        ("gpt3", {"positions": "rotary", "rotary_dim": 8}, ["positions"]),
        ("neox", {"n_kv_head": 2, "head_dim": 16}, ["n_kv_head", "head_dim"]),
        ("neox", {"qkv_bias": False}, ["out_bias"]),
        ("bert", {"mask": "causal", "embedding_norm": False}, ["mask", "embedding_norm"]),
        ("bert", {"segments": 0}, ["type_vocab_size"]),
        ("modern", {"masked_head": True, "segments": 2}, ["masked_head", "segments"]),
    ],
)
def test_exactly_the_fields_that_would_be_lost_are_named(family: str, change: dict, names: list[str]) -> None:
    config = ModelConfig(**BASE[family] | change)
    assert sorted(problem.what.split(" ")[0] for problem in layout_for(config).unfit(config)) == sorted(names)


@pytest.mark.parametrize("family", BASE)
def test_what_fits_has_no_problem(family: str) -> None:
    config = ModelConfig(**BASE[family])
    assert layout_for(config).unfit(config) == []


def test_an_unfit_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = Transformer.initialised(ModelConfig(**BASE["gpt2"] | {"positions": "rotary"}), 0)
    with pytest.raises(UserError, match="positions is 'rotary'; the gpt2 layout holds only 'learned'"):
        save_model(tmp_path / "m", model, model.config)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("family", BASE)
@pytest.mark.parametrize("attention", [None, 0.0, 0.3])
def test_both_dropouts_come_back(family: str, attention: float | None, tmp_path: Path) -> None:
    config = ModelConfig(**BASE[family] | {"dropout": 0.2, "attention_dropout": attention})
    save_model(tmp_path / "m", Transformer.initialised(config, 0), config)
    assert read_config(tmp_path / "m") == config


@pytest.mark.parametrize(
    ("family", "residual", "attention"),
    [
        ("gpt1", "resid_pdrop", "attn_pdrop"),
        ("gpt2", "resid_pdrop", "attn_pdrop"),
        ("neox", "hidden_dropout", "attention_dropout"),
        ("bert", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    ],
)
def test_dropouts_are_written_as_numbers(family: str, residual: str, attention: str) -> None:
    config = ModelConfig(**BASE[family] | {"dropout": 0.2})
    raw = layout_for(config).to_config(config)
    assert (raw[residual], raw[attention]) == (0.2, 0.2)
    raw = layout_for(config).to_config(config.model_copy(update={"attention_dropout": 0.0}))
    assert (raw[residual], raw[attention]) == (0.2, 0.0)


def test_the_share_of_a_head_that_is_rotated_comes_back_whole() -> None:
    for n_head, rotary_dim in [(1, 26), (2, 2), (8, 8), (1, 256), (1, 258)]:
        width = {1: 400, 2: 98, 8: 8 * 49}[n_head]  # 400 / 26, 49 / 2, 49 / 8: shares that floats round down
        config = ModelConfig(**BASE["neox"] | {"d_model": width, "n_head": n_head, "rotary_dim": rotary_dim})
        raw = layout_for(config).to_config(config)
        assert layout_of(raw).from_config(raw).rotary_dim == rotary_dim


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("BertForPreTraining", {"masked_head", "pooler", "pair_head"}),
        ("BertForMaskedLM", {"masked_head"}),
        ("BertForNextSentencePrediction", {"pooler", "pair_head"}),
        ("BertModel", {"pooler"}),
        (None, {"pooler"}),
    ],
)
def test_a_config_alone_tells_the_heads_by_its_class(architecture: str | None, heads: set[str]) -> None:
    config = ModelConfig(**BASE["bert"])
    raw = layout_for(config).to_config(config) | {"architectures": [architecture] if architecture else None}
    read = layout_of(raw).from_config(raw)
    assert {name for name in ("masked_head", "pooler", "pair_head") if getattr(read, name)} == heads
    if architecture:
        assert layout_for(read).to_config(read)["architectures"] == [architecture]


@pytest.mark.parametrize("heads", [set(), {"pooler"}, {"masked_head"}, {"masked_head", "pooler", "pair_head"}])
def test_heads_are_read_from_names_in_any_spelling(heads: set[str]) -> None:
    fields = {name: name in heads for name in ("masked_head", "pooler", "pair_head")}
    config = ModelConfig(**BASE["bert"] | fields)
    layout, state = BertLayout(), Transformer(config).state_dict()
    stored = [name for name, _ in layout.to_tensors(state, config)]
    bare = [name.removeprefix("bert.") for name in stored]
    for names in (stored, bare, list(state)):  # the last: a checkpoint by several processes
        assert layout.heads_of(names) == fields


def test_an_encoder_ends_no_text_and_a_decoder_does() -> None:
    bert, gpt1 = ModelConfig(**BASE["bert"]), ModelConfig(**BASE["gpt1"])
    raw = layout_for(bert).to_config(bert, eot_id=3, pad_id=0)
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (None, None, 0)
    assert layout_for(gpt1).to_config(gpt1, eot_id=3)["eos_token_id"] == 3


def test_a_second_tensor_of_the_same_name_is_left_over() -> None:
    names = layout_of({"model_type": "gpt2"}).canonical(["wte.weight", "transformer.wte.weight"])
    assert sorted(names.values()) == ["transformer.wte.weight", "wte.weight"]


def test_gpt3_says_its_band(tmp_path: Path) -> None:
    config = ModelConfig(**BASE["gpt3"] | {"banded": (0, 1)})
    save_model(tmp_path / "m", Transformer.initialised(config, 0), config, dtype=torch.bfloat16)
    raw = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))
    assert (raw["model_type"], raw["window"], raw["banded"]) == ("gptloom-gpt3", 3, [0, 1])
    assert read_config(tmp_path / "m") == config
