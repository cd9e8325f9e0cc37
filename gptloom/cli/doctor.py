"""``gptloom doctor``: what this machine and this installation can do, and what to change."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from typing import Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.options import JsonOption
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.numbers import human_bytes

# Extra -> (the modules it brings, what they are for), as pyproject.toml has it.
EXTRAS = {
    "hub": (("transformers", "huggingface_hub", "gguf"), "models of the Hugging Face hub, GGUF files"),
    "data": (("pyarrow", "openpyxl", "snowballstemmer"), "parquet files, spreadsheets, word stems"),
    "plots": (("matplotlib",), "loss curves as pictures"),
    "eval": (("sacrebleu", "rouge_score"), "BLEU, chrF and ROUGE of generated answers"),
    "wandb": (("wandb",), "Weights & Biases, offline by default"),
}
LITTLE_DISK = 5e9
LITTLE_MEMORY = 4e9


class DoctorOptions(JsonOption):
    """Options of ``gptloom doctor``."""


def examine(resolved: Resolved[DoctorOptions]) -> dict[str, Any]:
    """The machine (``machine``), its matrix peak in FLOP/s by dtype, extras, compiler path, and suggestions."""
    import torch

    from gptloom.model.dtypes import dtype_name
    from gptloom.observe.machine import find_compiler, machine_info
    from gptloom.train.machine_speed import matrix_peak
    from gptloom.train.precision import choose_device, choose_dtype

    compiler = find_compiler()
    device = choose_device("auto")
    dtype, reason = choose_dtype("auto", device)
    dtypes = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if dtype is torch.bfloat16 else {})}
    found: dict[str, Any] = {
        "machine": machine_info(),
        "device": str(device),
        "precision": {"dtype": dtype_name(dtype), "reason": reason},
        "matrix_peak": {name: matrix_peak(kind, device) for name, kind in dtypes.items()},
        "extras": {name: all(map(_installed, modules)) for name, (modules, _) in EXTRAS.items()},
        "compiler": compiler and shutil.which(compiler),
    }
    return {**found, "suggestions": _suggestions(found)}


def run_doctor(resolved: Resolved[DoctorOptions], out: Output) -> None:
    """Looks at the machine and the installation: versions, speed, what is missing, and what to do about it."""
    found = examine(resolved)
    out.document(found)
    out.table(("", ""), [(name.replace("_", " "), _shown(name, value)) for name, value in found["machine"].items()])
    out.result()
    out.result(f"device {found['device']}, precision {found['precision']['dtype']}: {found['precision']['reason']}")
    for name, peak in found["matrix_peak"].items():
        out.result(f"measured matrix peak in {name}: {peak / 1e9:,.0f} GFLOP/s")
    out.result(f"compiler for torch.compile: {found['compiler'] or 'none found'}")
    out.result()
    rows = [
        (name, "installed" if there else f'pip install "gptloom[{name}]"', EXTRAS[name][1])
        for name, there in found["extras"].items()
    ]
    out.table(("extra", "here", "for"), rows)
    out.result()
    for suggestion in found["suggestions"]:
        out.result(f"- {suggestion}")
    if not found["suggestions"]:
        out.result("nothing to mend")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _suggestions(found: dict[str, Any]) -> list[str]:
    machine, suggestions = found["machine"], []
    if found["compiler"] is None and found["device"] == "cpu":
        install = {
            "Linux": "sudo apt install g++ (or your system's package)",
            "Darwin": "xcode-select --install",
            "Windows": "the C++ build tools of Visual Studio",
        }.get(platform.system(), "a C++ compiler")
        suggestions.append(f"no C++ compiler: training works, but without torch.compile; install: {install}")
    if shutil.which("nvidia-smi") and not machine["gpus"]:
        suggestions.append("an NVIDIA driver is here, but this torch sees no GPU: install a CUDA build (pytorch.org)")
    if machine["disk_free"] < LITTLE_DISK:
        suggestions.append(
            f"only {human_bytes(machine['disk_free'])} of disk are free here: checkpoints fill them fast"
        )
    available = machine["memory_available"]
    if available is not None and available < LITTLE_MEMORY:
        suggestions.append(f"only {human_bytes(available)} of memory are free: choose a small model (gptloom models)")
    return suggestions


def _shown(name: str, value: Any) -> str:
    if value is None or value == []:
        return "none" if name in ("gpus", "bf16_instructions") else "not found"
    if name in ("memory_total", "memory_available", "disk_free"):
        return human_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


COMMANDS = {"doctor": Command(DoctorOptions, run_doctor)}
doctor = python_function("doctor", DoctorOptions, examine)
