"""A small text, and the command line run in this process with what it printed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.cli.main import main

VERSE = (
    "the old king and his young queen went down to the river where a boat of green wood lay waiting with honey bread "
    "seven letters one lamp for every night of winter they sang about stars while rain fell on quiet fields"
)
SHAPE = ("--n-layer", 2, "--d-model", 16, "--n-head", 2, "--context", 16, "--batch-tokens", 256, "--micro-batch", 8)
TINY = (*SHAPE, "--threads", 1, "--log", "none")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often test_kills.py kills a training at random moments")


def some_text(sentences: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    lines = (
        " ".join(draw.choices(VERSE.split(), k=draw.randint(4, 12))).capitalize() + ".\n" for _ in range(sentences)
    )
    return "".join(lines)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "plays.txt"
    path.write_text(some_text(400), encoding="utf-8")
    return path


@pytest.fixture
def more_text(tmp_path: Path) -> Path:
    path = tmp_path / "more.txt"
    path.write_text(some_text(300, seed=2), encoding="utf-8")
    return path


@pytest.fixture
def gptloom(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs ``gptloom ARGUMENTS``."""

    def run(*arguments: object) -> Answer:
        threads = torch.get_num_threads()
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        torch.set_num_threads(threads)
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run


@pytest.fixture
def pretrain(gptloom: Callable[..., Answer], text: Path, tmp_path: Path) -> Callable[..., Answer]:
    """A tiny pretraining into ``tmp_path/run``."""

    def run(*arguments: object, data: Path = text, out: str = "run") -> Answer:
        return gptloom("pretrain", "--data", data, "--out", tmp_path / out, *TINY, *arguments)

    return run
