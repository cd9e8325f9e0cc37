"""What a model is: every architectural choice of the one Transformer, and the named presets. No torch here."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.task import HeadConfig

Norm = Literal["layernorm", "rmsnorm", "rmsnorm_plain"]
NormPlace = Literal["pre", "post"]
Positions = Literal["learned", "rotary"]
Activation = Literal["gelu", "gelu_tanh", "relu", "swiglu", "relu2"]
QKNorm = Literal["none", "before_rotary", "after_rotary"]
Init = Literal["gpt1", "gpt2", "neox", "bert", "modern", "fast"]
Family = Literal[
    "gpt1", "gpt2", "gpt3", "gpt_neo", "neox", "bert", "llama", "mistral", "qwen2", "modern", "fast"
]  # fmt: skip

FAMILIES = ("gpt1", "gpt2", "gpt3", "neox", "bert", "modern", "fast")  # that have presets
SIZED_FAMILIES = ("bert", "modern", "fast")  # whose own name lets the size follow from text and machine
OWN_FAMILIES = ("modern", "fast")  # trained by recipes of our own; the others as their papers say
SIZES = ("nano", "micro", "tiny", "small", "medium", "large", "xl")


class RopeScaling(BaseModel):
    """How rotary frequencies are changed so that a model reads further than it was first trained.

    ``linear``: positions divided by ``factor`` (Chen et al. 2023). ``llama3``: only long wavelengths are (Llama 3.1).
    ``yarn``: between two wavelengths by a ramp, and the scores scaled (Peng et al. 2023).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear", "llama3", "yarn"]
    factor: float = Field(gt=0, description="how many times further than before")
    original_context: int | None = Field(None, gt=0, description="llama3, yarn: the context of the first training")
    low_freq_factor: float = Field(
        1.0, gt=0, description="llama3: wavelengths above original_context / this are scaled"
    )
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: wavelengths below original_context / this are kept")
    beta_fast: float = Field(32.0, gt=0, description="yarn: turns within original_context from which on a pair is kept")
    beta_slow: float = Field(1.0, gt=0, description="yarn: turns within original_context below which a pair is scaled")
    attention_factor: float | None = Field(
        None, gt=0, description="yarn: of queries and keys (None: 0.1 ln factor + 1)"
    )
    truncate: bool = Field(True, description="yarn: the ramp begins and ends at whole pairs")

    @model_validator(mode="after")
    def _check(self) -> RopeScaling:
        if self.kind != "linear" and self.original_context is None:
            raise ValueError("needs original_context, the context of the first training")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor is not above low_freq_factor")
        return self


_DERIVED_FROM = ("n_head", "n_kv_head", "d_model", "head_dim", "d_ff", "rotary_dim")


