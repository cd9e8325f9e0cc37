"""GPT-3's banded layers against `transformers`: its GPT-2 with the band put into the mask of every second layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoders import decoded, differences
from side_by_side import open_theirs, randomised, relative, some_ids
from torch import nn

from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import load_model, save_model
from gptloom.model.transformer import Transformer

GPT3 = preset("gpt3-small") | {"vocab_size": 97, "context": 24, "n_layer": 4, "d_model": 64, "n_head": 4, "window": 5}
VARIANTS = {
    "alternate": GPT3,
    "all": GPT3 | {"banded": "all", "window": 1},
    "chosen": GPT3 | {"banded": (0, 3), "window": 7},
}


def band(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], window: int) -> tuple[Any, dict[str, Any]]:
    """Hides what lies more than ``window`` tokens back from an attention layer of GPT-2."""
    hidden = inputs[0] if inputs else named["hidden_states"]
    index = torch.arange(hidden.shape[1])
    seen = (index[:, None] >= index) & (index[:, None] - index < window)
    hidden_ones = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
    return inputs, {**named, "attention_mask": hidden_ones[None, None]}


def banded_gpt2(folder: Path, config: ModelConfig, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """Our folder as GPT-2, whose tensors have the same names, with bands where ``config`` has them."""
    file = folder / "config.json"
    raw = json.loads(file.read_text(encoding="utf-8")) | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    file.write_text(json.dumps(raw), encoding="utf-8")
    model = open_theirs(folder, dtype)
    for index, block in enumerate(model.transformer.h):
        if window := config.window_of(index):
            block.attn.register_forward_pre_hook(
                lambda layer, inputs, named, window=window: band(layer, inputs, named, window), with_kwargs=True
            )
    return model


def pair(variant: str, dtype: torch.dtype, folder: Path) -> tuple[Transformer, transformers.PreTrainedModel]:
    config = ModelConfig(**VARIANTS[variant])
    ours = randomised(config, dtype)
    save_model(folder / "ours", ours, config)
    again, same = load_model(folder / "ours")
    assert same == config and torch.equal(again(some_ids(config)), ours(some_ids(config)))
    return ours, banded_gpt2(folder / "ours", config, dtype)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_hidden_states_loss_and_gradients(
    variant: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    ours, theirs = pair(variant, dtype, tmp_path)
    found = differences(ours, theirs, some_ids(ours.config))
    assert max(found.values()) <= tolerance, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_respects_the_band(variant: str, tmp_path: Path) -> None:
    ours, theirs = pair(variant, torch.float64, tmp_path)
    ids = some_ids(ours.config)
    with torch.no_grad():
        assert relative(decoded(ours, ids, prompt=8), theirs(ids).logits) <= 1e-10


def test_a_band_of_the_whole_context_is_a_dense_gpt3(tmp_path: Path) -> None:
    config = ModelConfig(**GPT3 | {"window": 24})
    ours = randomised(config, torch.float64)
    dense = ModelConfig(**GPT3 | {"family": "gpt2", "banded": "none", "window": None})
    save_model(tmp_path / "dense", ours, dense)
    ids = some_ids(config)
    assert relative(ours(ids), open_theirs(tmp_path / "dense", torch.float64)(ids).logits) <= 1e-10


def test_no_class_of_transformers_claims_the_banded_folder(tmp_path: Path) -> None:
    config = ModelConfig(**GPT3)
    save_model(tmp_path / "m", randomised(config, torch.float32), config)
    with pytest.raises(ValueError, match="gptloom-gpt3"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
