"""The page on pretraining says what the code does: every option it lists exists, and its figures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from gptloom.config.model import ModelConfig, preset
from gptloom.config.options import option_fields
from gptloom.config.pretrain import PretrainOptions
from gptloom.stages.derive import AIM_MINUTES, AIM_PASSES, choose_embedding_lr, choose_lr
from gptloom.train.guards import Guard

PAGE = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")


def test_the_options_it_names_exist() -> None:
    options = {"--" + name.replace("_", "-") for name in option_fields(PretrainOptions)}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert len(named) > 20 and named <= options


def test_its_figures_are_those_of_the_code() -> None:
    assert (AIM_MINUTES, AIM_PASSES) == (10, 4) and "ten minutes or four passes" in PAGE
    config = ModelConfig(**preset("fast-nano"))
    assert choose_lr(config, "muon").value == 0.013 and "`muon`: 0.15 / sqrt(width)." in PAGE  # a width of 128
    assert choose_embedding_lr(config, 0.01).value == 0.03 and "as `--lr` (three times that for `fast`)" in PAGE
    guard = Guard()
    assert f"more than {guard.spike:g} standard\ndeviations" in PAGE and f"last {guard.window} steps" in PAGE
    assert f"After {guard.patience} of them in a\nrow" in PAGE
    assert PretrainOptions.model_fields["keep"].default == 2 and "The last two checkpoints are kept" in PAGE
