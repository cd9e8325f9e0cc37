"""The architectures of llama.cpp that our families become: names and order of the tensors, metadata, and what is refused.

What a field or a tensor means is taken from llama.cpp's ``src/models``: its graphs compute what they compute whatever
the file says, so everything that a graph has in one form only is compared with the model's configuration first.

Legend of shapes: D width, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig, RopeScaling
from gptloom.model.layouts.layout import Rule
from gptloom.model.rotary import rotary_frequencies, yarn_temperature
from gptloom.model.transformer import Transformer

HEADS = ("masked_head.", "pooler.", "pair_head.")  # of BERT; llama.cpp has its body only
HEADLESS = {"masked_head": False, "pooler": False, "pair_head": False, "tied_head": True}
ROPE_FACTORS = "rope_freqs.weight"
OUTER = {
    "embedding": "token_embd",
    "position_embedding": "position_embd",
    "segment_embedding": "token_types",
    "embedding_norm": "token_embd_norm",
    "norm": "output_norm",
    "head": "output",
}
BLOCK = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.out": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.up": "ffn_up",
    "mlp.gate": "ffn_gate",
    "mlp.down": "ffn_down",
}
COMMON = {
    "scale_attention": True,
    "logit_softcap": None,
    "parallel_residual": False,
    "norm_place": "pre",
    "embedding_norm": False,
    "mask": "causal",
}
PLAIN = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
LLAMA = {**COMMON, "norm": "rmsnorm", "positions": "rotary", "qk_norm": "none", "activation": "swiglu"}
GPT = {**COMMON, "norm": "layernorm", "qk_norm": "none", "qkv_bias": True, "out_bias": True, "mlp_bias": True}


@dataclass(frozen=True)
class Architecture:
    """One architecture of llama.cpp.

    Attributes:
        name: ``general.architecture``.
        fixed: fields of a ``ModelConfig`` that its graph has in one form only.
        block: our names in a block -> theirs.
        fused: queries, keys and values are one tensor, in this order.
        neighbours: rotary positions turn the pairs (2i, 2i + 1) of a head; ours are (i, i + K/2).
        biases: which linear layers have biases is told by the tensors that are there.
        any_head_dim: heads need not be D / H wide.
        own_head: the output matrix is stored even when it is the token embedding.
        part_rotary: only the beginning of each head may be rotated.
        rope_factors: ``rope_freqs.weight`` is heeded, by which Llama 3.1 scales its frequencies.
    """

    name: str
    fixed: Mapping[str, Any]
    block: Mapping[str, str] = field(default_factory=lambda: BLOCK)
    fused: bool = False
    neighbours: bool = False
    biases: bool = False
    any_head_dim: bool = False
    own_head: bool = False
    part_rotary: bool = False
    rope_factors: bool = False


ARCHITECTURES = {
    "modern": Architecture("qwen3", {**LLAMA, **PLAIN, "qk_norm": "before_rotary"}, any_head_dim=True),
    "qwen2": Architecture("qwen2", {**LLAMA, "qkv_bias": True, "out_bias": False, "mlp_bias": False}),
    "gpt2": Architecture("gpt2", {**GPT, "positions": "learned", "activation": "gelu_tanh"}, fused=True),
    "neox": Architecture(
        "gptneox",
        {name: value for name, value in GPT.items() if name != "parallel_residual"} | {"positions": "rotary"},
        fused=True,
        own_head=True,
        part_rotary=True,
    ),
    "bert": Architecture(
        "bert",
        GPT | {"positions": "learned", "mask": "bidirectional", "norm_place": "post", "embedding_norm": True},
        block={**BLOCK, "attention_norm": "attn_output_norm", "mlp_norm": "layer_output_norm"},
    ),
}
ARCHITECTURES["llama"] = ARCHITECTURES["mistral"] = Architecture(
    "llama", LLAMA, neighbours=True, biases=True, any_head_dim=True, rope_factors=True
)
ABSENT = {
    "gpt1": "llama.cpp has no GPT-1: no architecture of its with the norms after the sums and a causal mask",
    "gpt3": "llama.cpp's gpt2 has no local attention, so it cannot compute GPT-3",
    "gpt_neo": "llama.cpp has no GPT-Neo",
    "fast": "llama.cpp has no nanochat, the architecture of fast models",
}


def unfit(config: ModelConfig) -> list[Problem]:
    """Why llama.cpp would compute something else than ``config``: one problem a field."""
    if config.family not in ARCHITECTURES:
        return [Problem(f"family is {config.family}: {ABSENT[config.family]}", mend="--to safetensors or --to hf")]
    architecture = ARCHITECTURES[config.family]
    told = f"llama.cpp's {architecture.name}"
    found = [
        f"{name} is {getattr(config, name)!r}; {told} computes only {value!r}"
        for name, value in architecture.fixed.items()
        if getattr(config, name) != value
    ]
    if not config.activation.startswith("gelu") and "activation" not in architecture.fixed:
        found.append(f"activation is {config.activation!r}; {told} computes only 'gelu_tanh'")
    shortest = min((w for w in map(config.window_of, range(config.n_layer)) if w is not None), default=config.context)
    if shortest < config.context:
        found.append(
            f"window is {shortest} and context {config.context:,}; {told} lets every token see the whole context"
        )
    if config.head_dim * config.n_head != config.d_model and not architecture.any_head_dim:
        found.append(f"head_dim is {config.head_dim}; {told} has only d_model / n_head")
    if (config.segments > 0) != (config.family == "bert"):
        found.append(f"segments is {config.segments}; {told} has {'at least one' if not config.segments else 'none'}")
    if config.positions == "rotary":
        found += _unfit_rotary(config, architecture, told)
    return [Problem(what, mend="--to hf or --to safetensors") for what in found]


def _unfit_rotary(config: ModelConfig, architecture: Architecture, told: str) -> Iterator[str]:
    if config.rotary_dim != config.head_dim and not architecture.part_rotary:
        yield f"rotary_dim is {config.rotary_dim}; {told} rotates all {config.head_dim} of each head"
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "llama3" and not architecture.rope_factors:
        yield f"rope_scaling is llama3, which {told} does not know"
    if scaling.kind == "yarn":
        given = (scaling.beta_fast, scaling.beta_slow, scaling.truncate)
        for name, value, only in zip(("beta_fast", "beta_slow", "truncate"), given, (32.0, 1.0, True), strict=True):
            if value != only:
                yield f"rope_scaling has {name} {value}; llama.cpp computes only {only}"
        if scaling.factor < 1:
            yield f"rope_scaling has factor {scaling.factor}; llama.cpp's yarn only stretches"


def notes(config: ModelConfig) -> list[str]:
    """What llama.cpp computes a little differently, or not at all, without being wrong for it."""
    found = []
    if config.activation == "gelu":
        found.append("llama.cpp computes GELU by its tanh approximation, this model's is exact: logits differ slightly")
    if config.family == "bert":
        found.append("llama.cpp has BERT's body only: no masked-word head, pooler or pair head; segments are all 0")
    return found


# ---- tensors -----------------------------------------------------------------------------------------------------------


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Every tensor of the file that holds weights, and which of ours are in it."""
    architecture = ARCHITECTURES[config.family]
    with torch.device("meta"):
        names = [name for name in Transformer(config).state_dict() if not name.startswith(HEADS)]
    for name in names:
        module, _, part = name.rpartition(".")
        if not module.startswith("blocks."):
            yield Rule(f"{OUTER[module]}.{part}", (name,))
            continue
        _, index, inner = module.split(".", 2)
        prefix = f"blk.{index}"
        if architecture.fused and inner in ("attention.q", "attention.k", "attention.v"):
            if inner == "attention.q":
                ours = tuple(f"blocks.{index}.attention.{which}.{part}" for which in "qkv")
                yield Rule(f"{prefix}.attn_qkv.{part}", ours, torch.cat, partial(_split, config=config))
            continue
        theirs = f"{prefix}.{architecture.block[inner]}.{part}"
        if architecture.neighbours and inner in ("attention.q", "attention.k"):
            yield Rule(theirs, (name,), partial(_pair, size=config.head_dim), partial(_unpair, size=config.head_dim))
        else:
            yield Rule(theirs, (name,))
    if architecture.own_head and config.tied_head:
        yield Rule("output.weight", ("embedding.weight",))


