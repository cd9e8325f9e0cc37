"""The page on instruction tuning says what the code does: options, templates and figures that it names are the code's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from gptloom.config.chat import Template
from gptloom.config.data_tools import CheckOptions
from gptloom.config.export import ExportOptions
from gptloom.config.options import option_fields
from gptloom.config.sft import SftOptions
from gptloom.config.show import ShowOptions
from gptloom.data.room import MOST_LEFT_OUT
from gptloom.data.templates import needs_tokens
from gptloom.evaluation.smoke import ENOUGH
from gptloom.stages.sft.plan import EPOCHS
from gptloom.stages.tuning.part import RANK

PAGE = (Path(__file__).parents[2] / "docs" / "instruction-tuning.md").read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())


def test_the_options_it_names_exist() -> None:
    models = (SftOptions, CheckOptions, ShowOptions, ExportOptions)
    options = {"--" + name.replace("_", "-") for model in models for name in option_fields(model)}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--processes", "--no-packing"}  # what is not there, and a no
    assert len(named) > 15 and named <= options


def test_every_template_has_its_row_with_its_tokens() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*)$", PAGE.split("## Templates")[1], re.MULTILINE))
    assert {*get_args(Template)} <= rows.keys()
    for name in ("gptloom", "chatml"):
        assert all(token.replace("|", r"\|") in rows[name].rpartition(" | ")[2] for token in needs_tokens(name))
    assert all(rows[name].endswith("| none |") and not needs_tokens(name) for name in ("alpaca", "plain"))


def test_its_figures_are_those_of_the_code() -> None:
    defaults = SftOptions.model_fields
    assert EPOCHS == 3 and "Training lasts 3 passes" in PROSE
    assert MOST_LEFT_OUT == 0.1 and "more than a tenth of a file" in PROSE
    assert ENOUGH == 0.9 and "below 90 % that end there is a warning" in PROSE
    assert RANK == 8 and "`--rank` 8" in PAGE
    assert defaults["batch_size"].default == 32 and "`--batch-size 32` is in examples" in PROSE
    assert defaults["valid_share"].default == 0.05 and "5 % of the prompts of each file (`--valid-share`)" in PROSE
    assert defaults["warmup"].default == 0.06 and "rises over 6 % of the steps" in PROSE
    assert defaults["smoke_prompts"].default == 20 and "Twenty training prompts (`--smoke-prompts`)" in PROSE
