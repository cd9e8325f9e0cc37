"""Log readers, each read back with the program it writes for."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.observe.events import EventLog
from gptloom.observe.readers import CsvReader, Reader, TensorBoardReader, WandbReader, make_readers


def train(folder: Path, reader: Reader, attempt: int, start: int, steps: range, **more: float) -> None:
    with EventLog(folder / "events.jsonl", attempt) as log:
        reader(log.append("start", step=start, model="modern-nano"))
        for step in steps:
            loss = 10.0 * attempt + step
            reader(log.append("train", step=step, loss=loss, losses={"lm": loss}, lr=0.1, grad_norm=None, **more))
        reader(log.append("evaluate", step=steps[-1], valid_loss=loss, bits_per_byte=1.5))
        reader(log.append("sample", step=steps[-1], prompt="To", text=" be"))
    reader.close()


def test_tensorboard_reads_every_point_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, TensorBoardReader(tmp_path), 0, 0, range(1, 7))
    train(tmp_path, TensorBoardReader(tmp_path), 1, 4, range(5, 9))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    expected = [(step, 10.0 * (step > 4) + step) for step in range(1, 9)]
    assert [(point.step, point.value) for point in board.Scalars("train/loss")] == expected
    assert board.Scalars("train/losses/lm") == board.Scalars("train/loss")
    assert [point.step for point in board.Scalars("evaluate/bits_per_byte")] == [8]
    assert "train/grad_norm" not in board.Tags()["scalars"]
    assert board.Tags()["tensors"] == ["sample/text_summary"]


def test_csv_columns_and_rows_after_a_resume_with_a_new_column(tmp_path: Path) -> None:
    train(tmp_path, CsvReader(tmp_path), 0, 0, range(1, 7))
    first = (tmp_path / "csv" / "train.csv").read_text(encoding="utf-8").splitlines()[0]
    assert first == "step,time,attempt,loss,losses/lm,lr"
    train(tmp_path, CsvReader(tmp_path), 1, 4, range(5, 9), mfu=0.5)
    with (tmp_path / "csv" / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "time", "attempt", "loss", "losses/lm", "lr", "mfu"]
    assert [(int(row["step"]), int(row["attempt"]), row["mfu"]) for row in rows] == [
        (step, int(step > 4), "0.5" if step > 4 else "") for step in range(1, 9)
    ]
    with (tmp_path / "csv" / "evaluate.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["step"], row["bits_per_byte"]) for row in csv.DictReader(file)] == [("8", "1.5")]


def test_a_csv_that_cannot_be_written_anew_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    train(tmp_path, CsvReader(tmp_path), 0, 0, range(1, 7))
    before = {path.name: path.read_bytes() for path in (tmp_path / "csv").iterdir()}
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        train(tmp_path, CsvReader(tmp_path), 1, 4, range(5, 9))
    assert {path.name: path.read_bytes() for path in (tmp_path / "csv").iterdir()} == before


def test_make_readers_reports_every_problem_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        make_readers(["tensorbord", "none", "wandb"], tmp_path)
    what, beside, missing = caught.value.problems
    assert "did you mean tensorboard?" in what.what
    assert beside.mend == "--log none"
    assert missing.mend == 'pip install "gptloom[wandb]"'


def test_make_readers_makes_each_once_and_writes_nothing_yet(tmp_path: Path) -> None:
    kinds = [type(reader) for reader in make_readers(["csv", "tensorboard", "csv"], tmp_path)]
    assert kinds == [CsvReader, TensorBoardReader]
    assert make_readers(["none"], tmp_path) == make_readers([], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_offline_and_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda numbers, step: calls.append(("log", (step, numbers))),
        finish=lambda: calls.append(("finish", None)),
    )

    def init(**options: Any) -> Any:
        calls.append(("init", options))
        return run

    fake = ModuleType("wandb")
    fake.__dict__.update(init=init, Settings=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(tmp_path, WandbReader(tmp_path), 0, 0, range(1, 2))
    names = [name for name, _ in calls]
    assert names == ["init", "log", "log", "finish"]
    assert calls[0][1]["mode"] == "offline" and calls[0][1]["config"] == {"model": "modern-nano"}
    assert calls[1][1] == (1, {"train/loss": 1.0, "train/losses/lm": 1.0, "train/lr": 0.1})