def _split(tensor: Tensor, config: ModelConfig) -> list[Tensor]:
    sizes = [heads * config.head_dim for heads in (config.n_head, config.n_kv_head, config.n_kv_head)]
    return list(tensor.split(sizes))


def _pair(tensors: list[Tensor], size: int) -> Tensor:
    """[H K, ...] -> the same with rows i and i + K/2 of each head side by side."""
    heads = tensors[0].unflatten(0, (-1, 2, size // 2))
    return heads.transpose(1, 2).flatten(0, 2)


def _unpair(tensor: Tensor, size: int) -> list[Tensor]:
    """[H K, ...] -> the same, the even rows of each head before its odd ones."""
    heads = tensor.unflatten(0, (-1, size))
    return [torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)]


def rope_factors(config: ModelConfig) -> Tensor | None:
    """[K/2] by how much each frequency is divided (Llama 3.1), where the file is to say so."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    device = torch.device("cpu")
    plain = rotary_frequencies(config.model_copy(update={"rope_scaling": None}), torch.float64, device)
    return (plain / rotary_frequencies(config, torch.float64, device)).float()


# ---- metadata ----------------------------------------------------------------------------------------------------------


def metadata(config: ModelConfig) -> dict[str, int | float | bool | str]:
    """The fields after ``general.architecture.``: whole numbers are uint32, others float32."""
    norm = "layer_norm_epsilon" if config.norm == "layernorm" else "layer_norm_rms_epsilon"
    fields: dict[str, int | float | bool | str] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context,
        "embedding_length": config.d_model,
        "block_count": config.n_layer,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_kv_head,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        f"attention.{norm}": config.norm_eps,
    }
    if config.family == "neox":
        fields["use_parallel_residual"] = config.parallel_residual
    if config.family == "bert":
        fields |= {"attention.causal": False, "pooling_type": 1}  # one vector a text: the mean of its hidden states
    if config.positions == "rotary":
        fields |= {"rope.dimension_count": config.rotary_dim, "rope.freq_base": config.rope_theta}
        fields |= _scaling_fields(config)
    return fields


def _scaling_fields(config: ModelConfig) -> dict[str, int | float | bool | str]:
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":  # llama3: see ``rope_factors``
        return {}
    fields: dict[str, int | float | bool | str] = {
        "rope.scaling.type": scaling.kind,
        "rope.scaling.factor": scaling.factor,
    }
    if scaling.kind == "yarn":
        fields["rope.scaling.original_context_length"] = scaling.original_context or config.context
        if scaling.attention_factor is not None:  # llama.cpp multiplies what it has by itself
            fields["rope.scaling.attn_factor"] = scaling.attention_factor / yarn_temperature(scaling.factor)
    return fields


def config_of(
    name: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], like: ModelConfig
) -> ModelConfig:
    """What llama.cpp would compute from a file of ours: the way back from ``metadata``, to check it by.

    ``like`` says what the file cannot: the family, which GELU, and how ``rope_freqs.weight`` came about.
    """
    architecture = ARCHITECTURES[like.family]
    assert architecture.name == name, f"{name} is not {architecture.name}"
    values = {
        **HEADLESS,
        **architecture.fixed,
        "family": like.family,
        "activation": like.activation,
        "vocab_size": shapes["token_embd.weight"][0],
        "context": fields["context_length"],
        "n_layer": fields["block_count"],
        "n_head": fields["attention.head_count"],
        "n_kv_head": fields["attention.head_count_kv"],
        "d_model": fields["embedding_length"],
        "head_dim": fields["attention.key_length"],
        "d_ff": fields["feed_forward_length"],
        "norm_eps": fields.get("attention.layer_norm_epsilon", fields.get("attention.layer_norm_rms_epsilon")),
        "parallel_residual": fields.get("use_parallel_residual", False),
        "segments": shapes.get("token_types.weight", (0,))[0],
        "tied_head": "output.weight" not in shapes,
    }
    if architecture.biases:
        for ours, theirs in (("qkv_bias", "attn_q"), ("out_bias", "attn_output"), ("mlp_bias", "ffn_up")):
            values[ours] = f"blk.0.{theirs}.bias" in shapes
    if values.get("positions") == "rotary":
        values |= {"rope_theta": fields["rope.freq_base"], "rotary_dim": fields["rope.dimension_count"]}
        values["rope_scaling"] = _scaling_of(fields, shapes, like)
    return ModelConfig(**values)


def _scaling_of(
    fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], like: ModelConfig
) -> RopeScaling | None:
    if ROPE_FACTORS in shapes:
        return like.rope_scaling
    kind = fields.get("rope.scaling.type")
    if kind is None:
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=fields["rope.scaling.factor"])
    factor = fields["rope.scaling.factor"]
    own = yarn_temperature(factor)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=fields["rope.scaling.original_context_length"],
        attention_factor=own * fields.get("rope.scaling.attn_factor", 1.0),
    )
