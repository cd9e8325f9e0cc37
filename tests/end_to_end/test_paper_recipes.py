"""The papers' trainings: their numbers, and that each runs for three steps at a shrunken size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.model import ModelConfig, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe, resolve_with_recipe
from gptloom.model.store import read_config
from gptloom.observe.events import read_events
from gptloom.stages.settings import schedule_of, step_sizes

SHAPE = ("--n-layer", 2, "--d-model", 32, "--n-head", 2, "--context", 16)
SMALL = ("--valid-fraction", 0.1, "--log", "none", "--threads", 1, "--device", "cpu", "--log-every", 1)
THREE = (*SMALL, "--max-steps", 3, "--warmup", 1, "--sample-tokens", 0)
SHRUNK: dict[str, tuple[object, ...]] = {
    "gpt1": ("--tokenizer", "chars", "--batch-tokens", 64, *SHAPE, *THREE),
    "gpt2": ("--tokenizer", "chars", "--batch-tokens", 64, *SHAPE, *THREE),
    "gpt3": (
        *("--tokenizer", "chars", "--batch-tokens", 64, *SHAPE, *SMALL, "--max-steps", 3, "--sample-tokens", 0),
        *("--batch-ramp", 32, 64, "--warmup-tokens", 32, "--decay-tokens", 2600),
    ),
    "neox-20b": (
        *("--vocab-size", 300, "--batch-tokens", 64, "--micro-batch", 2, *SHAPE, "--n-head", 1, *THREE),
        *("--precision", "fp32"),
    ),
}


def options(recipe: str, **given: object) -> PretrainOptions:
    return resolve_with_recipe(PretrainOptions, {"recipe": recipe, "data": "x.txt", **given}, "python").options


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_events(run / "events.jsonl") if event["type"] == "train"]


@pytest.mark.parametrize("recipe", SHRUNK)
def test_a_recipe_runs(gptloom: Callable[..., Any], text: Path, tmp_path: Path, recipe: str) -> None:
    run, copy = tmp_path / "run", tmp_path / f"{recipe}.yaml"
    assert gptloom("recipes", "copy", recipe, "--out", copy).code == 0
    lines = copy.read_text(encoding="utf-8").splitlines(keepends=True)
    many = ("  processes:", "  strategy:", "  offload:")  # of several machines with GPUs
    copy.write_text("".join(line for line in lines if not line.startswith(many)), encoding="utf-8")
    done = gptloom("pretrain", "--recipe", copy, "--data", text, "--out", run, *SHRUNK[recipe])
    assert done.code == 0, done.err
    assert len(losses(run)) == 3
    named = ModelConfig(**preset(str(load_recipe(recipe).options["model"])))
    made = read_config(run / "final")
    same = ("family", "norm", "norm_place", "parallel_residual", "positions", "banded", "window", "activation", "init")
    assert all(getattr(made, field) == getattr(named, field) for field in same)


def test_gpt3s_batch_and_rate_follow_its_tokens() -> None:
    xl = options("gpt3", model="gpt3-xl", data="x")
    assert (xl.batch_tokens, xl.lr, xl.max_train_tokens) == (2**20, 2e-4, 300 * 10**9)
    sizes = step_sizes(xl)
    steps = sizes.steps_for(xl.max_train_tokens / 2048)
    assert sizes.rows(0) * 2048 == 32_768
    assert 6e9 <= 2048 * sizes.before(sizes.full_from) < 6e9 + 2**20
    rates = schedule_of(xl, steps)
    top = next(step for step in range(steps) if rates(step) == 1.0)
    assert 375e6 - 2**20 <= 2048 * sizes.before(top) <= 375e6 + 2**20
    half = sizes.steps_for(187.5e6 / 2048)
    assert rates(half) == pytest.approx(0.5, abs=0.01)  # a line in tokens, while the batch grows
    middle = sizes.steps_for((260e9 + 375e6) / 2 / 2048)
    assert rates(middle) == pytest.approx(0.55, abs=1e-4)
    assert rates(sizes.steps_for(261e9 / 2048)) == rates(steps - 1) == pytest.approx(0.1)


@pytest.mark.parametrize("model", list(load_recipe("gpt3").by_model))
def test_every_gpt3_has_its_row(model: str) -> None:
    of_size = options("gpt3", model=model)
    assert of_size.lr is not None and of_size.batch_tokens is not None
    assert of_size.batch_tokens % of_size.batch_ramp[0] == 0 and of_size.batch_tokens % 2048 == 0
    assert ModelConfig(**preset(model)).context == of_size.context


def test_berts_phases_are_one_line_of_the_learning_rate() -> None:
    first, second = options("bert-phase1", context=512), options("bert-phase2", context=512)
    assert first.max_steps is not None and second.max_steps is not None
    assert first.max_steps + second.max_steps == 1_000_000
    assert (first.batch_tokens, second.batch_tokens) == (256 * 128, 256 * 512)
    assert first.lr is not None and second.lr is not None
    end = first.lr * schedule_of(first, first.max_steps)(first.max_steps)
    assert end == pytest.approx(second.lr) == pytest.approx(1e-4 * 100_000 / 1_000_000)
    assert schedule_of(second, second.max_steps)(second.max_steps) == 0.0


@pytest.mark.slow
def test_bert_runs_in_both_phases(gptloom: Callable[..., Any], text: Path, tmp_path: Path) -> None:
    sentences = text.read_text(encoding="utf-8").splitlines()
    documents = ["\n".join(sentences[first : first + 20]) for first in range(0, len(sentences), 20)]
    text.write_text("\n\n".join(documents), encoding="utf-8")
    parted = ("--data", text, "--document-separator", "\n\n")
    plain = ("--n-layer", 2, "--d-model", 32, "--n-head", 2, "--context", 32)
    short = ("--batch-tokens", 128, "--sequence-length", 16, "--tokenizer", "wordpiece", "--vocab-size", 120)
    first = tmp_path / "first"
    given = ("--recipe", "bert-phase1", *parted, "--out", first, *plain, *short, *THREE)
    done = gptloom("pretrain", *given)
    assert done.code == 0, done.err
    assert len(losses(first)) == 3 and read_config(first / "final").context == 32
    second = tmp_path / "second"
    longer = ("--recipe", "bert-phase2", *parted, "--out", second, "--batch-tokens", 128, *THREE)
    done = gptloom("pretrain", first, *longer)
    assert done.code == 0, done.err
    starts = [event for event in read_events(second / "events.jsonl") if event["type"] == "start"]
    assert starts[0]["context"] == 32 and len(losses(second)) == 3
    assert losses(second)[0] < losses(first)[0] + 0.1
