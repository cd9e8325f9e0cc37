"""Repeating a run to the bit: refusing operations whose result varies, and writing down all that a repetition needs."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.observe.machine import cpu_model

WORKSPACES = (":4096:8", ":16:8")  # the two sizes with which cuBLAS promises equal results, says its documentation
# Prefixes of variables with which a user or a job script changes how numbers are added up, and in which precision.
NUMERIC_VARIABLES = (
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "ATEN_CPU_CAPABILITY"),
    *("CUBLAS", "CUDNN_", "NCCL_ALGO", "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)


def make_deterministic() -> None:
    """From here on the same computation gives the same bits, and an operation that cannot promise it raises.

    Call it before anything is computed: ``UserError`` where CUDA has started already, because cuBLAS reads its
    setting then. Results still differ between processors, thread counts and versions of torch.
    """
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
        if torch.cuda.is_initialized():
            what = "--deterministic comes too late: CUDA has started in this process"
            raise UserError(Problem(what, mend=f"start Python with CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]}"))
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACES[0]
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by how fast they happened to run
    torch.backends.cudnn.deterministic = True


def record(seed: int, hashes: Mapping[str, str | None], folder: Path | None = None) -> dict[str, Any]:
    """Everything that a repetition of a run must have alike, as JSON values.

    ``hashes`` names what was read (data, tokenizer, a base model); ``folder`` is where the user works (default: the
    current folder). ``code`` and ``project`` are the git commits of gptloom itself and of that folder, None where
    there is none.
    """
    return {
        "seed": seed,
        "hashes": dict(hashes),
        "versions": {
            "gptloom": gptloom.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "threads": torch.get_num_threads(),
        "processor": cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(NUMERIC_VARIABLES)},
        "code": _git_state(Path(gptloom.__file__).parent),
        "project": _git_state(folder or Path.cwd()),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What in two records may change the last bits of a result, each as ``name: then, now``."""
    before, after = _numeric_facts(then), _numeric_facts(now)
    return [
        f"{name}: {_plain(value)}, now {_plain(after[name])}" for name, value in before.items() if value != after[name]
    ]


def _numeric_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that numbers depend on: versions beside torch's and gptloom's change none.

    Of the variables those that set threads don't either, since ``threads`` says how many there were in the end.
    """
    versions, environment = facts.get("versions") or {}, facts.get("environment")
    if environment is not None:
        environment = {name: value for name, value in environment.items() if not name.endswith("_NUM_THREADS")}
    return {
        "gptloom": versions.get("gptloom"),
        "torch": versions.get("torch"),
        "threads": facts.get("threads"),
        "processor": facts.get("processor"),
        "instructions": facts.get("instructions"),
        "GPUs": facts.get("gpus"),
        "--deterministic": facts.get("deterministic"),
        "environment": environment,
        "gptloom's commit": facts.get("code"),
    }


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files were changed since; None outside a repository, and where it ignores ``folder``.

    An installed gptloom often lies inside a project's repository, which knows nothing of it.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "."):
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, None where it is not installed or refuses. No program that a repository names is run."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
