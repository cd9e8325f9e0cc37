"""A tiny model, batches of uneven weights, an objective of two terms, and a training of a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.model.vocab_head import cross_entropy
from gptloom.train.loop import fit
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run

V, T, ROWS = 29, 12, 8
CONFIG = ModelConfig(vocab_size=V, context=T, n_layer=2, n_head=2, d_model=16, d_ff=32)


class TwoTerms:
    """Next token, and the squared length of every hidden state at even ids: terms of unequal counts and weights."""

    weights: Mapping[str, float] = {"next_token": 1.0, "length": 0.25}

    def count(self, batch: Batch) -> dict[str, float]:
        return {"next_token": float(batch.weights.sum()), "length": float((batch.ids % 2 == 0).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Transformer)
        hidden = model.hidden(batch.ids)
        even = (batch.ids % 2 == 0).to(hidden.dtype)
        return {
            "next_token": cross_entropy(hidden, model.head_weight, batch.targets, batch.weights),
            "length": (hidden.square().mean(-1) * even).sum(),
        }


def batch_of(step: int, rows: int = ROWS) -> Batch:
    """Uneven weights: from 0 to 2, whole stretches at 0."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(V, (rows, T + 1), generator=generator)
    weights = torch.rand(rows, T, generator=generator) * 2
    weights[::3, : T // 2] = 0
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)


class Trained:
    """A short training, with all that a test may compare."""

    def __init__(self, path: Path, **given: Any) -> None:
        model = given.pop("model", None) or Transformer.initialised(given.pop("config", CONFIG), seed=4)
        dtype = given.pop("dtype", torch.float32)
        if dtype == torch.float64:
            model = model.double()
        make_optimizer = given.pop("make_optimizer", Optimizer)
        optimizer = make_optimizer(model, given.pop("optimizer", OptimizerSettings(lr=1e-3)), dtype)
        objective = given.pop("objective", TwoTerms())
        batches = given.pop("batches", batch_of)
        hooks = given.pop("hooks", [])
        self.seen: list[dict[str, Any]] = []
        settings = LoopSettings(**{"steps": 3, **given})
        self.run = Run.create(path, settings)
        self.model, self.optimizer = model, optimizer
        fit(self.run, objective, batches, model, optimizer, [*hooks, lambda event, run: self.seen.append(event)])

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.seen if event["type"] == "train"]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.optimizer.masters.tensors.items()}

    def distance(self, other: Trained) -> float:
        """Largest relative distance between weights of the same name."""
        ours, theirs = self.weights, other.weights
        assert ours.keys() == theirs.keys()
        return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp_min(1e-30)) for name in ours)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """The tiny batch of a step."""
    return batch_of


@pytest.fixture
def two_terms() -> TwoTerms:
    return TwoTerms()


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trained]:
    """Trains a tiny model in a folder of its own; keywords are those of LoopSettings, or model, optimizer, hooks ..."""
    count = iter(range(100))
    return lambda **given: Trained(tmp_path / f"run-{next(count)}", **given)
