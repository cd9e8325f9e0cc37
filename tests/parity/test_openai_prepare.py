"""``data prepare`` beside ``openai tools fine_tunes.prepare_data -q`` of openai 0.28.1, on the same files.

``openai_prepare.json`` holds small files, what OpenAI's tool wrote for each (prompts and completions by the end of the
file's name, or "error"), and where ours differs on purpose, what ours writes and why. With GPTLOOM_TEST_OPENAI_0_28, the
path of a Python that has openai 0.28.1 and pandas, OpenAI's tool is run again.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.data.prepare import Reader, prepare

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "openai_prepare.json").read_text(encoding="utf-8"))
NAMES = [case["file"] for case in CASES]
OPENAI = "GPTLOOM_TEST_OPENAI_0_28"
# The tool's own command line, for one file after another: importing pandas takes a second.
RUN_TOOL = """
import sys
from openai import _openai_scripts
for file in sys.argv[1:]:
    sys.argv = ["openai", "tools", "fine_tunes.prepare_data", "-f", file, "-q"]
    try:
        _openai_scripts.main()
    except SystemExit:
        pass
"""


class Yes:
    """Who does what is recommended."""

    def say(self, text: str = "") -> None:
        pass

    def ask(self, question: str, default: bool) -> bool:
        return default


def written(folder: Path, file: str) -> dict[str, list[list[str]]]:
    found = {}
    for end in ("", "_train", "_valid"):
        path = folder / f"{Path(file).stem}_prepared{end}.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            assert all(list(row) == ["prompt", "completion"] for row in rows)
            found[end] = [[row["prompt"], row["completion"]] for row in rows]
    return found


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_rows_are_those_of_the_tool_or_differ_as_said(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / case["file"]
    path.write_text(case["content"], encoding="utf-8")
    wanted = case["ours"] if "differs" in case else case["openai"]
    if wanted == "error":
        with pytest.raises(UserError):
            prepare(str(path), Reader(), Yes())
        assert written(tmp_path, case["file"]) == {}
    else:
        prepare(str(path), Reader(), Yes())
        assert written(tmp_path, case["file"]) == wanted


def test_every_difference_is_one(tmp_path: Path) -> None:
    assert all(case["ours"] != case["openai"] for case in CASES if "differs" in case)
    assert sum("differs" not in case for case in CASES) >= 15


def test_the_tool_still_writes_what_is_recorded(tmp_path: Path) -> None:
    python = os.environ.get(OPENAI)
    if not python:
        pytest.skip(f"{OPENAI} names no Python with openai 0.28.1 and pandas")
    for case in CASES:
        (tmp_path / case["file"]).write_text(case["content"], encoding="utf-8")
    subprocess.run([python, "-c", RUN_TOOL, *NAMES], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    for case in CASES:
        recorded = {} if case["openai"] == "error" else case["openai"]
        assert written(tmp_path, case["file"]) == recorded, case["file"]
