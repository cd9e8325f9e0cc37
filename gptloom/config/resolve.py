"""Puts options together in layers, remembers where each value came from, and stores that in a run's ``config.yaml``.

The layers, weakest first: default (or derived, where the default is None), recipe, and what the user gave on the
command line or in Python. A derived value carries the rule it was made by as a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.files import write_text
from gptloom.config.options import Options, option_fields
from gptloom.config.problems import Origins, flag

CONFIG_VERSION = 1
DEFAULT, DERIVED = "default", "derived"

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Setting:
    """One option of a command: its value, the layer that set it, and for derived values the rule as a sentence."""

    value: Any
    source: str  # "default", "derived", "recipe NAME", "command line" or "python"
    rule: str | None = None


@dataclass(frozen=True)
class Resolved(Generic[OptionsT]):
    """The options of a command and where each came from. Values never change; ``derive`` makes a new ``Resolved``."""

    options: OptionsT
    sources: Mapping[str, str]  # option → source; what is not here is a default
    rules: Mapping[str, str]  # derived option → the rule

    def __getitem__(self, name: str) -> Setting:
        return Setting(self.options.option(name), self.source(name), self.rules.get(name))

    def source(self, name: str) -> str:
        """The layer that set ``name``."""
        return self.sources.get(name, DEFAULT)

    def given(self, name: str) -> bool:
        """Whether the user set ``name``, by a recipe, on the command line or in Python."""
        return self.source(name) not in (DEFAULT, DERIVED)

    def derive(self, name: str, value: Any, rule: str) -> Resolved[OptionsT]:
        """The same options with ``name``, which nobody gave, set by a rule; ``rule`` is a sentence for the user."""
        assert name in option_fields(type(self.options)), f"there is no option {name}"
        assert not self.given(name), f"{name} was given ({self.source(name)}): deriving it would override the user"
        values = {option: self.options.option(option) for option in option_fields(type(self.options))}
        options = type(self.options).model_validate({**values, name: value})
        return replace(self, options=options, sources={**self.sources, name: DERIVED}, rules={**self.rules, name: rule})

    def settings(self) -> dict[str, Setting]:
        """Every option in the order of ``--help``."""
        return {name: self[name] for name in option_fields(type(self.options))}

    def as_dict(self, command: str) -> dict[str, Any]:
        """The document that ``config.yaml`` holds."""
        from gptloom import __version__

        options: dict[str, Any] = {}
        for name, setting in self.settings().items():
            options[name] = {"value": setting.value, "source": setting.source}
            if setting.rule is not None:
                options[name]["rule"] = setting.rule
        return {"version": CONFIG_VERSION, "command": command, "gptloom": __version__, "options": options}

    @classmethod
    def from_dict(cls, options_class: type[OptionsT], document: Mapping[str, Any], where: str) -> Resolved[OptionsT]:
        """The inverse of ``as_dict``. ``UserError`` when a newer gptloom wrote it or an option is unknown or wrong."""
        stored = stored_settings(document, where)
        places = dict.fromkeys(stored, where)
        sources = {name: setting.source for name, setting in stored.items()}
        values = {name: setting.value for name, setting in stored.items()}
        origins = Origins(dict.fromkeys(values, "stored"), places)
        options = options_class.model_validate(values, context=origins)
        return cls(options, sources, {name: s.rule for name, s in stored.items() if s.rule is not None})


def resolve(
    options_class: type[OptionsT],
    given: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
    recipe_name: str | None = None,
    given_source: str = "python",
    recipe_places: Mapping[str, str] | None = None,
) -> Resolved[OptionsT]:
    """The options from defaults, ``recipe`` and what was ``given`` (``given_source``: ``command line`` or ``python``).

    None means "not given" in every layer. ``recipe_places`` says where in a file each recipe option stands
    (``file:line``). Raises ``UserError`` with every unknown name and every wrong value of both layers at once.
    """
    known = option_fields(options_class)
    given = {name: value for name, value in given.items() if value is not None or name not in known}
    below = {
        name: value
        for name, value in (recipe or {}).items()
        if name not in given and (value is not None or name not in known)
    }
    sources = {**dict.fromkeys(below, f"recipe {recipe_name}"), **dict.fromkeys(given, given_source)}
    places = {name: (recipe_places or {}).get(name, f"recipe {recipe_name}") for name in below}
    options = options_class.model_validate({**below, **given}, context=Origins(sources, places, given_source))
    return Resolved(options, sources, {})


def idle(resolved: Resolved[Any], names: Iterable[str], why: str) -> list[Problem]:
    """A problem for each of ``names`` that was given, and does nothing for the reason ``why``."""
    what = f"does nothing: {why}"
    return [Problem(f"{flag(name)} {what}", mend="leave it out") for name in names if resolved.given(name)]


def write_config(
    path: Path, resolved: Resolved[Any], command: str, band: Sequence[tuple[float, float, float]] = ()
) -> None:
    """Writes ``config.yaml`` atomically; ``band``: the losses that the recipe expects, for pictures and reports."""
    document = resolved.as_dict(command) | ({"band": [list(row) for row in band]} if band else {})
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    write_text(path, text)


def read_config(path: Path) -> dict[str, Any]:
    """The document of a ``config.yaml``. ``UserError`` when it is missing, broken, or made by a newer gptloom."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(Problem(f"{path.parent} is not a run: it has no {path.name}", mend="gptloom runs")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(Problem(f"not readable as YAML: {error}", str(path))) from None
    stored_settings(document, str(path))
    return dict(document)


def stored_settings(document: Any, where: str) -> dict[str, Setting]:
    """Option → ``Setting`` of a ``config.yaml`` document. ``UserError`` when its version or shape is not known here."""
    if not isinstance(document, Mapping) or not isinstance(document.get("options"), Mapping):
        raise UserError(Problem("not a gptloom configuration: it has no options", where))
    version = document.get("version")
    if not isinstance(version, int) or version > CONFIG_VERSION:
        made_by = document.get("gptloom", "unknown")
        what = f"made by a newer gptloom ({made_by}): configuration version {version}, this one knows {CONFIG_VERSION}"
        raise UserError(Problem(what, where, "pip install --upgrade gptloom"))
    try:
        return {name: Setting(**fields) for name, fields in document["options"].items()}
    except TypeError as error:
        raise UserError(Problem(f"an option is not stored as value, source and rule: {error}", where)) from None


def explain(document: Mapping[str, Any], where: str, key: str | None = None) -> dict[str, Setting]:
    """The settings of a stored configuration, or the one called ``key``; ``UserError`` with the nearest names."""
    settings = stored_settings(document, where)
    if key is None:
        return settings
    name = key.lstrip("-").replace("-", "_")
    if name not in settings:
        raise UserError(Problem(f"the run has no option {key}", where, nearest(name, settings)))
    return {name: settings[name]}
