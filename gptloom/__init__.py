"""gptloom: the whole life of a GPT in one package.

The public functions are the commands under the same names, with the same options and defaults: ``gptloom pretrain
--data plays.txt --max-minutes 10`` is ``gptloom.pretrain(data="plays.txt", max_minutes=10)``, and a grouped command
joins its words, ``gptloom.tokenizer_train(...)``. Each name is imported when it is first used, so that importing
gptloom costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> where it is. No sub-package may have one of these names: importing it would rebind the name here.
_PUBLIC = {
    "load": "gptloom.interop.classifiers:load",
    "fit": "gptloom.train.loop:fit",
    "pretrain": "gptloom.cli.pretrain:pretrain",
    "finetune": "gptloom.cli.finetune:finetune",
    "sft": "gptloom.cli.sft:sft",
    "resume": "gptloom.cli.pretrain:resume",
    "rerun": "gptloom.cli.verify:rerun",
    "verify_resume": "gptloom.cli.verify:verify_resume",
    "quickstart": "gptloom.cli.quickstart:quickstart",
    "launch": "gptloom.cli.launch:launch",
    "generate": "gptloom.cli.generate:generate",
    "chat": "gptloom.cli.chat:chat",
    "fill_mask": "gptloom.cli.fill_mask:fill_mask",
    "attention": "gptloom.cli.attention:attention",
    "predict": "gptloom.cli.predict:predict",
    "compare": "gptloom.cli.compare:compare",
    "evaluate": "gptloom.cli.evaluate:evaluate",
    "import_model": "gptloom.cli.import_model:import_model",
    "export": "gptloom.cli.export:export",
    "tokenizer_train": "gptloom.cli.tokenizer:tokenizer_train",
    "tokenizer_show": "gptloom.cli.tokenizer:tokenizer_show",
    "tokenizer_report": "gptloom.cli.tokenizer:tokenizer_report",
    "data_prepare": "gptloom.cli.prepare:data_prepare",
    "data_check": "gptloom.cli.check:data_check",
    "data_instruct": "gptloom.cli.instruct:data_instruct",
    "data_build": "gptloom.cli.data:data_build",
    "data_show": "gptloom.cli.data:data_show",
    "runs": "gptloom.cli.runs:runs",
    "runs_show": "gptloom.cli.runs:runs_show",
    "follow": "gptloom.cli.runs:follow",
    "stop": "gptloom.cli.runs:stop",
    "report": "gptloom.cli.runs:report",
    "lineage": "gptloom.cli.runs:lineage",
    "config_explain": "gptloom.cli.config:config_explain",
    "models": "gptloom.cli.models:models",
    "models_show": "gptloom.cli.models:models_show",
    "recipes_list": "gptloom.cli.recipes:recipes_list",
    "recipes_show": "gptloom.cli.recipes:recipes_show",
    "recipes_copy": "gptloom.cli.recipes:recipes_copy",
    "doctor": "gptloom.cli.doctor:doctor",
    "UserError": "gptloom.config.errors:UserError",
    "GuardStop": "gptloom.config.errors:GuardStop",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gptloom' has no attribute {name!r}")
    module, attribute = _PUBLIC[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
