"""Memory of a training: how much it held at most, and what becomes of what it frees (glibc's malloc is told)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Lets malloc keep what is freed instead of giving it back to the system; whether that was possible.

    Large tensors otherwise come as new pages at every step, and each page costs a fault when first written: an eighth
    of a GPT-2 124M training step on two cores. The process keeps the memory of its largest step until it ends.
    """
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Lets every tensor of 128 kB or more go back to the system when it is freed; whether that was possible.

    For sharded models, which are there to save memory: gathered blocks and gradients on their way to other processes
    come and go in changing order, and a heap that keeps them grows holes, to more than twice what is in use.
    """
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, 128 << 10))


def _mallopt() -> ctypes._NamedFuncPointer | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None).mallopt


def forget_peak(device: torch.device) -> int:
    """From here on ``peak_memory`` is that of what comes, on a CPU only where Linux forgets; the bytes held now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if _mallopt() is not None:
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier training freed, and malloc kept, counts for this one
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory(device) or 0


def peak_memory(device: torch.device) -> int | None:
    """The most bytes held since ``forget_peak``: of the GPU, else of this process; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)
