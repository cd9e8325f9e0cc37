"""This machine and its versions: for ``gptloom doctor``, for a run's record and for the report."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gptloom

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "tokenizers", "numpy", "safetensors", "transformers")
BF16_FLAGS = ("avx512_bf16", "amx_bf16")


def machine_info(folder: Path | None = None) -> dict[str, Any]:
    """Versions, processor, memory, disk and accelerator as JSON values; sizes in bytes, None where unknown.

    ``folder`` names the disk whose free space is meant (default: the current folder's). Imports torch.
    """
    import torch

    total, available = memory()
    return {
        "gptloom": gptloom.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": [flag for flag in BF16_FLAGS if flag in _cpu_flags()],
        "memory_total": total,
        "memory_available": available,
        "disk_free": shutil.disk_usage(folder or Path.cwd()).free,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory: in all (or what the container may use, if less), and what can be had without swapping."""
    match platform.system():
        case "Linux":
            return _linux_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max"))
        case "Darwin":
            return _mac_memory()
        case "Windows":
            return _windows_memory()
    return None, None


def cpu_model() -> str:
    """The processor's marketing name, else its architecture."""
    match platform.system():
        case "Linux":
            found = _cpuinfo("model name")
        case "Darwin":
            found = _output("sysctl", "-n", "machdep.cpu.brand_string")
        case _:
            found = platform.processor()
    return found or platform.machine()


def find_compiler() -> str | None:
    """The name of the C++ compiler that ``torch.compile`` would use on a CPU, or None."""
    names = ("cl",) if platform.system() == "Windows" else ("g++", "clang++", "c++")
    return next((name for name in names if shutil.which(name)), None)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this machine multiplies bf16 faster than fp32: CPUs with AVX512_BF16 or AMX, GPUs from compute 8.0."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _linux_memory(meminfo: Path, limit_file: Path) -> tuple[int | None, int | None]:
    lines = (line.partition(":") for line in meminfo.read_text(encoding="utf-8").splitlines())
    sizes = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
    total, available = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    limit = limit_file.read_text(encoding="utf-8").strip() if limit_file.exists() else "max"
    if limit != "max":
        total = min(total, int(limit))
    return total, min(available, total)


def _mac_memory() -> tuple[int | None, int | None]:
    total, pages = _output("sysctl", "-n", "hw.memsize"), _output("vm_stat")
    return (int(total) if total else None), (_mac_available(pages) if pages else None)


def _mac_available(vm_stat: str) -> int:
    """Free and inactive pages of ``vm_stat``, whose first line ends with ``(page size of 16384 bytes)``."""
    first, *lines = vm_stat.splitlines()
    page = int(first.partition("page size of ")[2].split()[0])
    counts = {name: int(value.strip(" .")) for name, _, value in (line.partition(":") for line in lines)}
    return page * (counts["Pages free"] + counts["Pages inactive"])


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 5),
    )


def _windows_memory() -> tuple[int | None, int | None]:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32: Any = ctypes.__dict__["windll"].kernel32  # exists on Windows only
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.total, status.available


def _cpu_flags() -> list[str]:
    return (_cpuinfo("flags") or "").split() if platform.system() == "Linux" else []


def _cpuinfo(key: str) -> str | None:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
