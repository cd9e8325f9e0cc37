"""Recipes: named sets of options in YAML, shipped in ``gptloom/recipes`` or written by a user.

A recipe file::

    name: shakespeare-char
    line: one line that describes it
    command: pretrain
    options:                 # option names of the command, each with the source of its value as a comment
      d_model: 128
    by_model:                # optional: what goes with each model that --model, or else the options, may name
      gpt3-small: {lr: 6.0e-4}
    band:                    # optional: the validation loss to expect after so many tokens: [tokens, lowest, highest]
      - [100_000, 2.3, 2.8]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.options import Options, option_fields
from gptloom.config.resolve import Resolved, resolve

KEYS = ("name", "line", "command", "options", "by_model", "band")

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its options, where each stands, and the band of losses to expect (tokens, lowest, highest)."""

    name: str
    line: str
    command: str
    options: Mapping[str, Any]
    text: str
    places: Mapping[str, str] = field(default_factory=dict)  # option → file:line
    band: tuple[tuple[float, float, float], ...] = ()
    by_model: Mapping[str, Recipe] = field(default_factory=dict)  # options and places that one model adds

    def for_model(self, model: str | None = None) -> Recipe:
        """The recipe with what it says of ``model`` (default: the one it names itself)."""
        own = self.by_model.get(model or str(self.options.get("model")))
        if own is None:
            return self
        return replace(self, options={**self.options, **own.options}, places={**self.places, **own.places})


def recipe_names() -> list[str]:
    """The recipes that come with gptloom."""
    folder = resources.files("gptloom.recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(reference: str) -> Recipe:
    """The recipe in the file ``reference`` if that exists, else the shipped one of that name, else ``UserError``."""
    path = Path(reference)
    if path.is_file():
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), str(path), path.stem)
        except UnicodeDecodeError as error:
            raise UserError(
                Problem(f"byte {error.start} is not UTF-8", str(path), "save the recipe as UTF-8")
            ) from None
    if reference not in recipe_names():
        what = f"there is no recipe and no file called {reference!r}"
        raise UserError(Problem(what, mend=f"{nearest(reference, recipe_names())}  (gptloom recipes list)"))
    text = resources.files("gptloom.recipes").joinpath(f"{reference}.yaml").read_text(encoding="utf-8")
    return parse_recipe(text, f"{reference}.yaml", reference)


def parse_recipe(text: str, where: str, default_name: str) -> Recipe:
    """Reads the YAML ``text`` of the file ``where``. ``UserError`` with ``file:line`` for everything that is wrong."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(Problem(f"not YAML: {error.problem or error.context}", f"{where}:{line}")) from None
    except yaml.YAMLError as error:
        raise UserError(Problem(f"not YAML: {error}", where)) from None
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(Problem("a recipe is a mapping with options:", f"{where}:1"))
    lines = _lines(root)
    unknown = [name for name in document if name not in KEYS]
    problems = [
        Problem(f"a recipe has no key {name}", f"{where}:{lines[str(name)][0]}", nearest(str(name), KEYS))
        for name in unknown
    ]
    options = document.get("options")
    if not isinstance(options, dict):
        line = lines["options"][0] if "options" in lines else 1
        problems.append(Problem("options: is not a mapping of option names to values", f"{where}:{line}"))
    by_model = document.get("by_model") or {}
    if not isinstance(by_model, dict) or not all(isinstance(own, dict) for own in by_model.values()):
        line = lines["by_model"][0]
        problems.append(Problem("by_model: is not a mapping of models to their options", f"{where}:{line}"))
    band = _band(document.get("band") or [])
    if band is None:
        problems.append(Problem("band: is not a list of [tokens, lowest, highest]", f"{where}:{lines['band'][0]}"))
    if problems:
        raise UserError(*problems)
    assert isinstance(options, dict) and band is not None
    recipe = Recipe(
        name=str(document.get("name", default_name)),
        line=str(document.get("line", "")),
        command=str(document.get("command", "pretrain")),
        options=_named(options),
        text=text,
        places=_places(lines["options"][1], where),
        band=band,
    )
    models = {model: node for model, (_, node) in _lines(lines["by_model"][1]).items()} if by_model else {}
    return replace(
        recipe,
        by_model={
            model: replace(recipe, options=_named(by_model[model]), places=_places(node, where))
            for model, node in models.items()
        },
    )


def resolve_with_recipe(options_class: type[OptionsT], given: Mapping[str, Any], source: str) -> Resolved[OptionsT]:
    """``resolve``, with the recipe that ``given`` names, if the command takes recipes and one is named."""
    reference = given.get("recipe")
    if "recipe" not in option_fields(options_class) or not isinstance(reference, str | os.PathLike):
        return resolve(options_class, given, given_source=source)
    model = given.get("model")
    recipe = load_recipe(os.fspath(reference)).for_model(model if isinstance(model, str) else None)
    return resolve(options_class, given, recipe.options, recipe.name, source, recipe.places)


def _named(options: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def _places(node: yaml.Node, where: str) -> dict[str, str]:
    """Option → ``file:line``."""
    return {name.replace("-", "_"): f"{where}:{line}" for name, (line, _) in _lines(node).items()}


def _lines(node: yaml.Node) -> dict[str, tuple[int, yaml.Node]]:
    """Key → (its line, the node of its value) of a mapping node."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): (key.start_mark.line + 1, value) for key, value in node.value}


def _band(rows: Any) -> tuple[tuple[float, float, float], ...] | None:
    """The rows as numbers (YAML reads 1e6 as text), None if they are not a band."""
    try:
        band = tuple((float(tokens), float(low), float(high)) for tokens, low, high in rows)
    except (TypeError, ValueError):
        return None
    return band if all(low <= high for _, low, high in band) else None
