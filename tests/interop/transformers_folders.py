"""Tiny folders that ``transformers`` writes: every architecture gptloom reads, all numbers random."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

LLAMA_LIKE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_LIKE = {
    "vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
BERT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt1": ("OpenAIGPTLMHeadModel", GPT_LIKE),
    "gpt2": ("GPT2LMHeadModel", GPT_LIKE),
    "gpt2-body": ("GPT2Model", GPT_LIKE),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "neox": ("GPTNeoXForCausalLM", LLAMA_LIKE),
    "bert": ("BertForPreTraining", BERT),
    "bert-masked": ("BertForMaskedLM", BERT),
    "bert-body": ("BertModel", BERT),
    "llama": ("LlamaForCausalLM", LLAMA_LIKE | {"rope_parameters": LLAMA3}),
    "mistral": ("MistralForCausalLM", LLAMA_LIKE | {"sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA_LIKE | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", LLAMA_LIKE | {"head_dim": 16}),
    "nanochat": ("NanoChatForCausalLM", LLAMA_LIKE),
}


def write_folder(folder: Path, name: str = "gpt2", *, shard: str | None = None, **changes: Any) -> None:
    """A folder of ``ARCHITECTURES[name]`` with numbers around 0 (gains around 1); ``shard``: the largest size of a file."""
    kind, fields = ARCHITECTURES[name]
    class_ = getattr(transformers, kind)
    config = class_.config_class(**(fields | changes))
    torch.manual_seed(5)
    model = class_(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and parameter_name.endswith("weight")
            parameter.normal_(mean=float(gain), std=0.2)
    model.save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
