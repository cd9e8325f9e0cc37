"""Out to Hugging Face: the folder that ``transformers``, vLLM and the like open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import torch

from gptloom.config.errors import Problem
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.interop.companions import take_along
from gptloom.interop.export.source import StoredModel
from gptloom.interop.export.target import TORCH_DTYPES, weights_for
from gptloom.interop.receipt import Witness
from gptloom.interop.witness import OurModel, TheirModel, their_encode_or_the_files
from gptloom.model.folder import read_json, write_json
from gptloom.model.layouts import layout_for
from gptloom.model.store import content_hash, own_task, read_chat, read_lineage, save_model


class HuggingFace:
    """A model folder in the layout of its family."""

    name: ClassVar[str] = "hf"
    dtypes: ClassVar[tuple[str, ...]] = ("f32", "bf16", "f16")

    def unfit(self, source: StoredModel) -> list[Problem]:
        """What no class of ``transformers`` computes: one problem a field."""
        config = source.config
        problems = layout_for(config).unfit(config)
        if config.family == "gpt3":
            what = (
                f"banded is {config.banded!r} with window {config.window}: no class of transformers computes GPT-3, "
                "GPT-2's block with local attention in some layers (GPT-Neo neither scales its scores nor has biases there)"
            )
            mend = "--to safetensors, or train the dense variant, gpt3-...-dense, which has the GPT-2 layout"
            problems.append(Problem(what, str(source.folder), mend))
        return problems

    def notes(self, source: StoredModel, dtype: str | None) -> list[str]:
        """What is not there for others to open: a tokenizer, or the head of a task that no class of theirs computes."""
        notes = [] if source.tokenizer else ["the model has no tokenizer: none is written"]
        return notes + [
            f"opens in gptloom only: {reason}" for reason in layout_for(source.config).task_unfit(source.config)
        ]

    def write(self, source: StoredModel, folder: Path, dtype: str | None) -> None:
        """The folder of ``save_model``, with what the source has beside its weights."""
        hashes = ThreadPoolExecutor(1)
        with weights_for(source, dtype) as weights, hashes:
            hashed = hashes.submit(content_hash, source.folder)  # beside the writing: the bytes are read once
            save_model(
                folder,
                weights,
                source.config,
                tokenizer=source.tokenizer,
                generation=source.generation,
                dtype=None if dtype is None else TORCH_DTYPES[dtype],
                task=own_task(source.folder),
                chat=read_chat(source.folder),
            )
            parent = {"path": str(source.folder.resolve()), "hash": hashed.result()}
        take_along(source.folder, folder, own_tokenizer=source.tokenizer_folder == source.folder)
        card = read_json(folder / LINEAGE_FILE)
        card["lineage"] = read_lineage(source.folder).get("lineage", {}) | {"stage": "export", "parents": [parent]}
        write_json(folder / LINEAGE_FILE, card)

    def reference(self, source: StoredModel, dtype: str | None) -> Witness:
        """gptloom's own reading of the source."""
        return OurModel(source.folder, source.tokenizer, self._rounded(dtype))

    def candidate(self, source: StoredModel, folder: Path) -> tuple[Witness, list[str]]:
        """``transformers``, where it is installed and has the architecture; else gptloom's reading of what was written."""
        why_not = TheirModel.why_not(folder)
        if why_not is None:
            encode, notes = (None, []) if source.tokenizer is None else their_encode_or_the_files(folder)
            return TheirModel(folder, encode=encode), notes
        witness = OurModel(folder, source.tokenizer)
        witness.name += f", since {why_not}"
        return witness, []

    @staticmethod
    def _rounded(dtype: str | None) -> torch.dtype | None:
        return None if dtype is None else TORCH_DTYPES[dtype]
