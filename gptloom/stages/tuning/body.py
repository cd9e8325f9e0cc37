"""A pretrained model that is about to be tuned, and where its weights came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gptloom.config.errors import Problem, UserError
from gptloom.interop.foreign import ForeignModel
from gptloom.interop.hub import PREFIX
from gptloom.model.reference import Reference, is_adapter, resolve_reference
from gptloom.model.store import content_hash
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import Tokenizer


@dataclass(frozen=True)
class Body:
    """A model in fp32 on the CPU, and its tokenizer."""

    model: Transformer | ForeignModel
    tokenizer: Tokenizer
    base_hash: str  # of the weights that it began with
    path: Path | None  # of their folder
    fresh: tuple[str, ...]  # beginnings of the names of parameters that the base did not have: always trained

    @property
    def next_words(self) -> bool:
        """Whether the model can be asked for next words."""
        return isinstance(self.model, Transformer) and self.model.config.mask == "causal"

    def depth_of(self, name: str) -> int:
        """0 for embeddings, 1 ... L for blocks, L + 1 for what stands above them."""
        if isinstance(self.model, ForeignModel):
            return self.model.depth_of(name)
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        return 0 if "embedding" in name.partition(".")[0] else self.model.config.n_layer + 1


def named_folder(base: str, method: str, opened: Reference) -> Path | None:
    """The folder that BASE names: of an adapter its own, since what was opened is merged and goes with this process."""
    if base.startswith(PREFIX) or opened.path is None:
        return opened.path
    named = resolve_reference(base).path
    if named is not None and is_adapter(named) and method == "lora":
        what = "BASE is an adapter: on top of it another one would have no base to go with"
        raise UserError(Problem(what, str(named), f"--adapter {named} with its base, or the final/ of its run as BASE"))
    return named


def hash_of(folder: Path | None, preset: str) -> str:
    """SHA-256 (hex) of the model, as lineages have it, or of the name where the weights come from a seed."""
    return hashlib.sha256(preset.encode()).hexdigest() if folder is None else content_hash(folder)


def files_hash(paths: Sequence[str]) -> str:
    """SHA-256 (hex) of the content of the files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def longest_row(asked: int | None, base: str, context: int) -> int:
    """Tokens that a row may have: as many as the context reaches, or fewer where that is asked for."""
    if asked is not None and asked > context:
        what = f"--max-length {asked} is more than the context of the body, {context}"
        raise UserError(Problem(what, base, f"--max-length {context} or less"))
    return asked or context


def parameters_of(model: nn.Module) -> int:
    """Numbers that the model is made of."""
    return sum(parameter.numel() for parameter in model.parameters())
