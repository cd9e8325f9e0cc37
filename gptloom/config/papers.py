"""What the papers say of the models that have presets, number by number with its place, and where it is mended here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gptloom.config.model import FAMILIES, SIZES


class Printed(BaseModel):
    """A number as a paper prints it, and where."""

    model_config = ConfigDict(frozen=True)

    text: str
    source: str


class Paper(BaseModel):
    """A family's paper: what stands in the tables of lectures, and the numbers it prints of each of its models."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    title: str
    year: int | None  # None: our own
    company: str
    paper: str = Field(description="authors, title and number; of our own families, what they are made of")
    data: str
    seen: int | None = Field(description="training tokens, passes over the same text counted again; None: not known")
    tokens: str
    applications: str
    recipe: str | None
    common: dict[str, tuple[str, str]] = {}
    sources: dict[str, str] = {}
    quantities: list[str] = []
    models: dict[str, list[str]] = {}
    repairs: dict[str, dict[str, str]] = Field({}, description="model, quantity → why it is otherwise here")
    notes: dict[str, str] = Field({}, description="quantity → what is to be known of it")

    def printed(self, model: str) -> dict[str, Printed]:
        """Quantity → what the paper prints of ``model``; empty for our own families."""
        row = zip(self.quantities, self.models.get(_row_of(model), []), strict=False)
        own = {quantity: Printed(text=text, source=self.sources[quantity]) for quantity, text in row}
        return own | {quantity: Printed(text=text, source=where) for quantity, (text, where) in self.common.items()}

    def repaired(self, model: str) -> Mapping[str, str]:
        """Quantity → why it is not what the paper prints, or what it is."""
        return self.notes | self.repairs.get(_row_of(model), {})


@cache
def papers() -> dict[str, Paper]:
    """The paper of each family of presets."""
    text = resources.files("gptloom.config").joinpath("papers.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return {family: Paper(**document[family]) for family in FAMILIES}


def paper_of(name: str) -> Paper:
    """The paper of a preset, whatever its layout: of ``gpt3-xl-dense`` that of GPT-3."""
    return papers()["modern" if name in SIZES else name.split("-")[0]]


def _row_of(model: str) -> str:
    """The dense GPT-3s are the table's models without the bands."""
    return model.removesuffix("-dense")
