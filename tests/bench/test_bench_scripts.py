"""The benches run on tiny settings and say what they measured. No test looks at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(script: str, *options: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The script as a process with one thread; ``status`` None: reached or missed."""
    command = [sys.executable, str(BENCH / script), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode in ([0, 1] if status is None else [status]), done.stderr
    return done


def stored(script: str, folder: Path, *options: str, status: int | None = 0) -> dict[str, Any]:
    """What the script writes to its ``--json`` file."""
    file = folder / f"{Path(script).stem}.json"
    run(script, *options, "--json", str(file), status=status)
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert document["machine"]["cores"] >= 1 and document["machine"]["torch"]
    return document


def test_startup_names_both_commands_and_judges(tmp_path: Path) -> None:
    found = stored("startup.py", tmp_path, "--repeats", "1", status=None)
    assert list(found["tables"]["whole process"]) == ["python -c pass", "gptloom --help"]
    [check] = found["checks"]
    assert check["reached"] == (check["value"] <= 0.3)


def test_tokenize_measures_text_given(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A loom weaves threads into cloth.\n" * 50, encoding="utf-8")
    tokenizer = tmp_path / "tokenizer"
    command = [sys.executable, "-m", "gptloom", "tokenizer", "train", "--data", str(text), "--out", str(tokenizer)]
    subprocess.run([*command, "--vocab-size", "270"], check=True, capture_output=True)
    options = ["--data", str(text), "--tokenizer", str(tokenizer), "--repeats", "1"]
    found = stored("tokenize.py", tmp_path, *options, status=None)
    assert found["settings"]["data"] == ["text.txt"]
    assert len(found["raw"]["seconds"]["shards"]) == 1


@pytest.mark.slow
def test_train_step_runs_every_eager_side_from_the_same_start(tmp_path: Path) -> None:
    found = stored("train_step.py", tmp_path, "--tiny", "--no-compile", "--threads", "1")
    assert list(found["tables"]) == ["dropout 0", "dropout 0.1"]
    for title, sides in found["tables"].items():
        assert list(sides) == ["transformers fp32", "transformers bf16", "gptloom"]
        for name, figures in sides.items():
            runs = found["raw"][title][name]
            assert [(len(side["seconds"]), side["threads"]) for side in runs] == [(2, 1)]
            assert abs(figures["first loss"] - runs[0]["ln_vocabulary"]) < 0.5
            assert figures["tokens/s"] > 0
    assert found["checks"] == []  # tiny settings are not judged


@pytest.mark.slow
def test_train_step_compiled_side_alone() -> None:
    from gptloom.train.compiling import compiler

    if compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler")
    done = run("train_step.py", "--tiny", "--threads", "1", "--side", "gptloom compiled", "--dropout", "0")
    found = json.loads(done.stdout)
    assert found["last_loss"] < found["first_loss"]


def test_train_step_refuses_models_that_are_no_gpt2() -> None:
    done = run("train_step.py", "--tiny", "--model", "modern-nano", status=2)
    assert "the peers are GPT-2s" in done.stderr


@pytest.mark.slow
def test_char_recipe_times_ours_to_the_loss_of_the_peer(tmp_path: Path) -> None:
    found = stored("char_recipe.py", tmp_path, "--tiny", "--threads", "1")
    [peer], [ours], [met] = found["raw"]["transformers"], found["raw"]["gptloom"], found["raw"]["rounds"]
    assert ours["parameters"] <= peer["parameters"]
    assert [evaluation["step"] for evaluation in ours["evaluations"]] == [10, 20, 30]
    good = [evaluation for evaluation in ours["evaluations"] if evaluation["loss"] <= peer["loss"]]
    first = good[0] if good else {"seconds": None, "step": None}
    assert (met["seconds"], met["step"]) == (first["seconds"], first["step"])
    assert all(0 < evaluation["seconds"] < ours["seconds"] for evaluation in ours["evaluations"])


def test_char_recipe_refuses_what_is_not_there(tmp_path: Path) -> None:
    assert "--data names" in run("char_recipe.py", "--data", str(tmp_path / "no.txt"), status=2).stderr
    assert "no train.py" in run("char_recipe.py", "--tiny", "--nanogpt", str(tmp_path), status=2).stderr
