"""Any encoder or decoder of ``transformers`` as the body of a fine-tuning: ``ForeignModel`` has the face of our own models.

Only what ``transformers`` ships is run: no code from a model folder (``trust_remote_code``), no pickle.

Legend: N sequences, T tokens, D width, L blocks.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gptloom.config.task import HeadConfig, Pooling
from gptloom.model.attention import Mask
from gptloom.model.task_head import TaskHead

FAMILY: Literal["foreign"] = "foreign"
NO_END = 512  # tokens, of bodies whose positions are distances: what T5 was pretrained on (Raffel et al. 2020, 3.1.2)
DROPOUTS = (  # what the configurations of transformers call it, the residual branches' first
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "resid_dropout",
    "mlp_dropout",
    "embd_pdrop",
    "embd_dropout",
    "embedding_dropout",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "attn_pdrop",
    "attn_dropout",
)
HALF = "EncoderModel"  # how transformers names the classes that are the encoder of an encoder-decoder
USED_BY_ALL = {  # parts that are declared after the blocks and read by them: name -> how many blocks come before
    "deberta": {"encoder.LayerNorm": 0},
    "deberta-v2": {"encoder.LayerNorm": 0, "encoder.conv": 1},
}


class ForeignConfig(BaseModel):
    """What a body is, by the names of ``ModelConfig``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["foreign"] = FAMILY
    model_type: str = Field(description="what transformers calls the architecture")
    vocab_size: int = Field(gt=0, description="rows of the embedding")
    context: int = Field(gt=0, description="longest sequence in tokens")
    n_layer: int = Field(gt=0, description="blocks with weights of their own: 1 for ALBERT, whose layers share them")
    d_model: int = Field(gt=0, description="width of the hidden states")
    mask: Literal["causal", "bidirectional"] = Field(description="who sees whom")
    segments: int = Field(0, ge=0, description="kinds of segment that are told apart (0: none)")
    pooler: bool = Field(False, description="the body has a trained layer over the first token")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the residual branches")
    task_head: HeadConfig | None = Field(None, description="the head of a task that the model was fine-tuned for")


class ForeignModel(nn.Module):
    """A ``TaskModel`` around a body of ``transformers``; its parameters, ``body.*`` and ``task_head.*``, are fp32.

    ``compute_dtype``: bf16 or fp16 compute by ``torch.autocast``, since a foreign body mixes dtypes in places only its
    authors know. Copies of the parameters in that dtype are neither needed nor wanted.
    """

    def __init__(self, body: nn.Module, *, compute_dtype: torch.dtype = torch.float32) -> None:
        """``body``: a ``PreTrainedModel`` that takes ``input_ids`` and gives ``last_hidden_state``."""
        super().__init__()
        self.body = body
        self.task_head: TaskHead | None = None
        self.compute_dtype = compute_dtype
        self._stacks = _stacks(body)
        self._depths = _depths(body, self._stacks)
        self._accepted = inspect.signature(body.forward).parameters
        self.config = _config_of(body, len(body.get_submodule(self._stacks[0])), set(self._accepted))  # type: ignore[arg-type]

    def add_head(self, head: HeadConfig, seed: int) -> None:
        """A fresh head, its weights from N(0, 0.02) by ``seed`` alone; the one that was there goes."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            built = TaskHead(head, self.config.d_model)
            for name, parameter in built.named_parameters():
                parameter.normal_(std=0.02) if name.endswith("weight") else parameter.zero_()
        self.task_head = built.to(next(self.body.parameters()).device)
        self.config = self.config.model_copy(update={"task_head": head})

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, mask: Mask | None = None, *, segments: Tensor | None = None
    ) -> Tensor:
        """ids [N, T] -> the last hidden states [N, T, D], fp32.

        The body counts its positions itself, RoBERTa's from its padding id on; padding is on the right.

        Raises:
            ValueError: positions, or several documents in a row: other libraries' bodies know neither.
        """
        if positions is not None or (mask is not None and mask.documents is not None):
            raise ValueError("a body of transformers takes one text a row, and numbers its tokens itself")
        inputs: dict[str, Any] = {"input_ids": ids}
        if mask is not None and mask.key_valid is not None:
            inputs["attention_mask"] = mask.key_valid.long()
        if segments is not None and self.config.segments:
            inputs["token_type_ids"] = segments
        if "use_cache" in self._accepted:
            inputs["use_cache"] = False
        lower = self.compute_dtype != torch.float32
        with torch.autocast(ids.device.type, self.compute_dtype if lower else None, enabled=lower):
            hidden: Tensor = self.body(**inputs).last_hidden_state
        return hidden.float()

    def summary(self, hidden: Tensor) -> Tensor:
        """hidden [N, T, D] -> [N, D]: the first token, through the body's own pooler where it has one."""
        if not self.config.pooler:
            return hidden[:, 0]
        pooler: Any = self.body.pooler
        if isinstance(pooler, nn.Linear):  # ALBERT's, whose tanh stands beside it
            return torch.tanh(pooler(hidden[:, 0]))
        pooled: Tensor = pooler(hidden)
        return pooled

    def depth_of(self, name: str) -> int:
        """How far up a parameter of this model is: 0 embeddings, 1 ... L blocks, L + 1 last norm, pooler and head.

        Where layers share their weights (ALBERT) these are one block: L is 1, whatever the number of layers.
        """
        if name.startswith("body."):
            inner = name.removeprefix("body.")
            for stack in self._stacks:
                if inner.startswith(f"{stack}."):
                    return 1 + int(inner.removeprefix(f"{stack}.").partition(".")[0])
            for module, depth in self._depths.items():
                if inner.startswith(f"{module}."):
                    return depth
        return self.config.n_layer + 1


