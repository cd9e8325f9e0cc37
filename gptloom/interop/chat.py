"""Opens a model that answers."""

from __future__ import annotations

from pathlib import Path

from gptloom.generation.chat import ChatModel
from gptloom.interop.open import load
from gptloom.model.reference import Reference


def open_chat(
    reference: str | Path | Reference,
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool | None = None,
    slots: int = 16,
) -> ChatModel:
    """The model of ``reference`` as one that answers messages; the arguments are those of ``load``.

    Raises:
        UserError: a base model, which was never taught to answer; a tokenizer whose template cannot be used; or as
            ``load``.
    """
    return load(reference, device=device, precision=precision, compile=compile, slots=slots).chat_model
