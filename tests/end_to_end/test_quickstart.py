"""``gptloom quickstart --fast`` as a user types it: a process of its own, the text of this Python, one JSON document."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_fast_quickstart_from_start_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gptloom", "quickstart", "--fast", "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["done"] and document["corpus"]["python"] == platform.python_version()
    assert document["corpus"]["hash"][:12] in done.stderr and platform.python_version() in done.stderr
    figures = document["stages"]["pretrain"]["figures"]
    assert len(figures["moments"]) == 6 and figures["beaten"] == ["byte unigram"]
    assert {score["kind"] for score in figures["examples"]} == {"sum", "difference", "word", "function"}
    assert all(0 <= share <= 1 for score in figures["examples"] for share in score["right"].values())
    said = ["Invented manual pages", "copied word for word:", "lzma", "not beaten", "kitchen.Oven.bake(self, dish,"]
    assert [words for words in said if words not in done.stderr] == []
    classified = document["stages"]["classify"]["figures"]
    assert len(classified["accuracies"]) == 5 and len(classified["families"]) >= 7
    instructed = document["stages"]["instruct"]["figures"]
    assert {part["asked"] for part in instructed["parts"].values()} == {8} and 2500 < instructed["train_names"] < 8000
    assert instructed["meaning"] in " ".join(done.stderr.split())
    folder = tmp_path / "runs" / "quickstart"
    runs = {"base", "classify-feature", "classify-full", "classify-random", "instruct"}
    assert {path.name for path in folder.iterdir()} == runs | {"corpus", "quickstart.json", "samples.txt"}
    assert (folder / "base" / "final" / "model.safetensors").is_file()
