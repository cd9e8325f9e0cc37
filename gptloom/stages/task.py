"""Everything a pretraining is made of, opened from its run folder by each of its processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved, read_config
from gptloom.data.batches import TokenBatches
from gptloom.data.built import TrainingShards
from gptloom.model.stored_weights import StoredWeights
from gptloom.model.transformer import Transformer
from gptloom.stages.band import Row
from gptloom.stages.machine import Machine, spread
from gptloom.stages.text import DATA, TOKENIZER, reopen_shards
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.train.assemble import fresh_model, model_from
from gptloom.train.parallel import Parallel, check_rows

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Task:
    """Everything a pretraining is made of, once all options that shape it have a value."""

    resolved: Resolved[PretrainOptions]
    config: ModelConfig
    tokenizer: Tokenizer
    shards: TrainingShards
    batches: TokenBatches
    dtype: torch.dtype
    parallel: Parallel
    base: Path | None  # the model that the training goes on from
    parents: list[dict[str, str]]  # of the lineage: path and content hash
    data_hash: str | None

    @property
    def band(self) -> Sequence[Row]:
        """Validation losses to expect, of the recipe."""
        return band_of(self.resolved.options)

    def new_model(self) -> Transformer:
        """A model as the training begins with it: fresh from the seed, or the base's weights."""
        if self.base is None:
            return fresh_model(self.config, self.resolved.options.seed, self.parallel, self.dtype)
        with StoredWeights(self.base, self.config) as weights:
            return model_from(weights.items(), self.config, self.parallel, self.dtype)


def open_task(folder: Path, machine: Machine, found: Mapping[str, Any]) -> Task:
    """What ``folder`` holds and ``found``, the JSON of what it does not: config, base, parents, data_hash.

    UserError when the shape of the model is not the one in ``found``, or the processes cannot share the batch.
    """
    resolved = stored_options(folder)
    options = resolved.options
    config = ModelConfig(**found["config"])
    _check_shape(options, config, folder)
    shards = reopen_shards(options, folder / DATA)
    parallel = spread(options, machine.world, machine.device)
    assert options.batch_tokens is not None
    rows = options.batch_tokens // config.context
    machine.world.all_do(lambda: check_rows(rows, config.context, parallel.data_size))
    return Task(
        resolved,
        config,
        load_tokenizer(folder / TOKENIZER),
        shards,
        TokenBatches(shards.train, config.context, rows, options.seed),
        machine.dtype,
        parallel,
        Path(found["base"]) if found["base"] else None,
        list(found["parents"]),
        found["data_hash"],
    )


def stored_options(folder: Path) -> Resolved[PretrainOptions]:
    """The options in a run's ``config.yaml``."""
    return Resolved.from_dict(PretrainOptions, read_config(folder / CONFIG), str(folder / CONFIG))


def band_of(options: PretrainOptions) -> Sequence[Row]:
    """The validation losses that the recipe tells to expect."""
    return load_recipe(options.recipe).band if options.recipe else ()


def data_identity(shards: TrainingShards) -> list[list[Any]]:
    """What a checkpoint remembers of its training shards: sizes, weights and the ids at both ends, by checksum."""
    described = []
    for tokens, weight in shards.train:
        ends = [tokens.read(start, min(4096, tokens.n_tokens)) for start in (0, max(0, tokens.n_tokens - 4096))]
        digest = hashlib.sha256(b"".join(end.tobytes() for end in ends)).hexdigest()
        described.append([tokens.n_tokens, weight, digest])
    return described


def _check_shape(options: PretrainOptions, config: ModelConfig, folder: Path) -> None:
    """UserError when the weights have another shape than the options of the run say."""
    names = ("context", "n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
    differing = [
        f"{name} is {getattr(config, name)} in the weights and {getattr(options, name)} in {CONFIG}"
        for name in names
        if getattr(options, name) not in (None, getattr(config, name))
    ]
    if differing:
        mend = "put the checkpoint of this run back, or the config.yaml that belongs to it"
        raise UserError(Problem("the model is not of this run's size: " + "; ".join(differing), str(folder), mend))
