"""``--dry-run`` goes the way of the real preparation: it chooses the same, refuses the same, and writes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.config.errors import UserError
from gptloom.stages.pretrain import DryRun
from gptloom.stages.task import stored_options

WORDS = "the old king went down to the river where a boat of green wood lay waiting with honey bread"
TINY = {"n_layer": 1, "d_model": 16, "n_head": 2, "context": 16, "threads": 1, "log": "none", "quiet": True}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(1)
    lines = (" ".join(draw.choices(WORDS.split(), k=draw.randint(4, 12))) + ".\n" for _ in range(300))
    path = tmp_path / "plays.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def threads() -> Any:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def foreseen(text: Path, **options: Any) -> DryRun:
    found = gptloom.pretrain(data=text, dry_run=True, **{**TINY, **options})
    assert isinstance(found, DryRun)
    return found


def test_a_dry_run_chooses_what_the_run_will(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = sorted(tmp_path.rglob("*"))
    dry = foreseen(text, out=folder, max_steps=3, tokenizer="chars")
    assert sorted(tmp_path.rglob("*")) == before
    run = gptloom.pretrain(data=text, out=folder, max_steps=3, tokenizer="chars", **TINY)
    real, measured = stored_options(run.path), ("compile", "log_every", "limit_batches", "sample")
    for name, setting in dry.resolved.settings().items():
        if name not in (*measured, "dry_run"):
            assert setting == real[name], name
    assert dry.resolved.options.sample[0].split()[:2] == real.options.sample[0].split()[:2]
    assert dry.cost.tokens == run.state.tokens and dry.cost.parameters == run.events[0]["parameters"]
    tokens = sum(path.stat().st_size // 2 for path in (folder / "data" / "train").glob("*.bin"))
    assert dry.cost.passes == pytest.approx(run.state.tokens / tokens, rel=0.05)  # estimated


def test_it_foresees_so_many_processes(text: Path) -> None:
    one, three = foreseen(text), foreseen(text, processes=3)
    assert three.resolved.options.batch_tokens % 3 == 0 and three.resolved.options.strategy == "ddp"
    assert one.resolved.options.strategy is None
    six = foreseen(text, nodes=["a", "b"], processes=3, out="runs/x")
    assert six.resolved.options.batch_tokens % 6 == 0
    sizes = {"model": "modern-micro", "n_layer": None, "d_model": None, "n_head": None, "micro_batch": 1}
    shared, whole = (foreseen(text, processes=4, strategy=name, **sizes) for name in ("fsdp", "ddp"))
    assert shared.cost.memory < whole.cost.memory


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 100_000}, "one window of context 100,000 needs 100,001"),
        ({"max_epochs": 0.01, "warmup": 50, "batch_tokens": 16}, "--warmup 50 is longer than the run of"),
        ({"sample": ["the old king " * 30]}, "leaves no room in a context of 16 tokens"),
        ({"valid_fraction": 1e-9}, "the validation text is empty"),
        ({"processes": 2, "tensor_parallel": 2, "n_head": 1}, "--tensor-parallel 2 does not divide n_head 1"),
        ({"batch_tokens": 100, "decay": 0.1, "schedule": "cosine"}, "not a multiple of the context 16\n"),
        ({"out": "plays.txt"}, "there is a file of this name"),
    ],
)
def test_it_refuses_what_the_run_would(text: Path, monkeypatch: Any, options: dict[str, Any], said: str) -> None:
    monkeypatch.chdir(text.parent)
    with pytest.raises(UserError) as dry:
        foreseen(text, **options)
    assert said in str(dry.value)
    with pytest.raises(UserError) as real:
        gptloom.pretrain(data=text, **{**TINY, **options})
    assert [problem.what.split()[0] for problem in dry.value.problems] == [
        problem.what.split()[0] for problem in real.value.problems
    ]
    assert [path.name for path in text.parent.rglob("*") if path.name != "runs"] == ["plays.txt"]


def test_a_run_that_would_be_replaced_lends_nothing(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    gptloom.pretrain(data=text, out=folder, max_steps=2, tokenizer="chars", **TINY)
    with pytest.raises(UserError, match="there is a run in this folder already"):
        foreseen(text, out=folder, max_steps=2)
    dry = foreseen(text, out=folder, max_steps=2, overwrite=True)
    assert dry.resolved.source("vocab_size") == "derived"  # of a tokenizer of its own, not the old run's
    assert stored_options(folder).options.tokenizer == "chars"
