"""Processes of this machine by their numbers: which have started which, and the end of one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def kill_process(pid: int) -> None:
    """Ends a process without a chance to do anything; one that has ended is left alone."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and those that they have: a training's workers are no group of its own."""
    if sys.platform == "win32":  # taskkill finds them
        return []
    children: dict[int, list[int]] = {}
    for child, parent in _family():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for known in found:
        found += children.get(known, [])
    return found[1:]


def _family() -> Iterator[tuple[int, int]]:
    """(process, its parent) of every process."""
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                after_name = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                yield int(stat.parent.name), int(after_name.split()[1])
        return
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        child, parent = line.split()
        yield int(child), int(parent)