class ModelConfig(BaseModel):
    """One Transformer, every family: GPT-1, GPT-2, GPT-3, GPT-NeoX, BERT, Llama, ``modern`` differ here only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Family = Field("modern", description="which Hugging Face layout the weights are written in")
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
    norm_place: NormPlace = Field("pre", description="before each branch, or after the sum (no last norm then)")
    norm_eps: float = Field(1e-6, gt=0, description="epsilon inside the normalisation")
    embedding_norm: bool = Field(False, description="normalise the embeddings before the first block")
    parallel_residual: bool = Field(False, description="attention and MLP read the same stream, each by its own norm")
    positions: Positions = Field("rotary", description="learned position embeddings, or rotations of queries and keys")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    rotary_dim: int = Field(0, ge=0, description="how much of each head is rotated (0: all of it)")
    rope_scaling: RopeScaling | None = Field(None, description="rotary frequencies changed for a longer context")
    mask: Literal["causal", "bidirectional"] = Field("causal", description="who sees whom: GPT, or BERT")
    window: int | None = Field(None, gt=0, description="keys that a banded layer sees, the token itself included")
    banded: Literal["none", "all", "alternate"] | tuple[int, ...] = Field(
        "none", description="the layers limited to the window; alternate: the second, the fourth, ..."
    )
    scale_attention: bool = Field(True, description="scores are divided by the root of the head size")
    qk_norm: QKNorm = Field("before_rotary", description="normalise queries and keys, and where")
    activation: Activation = Field("swiglu", description="non-linearity of the MLP")
    bias: bool = Field(False, description="biases in the linear layers of the blocks; the next three say where")
    qkv_bias: bool | None = Field(None, description="of queries, keys and values (None: as bias)")
    out_bias: bool | None = Field(None, description="of the attention's output (None: as bias)")
    mlp_bias: bool | None = Field(None, description="of the MLP (None: as bias)")
    segments: int = Field(0, ge=0, description="BERT's segment embeddings: how many (0: none)")
    tied_head: bool = Field(True, description="the output matrix is the token embedding")
    masked_head: bool = Field(False, description="BERT's head: a layer and a norm before the output, a bias after it")
    pooler: bool = Field(False, description="BERT's summary of a text: a layer over the first token")
    pair_head: bool = Field(False, description="BERT's sentence-pair classifier on the pooler")
    task_head: HeadConfig | None = Field(None, description="the head of a task that the model was fine-tuned for")
    logit_softcap: float | None = Field(None, gt=0, description="c: logits become c * tanh(logits / c)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of embeddings and residual branches")
    attention_dropout: float | None = Field(None, ge=0, lt=1, description="of attention weights (None: as dropout)")
    init: Init = Field("modern", description="initialisation of the weights")

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fills the sizes that follow from others, so that a stored config states every number."""
        if not isinstance(values, dict) or not all(values.get(key) for key in ("n_head", "d_model")):
            return values
        wrong = [name for name in _DERIVED_FROM if type(values.get(name) or 0) is not int]
        if wrong:
            raise UserError(*(Problem(f"{name} is {values[name]!r}; expected a whole number") for name in wrong))
        if any((values.get(name) or 0) < 0 for name in _DERIVED_FROM):
            return values  # to be refused next, by their ranges
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
        for name in ("qkv_bias", "out_bias", "mlp_bias"):
            if values.get(name) is None:
                values[name] = values.get("bias", False)
        values["bias"] = all(values[name] for name in ("qkv_bias", "out_bias", "mlp_bias"))
        if values.get("positions", "rotary") == "rotary":
            values["rotary_dim"] = values.get("rotary_dim") or values["head_dim"]
        return values

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        problems = []
        if self.n_head % self.n_kv_head:
            problems.append(Problem(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}"))
        if self.rotary_dim % 2:
            what = f"head size {self.head_dim}" if self.rotary_dim == self.head_dim else f"rotary_dim {self.rotary_dim}"
            problems.append(Problem(f"{what} is odd; rotary positions turn pairs", mend="an even --head-dim"))
        if self.rotary_dim > self.head_dim:
            problems.append(Problem(f"rotary_dim {self.rotary_dim} is more than the head size {self.head_dim}"))
        if self.banded != "none" and self.window is None:
            problems.append(Problem("layers are banded and no window says how far they see"))
        if self.pair_head and not self.pooler:
            problems.append(Problem("pair_head needs the pooler, which it reads"))
        if problems:
            raise UserError(*problems)
        return self

    def window_of(self, layer: int) -> int | None:
        """The window of block ``layer`` (the first is 0); None where it sees everything."""
        if isinstance(self.banded, str):
            is_banded = self.banded == "all" or (self.banded == "alternate" and layer % 2 == 1)
        else:
            is_banded = layer in self.banded
        return self.window if is_banded else None


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Every preset by its full name (``modern-small``, ``gpt2-xl``): the fields of a ``ModelConfig``, vocabulary included."""
    table: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        document = _preset_file(family)
        for name, sizes in document["sizes"].items():
            table[name] = {"family": family, **document["common"], **sizes}
    return table


@cache
def _preset_file(family: str) -> dict[str, Any]:
    """``sizes``, what they have in ``common``, and the ``tokenizer`` of the paper where it was published."""
    text = resources.files("gptloom.config").joinpath("presets", f"{family}.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def family_presets(family: str) -> list[str]:
    """The presets of ``family`` in its own layout, as its file lists them; none for one that is only read."""
    return [name for name in presets() if name.split("-")[0] == presets()[name]["family"] == family]


def preset_tokenizer(name: str) -> str | None:
    """The tokenizer of the paper, as ``load_tokenizer`` calls it; None where a preset takes any."""
    family = "modern" if name in SIZES else name.split("-")[0]
    found: str | None = _preset_file(family).get("tokenizer")
    return found


def is_preset(name: str) -> bool:
    """Whether ``name`` is a preset, a bare size (meaning ``modern``), or a bare family (the size is then derived)."""
    return name in presets() or name in SIZES or name in FAMILIES


def preset(name: str) -> dict[str, Any]:
    """The fields of a preset; a bare size means ``modern``. ``UserError`` with the nearest names when there is none."""
    table = presets()
    full = f"modern-{name}" if name in SIZES else name
    if full not in table:
        known = [*table, *SIZES, *FAMILIES]
        if name in FAMILIES:
            sizes = family_presets(name)
            raise UserError(Problem(f"{name} is a family; its sizes are {', '.join(sizes)}", mend=sizes[0]))
        raise UserError(
            Problem(
                f"no model or preset is called {name!r}", mend=f"{nearest(name, known)}  (gptloom models lists them)"
            )
        )
    return dict(table[full])
