"""A file system that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_volume(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mounts a tmpfs of so many megabytes at the new ``folder``; skips the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    try:
        mounted = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here: run as root, or inside unshare -rm")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
