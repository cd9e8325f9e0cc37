"""Rotary frequencies against `transformers`, to the last bit, from every spelling of config.json."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.model.layouts import layout_for, layout_of
from gptloom.model.rotary import rotary_frequencies, rotary_table, score_factor

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.5},
    "linear-integer": {"factor": 3},
    "llama3": LLAMA3,  # Llama 3.1
    "llama3-wide": LLAMA3 | {"factor": 32.0, "low_freq_factor": 0.7, "high_freq_factor": 9.0},
    "llama3-unsaid": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": YARN,  # Qwen2.5
    "yarn-short": {"factor": 40.0, "original_max_position_embeddings": 64},
    "yarn-shorter-than-a-turn": {"factor": 4.0, "original_max_position_embeddings": 4},
    "yarn-unsaid": {"factor": 4.0},
    "yarn-betas": YARN | {"beta_fast": 8, "beta_slow": 2.5},
    "yarn-same-betas": YARN | {"beta_fast": 8, "beta_slow": 8, "truncate": False},
    "yarn-crossed-betas": YARN | {"beta_fast": 1, "beta_slow": 32},
    "yarn-zero-betas": YARN | {"beta_fast": 0, "beta_slow": None},
    "yarn-untruncated": YARN | {"truncate": False},
    "yarn-null-truncate": YARN | {"truncate": None},
    "yarn-factor": YARN | {"attention_factor": 1.25},
    "yarn-weights": YARN | {"mscale": 0.707, "mscale_all_dim": 0.3},
    "yarn-weights-and-factor": YARN | {"mscale": 0.707, "mscale_all_dim": 0.3, "attention_factor": 1.25},
    "yarn-one-weight": YARN | {"mscale": 0.707},
    "yarn-zero-weight": YARN | {"mscale": 0.707, "mscale_all_dim": 0.0},
    "yarn-ratio": YARN | {"factor": None},
    "yarn-shrunk": YARN | {"factor": 0.5},
}
BODY = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 4, "max_position_embeddings": 131072}
SIZES = {"num_hidden_layers": 1, "vocab_size": 11, "intermediate_size": 8}


def spellings(name: str, given: dict[str, Any], theta: float) -> dict[str, dict[str, Any]]:
    """The same said in every way that is in use."""
    kind = name.split("-", maxsplit=1)[0]
    return {
        "rope_parameters": {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **given}},
        "theta outside": {"rope_theta": theta, "rope_parameters": {"rope_type": kind, **given}},
        "rope_scaling, rope_type": {"rope_theta": theta, "rope_scaling": {"rope_type": kind, **given}},
        "rope_scaling, type": {"rope_theta": theta, "rope_scaling": {"type": kind, **given}},
        "both": {
            "rope_theta": theta,
            "rope_scaling": {"rope_type": kind, **given},
            "rope_parameters": {"rope_type": "linear", "factor": 7.0, "rope_theta": 3.0},  # the other one counts
        },
    }


@pytest.mark.parametrize("theta", [5e5, 12.0])
@pytest.mark.parametrize("name", KINDS)
def test_frequencies_and_factor_are_theirs_to_the_last_bit(name: str, theta: float) -> None:
    for said, fields in spellings(name, KINDS[name], theta).items():
        raw = BODY | SIZES | fields
        ours = layout_of(raw).from_config(raw)
        theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(raw))
        found = rotary_frequencies(ours, torch.float32, torch.device("cpu"))
        assert torch.equal(found, theirs.inv_freq), said
        assert score_factor(ours.rope_scaling) == theirs.attention_scaling, said


@pytest.mark.parametrize("name", ["default", "linear", "llama3", "yarn"])
def test_the_table_is_theirs_far_beyond_the_first_context(name: str) -> None:
    raw = BODY | SIZES | spellings(name, KINDS[name], 1e4)["rope_scaling, type"]
    positions = torch.arange(131000, 131072)[None]
    cos, sin = rotary_table(positions, layout_of(raw).from_config(raw), torch.float32)
    wanted = LlamaRotaryEmbedding(LlamaConfig.from_dict(raw))(torch.zeros(1), positions)
    for found, table in zip((cos, sin), wanted, strict=True):
        assert torch.equal(found[:, 0], table[..., :64])


def test_the_first_context_outside_of_the_object_counts() -> None:
    said = {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", **YARN}, "original_max_position_embeddings": 4096}
    raw = BODY | SIZES | said
    ours = layout_of(raw).from_config(raw)
    assert ours.rope_scaling is not None and ours.rope_scaling.original_context == 4096
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(raw))
    assert torch.equal(rotary_frequencies(ours, torch.float32, torch.device("cpu")), theirs.inv_freq)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_reads_as_the_same_here_there_and_in_the_older_spelling(name: str) -> None:
    raw = BODY | SIZES | spellings(name, KINDS[name], 5e5)["rope_parameters"]
    config = layout_of(raw).from_config(raw)
    written = layout_for(config).to_config(config)
    older = {field: value for field, value in written.items() if field != "rope_parameters"}
    newer = {field: value for field, value in written.items() if field not in ("rope_scaling", "rope_theta")}
    wanted = LlamaRotaryEmbedding(LlamaConfig.from_dict(raw))
    for form in (written, older, newer):
        assert layout_of(form).from_config(form) == config
        theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(dict(form)))
        assert torch.equal(theirs.inv_freq, wanted.inv_freq)
        assert theirs.attention_scaling == wanted.attention_scaling


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is of type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": []}}, "rope_scaling is of type 'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "rope_scaling is of type 'mrope'"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope_parameters is of type 'proportional'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs by kind of layer"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling has no factor, which linear needs"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope_scaling has factor -2: "),
        (
            {"rope_scaling": {"type": "llama3", "factor": 2.0, "high_freq_factor": 4}},
            "has no low_freq_factor, which llama3",
        ),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1}}, "high_freq_factor is not above"),
        ({"rope_scaling": {"type": "yarn", "factor": None}}, "has no factor, which yarn needs"),
        ({"rope_scaling": {"type": "yarn", **YARN, "mscale": "x"}}, "has mscale 'x'; expected a number"),
        ({"rope_scaling": {"type": "yarn", **YARN}, "rope_theta": 1.0}, "needs a rope_theta above 1"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; expected an object"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; expected an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e4}}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": "big"}, "rope_theta is 'big'"),
    ],
)
def test_what_gptloom_does_not_have_is_refused_by_name(said: dict[str, Any], reason: str) -> None:
    raw = BODY | SIZES | said
    with pytest.raises(UserError, match=reason) as caught:
        layout_of(raw).from_config(raw, "m/config.json")
    assert [problem.where for problem in caught.value.problems] == ["m/config.json"]


def test_a_rotated_part_of_a_head_is_no_llama() -> None:
    raw = BODY | SIZES
    config = layout_of(raw).from_config(raw)
    with pytest.raises(UserError, match="rotary_dim is 32"):
        layout_for(config).to_config(ModelConfig(**config.model_dump() | {"rotary_dim": 32}))
