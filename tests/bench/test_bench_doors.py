"""The bench of the doors runs on tiny settings, and judges by its targets. No test looks at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.slow
def test_every_side_runs_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, BENCH / "doors.py", "--tiny", "--folder", tmp_path, "--json", tmp_path / "doors.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "doors.json").read_text(encoding="utf-8"))
    [table] = document["tables"].values()
    assert list(table) == [
        "bytes copied",
        "import",
        "export",
        "import, receipt",
        "export, receipt",
        "models show gpt3-175b",
    ]
    assert all(row["s"] > 0 for row in table.values()) and document["checks"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["doors.json"]


def test_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_doors", BENCH / "doors.py")
    assert spec is not None and spec.loader is not None
    doors: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doors)
    raw = {
        "bytes copied": [{"seconds": 2.0}, {"seconds": 4.0}, {"seconds": 3.0}],
        "import": [{"seconds": 3.0, "peak": 50}, {"seconds": 3.0, "peak": 110}, {"seconds": 9.0, "peak": 60}],
    }
    row = doors.summary(raw, "import", 100)
    assert row["of the copy"] == 1.0 and row["of the model"] == pytest.approx(1.1)
    good = {"s": 2.0, "of the copy": 1.4, "of the model": 1.1}
    bad = {"s": 4.0, "of the copy": 1.6, "of the model": 1.3}
    names = ("import", "export", "import, receipt", "export, receipt", "models show gpt3-175b")
    assert all(check.reached for check in doors.compare(dict.fromkeys(names, good)))
    assert not any(check.reached for check in doors.compare(dict.fromkeys(names, bad)))