def suggested_pooling(model: ForeignModel) -> tuple[Pooling, bool]:
    """Whose hidden state should stand for a text, and whether the head should have a pooler of its own.

    A decoder's last token; an encoder's first, through the body's pooler or else the head's; where the body begins no
    text with a token of its own (the encoders of T5 and its kin) the mean, as in Sentence-T5 (Ni et al. 2021).
    """
    if model.config.mask == "causal":
        return "last", False
    if type(model.body).__name__.endswith(HALF):
        return "mean", False
    return "first", not model.config.pooler


def _stacks(body: nn.Module) -> list[str]:
    """Names of the lists of blocks: the outermost ``nn.ModuleList`` with most parameters, and others of its length (XLM)."""
    sizes: dict[str, int] = {}
    for name, module in body.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in sizes):
            sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    if not any(sizes.values()):
        raise ValueError(f"{type(body).__name__} has no list of blocks")
    largest = max(sizes, key=lambda name: sizes[name])
    length = len(body.get_submodule(largest))  # type: ignore[arg-type]
    others = [name for name in sizes if name != largest and len(body.get_submodule(name)) == length]  # type: ignore[arg-type]
    return [largest, *others]


def _depths(body: nn.Module, stacks: list[str]) -> dict[str, int]:
    """Module -> depth of what lies in no block and yet below the top: declared before the blocks, or an embedding."""
    theirs: Any = body.config
    depths: dict[str, int] = dict(USED_BY_ALL.get(theirs.model_type, {}))
    before = True
    for name, module in body.named_modules():
        if any(f"{name}.".startswith(f"{stack}.") for stack in stacks):
            before = False
        elif any(True for _ in module.parameters(recurse=False)):
            is_last = any(part.startswith("final") for part in name.split("."))  # OPT declares its last norm first
            if (before and not is_last) or isinstance(module, nn.Embedding):
                depths[name] = 0
    return depths


def _config_of(body: nn.Module, n_layer: int, accepted: set[str]) -> ForeignConfig:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    theirs: Any = body.config
    kind = theirs.model_type
    writes = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    segments = getattr(theirs, "type_vocab_size", 0) or 0
    dropouts = [value for name in DROPOUTS if (value := getattr(theirs, name, None)) is not None]
    return ForeignConfig(
        model_type=kind,
        vocab_size=body.get_input_embeddings().num_embeddings,  # type: ignore[operator]
        context=_context(body),
        n_layer=n_layer,
        d_model=theirs.hidden_size,
        mask="causal" if writes or getattr(theirs, "is_decoder", False) else "bidirectional",
        segments=segments if segments > 1 and "token_type_ids" in accepted else 0,
        pooler=getattr(body, "pooler", None) is not None,
        dropout=dropouts[0] if dropouts else 0.0,
    )


def _context(body: nn.Module) -> int:
    """Positions that a text can take: RoBERTa's table has rows in front for padding, which no token gets."""
    theirs: Any = body.config
    rows = getattr(theirs, "max_position_embeddings", None) or getattr(theirs, "n_positions", None)
    if not isinstance(rows, int) or rows < 1:
        return NO_END
    for name, module in body.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return rows - module.padding_idx - 1
    return rows
