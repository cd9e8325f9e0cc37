"""Counts without weights: parameters, FLOPs, KV bytes, from the config alone. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from gptloom.config.model import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by where they are."""

    embedding: int
    positions: int
    blocks: int
    final_norm: int  # and the norm of the embeddings
    head: int
    segments: int = 0
    masked_head: int = 0
    pooler: int = 0
    pair_head: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    @property
    def non_embedding(self) -> int:
        """Without token and position embeddings: the N of the scaling laws (Kaplan et al. 2020, section 2.1)."""
        return self.blocks + self.final_norm

    @property
    def scoring(self) -> int:
        """What turns a hidden state into scores of words. A tied embedding counts here, as the head."""
        return self.masked_head + (self.head or self.embedding)

    @property
    def multiplied(self) -> int:
        """What a token is multiplied by: all but lookups."""
        return self.blocks + self.final_norm + self.scoring


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Exact parameter counts."""
    d, inner, kv_inner = config.d_model, config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    norm_size = {"layernorm": 2, "rmsnorm": 1, "rmsnorm_plain": 0}[config.norm]
    attention = d * inner + 2 * d * kv_inner + inner * d
    matrices_into_ff = 2 if config.activation == "swiglu" else 1
    mlp = matrices_into_ff * d * config.d_ff + config.d_ff * d
    biases = (inner + 2 * kv_inner) * bool(config.qkv_bias) + d * bool(config.out_bias)
    biases += (matrices_into_ff * config.d_ff + d) * bool(config.mlp_bias)
    qk_norms = 2 * norm_size * config.head_dim if config.qk_norm != "none" else 0
    block = attention + mlp + biases + 2 * norm_size * d + qk_norms
    return ParameterCount(
        embedding=config.vocab_size * d,
        positions=config.context * d if config.positions == "learned" else 0,
        blocks=config.n_layer * block,
        final_norm=norm_size * d * ((config.norm_place == "pre") + config.embedding_norm),
        head=0 if config.tied_head else config.vocab_size * d,
        segments=config.segments * d,
        masked_head=(d * d + d + norm_size * d + config.vocab_size) * config.masked_head,
        pooler=(d * d + d) * config.pooler,
        pair_head=(2 * d + 2) * config.pair_head,
    )


def training_flops_per_token(config: ModelConfig, context: int | None = None, scored: float = 1.0) -> float:
    """6 N + 12 L H K T: forward and backward of one token at context T (PaLM, appendix B), N being what it is multiplied by.

    ``scored``: the share of the tokens that meet the vocabulary; of masked words only those hidden do.
    """
    length = config.context if context is None else context
    count = count_parameters(config)
    multiplied = count.blocks + count.final_norm + scored * count.scoring
    return 6 * multiplied + 12 * config.n_layer * config.n_head * config.head_dim * length


def kv_bytes_per_token(config: ModelConfig, bytes_per_number: int = 2) -> int:
    """What the KV cache needs for one token: keys and values of every layer."""
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * bytes_per_number
