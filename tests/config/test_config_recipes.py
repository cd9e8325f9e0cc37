"""Recipes: shipped or in a file, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.options import BudgetOptions, RecipeOptions
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe, parse_recipe, recipe_names, resolve_with_recipe
from gptloom.model.counting import count_parameters


class Sample(BudgetOptions, RecipeOptions):
    lr: float | None = Field(None, gt=0, description="learning rate")


GOOD = """\
name: mine
line: a recipe of my own
command: pretrain
options:
  lr: 1e-3        # Radford et al. 2019
  max-steps: 20
band:
  - [1e5, 2.3, 2.8]
"""


def test_a_recipe_is_a_layer_below_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    resolved = resolve_with_recipe(Sample, {"recipe": str(path), "max_steps": 5}, "python")
    assert (resolved.options.lr, resolved.source("lr")) == (1e-3, "recipe mine")
    assert (resolved.options.max_steps, resolved.source("max_steps")) == (5, "python")


def test_names_with_dashes_and_the_band_are_read() -> None:
    recipe = parse_recipe(GOOD, "mine.yaml", "other")
    assert recipe.options == {"lr": "1e-3", "max_steps": 20}
    assert recipe.places == {"lr": "mine.yaml:5", "max_steps": "mine.yaml:6"}
    assert recipe.band == ((1e5, 2.3, 2.8),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("lr: 1e-3", "lr: [1e-3"), r"mine.yaml:6: not YAML"),
        (GOOD.replace("options:", "option:"), r"mine.yaml:4: a recipe has no key option\n  try: did you mean options"),
        ("- a\n", r"mine.yaml:1: a recipe is a mapping"),
        ("line: x\noptions: 3\n", r"mine.yaml:2: options: is not a mapping"),
        (GOOD.replace("2.3, 2.8", "2.8, 2.3"), r"mine.yaml:7: band:"),
        (GOOD.replace("[1e5, 2.3, 2.8]", "5"), r"mine.yaml:7: band:"),
        ("", r"mine.yaml:1: a recipe is a mapping"),
    ],
)
def test_mistakes_are_named_with_file_and_line(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_recipe(text, "mine.yaml", "mine")


def test_a_wrong_option_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("max-steps: 20", "max_step: 20").replace("1e-3", "fast"), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve_with_recipe(Sample, {"recipe": str(path)}, "command line")
    found = {problem.where: problem for problem in caught.value.problems}
    assert found[f"{path}:6"].what == "there is no option max_step"
    assert "max_steps" in (found[f"{path}:6"].mend or "")
    assert found[f"{path}:5"].what == "lr 'fast' is not a number"


def test_an_existing_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = recipe_names()[0]
    assert load_recipe(name).line != "a recipe of my own"
    (tmp_path / name).write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name).line == "a recipe of my own"


def test_an_unknown_recipe_names_the_nearest() -> None:
    name = recipe_names()[0]
    with pytest.raises(UserError, match=name):
        load_recipe(name[:-1])


def test_a_recipe_file_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"line: caf\xe9\n")
    with pytest.raises(UserError, match="byte 9 is not UTF-8"):
        load_recipe(str(path))


def test_shakespeare_char_is_nanogpts_recipe() -> None:
    resolved = resolve_with_recipe(PretrainOptions, {"recipe": "shakespeare-char", "data": "plays.txt"}, "python")
    options = resolved.options
    assert (options.n_layer, options.n_head, options.d_model, options.context) == (4, 4, 128, 64)
    assert options.batch_tokens == 12 * 64 and options.max_steps == 2000
    assert options.lr is not None and options.final_lr is not None
    assert options.lr * options.final_lr == pytest.approx(1e-4)
    assert resolved.source("beta2") == "recipe shakespeare-char"
    # nanoGPT counts 795,904 without positions; its LayerNorms have no biases, ours (GPT-2's) have: two a block and one.
    sizes = {"n_layer": 4, "n_head": 4, "d_model": 128, "context": 64, "vocab_size": 65, "bias": False}
    count = count_parameters(ModelConfig(**{**preset("gpt2"), **sizes}))
    assert count.total - count.positions == 795_904 + (2 * 4 + 1) * 128


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_say_where_their_values_come_from(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.line and recipe.options
    lines = recipe.text.splitlines()
    for place in recipe.places.values():
        number = int(place.rsplit(":", 1)[1])
        assert "#" in lines[number - 1], f"{place} names no source"


def test_the_recipe_of_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    (block,) = [block for block in page.split("```") if block.startswith("yaml\nname:")]
    recipe = parse_recipe(block.removeprefix("yaml\n"), "mine.yaml", "mine")
    resolve_with_recipe(PretrainOptions, {**recipe.options, "data": "a"}, "python")
    assert recipe.band == ((1_536_000.0, 1.75, 2.0),)


BY_MODEL = """\
options:
  model: gpt3-small
  lr: 1.0
  clip: 2.0
by_model:
  gpt3-small: {lr: 6.0e-4}
  gpt3-xl:
    lr: 2.0e-4
    batch-tokens: 8
"""


def test_a_recipe_has_options_of_its_own_for_each_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BY_MODEL, encoding="utf-8")
    given = {"recipe": str(path), "data": "a"}
    own = resolve_with_recipe(PretrainOptions, given, "python").options
    assert (own.lr, own.clip, own.batch_tokens) == (6e-4, 2.0, None)
    other = resolve_with_recipe(PretrainOptions, {**given, "model": "gpt3-xl"}, "python")
    assert (other.options.lr, other.options.batch_tokens, other.source("lr")) == (2e-4, 8, "recipe mine")
    assert load_recipe(str(path)).for_model("gpt3-xl").places["lr"].endswith("mine.yaml:8")
    assert resolve_with_recipe(PretrainOptions, {**given, "model": "gpt3-xl", "lr": 3e-4}, "python").options.lr == 3e-4
    assert resolve_with_recipe(PretrainOptions, {**given, "model": "gpt2"}, "python").options.lr == 1.0
    with pytest.raises(UserError, match=r"mine.yaml:5: by_model: is not a mapping"):
        parse_recipe("options:\n  lr: 1.0\n\n\nby_model: {gpt2: 3}\n", "mine.yaml", "mine")
