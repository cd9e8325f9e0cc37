"""What is to be exported: the folder behind a model reference, and everything in it that has to come along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.interop.companions import generation_of, source_tokenizer
from gptloom.interop.hub import resolve_model, tokenizer_folder
from gptloom.model.folder import read_json
from gptloom.model.store import check_vocabulary, read_config
from gptloom.model.stored_weights import StoredWeights
from gptloom.tokenizer.tokenizer import CONFIG_FILE, Tokenizer

CHAT_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class StoredModel:
    """A model on disk.

    Attributes:
        name: what a person calls it: the run's or the folder's name.
        folder: the model folder that holds the weights.
        config: what the model is.
        tokenizer: None where the folder has none.
        tokenizer_folder: where that lies; a run's checkpoints may leave it to the run.
    """

    name: str
    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer | None
    tokenizer_folder: Path

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The fields of generation_config.json; special ids that only config.json names come from there."""
        return generation_of(self.folder)

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja text that turns a conversation into a prompt; None for models without."""
        path = self.tokenizer_folder / CHAT_TEMPLATE_FILE
        if path.is_file():
            return path.read_text(encoding="utf-8")
        path = self.tokenizer_folder / CONFIG_FILE
        template = read_json(path).get("chat_template") if path.is_file() else None
        return template if isinstance(template, str) else None

    @cached_property
    def dtype(self) -> torch.dtype:
        """In which the weights are stored: that of the token embedding."""
        return StoredWeights(self.folder, self.config).empty("embedding.weight").dtype

    @cached_property
    def numbers(self) -> int:
        """How many numbers the weights are."""
        weights = StoredWeights(self.folder, self.config)
        return sum(weights.empty(name).numel() for name in weights)


def open_source(reference: str) -> StoredModel:
    """Finds the model that ``reference`` names and checks that it can be read; its weights stay on the disk.

    Raises:
        UserError: nothing is called that, a preset (it has no trained weights), a run without weights, a folder or a
            tokenizer that cannot be read, damaged files.
    """
    resolved = resolve_model(reference)
    if resolved.path is None:
        name = resolved.preset
        what = f"{name} is a preset: it has no trained weights to export"
        raise UserError(Problem(what, mend=f"gptloom pretrain --model {name} --data FILE --out runs/{name}"))
    config = read_config(resolved.path)
    StoredWeights(resolved.path, config)  # a UserError names every damaged, missing, left-over and misshapen tensor
    folder = tokenizer_folder(resolved)
    tokenizer = source_tokenizer(folder)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, str(resolved.path))
    return StoredModel((resolved.run or resolved.path).absolute().name, resolved.path, config, tokenizer, folder)
