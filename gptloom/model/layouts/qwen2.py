"""The layout of ``Qwen2ForCausalLM`` (Qwen1.5, Qwen2, Qwen2.5), and the windows that it shares with Qwen3."""

from __future__ import annotations

from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.bands import banded_layers, read_bands
from gptloom.model.layouts.layout import Fields
from gptloom.model.layouts.llama_like import LLAMA, LlamaLikeLayout
from gptloom.model.layouts.task_heads import decoder_classes

QWEN_SIZES = {
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_size": 4096,
    "head_dim": None,
    "intermediate_size": 22016,
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


class QwenLayout(LlamaLikeLayout):
    """Llama-like with windows in some layers: in those that ``layer_types`` lists, else from ``max_window_layers`` on."""

    def describe_windows(self, config: ModelConfig) -> dict[str, Any]:
        banded = banded_layers(config)
        if not any(banded):
            return {"use_sliding_window": False}
        windows: dict[str, Any] = {
            "use_sliding_window": True,
            "sliding_window": config.window,
            "layer_types": [_SLIDING if limited else _FULL for limited in banded],
        }
        first = banded.index(True)
        if all(banded[first:]):  # only then can those say it that know no layer_types
            windows["max_window_layers"] = first
        return windows

    def read_windows(self, fields: Fields, n_layer: int) -> dict[str, Any]:
        window = fields.get_or_null("sliding_window", 4096) if fields.get("use_sliding_window", False) else None
        kinds = fields.get("layer_types")
        if kinds is None:
            from_layer = fields.get("max_window_layers", 28)
            if isinstance(from_layer, int):
                return read_bands([window is not None and layer >= from_layer for layer in range(n_layer)], window)
            fields.problems.append(Problem(f"max_window_layers is {from_layer!r}; expected a number", fields.where))
        elif not isinstance(kinds, list):
            fields.problems.append(Problem(f"layer_types is {kinds!r}; expected a list", fields.where))
        elif unknown := sorted({str(kind) for kind in kinds} - {_FULL, _SLIDING}):
            text = f"layer_types has {', '.join(unknown)}; gptloom has only {_FULL} and {_SLIDING}"
            fields.problems.append(Problem(text, fields.where))
        elif len(kinds) != n_layer:
            text = f"layer_types has {len(kinds)} entries; there are num_hidden_layers {n_layer}"
            fields.problems.append(Problem(text, fields.where))
        elif _SLIDING in kinds and window is None:
            text = f"layer_types has {_SLIDING}, but use_sliding_window and sliding_window give no window"
            fields.problems.append(Problem(text, fields.where))
        else:
            return read_bands([kind == _SLIDING for kind in kinds], window)
        return {}


class Qwen2Layout(QwenLayout):
    """Qwen2 as ``transformers`` has it: biases of queries, keys and values, and no others."""

    family = "qwen2"
    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"
    task_classes = decoder_classes("Qwen2", tokens="score", span_prefix="transformer.")
    fixed = LLAMA | {"qk_norm": "none", "qkv_bias": True, "out_bias": False, "mlp_bias": False}
    sizes = QWEN_SIZES
