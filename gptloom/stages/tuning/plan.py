"""What a tuning is made of, and what each stage has to say about its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptloom.config.resolve import Resolved
from gptloom.interop.bodies import open_body
from gptloom.interop.foreign import ForeignModel
from gptloom.model.lora import LoraConfig
from gptloom.model.store import content_hash
from gptloom.model.transformer import Transformer
from gptloom.stages.tuning.batches import ExampleBatches
from gptloom.stages.tuning.body import Body
from gptloom.stages.tuning.forms import AdapterFolder, ForeignBody, LearnedOnly
from gptloom.train.form import About, Form, WholeModel
from gptloom.train.objective import Objective
from gptloom.train.run import Run


@dataclass(frozen=True)
class Validated:
    """What an evaluation found: the loss per item, the figures, and the one by which the best step is chosen."""

    loss: float
    metrics: Mapping[str, float]
    value: float | None  # None where the model gave no numbers


@dataclass(frozen=True)
class Plan(ABC):
    """Everything a tuning is made of, once all its options have a value but those that a measurement decides."""

    command: ClassVar[str]  # that began it: ``finetune``, ``sft``

    resolved: Resolved[Any]
    body: Body
    lora: LoraConfig | None
    objective: Objective
    batches: ExampleBatches
    device: torch.device
    dtype: torch.dtype  # computed in; another library's body keeps fp32 weights and casts by itself
    held: int  # bytes that the program held before, which are not this training's

    @property
    def options(self) -> Any:
        return self.resolved.options

    @property
    def form(self) -> Form:
        """What is trained little of is stored alone, whatever trains more as a model folder."""
        model = self.body.model
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.lora is not None and isinstance(model, Transformer) and self.body.path is not None:
            return AdapterFolder(trained, model.config, self.lora, self.body.path)
        if self.lora is not None or self.options.method == "feature":
            return LearnedOnly(trained)
        if isinstance(model, ForeignModel):
            return ForeignBody(model, open_body)
        return WholeModel()

    @property
    def rate_of(self) -> Callable[[str], float] | None:
        """Learning rate of a parameter over the highest, by its name; None: all alike."""
        return None

    @property
    @abstractmethod
    def metric(self) -> str:
        """By which the best step is chosen."""

    @property
    @abstractmethod
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""

    @property
    @abstractmethod
    def data_hash(self) -> str:
        """Of everything that is trained or measured on."""

    @cached_property
    def made_of(self) -> dict[str, str]:
        """Name -> hash of everything that the run begins with: what it goes on with must be the same."""
        adapter = self.options.adapter
        own = {} if adapter is None else {"adapter": content_hash(Path(adapter))}
        return {"data": self.data_hash, "base": self.body.base_hash, **own}

    @property
    @abstractmethod
    def sizes(self) -> str:
        """How many examples there are, for people."""

    @abstractmethod
    def validated(self) -> Validated:
        """The model as it is now, on the held-out examples."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What the ``start`` event says beside what every tuning has: model, examples, context."""

    @abstractmethod
    def described(self, about: About) -> About:
        """``about`` with what the model folder says of the stage: its task, or how it chats."""

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Called once before the first step of a new run: what is to be known of the model as it was."""

    @abstractmethod
    def leave(self, run: Run, about: About, cost: Mapping[str, Any]) -> None:
        """Writes what the run leaves, from the model of the best step, in fp32 on the CPU."""

    def learned(self) -> dict[str, Tensor]:
        """What was trained, where that is stored alone; to be called before adapters are merged."""
        form = self.form
        parameters = self.body.model.named_parameters()
        return {name: p.detach() for name, p in parameters if form.keeps(name)} if self.lora is not None else {}
