"""The benches run on tiny settings and say what they measured. No test looks at a time."""

from __future__ import annotations

import json
import math
import os
import statistics
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


@pytest.mark.slow
def test_startup_names_both_commands_and_judges(tmp_path: Path) -> None:
    found = stored("startup.py", tmp_path, "--repeats", "1", status=None)
    assert list(found["tables"]["whole process"]) == ["python -c pass", "gptloom --help"]
    [check] = found["checks"]
    assert check["reached"] == (check["value"] <= 0.3)


@pytest.mark.slow
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
            assert abs(figures["first loss"] - runs[0]["untrained_loss"]) < 0.5
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
def test_bert_step_runs_every_eager_side_from_the_same_start(tmp_path: Path) -> None:
    found = stored("bert_step.py", tmp_path, "--tiny", "--no-compile", "--threads", "1")
    [(title, sides)] = found["tables"].items()
    plain = "transformers bf16, plain attention"
    assert title == "dropout 0.1" and list(sides) == ["transformers fp32", "transformers bf16", plain, "gptloom"]
    for name, figures in sides.items():
        [side] = found["raw"][title][name]
        assert side["untrained_loss"] == pytest.approx(math.log(101) + math.log(2))
        assert abs(figures["first loss"] - side["untrained_loss"]) < 0.5 and figures["tokens/s"] > 0
    assert found["checks"] == []


def test_bert_step_refuses_models_that_are_no_bert() -> None:
    assert "the peers are BERTs" in run("bert_step.py", "--tiny", "--model", "gpt2", status=2).stderr


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


@pytest.mark.slow
def test_checkpoint_saves_the_state_of_a_training(tmp_path: Path) -> None:
    found = stored("checkpoint.py", tmp_path, "--tiny", "--threads", "1", "--folder", str(tmp_path))
    [(title, sides)] = found["tables"].items()
    assert [name for name in sides if "past" not in name] == [
        "plain file",
        "checkpoint",
        "checkpoint aside, the first",
        "checkpoint aside",
    ]
    assert title == f"{found['settings']['MB']:,.0f} MB"
    [aside] = found["raw"]["checkpoint aside"]
    assert len(aside["pauses"]) == 1 + len(aside["steps"]) and aside["pause"] == pytest.approx(sum(aside["pauses"]))
    assert sides["checkpoint"]["training stands s"] >= sides["checkpoint"]["s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.json"]  # it leaves nothing behind


def test_checkpoint_refuses_what_is_no_folder(tmp_path: Path) -> None:
    assert "is no folder" in run("checkpoint.py", "--folder", str(tmp_path / "none"), status=2).stderr


@pytest.mark.slow
def test_overhead_pairs_every_step_with_a_bare_one(tmp_path: Path) -> None:
    found = stored("overhead.py", tmp_path, "--tiny", "--threads", "1")
    [turn] = found["raw"]
    assert [len(seconds) for seconds in turn["seconds"].values()] == [4, 4]
    assert turn["events"] > 2 * 10  # a train and a timing event a step, and more
    table = found["tables"]["a step"]
    assert table["bare loop"]["ms/step"] > 0 and found["checks"] == []
    pairs = zip(turn["seconds"]["gptloom pretrain"], turn["seconds"]["bare loop"], strict=True)
    assert table["gptloom pretrain"]["overhead ms"] == pytest.approx(
        1000 * statistics.median(full - bare for full, bare in pairs)
    )


@pytest.mark.slow
def test_processes_train_the_same_and_tell_their_phases(tmp_path: Path) -> None:
    found = stored("processes.py", tmp_path, "--tiny", "--threads", "2", "--precision", "fp32")
    [(title, sides)] = found["tables"].items()
    assert title == "1M float32"
    one, two = (found["raw"][title][name][0]["ranks"] for name in sides)
    assert [len(one), len(two)] == [1, 2]
    assert two[0]["losses"] == pytest.approx(one[0]["losses"], rel=1e-4)
    assert [len(times) for times in two[0]["phases"][0].values()] == [2] * len(two[0]["phases"][0])
    assert all(rank["threads"] == 1 for rank in two)
    assert 0 < sides["2 processes, 1 thread"]["communication %"] < 100


def test_processes_must_be_able_to_share_the_rows() -> None:
    assert "cannot share 16 rows" in run("processes.py", "--processes", "3", status=2).stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_shard_memory_measures_every_process(tmp_path: Path) -> None:
    found = stored("shard_memory.py", tmp_path, "--tiny", "--processes", "1", "2", "--precision", "fp32")
    [sides] = found["tables"].values()
    assert list(sides) == ["1 process", "2 processes"]
    [several] = found["raw"]["2 processes"]
    assert len(several["ranks"]) == 2
    for rank in several["ranks"]:
        assert rank["peak"] >= rank["before"] > 0 and rank["held"] == rank["peak"] - rank["before"]
    assert sides["1 process"]["shards"] == pytest.approx(2 * sides["2 processes"]["shards"])
