"""How numbers are written for people: counts, bytes, times."""

from __future__ import annotations


def human_count(number: float) -> str:
    """``950``, ``9,876``, ``12.3k``, ``124M``, ``1.3B``: three figures and the letter the field uses."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for unit, letter in ((1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if abs(number) < 999.5 * unit or letter == "T":
            return _three_figures(number / unit) + letter
    raise AssertionError("unreachable")


def human_bytes(number: float) -> str:
    """``512 B``, ``1.4 kB``, ``23.5 MB``, ``6.1 GB``: powers of ten, as disks are sold."""
    if abs(number) < 1000:
        return f"{number:.0f} B"
    for unit, letter in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")):
        if abs(number) < 999.5 * unit or letter == "TB":
            return f"{_three_figures(number / unit)} {letter}"
    raise AssertionError("unreachable")


def human_time(seconds: float) -> str:
    """``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 04 h``: the two largest units."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def _three_figures(number: float) -> str:
    decimals = 0 if abs(number) >= 99.95 else 1
    return f"{number:.{decimals}f}".removesuffix(".0")
