"""Options: names, order, lists, and errors a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from gptloom.config.errors import UserError
from gptloom.config.options import (
    POSITIONAL,
    BudgetOptions,
    JsonOption,
    MachineOptions,
    Options,
    OutputOptions,
    PaceOptions,
    RecipeOptions,
    option_fields,
)


class Sample(MachineOptions, BudgetOptions, JsonOption):
    base: Annotated[str | None, POSITIONAL] = Field(None, description="what to start from")
    data: list[str] = Field(description="text files")
    betas: list[float] = Field([0.9, 0.95], description="numbers")
    size: int | Literal["auto"] = Field("auto", description="number or auto")


def problems(**options: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        Sample(**options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def test_own_options_come_first_then_the_mixins_in_order() -> None:
    names = list(option_fields(Sample))
    assert names[:4] == ["base", "data", "betas", "size"]
    assert names[4:9] == ["device", "precision", "threads", "compile", "seed"]
    assert names[9] == "max_steps" and names[-1] == "json"


def test_one_text_and_paths_are_taken_where_a_list_is_expected() -> None:
    assert Sample(data="a.txt").data == ["a.txt"]  # type: ignore[arg-type]
    assert Sample(data=Path("a.txt")).data == ["a.txt"]  # type: ignore[arg-type]
    assert Sample(data=[Path("a"), "b"]).data == ["a", "b"]  # type: ignore[list-item]
    assert Sample(data=["a"], betas=0.5).betas == [0.5]  # type: ignore[arg-type]


def test_json_is_the_option_name_and_does_not_hide_the_method() -> None:
    options = Sample(data=["a"], json=True)
    assert options.json_ is True and options.option("json") is True
    assert callable(options.json)
    assert options.model_dump()["json"] is True


def test_every_problem_is_reported_at_once_in_plain_words() -> None:
    found = problems(device="gpu", threads="many", max_minutes=-1, seed=1.5, max_step=3)
    assert "device 'gpu' is not one of 'auto', 'cpu', 'cuda' or 'mps'" in "\n".join(found)
    assert "threads 'many' is not a whole number" in found
    assert "max_minutes -1 must be greater than 0.0" in found
    assert "seed 1.5 is not a whole number" in found
    assert "data is missing" in found
    assert any("there is no option max_step" in text and "max_steps" in text for text in found)
    assert len(found) == 6
    assert "pydantic" not in "\n".join(found)


def test_a_near_value_is_named() -> None:
    (found,) = problems(data="a", precision="fp61")
    assert "fp16" in found.split("try:")[1]


def test_a_union_is_one_problem() -> None:
    assert problems(data="a", size="big") == ["size 'big' is not a whole number and is not one of 'auto'"]


def test_a_wrong_item_of_a_list_names_the_list() -> None:
    assert problems(data=["a", 3]) == ["data 3 is not text"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(value: float) -> None:
    assert problems(data="a", max_minutes=value) == [f"max_minutes {value} is not a finite number"]


def test_options_never_change() -> None:
    options = Sample(data=["a"])
    with pytest.raises(ValidationError, match="frozen"):
        options.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("mixin", [MachineOptions, BudgetOptions, PaceOptions, OutputOptions, RecipeOptions])
def test_every_shared_option_says_what_it_does(mixin: type[Options]) -> None:
    for name, field in option_fields(mixin).items():
        assert field.description, name
        assert len(field.description) <= 90 and "\n" not in field.description, name


def test_no_shared_option_is_a_python_keyword() -> None:
    import keyword

    for mixin in (MachineOptions, BudgetOptions, PaceOptions, OutputOptions, RecipeOptions):
        assert not any(keyword.iskeyword(name) for name in option_fields(mixin))
