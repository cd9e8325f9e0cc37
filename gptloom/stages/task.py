"""Everything a pretraining is made of, opened from its run folder by each of its processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved, read_config
from gptloom.config.run_folder import CONFIG, DATA, EVENTS, TOKENIZER
from gptloom.data.batch import Batch
from gptloom.data.built import TrainingShards
from gptloom.data.ordered import OrderedBatches
from gptloom.model.counting import count_parameters
from gptloom.model.stored_weights import StoredWeights
from gptloom.model.transformer import Transformer
from gptloom.observe.curves import Expected
from gptloom.observe.events import read_events
from gptloom.stages.architecture import SHAPE, fields_of, named_preset
from gptloom.stages.goal import held_out_batches, objective_for, training_batches
from gptloom.stages.machine import Machine, spread
from gptloom.stages.settings import step_sizes
from gptloom.stages.text import reopen_shards
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.train.assemble import fresh_model, model_from
from gptloom.train.objective import Objective
from gptloom.train.parallel import Parallel, check_heads, check_rows


@dataclass(frozen=True)
class Task:
    """Everything a pretraining is made of, once all options that shape it have a value."""

    resolved: Resolved[PretrainOptions]
    config: ModelConfig
    tokenizer: Tokenizer
    shards: TrainingShards
    batches: OrderedBatches
    dtype: torch.dtype
    parallel: Parallel
    base: Path | None  # the model that the training goes on from
    parents: list[dict[str, str]]  # of the lineage: path and content hash
    data_hash: str | None

    @property
    def band(self) -> Sequence[Expected]:
        """Validation losses to expect, of the recipe."""
        return band_of(self.resolved.options)

    @property
    def objective(self) -> Objective:
        """What a step minimises."""
        return objective_for(self.resolved.options, self.parallel)

    def held_out(self, rows: int) -> Iterator[Batch]:
        """The validation text in batches of ``rows``, each time the same."""
        return held_out_batches(self.resolved.options, self.config.context, self.shards, self.tokenizer, rows)

    def new_model(self) -> Transformer:
        """A model as the training begins with it: fresh from the seed, or the base's weights."""
        if self.base is None:
            return fresh_model(self.config, self.resolved.options.seed, self.parallel, self.dtype)
        with StoredWeights(self.base, self.config) as weights:
            return model_from(weights.items(), self.config, self.parallel, self.dtype)


def open_task(
    folder: Path, machine: Machine, found: Mapping[str, Any], asked: Resolved[PretrainOptions] | None = None
) -> Task:
    """What ``folder`` holds and ``found``, the JSON of what it does not: config, base, parents, data_hash.

    ``asked``: the run's options with what is asked for now about processes (default: as they are stored).

    UserError, at the first process, when the model has not the shape that the run began with, its files are not there, or
    the processes cannot share model or batch.
    """
    resolved = asked or stored_options(folder)
    options = resolved.options
    config = ModelConfig(**found["config"])
    length, sizes = options.row_tokens(config.context), step_sizes(options)
    parallel = spread(options, machine.world, machine.device)
    opened: list[tuple[TrainingShards, Tokenizer]] = []

    def open_data() -> None:
        _check_shape(options, config, folder)
        check_heads(config, parallel.tensor)
        check_rows(sizes.rows(0), length, parallel.data_size)
        check_rows(sizes.full, length, parallel.data_size)
        opened.append((reopen_shards(options, folder / DATA), load_tokenizer(folder / TOKENIZER)))

    machine.world.all_do(open_data)
    ((shards, tokenizer),) = opened
    return Task(
        resolved,
        config,
        tokenizer,
        shards,
        training_batches(options, config.context, shards, tokenizer, options.seed),
        machine.dtype,
        parallel,
        Path(found["base"]) if found["base"] else None,
        list(found["parents"]),
        found["data_hash"],
    )


def stored_options(folder: Path) -> Resolved[PretrainOptions]:
    """The options in a run's ``config.yaml``."""
    return Resolved.from_dict(PretrainOptions, read_config(folder / CONFIG), str(folder / CONFIG))


def band_of(options: PretrainOptions) -> Sequence[Expected]:
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
    """UserError when the weights have another shape than the run began with."""
    name = named_preset(options) if options.base is None else None
    planned: Any = options if name is None else ModelConfig(**fields_of(options, name))
    fields = [field for field in (*SHAPE, "context") if getattr(planned, field) is not None]
    pairs = [(field, getattr(config, field), getattr(planned, field)) for field in fields]
    started = [event["parameters"] for event in read_events(folder / EVENTS) if event["type"] == "start"]
    pairs += [("the number of parameters", count_parameters(config).total, number) for number in started[:1]]
    differing = [f"{field} is {now} in the weights and {then} in the run" for field, now, then in pairs if now != then]
    if differing:
        mend = "put the checkpoint of this run back, or the config.yaml that belongs to it"
        raise UserError(Problem("the model is not of this run's size: " + "; ".join(differing), str(folder), mend))
