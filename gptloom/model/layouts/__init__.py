"""The Hugging Face layouts in which models are written and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.bert import BertLayout
from gptloom.model.layouts.gpt1 import GPT1Layout
from gptloom.model.layouts.gpt2 import GPT2Layout
from gptloom.model.layouts.gpt3 import GPT3Layout
from gptloom.model.layouts.gpt_neo import GPTNeoLayout
from gptloom.model.layouts.layout import Layout
from gptloom.model.layouts.llama import LlamaLayout
from gptloom.model.layouts.mistral import MistralLayout
from gptloom.model.layouts.nanochat import NanoChatLayout
from gptloom.model.layouts.neox import NeoXLayout
from gptloom.model.layouts.qwen2 import Qwen2Layout
from gptloom.model.layouts.qwen3 import Qwen3Layout
from gptloom.model.layouts.task_heads import TaskClass

LAYOUTS: tuple[Layout, ...] = (
    GPT1Layout(),
    GPT2Layout(),
    GPT3Layout(),
    NeoXLayout(),
    BertLayout(),
    GPTNeoLayout(),
    LlamaLayout(),
    MistralLayout(),
    Qwen2Layout(),
    Qwen3Layout(),
    NanoChatLayout(),
)


def layout_for(config: ModelConfig) -> Layout:
    """The layout that models of this family are written in."""
    return next(layout for layout in LAYOUTS if layout.family == config.family)


def task_class_named(name: str) -> TaskClass | None:
    """The class of ``transformers`` with the head of a task that is called so, of whichever family."""
    return next((one for layout in LAYOUTS for one in layout.task_classes if one.name == name), None)


def layout_of(raw: Mapping[str, Any], where: str = "config.json") -> Layout:
    """The layout that a config.json is written in; ``UserError`` with the known ones when ``model_type`` is another."""
    for layout in LAYOUTS:
        if raw.get("model_type") == layout.model_type:
            return layout
    known = ", ".join(layout.model_type for layout in LAYOUTS)
    what = f"model_type {raw.get('model_type')!r} is not one gptloom can read; known: {known}"
    raise UserError(Problem(what, where, "gptloom finetune takes any model of transformers as a body for a task"))
