"""``gptloom recipes list|show|copy``: the recipes that come with gptloom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.files import check_new_file, write_text
from gptloom.config.options import POSITIONAL, JsonOption, Metavar, OverwriteOption
from gptloom.config.python import python_function
from gptloom.config.recipes import Recipe, load_recipe, recipe_names
from gptloom.config.resolve import Resolved


class ListOptions(JsonOption):
    """Options of ``gptloom recipes list``."""


class ShowOptions(JsonOption):
    """Options of ``gptloom recipes show``."""

    name: Annotated[str, POSITIONAL] = Field(description="recipe, or a file with one")


class CopyOptions(OverwriteOption, JsonOption):
    """Options of ``gptloom recipes copy``."""

    name: Annotated[str, POSITIONAL] = Field(description="recipe")
    out: Annotated[str | None, Metavar("FILE")] = Field(None, description="file to write (default: NAME.yaml)")


def all_recipes(resolved: Resolved[ListOptions]) -> list[Recipe]:
    """The recipes that come with gptloom."""
    return [load_recipe(name) for name in recipe_names()]


def one_recipe(resolved: Resolved[ShowOptions]) -> Recipe:
    """The recipe of that name or in that file."""
    return load_recipe(resolved.options.name)


def copy_recipe(resolved: Resolved[CopyOptions]) -> Path:
    """Writes a copy of a recipe and returns its path. ``UserError`` when the file exists and may not be replaced."""
    options = resolved.options
    recipe = load_recipe(options.name)
    path = Path(options.out or f"{recipe.name}.yaml")
    check_new_file(path, options.overwrite)
    write_text(path, recipe.text)
    return path


def run_list(resolved: Resolved[ListOptions], out: Output) -> None:
    """Lists the recipes that come with gptloom."""
    recipes = all_recipes(resolved)
    out.table(("recipe", "for", "what"), [(recipe.name, recipe.command, recipe.line) for recipe in recipes])
    out.document([{"name": recipe.name, "command": recipe.command, "line": recipe.line} for recipe in recipes])


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Prints a recipe as its file has it, with the source of each value."""
    recipe = one_recipe(resolved)
    out.result(recipe.text.rstrip("\n"))
    fields = ("name", "line", "command", "options", "band")
    out.document({field: getattr(recipe, field) for field in fields})


def run_copy(resolved: Resolved[CopyOptions], out: Output) -> None:
    """Copies a recipe to a file of your own, to change it and give it back with --recipe FILE."""
    path = copy_recipe(resolved)
    recipe = load_recipe(str(path))
    out.result(f"wrote {path}; use it with: gptloom {recipe.command} --recipe {path}")
    out.document({"path": str(path)})


COMMANDS = {
    "recipes list": Command(ListOptions, run_list),
    "recipes show": Command(ShowOptions, run_show),
    "recipes copy": Command(CopyOptions, run_copy),
}
recipes_list = python_function("recipes_list", ListOptions, all_recipes)
recipes_show = python_function("recipes_show", ShowOptions, one_recipe)
recipes_copy = python_function("recipes_copy", CopyOptions, copy_recipe)
