"""Heads of tasks against `transformers`: each class that has one, opened from what we write, and what it writes read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from side_by_side import open_theirs, padding, randomise, randomised, relative, some_ids
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import HeadConfig
from gptloom.model.layouts import layout_for
from gptloom.model.store import load_model, save_model
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer

PAD = 96  # of 97 ids
SIZES = {"vocab_size": 97, "context": 24, "n_layer": 2, "d_model": 64, "n_head": 4}
LLAMA = {"n_kv_head": 2, "norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "init": "modern"}
BODIES: dict[str, dict[str, Any]] = {
    "gpt1": preset("gpt1") | SIZES,
    "gpt2": preset("gpt2") | SIZES | {"tied_head": False},
    "gpt_neo": preset("gpt2") | SIZES | {"family": "gpt_neo", "qkv_bias": False, "scale_attention": False},
    "neox": preset("neox-20b") | SIZES | {"rotary_dim": 4},
    "llama": {"family": "llama", **SIZES, **LLAMA, "qk_norm": "none", "tied_head": False},
    "mistral": {"family": "mistral", **SIZES, **LLAMA, "qk_norm": "none"},
    "qwen2": {"family": "qwen2", **SIZES, **LLAMA, "qk_norm": "none", "qkv_bias": True},
    "modern": preset("modern-nano") | SIZES,
    "bert": preset("bert-tiny") | SIZES | {"masked_head": False, "pair_head": False},
}
STEMS = {
    "gpt1": "OpenAIGPT",
    "gpt2": "GPT2",
    "gpt_neo": "GPTNeo",
    "neox": "GPTNeoX",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "modern": "Qwen3",
    "bert": "Bert",
}
KINDS = {
    "sequence": "SequenceClassification",
    "choice": "MultipleChoice",
    "tokens": "TokenClassification",
    "span": "QuestionAnswering",
}
CASES = [
    *((family, "sequence") for family in BODIES),
    *((family, kind) for family in BODIES if family != "gpt1" for kind in ("tokens", "span")),
    ("bert", "choice"),
]
CHOICES = 2


def head_of(family: str, kind: str) -> HeadConfig:
    bert = family == "bert"
    n_labels = {"choice": 1, "span": 2}.get(kind, 3)
    whole = kind in ("sequence", "choice")
    pooling = "first" if bert and whole else "last"
    return HeadConfig.model_validate(
        {"kind": kind, "n_labels": n_labels, "pooling": pooling, "bias": bert or kind != "sequence"}
    )


def config_of(family: str, kind: str) -> ModelConfig:
    return ModelConfig(**BODIES[family] | {"task_head": head_of(family, kind)})


def batch(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """ids and which are none of the padding, on the right; no text ends in the padding's id."""
    ids = some_ids(config, rows=4) % PAD
    valid = padding("right", *ids.shape)
    return ids.masked_fill(~valid, PAD), valid


@torch.no_grad()
def theirs_of(model: transformers.PreTrainedModel, ids: Tensor, valid: Tensor, kind: str) -> Tensor:
    model.config.pad_token_id = PAD
    if kind == "choice":
        ids, valid = ids.view(-1, CHOICES, ids.shape[1]), valid.view(-1, CHOICES, ids.shape[1])
    result = model(input_ids=ids, attention_mask=valid.long())
    return torch.stack([result.start_logits, result.end_logits], -1) if kind == "span" else result.logits


@torch.no_grad()
def difference(ours: Transformer, theirs: transformers.PreTrainedModel, kind: str) -> float:
    ids, valid = batch(ours.config)
    found = task_scores(ours, ids, valid, group=CHOICES if kind == "choice" else 1)
    wanted = theirs_of(theirs, ids, valid, kind)
    assert found.shape == wanted.shape
    if kind in ("tokens", "span"):
        found, wanted = found[valid], wanted[valid]
    assert wanted.std() > 1e-2
    return relative(found, wanted)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_opened_by_its_class_and_by_auto(family: str, kind: str, tmp_path: Path) -> None:
    config = config_of(family, kind)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    auto = getattr(transformers, f"AutoModelFor{KINDS[kind]}")
    theirs, report = auto.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert type(theirs).__name__ == f"{STEMS[family]}For{KINDS[kind]}"
    assert not report["missing_keys"] and not report["mismatched_keys"]
    left_over = set() if config.tied_head else {layout_for(config).head}
    if family == "bert" and kind in ("tokens", "span"):
        left_over |= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(report["unexpected_keys"]) == left_over
    assert difference(ours, theirs.eval(), kind) <= 1e-5


def of_transformers(family: str, kind: str, folder: Path) -> transformers.PreTrainedModel:
    """A random classifier, made by the class of transformers and written by it."""
    config = config_of(family, kind)
    described = transformers.AutoConfig.for_model(**layout_for(config).to_config(config))
    theirs = getattr(transformers, f"{STEMS[family]}For{KINDS[kind]}")._from_config(
        described, dtype=torch.float32, attn_implementation="eager"
    )
    randomise(theirs)
    theirs.save_pretrained(folder)
    return theirs.eval()


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_a_class_writes_is_read(family: str, kind: str, tmp_path: Path) -> None:
    theirs = of_transformers(family, kind, tmp_path / "m")
    ours, config = load_model(tmp_path / "m")
    assert config.task_head == head_of(family, kind)
    assert difference(ours, theirs, kind) <= 1e-5


@pytest.mark.parametrize("family", ["gpt2", "bert", "modern", "llama"])
def test_a_class_reads_what_was_read_and_written_again(family: str, tmp_path: Path) -> None:
    theirs = of_transformers(family, "sequence", tmp_path / "theirs")
    ours, config = load_model(tmp_path / "theirs")
    save_model(tmp_path / "m", ours, config)
    assert difference(ours, open_theirs(tmp_path / "m", torch.float32), "sequence") <= 1e-5
    assert difference(load_model(tmp_path / "m")[0], theirs, "sequence") <= 1e-5
