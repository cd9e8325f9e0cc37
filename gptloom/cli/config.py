"""``gptloom config explain``: where each option of a run came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.options import POSITIONAL, JsonOption
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, Setting, explain, read_config
from gptloom.config.run_folder import CONFIG


class ExplainOptions(JsonOption):
    """Options of ``gptloom config explain``."""

    run: Annotated[str, POSITIONAL] = Field(description="run folder")
    key: Annotated[str | None, POSITIONAL] = Field(None, description="one option (all of them if none is named)")


def config_settings(resolved: Resolved[ExplainOptions]) -> dict[str, Setting]:
    """The stored options of a run: value, the layer that set it, and the rule of derived ones."""
    path = Path(resolved.options.run) / CONFIG
    return explain(read_config(path), str(path), resolved.options.key)


def run_explain(resolved: Resolved[ExplainOptions], out: Output) -> None:
    """Says for each option of a run which layer set it, and by which rule.

    The layers, weakest first: default or derived from the data and the machine, recipe, command line or Python.
    """
    settings = config_settings(resolved)
    rows = [(name, _shown(setting.value), setting.source, setting.rule or "") for name, setting in settings.items()]
    out.table(("option", "value", "set by", "rule"), rows)
    out.document({name: _fields(setting) for name, setting in settings.items()})


def _fields(setting: Setting) -> dict[str, Any]:
    fields = {"value": setting.value, "source": setting.source}
    return fields if setting.rule is None else {**fields, "rule": setting.rule}


def _shown(value: Any) -> str:
    """A value as YAML writes it on one line (``null``, ``[a, b]``)."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


COMMANDS = {"config explain": Command(ExplainOptions, run_explain)}
config_explain = python_function("config_explain", ExplainOptions, config_settings)
