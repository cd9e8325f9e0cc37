"""Which layers see how far: config.json as `transformers` reads it, and its masks beside ours, token by token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import pytest
import torch
import transformers
from decoders import decoded
from side_by_side import both, relative, some_ids

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.layouts import layout_for, layout_of

QWEN_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 31}
QWEN = {**QWEN_SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 40}
NEO = {"hidden_size": 32, "num_heads": 4, "num_layers": 4, "vocab_size": 31, "max_position_embeddings": 40}
FULL, SLIDING = "full_attention", "sliding_attention"
READ: dict[str, tuple[str, dict[str, Any], list[int | None]]] = {
    "mistral unsaid": ("mistral", QWEN, [4096] * 4),
    "mistral null": ("mistral", QWEN | {"sliding_window": None}, [None] * 4),
    "mistral": ("mistral", QWEN | {"sliding_window": 7}, [7] * 4),
    "qwen2 unsaid": ("qwen2", QWEN, [None] * 4),
    "qwen2 switched off": ("qwen2", QWEN | {"sliding_window": 7, "max_window_layers": 0}, [None] * 4),
    "qwen2 unsaid window": (
        "qwen2",
        QWEN | {"use_sliding_window": True, "max_window_layers": 2},
        [None, None, 4096, 4096],
    ),
    "qwen2 null window": (
        "qwen2",
        QWEN | {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        [None] * 4,
    ),
    "qwen2 from 28 on": ("qwen2", QWEN | {"use_sliding_window": True, "sliding_window": 7}, [None] * 4),
    "qwen2 listed": (
        "qwen2",
        QWEN | {"use_sliding_window": True, "sliding_window": 7, "layer_types": [SLIDING, FULL, FULL, SLIDING]},
        [7, None, None, 7],
    ),
    "qwen3 from 3 on": (
        "qwen3",
        QWEN | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3},
        [None, None, None, 7],
    ),
    "neo": ("gpt_neo", NEO | {"attention_types": [[["global", "local"], 2]]}, [None, 256, None, 256]),
    "neo uneven": (
        "gpt_neo",
        NEO | {"attention_types": [[["local"], 1], [["global", "local", "local"], 1]], "window_size": 3},
        [3, None, 3, 3],
    ),
    "neo global": ("gpt_neo", NEO | {"attention_types": [[["global"], 4]]}, [None] * 4),
}


@pytest.mark.parametrize("case", READ)
def test_the_window_of_each_layer(case: str) -> None:
    kind, raw, windows = READ[case]
    config = layout_of({"model_type": kind}).from_config(raw)
    assert [config.window_of(layer) for layer in range(4)] == windows
    written = layout_for(config).to_config(config)
    assert layout_of(written).from_config(written) == config
    theirs = transformers.AutoConfig.for_model(kind, **{k: v for k, v in written.items() if k != "model_type"})
    listed = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    if listed is not None:
        assert [name in (SLIDING, "local") for name in listed] == [window is not None for window in windows]


def test_a_list_for_readers_that_know_none() -> None:
    raw = QWEN | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}
    config = layout_of({"model_type": "qwen2"}).from_config(raw)
    written = layout_for(config).to_config(config)
    assert written["max_window_layers"] == 3
    del written["layer_types"]
    assert layout_of(written).from_config(written) == config


@pytest.mark.parametrize(
    ("kind", "raw", "reason"),
    [
        ("qwen2", QWEN | {"layer_types": [SLIDING] * 4}, "layer_types has sliding_attention, but use_sliding_window"),
        ("qwen3", QWEN | {"layer_types": [FULL] * 3}, "layer_types has 3 entries; there are num_hidden_layers 4"),
        ("qwen3", QWEN | {"layer_types": [FULL] * 3 + ["linear_attention"]}, "layer_types has linear_attention"),
        ("qwen3", QWEN | {"layer_types": 4}, "layer_types is 4; expected a list"),
        ("qwen2", QWEN | {"max_window_layers": "x"}, "max_window_layers is 'x'; expected a whole number"),
        ("qwen2", QWEN | {"num_hidden_layers": "x"}, "num_hidden_layers is 'x'"),
        ("mistral", QWEN | {"layer_types": [FULL] * 4}, "layer_types has full_attention"),
        ("mistral", QWEN | {"sliding_window": 0}, "window is 0"),
        (
            "gpt_neo",
            NEO | {"attention_types": [[["global"], 3]]},
            "attention_types has 3 layers; there are num_layers 4",
        ),
        ("gpt_neo", NEO | {"attention_types": [["global", "x"]]}, "attention_types is "),
        (
            "gpt_neo",
            NEO | {"attention_types": [[["global"], 4]], "attention_layers": ["local"] * 4},
            "attention_layers says",
        ),
    ],
)
def test_windows_that_make_no_sense_are_refused(kind: str, raw: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        layout_of({"model_type": kind}).from_config(raw)


def test_a_layout_without_windows_names_the_field() -> None:
    config = ModelConfig(**preset("modern-nano") | {"family": "llama", "qk_norm": "none", "window": 4, "banded": "all"})
    with pytest.raises(UserError, match="banded is 'all'"):
        layout_for(config).to_config(config)
    config = ModelConfig(**config.model_dump() | {"family": "mistral", "banded": "alternate"})
    with pytest.raises(UserError, match="banded is 'alternate'"):
        layout_for(config).to_config(config)


SMALL = {"vocab_size": 31, "context": 40, "n_layer": 4, "d_model": 32, "n_head": 4, "d_ff": 48}
QWEN3 = preset("modern-nano") | SMALL
MODELS = {
    "mistral": QWEN3 | {"family": "mistral", "qk_norm": "none", "banded": "all"},
    "qwen3": QWEN3 | {"banded": (0, 3), "n_kv_head": 2},
    "gpt_neo": preset("gpt2")
    | SMALL
    | {"family": "gpt_neo", "scale_attention": False, "qkv_bias": False, "banded": "alternate"},
}


@pytest.mark.parametrize("window", [1, 6, 41])
@pytest.mark.parametrize("name", MODELS)
def test_windows_of_every_length_with_and_without_a_cache(name: str, window: int, tmp_path: Path) -> None:
    config = ModelConfig(**MODELS[name] | {"window": window})
    ours, theirs = both(config, torch.float32, tmp_path)
    ids = some_ids(config)
    with torch.no_grad():
        wanted = theirs(ids).logits
        assert relative(ours(ids), wanted) <= 1e-5
    assert relative(ours(ids), wanted) <= 1e-5  # the path with gradients is another
    for prompt in (1, 17):
        assert relative(decoded(ours, ids, prompt), wanted) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_attention_weights_end_where_the_window_does(name: str, tmp_path: Path) -> None:
    config = ModelConfig(**MODELS[name] | {"window": 6})
    ours, theirs = both(config, torch.float32, tmp_path)
    ids = some_ids(config)
    weights: list[torch.Tensor] = []
    with torch.no_grad():
        ours.hidden(ids, weights=weights)
        wanted = theirs(ids, output_attentions=True).attentions
    back = torch.arange(40)[:, None] - torch.arange(40)
    for layer, (found, reference) in enumerate(zip(weights, wanted, strict=True)):
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-5)
        seen = (back >= 0) & (back < (config.window_of(layer) or 40))
        assert bool((found > 0)[..., ~seen].any()) is False
        assert bool((found[..., seen] > 0).any())
