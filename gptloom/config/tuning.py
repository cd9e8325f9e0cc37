"""What every stage that tunes a pretrained model asks alike: which part learns, how, and what a run keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import Metavar, Options


class PartOptions(Options):
    """Which parameters are trained."""

    layers: int = Field(2, gt=0, description="last: how many blocks")
    train: Annotated[list[str], Metavar("PATTERN")] = Field(
        [], description='parameters to train by name, e.g. "blocks.10.*" head; instead of --method'
    )


class AdapterOptions(Options):
    """Low-rank adapters."""

    rank: int | None = Field(None, gt=0, description="lora: of the adapters (default: 8)")
    alpha: float | None = Field(None, gt=0, description="lora: their scale is alpha / rank (default: 2 rank)")
    lora_dropout: float | None = Field(None, ge=0, lt=1, description="lora: of the adapters' inputs (default: 0)")
    target_modules: Annotated[list[str], Metavar("NAME")] = Field(
        [], description="lora: layers that get one: q k v out up gate down, or all (default: q v)"
    )
    adapter: Annotated[str | None, Metavar("FOLDER")] = Field(None, description="lora: a PEFT adapter to begin with")


class TuningOptions(Options):
    """How the weights move."""

    batch_size: int = Field(32, gt=0, description="examples of one optimizer step")
    micro_batch: int | None = Field(None, gt=0, description="sequences of one forward pass (default: all of the batch)")
    lr: float | None = Field(None, gt=0, description="highest learning rate (default: from method and size)")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of all matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second moment")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's, beside the root of the second moment")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm (0: no clipping)")
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout (default: the model's own)")
    patience: int | None = Field(None, gt=0, description="stop after so many evaluations without a better one")


class LogOptions(Options):
    """What a run writes beside the model, and keeps."""

    log: list[Literal["tensorboard", "csv", "wandb", "none"]] = Field(
        ["tensorboard"], description="where the event log is also written"
    )
    keep: int = Field(1, gt=0, description="checkpoints kept, besides the best")
    save_on_signal: Annotated[list[str], Metavar("NAME")] = Field(
        [], description="further signals that save and end the run, e.g. USR1 for Slurm (always: TERM, INT, HUP)"
    )
    wait_for_disk: float = Field(30.0, ge=0, description="minutes to wait for room when the disk is full in mid-run")
