"""How the weights of a run lie in a model folder: the whole model, or, where a run trains little of a large one, that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from gptloom.config.chat import ChatFormat
from gptloom.config.model import ModelConfig
from gptloom.config.task import TaskConfig
from gptloom.model.store import read_config, save_model
from gptloom.model.stored_weights import StoredWeights

if TYPE_CHECKING:
    from gptloom.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class About:
    """What a model folder says beside its tensors, and only the stage knows."""

    config: ModelConfig
    tokenizer: Tokenizer | None
    lineage: Mapping[str, Any]
    facts: Mapping[str, Any]  # what a resumed run compares itself with: threads, versions, hashes
    task: TaskConfig | None = None  # what a fine-tuned model answers
    chat: ChatFormat | None = None  # how an instructed model's conversations are rendered


class Weights(Protocol):
    """The stored weights by the names of the run's masters; a part of a tensor is read when it is asked for."""

    def __iter__(self) -> Iterator[str]: ...

    def empty(self, name: str) -> Tensor:
        """Shape and dtype, on the meta device."""

    def box(self, name: str, offsets: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The part of a tensor that is ``shape`` large from ``offsets`` on."""


class Form(Protocol):
    """Which masters a checkpoint holds, and how they become files and masters again."""

    def keeps(self, name: str) -> bool:
        """Whether the master of that name is stored."""

    def write(self, folder: Path, state: Mapping[str, Tensor], about: About) -> dict[str, str]:
        """Writes a model folder, whole or not at all; file -> checksum of each weight file."""

    def open(self, folder: Path) -> AbstractContextManager[Weights]:
        """The weights of a folder that ``write`` made."""


class WholeModel:
    """Every parameter, in the layout of the model's family: what can be used is what is stored."""

    def keeps(self, name: str) -> bool:
        return True

    def write(self, folder: Path, state: Mapping[str, Tensor], about: About) -> dict[str, str]:
        return save_model(
            folder,
            state,
            about.config,
            tokenizer=about.tokenizer,
            lineage=about.lineage,
            task=about.task,
            chat=about.chat,
        )

    def open(self, folder: Path) -> StoredWeights:
        return StoredWeights(folder, read_config(folder))


class TensorsInMemory(dict[str, Tensor]):
    """Weights that were read whole."""

    def empty(self, name: str) -> Tensor:
        return self[name].to("meta")

    def box(self, name: str, offsets: Sequence[int], shape: Sequence[int]) -> Tensor:
        return self[name][tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))]
