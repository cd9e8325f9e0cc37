from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptloom
from gptloom.train.reproducible import differences, record


def test_a_record_holds_what_a_repetition_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("HOME_OMP_", "not about numbers")
    found = record(7, {"data": "abc", "tokenizer": None}, tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert (found["seed"], found["hashes"]) == (7, {"data": "abc", "tokenizer": None})
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["gptloom"] == gptloom.__version__
    assert found["threads"] == torch.get_num_threads() and found["processor"] and found["instructions"]
    assert found["environment"]["MKL_CBWR"] == "AVX2" and "HOME_OMP_" not in found["environment"]
    assert found["deterministic"] is False and found["project"] is None


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commits_are_recorded_and_whether_files_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert record(1, {}, tmp_path)["project"] is None, "nothing is committed yet"
    (tmp_path / "notes.txt").write_text("one", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("inside/\n", encoding="utf-8")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert record(1, {}, tmp_path)["project"] == {"commit": commit, "changed": False}
    (tmp_path / "notes.txt").write_text("two", encoding="utf-8")
    assert record(1, {}, tmp_path)["project"] == {"commit": commit, "changed": True}
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "code.py").touch()
    assert record(1, {}, tmp_path / "inside")["project"] is None, "a folder that the repository ignores is not of it"


def test_differences_are_those_that_numbers_depend_on() -> None:
    then = record(1, {})
    assert differences(then, json.loads(json.dumps(then))) == []
    now = {
        **then,
        "seed": 2,
        "threads": then["threads"] + 1,
        "project": {"commit": "abc", "changed": True},
        "versions": {**then["versions"], "python": "9.9", "torch": "9.9"},
        "environment": {**then["environment"], "OMP_NUM_THREADS": "77", "MKL_CBWR": "COMPATIBLE"},
    }
    said = {line.split(":")[0]: line for line in differences(then, now)}
    assert said.keys() == {"torch", "threads", "environment"}
    assert said["torch"].endswith(", now 9.9") and "MKL_CBWR=COMPATIBLE" in said["environment"]
    assert "OMP_NUM_THREADS" not in said["environment"], "threads say it"
    assert any(line.startswith("processor: unknown, now ") for line in differences({}, then))


IN_A_PROCESS = """
import os, torch
from gptloom.train.reproducible import make_deterministic, record
make_deterministic()
make_deterministic()
assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and record(1, {})["deterministic"]
try:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
except RuntimeError as error:
    assert "deterministic" in str(error)
else:
    raise AssertionError("an operation without a promised order was let through")
"""


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, without the setting that an earlier test may have left in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_deterministic_refuses_what_may_vary() -> None:
    done = run_alone(IN_A_PROCESS)
    assert done.returncode == 0, done.stderr


TOO_LATE = """
import torch
from gptloom.config.errors import UserError
from gptloom.train.reproducible import make_deterministic
torch.cuda.is_initialized = lambda: True
try:
    make_deterministic()
except UserError as error:
    assert "CUDA has started" in str(error) and "CUBLAS_WORKSPACE_CONFIG" in str(error)
else:
    raise AssertionError("it was too late")
assert not torch.are_deterministic_algorithms_enabled()
"""


def test_deterministic_after_cuda_has_started_is_refused() -> None:
    done = run_alone(TOO_LATE)
    assert done.returncode == 0, done.stderr
