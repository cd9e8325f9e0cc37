"""Memory that a training frees it asks for again in the next step: here it is told to stay."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Lets glibc's malloc keep what is freed instead of giving it back to the system; whether that was possible.

    Large tensors otherwise come as new pages at every step, and each page costs a fault when first written: an eighth
    of a GPT-2 124M training step on two cores. The process keeps the memory of its largest step until it ends.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
