"""Out to one's own programs: every tensor under the name it has in ``gptloom.model.transformer``, in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from safetensors import safe_open
from torch import Tensor

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.interop.export.source import StoredModel
from gptloom.interop.export.target import TORCH_DTYPES, StateModel, weights_for
from gptloom.interop.receipt import Witness
from gptloom.interop.witness import OurModel
from gptloom.model.folder import CONFIG_FILE, read_json, write_json
from gptloom.model.weight_files import WEIGHTS_FILE
from gptloom.model.weight_writer import write_tensors
from gptloom.tokenizer.load import load_tokenizer


class Plain:
    """``model.safetensors``, and ``config.json``: the fields of ``ModelConfig``. Holds every model there is."""

    name: ClassVar[str] = "safetensors"
    dtypes: ClassVar[tuple[str, ...]] = ("f32", "bf16", "f16")

    def unfit(self, source: StoredModel) -> list[Problem]:
        """Nothing is."""
        return []

    def notes(self, source: StoredModel, dtype: str | None) -> list[str]:
        """What stays behind: what only generation and chat programs read."""
        return [] if source.tokenizer else ["the model has no tokenizer: none is written"]

    def write(self, source: StoredModel, folder: Path, dtype: str | None) -> None:
        """The two files, and the tokenizer's."""
        write_json(folder / CONFIG_FILE, source.config.model_dump(mode="json"))
        if source.tokenizer is not None:
            source.tokenizer.save(folder)
        with weights_for(source, dtype) as weights:
            empty = {name: weights.empty(name) for name in weights}
            if dtype is not None:
                empty = {name: tensor.to(TORCH_DTYPES[dtype]) for name, tensor in empty.items()}

            def fetch(name: str) -> Tensor:
                return weights[name].to(empty[name].dtype)

            write_tensors(folder / WEIGHTS_FILE, empty, fetch, {"format": "pt"})

    def reference(self, source: StoredModel, dtype: str | None) -> Witness:
        """gptloom's own reading of the source."""
        return OurModel(source.folder, source.tokenizer, None if dtype is None else TORCH_DTYPES[dtype])

    def candidate(self, source: StoredModel, folder: Path) -> tuple[Witness, list[str]]:
        """The two files, read as one's own program would."""
        config = ModelConfig(**read_json(folder / CONFIG_FILE))
        tokenize = None if source.tokenizer is None else load_tokenizer(folder).encode
        name = f"the tensors of {WEIGHTS_FILE} in gptloom's Transformer"
        return StateModel(name, config, lambda: _tensors(folder / WEIGHTS_FILE), tokenize), []


@contextmanager
def _tensors(path: Path) -> Iterator[Callable[[str], Tensor]]:
    with safe_open(path, framework="pt") as file:
        yield file.get_tensor
