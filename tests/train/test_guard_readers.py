"""Log readers that follow a run back: no step is shown twice."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from guarded_training import STEPS, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptloom.observe.progress import ProgressReader
from gptloom.observe.readers import CsvReader, Reader, TensorBoardReader, WandbReader
from gptloom.observe.terminal import Terminal


def read_by(make: Any, tmp_path: Path) -> None:
    reader: Reader = make(tmp_path / "run")
    train(tmp_path / "run", 20, 34, hooks=[lambda event, run: reader(event) if "time" in event else None])
    reader.close()


@pytest.mark.slow
def test_tensorboard_shows_every_step_once(tmp_path: Path) -> None:
    read_by(TensorBoardReader, tmp_path)
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    shown.Reload()
    assert [point.step for point in shown.Scalars("train/lr")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_tables_have_every_step_once(tmp_path: Path) -> None:
    read_by(CsvReader, tmp_path)
    with (tmp_path / "run" / "csv" / "train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert {row["attempt"] for row in rows[:18]} == {"0"} and {row["attempt"] for row in rows[18:]} == {"1"}


@pytest.mark.slow
def test_wandb_gets_a_run_for_what_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[Any]] = []

    def init(**options: Any) -> Any:
        steps: list[Any] = []
        runs.append(steps)
        return SimpleNamespace(log=lambda numbers, step: steps.append(step), finish=lambda: steps.append("finished"))

    fake = ModuleType("wandb")
    fake.__dict__.update(init=init, Settings=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    read_by(WandbReader, tmp_path)
    assert runs == [[*range(1, 30), "finished"], [*range(19, STEPS + 1), "finished"]]


def test_the_terminal_says_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_by(lambda folder: ProgressReader(Terminal()), tmp_path)
    printed = capsys.readouterr().err
    assert "step 30: guard: the loss is inf → back to step 18, leaving out 88 windows of text" in printed
