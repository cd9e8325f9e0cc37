"""A Jinja chat template, run as ``transformers`` runs it: the same sandbox, white space, filters, functions and tags."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_COMPILED = "<template>"  # what Jinja calls the file of a template that was given as a string


class TemplateFailure(Exception):
    """What a template says instead of writing: it refuses the messages, or an expression in it fails."""


class ChatTemplate:
    """Messages in, text out. Raises ``jinja2.TemplateSyntaxError``, which has a ``lineno``, for a source that is none."""

    def __init__(self, source: str) -> None:
        self._template = _compiled(source)

    def write(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        answer: bool,
        variables: Mapping[str, str],
        now: datetime,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: with ``role`` and ``content``; plain JSON values.
            tools: descriptions of functions; an empty list is none at all to a template.
            answer: whether the text ends where the assistant begins to write (``add_generation_prompt``).
            variables: ``bos_token``, ``eos_token`` and the like.
            now: what the clock of the template says.

        Raises:
            TemplateFailure: the template raises, for whatever reason.
        """
        try:
            return self._template.render(
                **variables,
                messages=list(messages),
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=answer,
                strftime_now=now.strftime,
            )
        except TemplateFailure:
            raise
        except Exception as error:  # a template is a program of someone else's: anything may go wrong in it
            raise TemplateFailure(_told(error)) from error


def _told(error: Exception) -> str:
    """What went wrong, with the line of the template where the traceback has one."""
    text = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _COMPILED]
    return f"{text} (line {lines[-1]} of the template)" if lines else text


class _Generation(Extension):
    """``{% generation %}``: what is in it is written as it is. Other programs train on what stands there.

    It is a scope of its own, as in ``transformers``: what is set in it ends with it.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def _refuse(message: str) -> None:
    raise TemplateFailure(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is written elsewhere; Jinja's own filter writes ``<`` and ``&`` as HTML does."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
