"""Turns what pydantic found wrong with a set of options into problems a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.excerpt import beginning

COMMAND_LINE = "command line"


def flag(name: str) -> str:
    """An option as the command line spells it: ``max_steps`` → ``--max-steps``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Origins:
    """Where each value came from while options are put together: option name → source, and → place (``file:line``)."""

    sources: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    missing_source: str = "python"  # how options that were not given at all are spelled

    def spelled(self, name: str, positional: bool = False) -> str:
        """The option as its source writes it: ``--max-steps`` on the command line, ``max_steps`` elsewhere."""
        if self.sources.get(name, self.missing_source) != COMMAND_LINE:
            return name
        return name.upper() if positional else flag(name)

    def where(self, name: str) -> str | None:
        """The recipe (``file:line`` where known) a value came from; None for what the user just typed."""
        source = self.sources.get(name, COMMAND_LINE)
        return self.places.get(name, source if source.startswith("recipe") else None)


def problems_of(error: ValidationError, known: Sequence[str], positional: Sequence[str], origins: Origins) -> UserError:
    """Every finding of ``error`` as a ``Problem``; several findings about one option (a union) become one."""
    grouped: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(str(detail["loc"][0]) if detail["loc"] else "", []).append(detail)
    return UserError(*(_problem(name, details, known, positional, origins) for name, details in grouped.items()))


def unknown_option(name: str, known: Sequence[str], origins: Origins) -> Problem:
    """An option nobody knows, with the nearest that exist, all spelled as the source of ``name`` writes them."""
    source = {choice: origins.sources.get(name, origins.missing_source) for choice in (name, *known)}
    same = Origins(source)
    mend = nearest(same.spelled(name), [same.spelled(choice) for choice in known])
    return Problem(f"there is no option {same.spelled(name)}", origins.where(name), mend)


def _problem(
    name: str, details: list[ErrorDetails], known: Sequence[str], positional: Sequence[str], origins: Origins
) -> Problem:
    first = details[0]
    if first["type"] == "extra_forbidden":
        return unknown_option(name, known, origins)
    spelled = origins.spelled(name, name in positional)
    if first["type"] == "missing":
        return Problem(f"{spelled} is missing", origins.where(name))
    if not name:
        return Problem(_reason(first))
    reasons = list(dict.fromkeys(_reason(detail) for detail in details))
    mend = None
    if len(details) == 1 and first["type"] == "literal_error" and isinstance(first["input"], str):
        expected = first.get("ctx", {})["expected"].replace("'", "").replace(" or ", ", ")
        mend = nearest(first["input"], expected.split(", "))
    shown = beginning(repr(first["input"]), 60)
    return Problem(f"{spelled} {shown} {' and '.join(reasons)}", origins.where(name), mend)


def _reason(detail: ErrorDetails) -> str:
    """One finding in plain words. The types are those of pydantic's error list (docs: errors/validation_errors)."""
    ctx: dict[str, Any] = detail.get("ctx", {})
    reasons = {
        "literal_error": "is not one of {expected}",
        "int_parsing": "is not a whole number",
        "int_type": "is not a whole number",
        "int_from_float": "is not a whole number",
        "float_parsing": "is not a number",
        "float_type": "is not a number",
        "finite_number": "is not a finite number",
        "bool_parsing": "is neither true nor false",
        "bool_type": "is neither true nor false",
        "string_type": "is not text",
        "list_type": "is not a list",
        "greater_than": "must be greater than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "string_too_short": "must not be empty",
        "too_short": "needs at least {min_length} values",
        "value_error": "{error}",
    }
    pattern = reasons.get(detail["type"])
    return pattern.format(**ctx) if pattern else detail["msg"][:1].lower() + detail["msg"][1:]
