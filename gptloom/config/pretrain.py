"""The options of ``gptloom pretrain`` and ``gptloom resume``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.masked import MaskedOptions
from gptloom.config.options import (
    POSITIONAL,
    BudgetOptions,
    DurabilityOptions,
    JsonOption,
    LimitOption,
    MachineOptions,
    Metavar,
    Options,
    OutputOptions,
    PaceOptions,
    ParallelOptions,
    QuietOption,
    RecipeOptions,
    ThreadsOption,
    YesOption,
)

Files = Annotated[list[str], Metavar("FILE|FOLDER|GLOB")]


class DataOptions(Options):
    """The text, and how it is read and split."""

    data: Files = Field(min_length=1, description="text to train on; FILE@0.5 reads half of it per pass")
    valid: Files = Field([], description="held-out text (default: a part of --data, by --split)")
    split: Literal["auto", "hash", "tail", "none"] = Field(
        "auto", description="how validation is held out (auto: by document hash from 200 documents on, else the tail)"
    )
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="share of the text held out")
    text_column: str | None = Field(None, description="column or key of the text in tables and JSON lines")
    document_separator: str | None = Field(None, description="string that parts documents inside text files")
    encoding: str = Field("utf-8", description="character encoding of text files")


class ArchitectureOptions(Options):
    """What the model is: a preset, and what differs from it."""

    model: str | None = Field(
        None, description="preset: FAMILY-SIZE, a size, or a family (default: modern, size derived)"
    )
    tokenizer: str | None = Field(
        None,
        description="gpt2, gpt1, bert, wordpiece, chars, bytes, words, or a path (default: trained here, BPE or WordPiece)",
    )
    vocab_size: int | None = Field(None, gt=0, description="of a tokenizer trained here (default: from the text)")
    context: int | None = Field(None, gt=1, description="longest sequence in tokens (default: the preset's)")
    n_layer: int | None = Field(None, gt=0, description="number of blocks")
    d_model: int | None = Field(None, gt=0, description="width")
    n_head: int | None = Field(None, gt=0, description="number of query heads")
    n_kv_head: int | None = Field(None, gt=0, description="number of key and value heads")
    head_dim: int | None = Field(None, gt=0, description="size of a head")
    d_ff: int | None = Field(None, gt=0, description="inner width of the MLP")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout (default: the preset's)")


class OptimizationOptions(Options):
    """How the weights move."""

    batch_tokens: int | None = Field(None, gt=0, description="tokens of one optimizer step (default: from the budget)")
    batch_ramp: Annotated[list[int], Metavar("TOKENS")] = Field(
        [], description="two numbers: tokens of the first step, and of those in which steps grow to --batch-tokens"
    )
    sequence_length: int | None = Field(
        None, gt=1, description="tokens of a training row, where it is shorter than the context (default: the context)"
    )
    micro_batch: Annotated[Annotated[int, Field(gt=0)] | Literal["auto"] | None, Metavar("ROWS|auto")] = Field(
        None, description="sequences of one forward pass; auto: as many as fit (default: as many as make it faster)"
    )
    optimizer: Literal["adamw", "muon"] | None = Field(None, description="default: the family's")
    lr: float | None = Field(None, gt=0, description="highest learning rate (default: from optimizer and size)")
    embedding_lr: float | None = Field(None, gt=0, description="of embeddings and head under muon (default: derived)")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of all matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second moment")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's, beside the root of the second moment")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm (0: no clipping)")
    schedule: Literal["cosine", "trapezoid", "linear", "constant"] | None = Field(
        None, description="learning rate over the run (default: the family's)"
    )
    warmup: int | None = Field(None, ge=0, description="warm-up steps (default: from the run's length)")
    warmup_tokens: int | None = Field(None, gt=0, description="warm-up in tokens instead of steps")
    decay: float = Field(0.5, gt=0, le=1, description="share of the steps in which a trapezoid comes down")
    decay_tokens: int | None = Field(
        None, gt=0, description="cosine, linear: tokens after which the rate is down and stays (default: the whole run)"
    )
    final_lr: float | None = Field(None, ge=0, le=1, description="share of the learning rate left at the end")
    patience: int | None = Field(None, gt=0, description="stop after so many evaluations without a better one")


class RunOptions(Options):
    """What a run keeps and shows while it works."""

    log: list[Literal["tensorboard", "csv", "wandb", "none"]] = Field(
        ["tensorboard"], description="where the event log is also written"
    )
    sample: list[str] = Field([], description="prompts continued at each evaluation (default: one from validation)")
    sample_tokens: int = Field(60, ge=0, description="length of those samples (0: none)")
    keep: int = Field(2, gt=0, description="checkpoints kept, besides the best")


class PretrainOptions(
    DataOptions,
    ArchitectureOptions,
    MaskedOptions,
    OptimizationOptions,
    RunOptions,
    BudgetOptions,
    PaceOptions,
    LimitOption,
    MachineOptions,
    ParallelOptions,
    DurabilityOptions,
    OutputOptions,
    RecipeOptions,
):
    """``gptloom pretrain [BASE] --data ...``."""

    base: Annotated[str | None, POSITIONAL] = Field(None, description="model to go on training (excludes --model)")

    def row_tokens(self, context: int) -> int:
        """Tokens of a training row, for a model of ``context``."""
        return self.sequence_length or context

    @property
    def scored_share(self) -> float:
        """Share of the tokens whose hidden states meet the vocabulary: of masked words only those hidden do."""
        return self.mask_rate if self.objective == "masked" else 1.0


class ResumeOptions(
    BudgetOptions, ParallelOptions, DurabilityOptions, ThreadsOption, JsonOption, QuietOption, YesOption
):
    """``gptloom resume RUN``: what is not given is as stored in the run."""

    run: Annotated[str, POSITIONAL] = Field(description="run folder")
