"""The bench of instruction tuning: what its sides share, how it judges, and that ours runs. No test looks at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def laid_out(bench: Any, tmp_path: Path) -> Any:
    """Four steps of three tiny rows each."""
    instructions = bench("instructions")
    rows = instructions.read_sample(tiny=True)
    body = instructions.write_body(tmp_path / "body", instructions.MODERN, rows, tiny=True)
    return instructions.lay_out(tmp_path, body, rows, steps=4, batch=3, max_length=100, seed=1)


def side(tokens_per_second: float) -> dict[str, float]:
    return {"tokens/s": tokens_per_second, "s/step": 1.0, "peak GB": 1.0, "first loss": 9.0, "last loss": 8.0}


def test_ours_is_judged_against_defaults_and_against_the_fastest(bench: Any) -> None:
    sft = bench("sft")
    table = sft.TABLES["all weights"]
    speeds = dict.fromkeys(table.peers, 100.0) | {"trl, compiled": 150.0, "trl, no padding": 160.0}
    speeds |= {"gptloom": 180.0, "gptloom, padded": 140.0}
    checks = sft.compare(table, {name: side(speeds[name]) for name in table.sides})
    assert [check.value for check in checks] == pytest.approx([1.8, 180 / 160, 1.4, 140 / 150])
    assert [check.reached for check in checks] == [True, True, False, False]
    assert "trl, no padding" in checks[1].what and "trl, compiled" in checks[3].what
    assert sft.compare(table, {name: side(1.0) for name in table.own}) == []


def run(tokens: list[int], losses: list[float], learned: int = 50) -> dict[str, Any]:
    """What a side found in three steps, of which one warms up."""
    found = {"ends": [10.0, 12.0, 15.0], "tokens": tokens, "losses": losses, "learned": [learned - 2, 1, 1]}
    return {**found, "peak_bytes": 10**9}


def test_speed_is_that_of_the_timed_steps(bench: Any) -> None:
    sft, instructions = bench("sft"), bench("instructions")
    laid_out = instructions.Rounds(Path(), Path(), [], tokens=[30, 40, 60], learned=[20, 20, 10])
    found = sft.measured(run([30, 45, 55], [9.0, 8.0, 7.0]), laid_out, warmup=1)
    assert (found["seconds_per_step"], found["tokens_per_second"]) == (2.5, 20.0)
    sft.check_sides(sft.TABLES["all weights"], {"gptloom": [found]})


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (run([30, 45, 56], [9.0, 8.0, 7.0]), "saw"),
        (run([29, 45, 55], [9.0, 8.0, 7.0]), "saw"),
        (run([30, 45, 55], [9.0, 8.0, 7.0], learned=51), "count in its loss"),
        (run([30, 45, 55], [9.02, 8.0, 7.0]), "begins with"),
        (run([30, 45, 55], [float("nan"), 8.0, 7.0]), "begins with"),
        (run([30, 45, 55], [9.0, 9.0, 9.0]), "does not learn"),
    ],
)
def test_a_side_that_does_other_work_is_no_result(theirs: dict[str, Any], what: str, bench: Any) -> None:
    sft, instructions = bench("sft"), bench("instructions")
    laid_out = instructions.Rounds(Path(), Path(), [], tokens=[30, 40, 60], learned=[20, 20, 10])
    ours, peer = (sft.measured(one, laid_out, warmup=1) for one in (run([30, 40, 60], [9.0, 8.0, 7.0]), theirs))
    with pytest.raises(RuntimeError, match=what):
        sft.check_sides(sft.TABLES["all weights"], {"gptloom": [ours], "trl defaults": [peer]})


def test_rows_are_laid_out_as_ours_takes_them_and_shuffled_behind_the_warm_up(bench: Any, laid_out: Any) -> None:
    assert len(laid_out.rows) == 12 and len(laid_out.tokens) == len(laid_out.learned) == 4
    assert all(0 < learned < tokens for tokens, learned in zip(laid_out.tokens, laid_out.learned, strict=True))
    shuffled = laid_out.shuffled(batch=3, warmup=1, seed=1)
    assert shuffled[:3] == laid_out.rows[:3] and shuffled != laid_out.rows
    assert sorted(map(str, shuffled)) == sorted(map(str, laid_out.rows))
    row = laid_out.rows[0]
    assert (row["prompt"], row["completion"]) == (f"{row['instruction']}\n\n{row['input']}", row["output"])
    assert len(json.loads(laid_out.valid.read_text(encoding="utf-8"))) == bench("instructions").HELD_OUT


def test_too_few_rows_are_said(bench: Any, tmp_path: Path) -> None:
    instructions = bench("instructions")
    rows = instructions.read_sample(tiny=True)
    body = instructions.write_body(tmp_path / "body", instructions.MODERN, rows, tiny=True)
    with pytest.raises(RuntimeError, match="0 rows fit"):
        instructions.lay_out(tmp_path, body, rows, steps=4, batch=3, max_length=5, seed=1)


@pytest.mark.slow
def test_ours_runs_and_peers_are_named_that_were_left_out(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, str(BENCH / "sft.py"), "--tiny", "--threads", "1", "--json", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {title: list(sides) for title, sides in found["tables"].items()} == {
        "all weights": ["gptloom", "gptloom, padded"],
        "adapters": ["gptloom, lora", "gptloom, lora, padded"],
    }
    assert found["checks"] == [] and sum("was left out" in note for note in found["notes"]) == 2
    for sides in found["raw"].values():
        packed, padded = ([run["losses"] for run in runs] for runs in sides.values())
        assert packed[0] == pytest.approx(padded[0], abs=0.02)  # the same examples in every step
