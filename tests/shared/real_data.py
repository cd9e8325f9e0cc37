"""Where the real files lie that tests read; a test of files that are absent skips."""

import os
from pathlib import Path

import pytest

BASE = Path(os.environ.get("GPTLOOM_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def real_data(name: str) -> Path:
    """A file or folder of the test data by its name there."""
    if not (BASE / name).exists():
        pytest.skip(f"test data {BASE / name} is not there; set GPTLOOM_TEST_DATA")
    return BASE / name
