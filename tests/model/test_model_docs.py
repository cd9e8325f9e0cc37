from __future__ import annotations

import re
from pathlib import Path

from gptloom.config.model import ModelConfig, preset, presets
from gptloom.model.counting import count_parameters

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_sizes_in_the_docs_are_the_presets() -> None:
    rows = re.findall(r"^\| `([a-z0-9.-]+)` \| ([\d,]+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {name: f"{count_parameters(ModelConfig(**preset(name))).total:,}" for name in presets()}
    wanted = {name: count for name, count in wanted.items() if not name.endswith("-dense")}  # as the banded ones
    assert dict(rows) == wanted
