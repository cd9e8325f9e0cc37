"""The options of ``gptloom export``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.doors import DoorOptions
from gptloom.config.options import POSITIONAL


class ExportOptions(DoorOptions):
    """``gptloom export MODEL --to gguf --out DIR``."""

    model: Annotated[str, POSITIONAL] = Field(description="run, model folder, or hf:PATH_OR_NAME")
    to: Literal["hf", "gguf", "safetensors"] = Field(
        description="a transformers folder; llama.cpp and Ollama; or plain tensors for programs of your own"
    )
    dtype: Literal["f32", "bf16", "f16", "q8_0"] | None = Field(
        None, description="numbers to store matrices in, q8_0 in gguf only (default: as they are)"
    )
