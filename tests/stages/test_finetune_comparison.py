"""Runs of several seeds and methods in one table: how wide an interval is, and what is run how often."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptloom.stages.finetune.comparison import line_of
from gptloom.stages.finetune.result import FinetunedRun


def finished(folder: Path, value: float, rows: tuple[float, float], metric: str = "accuracy") -> FinetunedRun:
    folder.mkdir()
    report = {"metrics": {metric: value}, "intervals": {metric: rows}, "baseline": {metric: 0.5}}
    cost = {"seconds": 1.0, "peak_memory": None, "trained_parameters": 1}
    (folder / "metrics.json").write_text(json.dumps({"metric": metric, "cost": cost, "test": report}), encoding="utf-8")
    return FinetunedRun(folder)


def test_an_interval_tells_of_seeds_and_rows(tmp_path: Path) -> None:
    alike = [finished(tmp_path / f"alike-{seed}", 0.62, (0.58, 0.65)) for seed in range(3)]
    line = line_of("full", alike, "test")
    assert (line.low, line.high) == pytest.approx((0.58, 0.65)), "three equal runs on the same rows know no more"
    sure = [finished(tmp_path / f"sure-{seed}", value, (value, value)) for seed, value in enumerate((0.6, 0.62))]
    line = line_of("full", sure, "test")
    reach = 12.7062 * 0.01  # Student's t of one degree of freedom
    assert (line.low, line.high) == pytest.approx((0.61 - reach, 0.61 + reach), abs=1e-5)
    both = [
        finished(tmp_path / f"both-{seed}", value, (value - 0.1, value + 0.1)) for seed, value in enumerate((0.6, 0.62))
    ]
    line = line_of("full", both, "test")
    assert line.high - line.mean == pytest.approx(math.hypot(reach, 0.1), abs=1e-5)
    assert line_of("full", both[:1], "test").low == pytest.approx(0.5)


def test_a_share_stays_a_share(tmp_path: Path) -> None:
    near = [finished(tmp_path / f"near-{seed}", value, (0.9, 1.0)) for seed, value in enumerate((0.9, 1.0))]
    assert line_of("full", near, "test").high == 1.0 and line_of("full", near, "test").low >= 0.0
    errors = [finished(tmp_path / f"mse-{seed}", value, (3.0, 5.0), "mse") for seed, value in enumerate((3.0, 5.0))]
    assert line_of("full", errors, "test").high > 5.0


def test_features_are_fitted_once_whatever_the_seeds(tune: Callable[..., Any], tmp_path: Path) -> None:
    [line] = tune(method="feature", seeds=3).lines
    assert line.runs == (str(tmp_path / "run" / "feature"),) and line.error is None
    assert line.low < line.mean <= line.high or line.mean == 1.0
