"""Reads a command's options from the command line with tyro.

tyro is given the *shape* only, as a ``TypedDict`` in which no key is required: every value stays text, and only what
was given comes back. So it is known exactly which options the user set, and values are checked in one place for the
command line, recipes and Python: the pydantic model. Two things tyro can't do are done around it. Plain flags can't be
left out of its answer, but they can only be switched on, so False means that they were not given. And of
``--data a b --data c`` it keeps the last, so the values of list options are taken out before it sees the rest. Of a
command with a list for a positional option, that is everything after ``--``: another command line.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

from pydantic.fields import FieldInfo

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import Metavar, Options, Short, is_list, is_positional, option_fields
from gptloom.config.problems import COMMAND_LINE, Origins, flag, unknown_option


class HelpPrinted(Exception):
    """The user asked for help; the message is its text."""


def given_on_command_line(
    name: str, description: str, options: type[Options], arguments: Sequence[str]
) -> dict[str, Any]:
    """Option → value (text, list of texts, or bool) of what ``arguments`` give to the command ``name``.

    Raises ``UserError`` for unknown options (all of them), missing values and superfluous words, and ``HelpPrinted``
    with the text of ``--help``.
    """
    import tyro

    fields = option_fields(options)
    arguments, behind = _cut_at_dashes(fields, arguments)
    arguments = _spelled_out(fields, arguments)
    _refuse(name, fields, arguments)
    shape = TypedDict("shape", {option: _shape(option, field) for option, field in fields.items()}, total=False)  # type: ignore
    lists, rest = _take_lists(fields, arguments)
    # A plain flag needs no negative, but for one case: it is on in a recipe.
    plain = {option for option, field in fields.items() if _is_plain_flag(field)}
    switched_off = {option for option in plain if flag(f"no_{option}") in rest}
    rest = [word for word in rest if word not in {flag(f"no_{option}") for option in switched_off}]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            answer, unused = tyro.cli(
                shape,
                prog=f"gptloom {name}",
                description=description,
                args=rest,
                return_unknown_args=True,
                default={option: False for option, field in fields.items() if _is_plain_flag(field)},
            )
    except SystemExit as ended:
        if ended.code in (0, None):
            raise HelpPrinted("".join(line.rstrip() + "\n" for line in printed.getvalue().splitlines())) from None
        raise UserError(Problem(_sentence(printed.getvalue()), mend=f"gptloom {name} --help")) from None
    words = [word for word in unused if word != "--"]
    if words:
        raise UserError(Problem(f"nothing takes {' '.join(map(repr, words))}", mend=f"gptloom {name} --help"))
    given = {option: value for option, value in answer.items() if option not in plain or value}
    return {**given, **dict.fromkeys(switched_off, False), **lists, **behind}


def _cut_at_dashes(
    fields: Mapping[str, FieldInfo], arguments: Sequence[str]
) -> tuple[Sequence[str], dict[str, list[str]]]:
    """The command's own arguments, and the words after ``--`` under the name of the option that takes them, if any."""
    takers = [option for option, field in fields.items() if is_positional(field) and is_list(field)]
    if not takers or "--" not in arguments:
        return arguments, {}
    place = list(arguments).index("--")
    return arguments[:place], {takers[0]: list(arguments[place + 1 :])}


def _spelled_out(fields: Mapping[str, FieldInfo], arguments: Sequence[str]) -> list[str]:
    """The arguments with short spellings (``-q``) as the options they stand for."""
    short = {
        mark.spelling: flag(option)
        for option, field in fields.items()
        for mark in field.metadata
        if isinstance(mark, Short)
    }
    return [short.get(word, word) for word in arguments]


def _is_plain_flag(field: FieldInfo) -> bool:
    return field.annotation is bool and field.default is False


def _is_pair(field: FieldInfo) -> bool:
    """Whether the option is ``--name/--no-name``."""
    return bool in (field.annotation, *get_args(field.annotation)) and not _is_plain_flag(field)


def _shape(option: str, field: FieldInfo) -> Any:
    """What tyro needs to know of an option: text, several texts or a flag, and its line in the help."""
    from tyro import conf

    kind: Any = tuple[str, ...] if is_list(field) else bool if _is_plain_flag(field) or _is_pair(field) else str
    described = field.description or ""
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        hint = "(required)"
    elif default in (None, False, "", [], ()) or "default" in described:
        hint = ""
    else:
        hint = f"(default: {' '.join(map(str, default)) if is_list(field) else default})"
    metavar = None if kind is bool else _metavar(option, field)
    marks = [conf.arg(help=described, metavar=metavar, help_behavior_hint=hint)]
    if is_positional(field):
        marks.append(conf.Positional)
    elif _is_plain_flag(field):
        marks.append(conf.FlagCreatePairsOff)
    return Annotated[(kind, *marks)]


