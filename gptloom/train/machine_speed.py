"""How fast this machine multiplies matrices: the denominator of MFU, measured, not looked up."""

from __future__ import annotations

import time

import torch


def matrix_peak(dtype: torch.dtype, device: torch.device | str = "cpu", seconds: float = 0.3) -> float:
    """FLOP/s of the best of several large matrix products in ``dtype``; takes about ``seconds``."""
    device = torch.device(device)
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = a @ b  # the first product pays for set-up
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
