"""The benches of fine-tuning: what is equal on both sides, how they judge, and that they run. No test looks at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def runs(*accuracies: float, seconds: float) -> list[dict[str, Any]]:
    """As many rounds of a side, which was best in its first epoch."""
    return [{"whole s": seconds, "training s": seconds - 5, "accuracies": [a, a - 0.1]} for a in accuracies]


def judged(finetune: Any, ours: list[dict[str, Any]], lora: list[dict[str, Any]]) -> list[Any]:
    peers = {name: runs(0.80, 0.82, 0.81, seconds=45.0) for name in finetune.PEERS}
    found = {finetune.OURS: ours, finetune.LORA: lora, **peers, finetune.DEFAULT: runs(0.8, 0.82, 0.81, seconds=85.0)}
    return list(finetune.compare("bert", found, finetune.summaries(found)))


def test_a_side_is_judged_by_its_best_epochs_and_by_both_of_its_times(bench: Any) -> None:
    finetune = bench("finetune")
    good = judged(finetune, runs(0.80, 0.81, 0.82, seconds=20.0), runs(0.7, 0.7, 0.7, seconds=19.0))
    assert [check.reached for check in good] == [True] * 6
    assert [check.value for check in good] == pytest.approx([0.0, 20 / 85, 20 / 45, 15 / 80, 15 / 40, 14 / 15])
    bad = judged(finetune, runs(0.70, 0.71, 0.72, seconds=50.0), runs(0.9, 0.9, 0.9, seconds=60.0))
    assert not any(check.reached for check in bad if "of that of Trainer fp32" not in check.what)


def test_ratios_of_a_row_are_ours_over_its_own(bench: Any) -> None:
    finetune = bench("finetune")
    found = {"gptloom": runs(0.5, 0.7, seconds=20.0), "Trainer fp32": runs(0.6, 0.6, seconds=40.0)}
    rows = finetune.summaries(found)
    assert rows["gptloom"]["ours / whole"] == 1.0 and rows["Trainer fp32"]["ours / whole"] == 0.5
    assert (rows["gptloom"]["accuracy %"], rows["gptloom"]["± standard error"]) == pytest.approx((60.0, 10.0))
    assert rows["gptloom"]["last epoch %"] == pytest.approx(50.0)


def test_noise_is_that_of_a_t_test(bench: Any) -> None:
    from scipy.stats import ttest_ind

    ours, theirs = [80.0, 81.0, 83.0], [78.0, 78.5, 79.0]
    shift = sum(ours) / 3 - sum(theirs) / 3 - bench("finetune").noise(ours, theirs)
    assert ttest_ind(ours, [value + shift for value in theirs]).pvalue == pytest.approx(0.05)


def test_seconds_of_a_training_are_between_its_start_and_its_end(bench: Any, tmp_path: Path) -> None:
    events = [
        {"type": "start", "time": 10.0, "step": 0},
        {"type": "train", "time": 11.0, "step": 7},
        {"type": "evaluate", "time": 12.0, "step": 7, "metrics": {"accuracy": 0.5}},
        {"type": "end", "time": 14.5, "step": 7},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    assert bench("finetune").read_events(tmp_path) == {"training s": 4.5, "accuracies": [0.5], "steps": 7}


def test_tiny_rows_can_be_learned_and_none_is_in_both_files(bench: Any, tmp_path: Path) -> None:
    sentences = bench("sentences")
    train, dev = (sentences.read_rows(file) for file in sentences.tiny_files(tmp_path))
    assert (len(train), len(dev)) == (200, 40) and not set(train) & set(dev)
    assert all((label == 1) == text.endswith("holds") for text, label in train + dev)
    assert {label for _, label in dev} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert-tiny", "modern-nano"])
def test_the_peer_frames_rows_as_ours_and_has_our_dropout(model: str, bench: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    peer, sentences = bench("finetune_trainer"), bench("sentences")
    train, _ = sentences.tiny_files(tmp_path)
    body = sentences.write_body(tmp_path / "body", model, train, tiny=True)
    bert = model.startswith("bert")
    frame = [] if bert else [700, 701]
    settings = {"model": str(body), "inputs": "bert" if bert else "gpt1", "frame": frame, "max_length": 9}
    tokenizer = AutoTokenizer.from_pretrained(body)
    rows = peer.encode(str(train), tokenizer, settings)
    start, end = (tokenizer.cls_token_id, tokenizer.sep_token_id) if bert else frame
    assert all(row["input_ids"][0] == start and row["input_ids"][-1] == end for row in rows)
    assert max(len(row["input_ids"]) for row in rows) == 9
    model_of_peer = peer.open_model({**settings, "dropout": 0.25, "attention": "eager"}, tokenizer)
    assert model_of_peer.get_input_embeddings().num_embeddings == (600 if bert else 702)
    names = (
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        if bert
        else ("attention_dropout",)
    )
    assert [getattr(model_of_peer.config, name) for name in names] == [0.25] * len(names)


def started(script: str, folder: Path) -> dict[str, Any]:
    """What the script finds on tiny settings."""
    command = [sys.executable, str(BENCH / script), "--tiny", "--threads", "1", "--json", str(folder / "found.json")]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert document["checks"] == []
    return document


@pytest.mark.slow
def test_finetune_runs_every_side(bench: Any, tmp_path: Path) -> None:
    finetune, found = bench("finetune"), started("finetune.py", tmp_path)
    assert list(found["tables"]) == ["bert-tiny", "modern-nano"]
    for rows in found["tables"].values():
        assert list(rows) == [finetune.OURS, finetune.LORA, *finetune.PEERS]
        assert all(row["training s"] < row["whole s"] for row in rows.values())


@pytest.mark.slow
def test_feature_runs(tmp_path: Path) -> None:
    [row] = started("feature.py", tmp_path)["tables"]["features"].values()
    assert row["whole s"] > 0 and row["accuracy %"] > 60  # one word of each row tells, even to random weights
