"""Out to llama.cpp and Ollama: one GGUF file with weights, tokenizer and chat template, and a Modelfile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.interop.export import gguf_layout, gguf_tokenizer
from gptloom.interop.export.ollama import CHAT_NOTE, modelfile
from gptloom.interop.export.source import StoredModel
from gptloom.interop.export.target import DTYPE_NAMES, StateModel, weights_for
from gptloom.interop.receipt import Witness
from gptloom.model.store import read_chat
from gptloom.model.stored_weights import StoredWeights

GGUF_FILE, MODELFILE = "model.gguf", "Modelfile"


class GGUF:
    """``model.gguf`` and ``Modelfile``."""

    name: ClassVar[str] = "gguf"
    dtypes: ClassVar[tuple[str, ...]] = ("f32", "bf16", "f16", "q8_0")

    def unfit(self, source: StoredModel) -> list[Problem]:
        """What llama.cpp computes or splits differently."""
        missing = [] if find_spec("gguf") else [Problem("--to gguf needs the package gguf", mend="pip install gguf")]
        if source.config.task_head is not None:
            what = "the model was fine-tuned for a task, whose head llama.cpp does not have"
            missing.append(Problem(what, str(source.folder), "--to hf or --to safetensors"))
        return [*missing, *gguf_layout.unfit(source.config), *gguf_tokenizer.unfit(source.tokenizer)]

    def notes(self, source: StoredModel, dtype: str | None) -> list[str]:
        """What llama.cpp and Ollama do a little differently."""
        chat = [] if source.chat_template is None else [CHAT_NOTE]
        return [*gguf_layout.notes(source.config), *gguf_tokenizer.notes(_eos_ids(source)), *chat]

    def write(self, source: StoredModel, folder: Path, dtype: str | None) -> None:
        """The two files."""
        from gptloom.interop.export import gguf_file

        assert source.tokenizer is not None, "unfit says so"
        eos_ids = _eos_ids(source)
        vocabulary = gguf_tokenizer.vocabulary(source.tokenizer, source.config.vocab_size, eos_ids)
        general = {"general.type": "model", "general.name": source.name}
        if source.chat_template is not None:
            general["tokenizer.chat_template"] = source.chat_template
        with weights_for(source, dtype) as weights:
            gguf_file.write(
                folder / GGUF_FILE,
                source.config,
                _stored_as(source, dtype),
                lambda name: tuple(weights.empty(name).shape),
                weights.__getitem__,
                vocabulary,
                general,
            )
        stops = gguf_tokenizer.special_texts(source.tokenizer, eos_ids) if source.chat_template is not None else []
        chat = read_chat(source.folder)
        stops += [chat.stop] if chat is not None and chat.stop else []
        text = modelfile(GGUF_FILE, source.config.context, source.chat_template is not None, stops)
        (folder / MODELFILE).write_text(text, encoding="utf-8", newline="\n")

    def reference(self, source: StoredModel, dtype: str | None) -> Witness:
        """The source, each of its tensors rounded as it is stored; of BERT the body, which is all that is in the file."""
        config = _body(source.config)
        encode = None if source.tokenizer is None else source.tokenizer.encode
        name = f"gptloom's own reading of {source.folder.name}"
        return StateModel(name, config, lambda: _rounded(source, _stored_as(source, dtype)), encode)

    def candidate(self, source: StoredModel, folder: Path) -> tuple[Witness, list[str]]:
        """The file's metadata, tensors and vocabulary, taken apart again and computed by our Transformer."""
        from gptloom.interop.export import gguf_file

        path = folder / GGUF_FILE
        with gguf_file.read(path, source.config) as found:
            config = found.config
            encode = gguf_tokenizer.encoder_of(found.vocabulary)

        @contextmanager
        def tensors() -> Iterator[Callable[[str], Tensor]]:
            with gguf_file.read(path, source.config) as found:
                yield found.fetch

        return StateModel(f"{GGUF_FILE}, read back by the package gguf", config, tensors, encode), []


def _eos_ids(source: StoredModel) -> list[int]:
    """What ends a text, by generation_config.json: one id or several; none where it says nothing."""
    eos = source.generation.get("eos_token_id")
    return [eos] if isinstance(eos, int) else list(eos or [])


def _stored_as(source: StoredModel, dtype: str | None) -> str:
    return dtype or DTYPE_NAMES.get(source.dtype, "f32")


def _body(config: ModelConfig) -> ModelConfig:
    return ModelConfig(**config.model_dump() | gguf_layout.HEADLESS) if config.family == "bert" else config


@contextmanager
def _rounded(source: StoredModel, dtype: str) -> Iterator[Callable[[str], Tensor]]:
    from gptloom.interop.export import gguf_file

    theirs = {ours: rule.theirs for rule in gguf_layout.rules(source.config) for ours in rule.ours}
    with StoredWeights(source.folder, source.config) as weights:

        def fetch(name: str) -> Tensor:
            tensor = weights[name]
            return gguf_file.rounded(tensor, gguf_file.kind_of(theirs[name], tuple(tensor.shape), dtype))

        yield fetch
