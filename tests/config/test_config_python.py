"""The Python side of commands: same names, same checks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from gptloom.config.errors import UserError
from gptloom.config.options import POSITIONAL, JsonOption, RecipeOptions, SeedOption
from gptloom.config.python import call, python_function
from gptloom.config.resolve import Resolved


class Sample(SeedOption, JsonOption, RecipeOptions):
    base: Annotated[str | None, POSITIONAL] = Field(None, description="what to start from")
    data: list[str] = Field([], description="text files")


def work(resolved: Resolved[Sample]) -> Resolved[Sample]:
    """Returns what it was given."""
    return resolved


sample = python_function("sample", Sample, work)


def test_keywords_are_options_and_their_source_is_python() -> None:
    resolved = sample("runs/x", data="a.txt", seed=3)
    assert (resolved.options.base, resolved.options.data, resolved.options.seed) == ("runs/x", ["a.txt"], 3)
    assert resolved.source("seed") == "python"
    assert sample(data=[Path("a"), "b"]).options.data == ["a", "b"]


def test_the_positional_option_also_goes_by_name_but_not_twice() -> None:
    assert sample(base="runs/x").options.base == "runs/x"
    with pytest.raises(TypeError, match="several values for base"):
        sample("runs/x", base="runs/y")
    with pytest.raises(TypeError, match="positional"):
        sample("runs/x", "runs/y")


def test_unknown_keywords_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no option dta\n  try: did you mean data\?"):
        sample(dta="a.txt")
    with pytest.raises(UserError, match="there is no option dta"):
        sample(dta=None)


def test_terminal_options_are_refused() -> None:
    with pytest.raises(UserError, match="json is an option of the command line only"):
        call(Sample, work, {"json": True})


def test_none_is_the_same_as_leaving_out() -> None:
    assert call(Sample, work, {"seed": None}).source("seed") == "default"


def test_a_recipe_works_from_python_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("options: {seed: 5}\n", encoding="utf-8")
    resolved = sample(recipe=path)
    assert (resolved.options.seed, resolved.source("seed")) == (5, "recipe mine")


def test_signature_and_help_show_the_options() -> None:
    signature = inspect.signature(sample)
    assert list(signature.parameters) == ["base", "data", "seed", "recipe"]
    assert signature.parameters["seed"].default == 1337
    assert signature.parameters["data"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "seed: seed of every random draw" in (sample.__doc__ or "")