def _metavar(option: str, field: FieldInfo) -> str:
    named = [mark.text for mark in field.metadata if isinstance(mark, Metavar)]
    unnamed = option.upper() if is_positional(field) else "|".join(_kind_names(field.annotation))
    kind = named[0] if named else unnamed
    shown = f"{kind} ..." if is_list(field) else kind
    return f"[{shown}]" if is_positional(field) and not field.is_required() else shown


def _kind_names(kind: Any) -> list[str]:
    """``int | None`` → INT, ``Literal["a", "b"]`` → {a,b}, ``list[str]`` → TEXT."""
    if get_origin(kind) is Literal:
        return ["{" + ",".join(map(str, get_args(kind))) + "}"]
    parts = [part for part in get_args(kind) if part not in (NoneType, Ellipsis) and not isinstance(part, Metavar)]
    if parts:
        return list(dict.fromkeys(name for part in parts for name in _kind_names(part)))
    return [{int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}.get(kind, "VALUE")]


def _segments(arguments: Sequence[str]) -> list[list[str]]:
    """The arguments cut before every option name; ``--`` and what follows it (positional words) is the last piece."""
    pieces: list[list[str]] = [[]]
    for place, word in enumerate(arguments):
        if word == "--":
            return [*pieces, list(arguments[place:])]
        if _is_option_name(word):
            pieces.append([])
        pieces[-1].append(word)
    return pieces


def _is_option_name(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None and re.fullmatch(r"-(inf|nan)", word) is None


def _option_of(piece: Sequence[str]) -> str | None:
    """The option that a piece gives: ``--max-steps=3`` → ``max_steps``."""
    if not piece or not piece[0].startswith("--") or piece[0] == "--":
        return None
    return piece[0][2:].split("=", 1)[0].replace("-", "_")


def _take_lists(fields: Mapping[str, FieldInfo], arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """List option → all its values, in order, and the arguments that are left."""
    lists: dict[str, list[str]] = {}
    rest: list[str] = []
    for piece in _segments(arguments):
        option = _option_of(piece)
        if option is None or option not in fields or not is_list(fields[option]):
            rest += piece
            continue
        values = [*piece[0].split("=", 1)[1:], *piece[1:]]
        lists.setdefault(option, []).extend(values)
    return lists, rest


def _refuse(name: str, fields: Mapping[str, FieldInfo], arguments: Sequence[str]) -> None:
    """Names every unknown option, with the nearest ones, and every option without its value.

    tyro would stop at the first and take the words after an unknown option for part of the mistake.
    """
    named = {option: field for option, field in fields.items() if not is_positional(field)}
    flags = {option for option, field in named.items() if _is_plain_flag(field) or _is_pair(field)} | {"help"}
    negated = {f"no_{option}" for option, field in named.items() if _is_pair(field)}
    hidden = {f"no_{option}" for option, field in named.items() if _is_plain_flag(field)}
    origins = Origins(missing_source=COMMAND_LINE)
    problems = []
    for piece in _segments(arguments):
        option = _option_of(piece)
        if option is None:
            if piece and _is_option_name(piece[0]) and piece[0] != "-h":
                problems.append(Problem(f"there is no option {piece[0]}: options have two dashes"))
        elif option not in named.keys() | flags | negated | hidden:
            problems.append(unknown_option(option, sorted(named.keys() | negated), origins))
        elif option in flags | negated | hidden and "=" in piece[0]:
            problems.append(Problem(f"{flag(option)} takes no value"))
        elif option not in flags | negated | hidden and len(piece) == 1 and "=" not in piece[0]:
            problems.append(Problem(f"{flag(option)} needs a value"))
    if problems:
        *others, last = problems
        mend = f"{last.mend}  (gptloom {name} --help)" if last.mend else f"gptloom {name} --help"
        raise UserError(*others, Problem(last.what, last.where, mend))


def _sentence(box: str) -> str:
    """The words of tyro's error box, without its frame, its heading and its pointer to the help."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    words = [line for line in lines if line and not re.search("[─-]{3,}", line)]
    return " ".join(itertools.takewhile(lambda line: not line.startswith("For full helptext"), words))
