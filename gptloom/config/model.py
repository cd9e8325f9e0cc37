"""What a model is: every architectural choice of the one Transformer, and the named presets. No torch here."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gptloom.config.errors import Problem, UserError, nearest

Norm = Literal["layernorm", "rmsnorm", "rmsnorm_plain"]
Positions = Literal["learned", "rotary"]
Activation = Literal["gelu_tanh", "swiglu", "relu2"]
QKNorm = Literal["none", "before_rotary", "after_rotary"]
Init = Literal["gpt2", "modern", "fast"]

FAMILIES = ("gpt2", "modern", "fast")
SIZES = ("nano", "micro", "tiny", "small", "medium", "large", "xl")


class ModelConfig(BaseModel):
    """One Transformer, every family: GPT-2, ``modern`` (Qwen3's layout) and ``fast`` (nanochat's) differ here only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["gpt2", "modern", "fast"] = Field(
        "modern", description="which Hugging Face layout the weights are written in"
    )
    vocab_size: int = Field(gt=0, description="number of token ids")
    context: int = Field(gt=0, description="longest sequence in tokens")
    n_layer: int = Field(gt=0, description="number of blocks")
    n_head: int = Field(gt=0, description="number of query heads")
    n_kv_head: int = Field(0, ge=0, description="number of key and value heads (0: as many as query heads)")
    d_model: int = Field(gt=0, description="width of the residual stream")
    head_dim: int = Field(0, ge=0, description="size of a head (0: d_model / n_head)")
    d_ff: int = Field(
        0, ge=0, description="inner width of the MLP (0: 4 d_model; SwiGLU: 8/3 d_model rounded up to 32)"
    )
    norm: Norm = Field("rmsnorm", description="normalisation; rmsnorm_plain has no gain")
    norm_eps: float = Field(1e-6, gt=0, description="epsilon inside the normalisation")
    embedding_norm: bool = Field(False, description="normalise the embeddings before the first block")
    positions: Positions = Field("rotary", description="learned position embeddings, or rotations of queries and keys")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    qk_norm: QKNorm = Field("before_rotary", description="normalise queries and keys, and where")
    activation: Activation = Field("swiglu", description="non-linearity of the MLP")
    bias: bool = Field(False, description="biases in every linear layer of the blocks")
    tied_head: bool = Field(True, description="the output matrix is the token embedding")
    logit_softcap: float | None = Field(None, gt=0, description="c: logits become c * tanh(logits / c)")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of embeddings, attention weights and residual branches"
    )
    init: Init = Field("modern", description="initialisation of the weights")

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fills the sizes that follow from others, so that a stored config states every number."""
        if not isinstance(values, dict) or not all(values.get(key) for key in ("n_head", "d_model")):
            return values
        values = dict(values)
        d_model, n_head = values["d_model"], values["n_head"]
        values["n_kv_head"] = values.get("n_kv_head") or n_head
        if not values.get("head_dim"):
            if d_model % n_head:
                fits = [n for n in range(1, d_model + 1) if d_model % n == 0]
                near = sorted(fits, key=lambda n: abs(n - n_head))[:3]
                raise UserError(
                    Problem(
                        f"d_model {d_model} does not divide by n_head {n_head}",
                        mend=f"--n-head {' or '.join(str(n) for n in sorted(near))}, or give --head-dim",
                    )
                )
            values["head_dim"] = d_model // n_head
        if not values.get("d_ff"):
            gated = values.get("activation", "swiglu") == "swiglu"
            values["d_ff"] = -(-8 * d_model // 3 // 32) * 32 if gated else 4 * d_model
        return values

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        problems = []
        if self.n_head % self.n_kv_head:
            problems.append(Problem(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}"))
        if self.positions == "rotary" and self.head_dim % 2:
            problems.append(
                Problem(f"head size {self.head_dim} is odd; rotary positions turn pairs", mend="an even --head-dim")
            )
        if problems:
            raise UserError(*problems)
        return self


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Every preset by its full name (``modern-small``, ``gpt2-xl``): the fields of a ``ModelConfig``, vocabulary included."""
    table: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        text = resources.files("gptloom.config").joinpath("presets", f"{family}.yaml").read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        for name, sizes in document["sizes"].items():
            table[name] = {"family": family, **document["common"], **sizes}
    return table


def is_preset(name: str) -> bool:
    """Whether ``name`` is a preset, a bare size (meaning ``modern``), or a bare family (the size is then derived)."""
    return name in presets() or name in SIZES or name in FAMILIES


def preset(name: str) -> dict[str, Any]:
    """The fields of a preset; a bare size means ``modern``. ``UserError`` with the nearest names when there is none."""
    table = presets()
    full = f"modern-{name}" if name in SIZES else name
    if full not in table:
        known = [*table, *SIZES, *FAMILIES]
        raise UserError(
            Problem(
                f"no model or preset is called {name!r}", mend=f"{nearest(name, known)}  (gptloom models lists them)"
            )
        )
    return dict(table[full])
