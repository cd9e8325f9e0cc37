"""The Python side of a command: a function whose keywords are the command's options, with the same checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import COMMAND_LINE_ONLY, Options, is_positional, option_fields
from gptloom.config.recipes import resolve_with_recipe
from gptloom.config.resolve import Resolved

OptionsT = TypeVar("OptionsT", bound=Options)
ResultT = TypeVar("ResultT")


def call(
    options_class: type[OptionsT], function: Callable[[Resolved[OptionsT]], ResultT], given: Mapping[str, Any]
) -> ResultT:
    """Calls ``function`` with the options that ``given`` keywords make; ``UserError`` for every one that is wrong.

    None means "not given", as the defaults that a signature shows. Text is taken where a list is expected.
    """
    fields = option_fields(options_class)
    terminal = [name for name in given if name in fields and COMMAND_LINE_ONLY in fields[name].metadata]
    if terminal:
        raise UserError(*(Problem(f"{name} is an option of the command line only") for name in terminal))
    return function(resolve_with_recipe(options_class, given, "python"))


def python_function(
    name: str, options_class: type[OptionsT], function: Callable[[Resolved[OptionsT]], ResultT]
) -> Callable[..., ResultT]:
    """The public ``gptloom.NAME``: positional options by place or name, the rest by name, help from the options."""
    fields = {
        option: field
        for option, field in option_fields(options_class).items()
        if COMMAND_LINE_ONLY not in field.metadata
    }
    places = [option for option, field in fields.items() if is_positional(field)]

    def public(*positional: Any, **options: Any) -> ResultT:
        if len(positional) > len(places):
            raise TypeError(f"{name}() takes {len(places)} positional arguments but {len(positional)} were given")
        by_place = dict(zip(places, positional, strict=False))
        twice = by_place.keys() & options.keys()
        if twice:
            raise TypeError(f"{name}() got several values for {', '.join(sorted(twice))}")
        return call(options_class, function, {**by_place, **options})

    kinds = inspect.Parameter
    parameters = [
        kinds(
            option,
            kinds.POSITIONAL_OR_KEYWORD if option in places else kinds.KEYWORD_ONLY,
            default=kinds.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for option, field in sorted(fields.items(), key=lambda item: item[0] not in places)
    ]
    public.__name__ = public.__qualname__ = name
    public.__module__ = function.__module__
    described = [f"    {option}: {field.description}" for option, field in fields.items()]
    public.__doc__ = "\n".join([inspect.getdoc(function) or name, "", "Options:", *described])
    vars(public)["__signature__"] = inspect.Signature(parameters)
    return public
