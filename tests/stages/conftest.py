"""Bodies of random weights and tables of a few rows for every task, to be fine-tuned in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import gptloom
from gptloom.config.model import ModelConfig, preset
from gptloom.evaluation import significance, task_metrics
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.finetune import final
from gptloom.tokenizer.train import train_tokenizer

VERSE = "the old king and his young queen went down to the river where a boat of green wood lay waiting for them"
WORDS = VERSE.split()
TINY: dict[str, Any] = {"n_layer": 2, "d_model": 32, "n_head": 4, "head_dim": 0, "d_ff": 48, "context": 48}


def sentence(draw: random.Random, *extra: str) -> str:
    words = [*draw.choices(WORDS, k=draw.randint(3, 7)), *extra]
    draw.shuffle(words)
    return " ".join(words)


def classify(draw: random.Random, index: int) -> dict[str, Any]:
    word = ("lamp", "rain", "bread")[index % 3 % 2 if index % 7 else 2]
    return {"sentence": sentence(draw, word, word), "label": {"lamp": "light", "rain": "water", "bread": "food"}[word]}


def entail(draw: random.Random, index: int) -> dict[str, Any]:
    label = ("yes", "no")[index % 2]
    return {"premise": sentence(draw, "rain"), "hypothesis": sentence(draw, label), "label": label}


def similar(draw: random.Random, index: int) -> dict[str, Any]:
    label = index % 2
    a = sentence(draw)
    return {"sentence1": a, "sentence2": f"{a} now" if label else sentence(draw), "label": label}


def scored(draw: random.Random, index: int) -> dict[str, Any]:
    a, same = sentence(draw), index % 4
    b = [sentence(draw), "the lamp", f"{a} and a lamp", f"{a} now"][same]
    return {"sentence1": a, "sentence2": b, "score": 1.5 + same + draw.random() / 4}


def regress(draw: random.Random, index: int) -> dict[str, Any]:
    return {"text": sentence(draw, *["rain"] * (index % 4)), "score": 100.0 + 10 * (index % 4) + draw.random()}


def choice(draw: random.Random, index: int, most: int = 2) -> dict[str, Any]:
    choices = [sentence(draw, "rain") for _ in range(2 + index % (most - 1) if most > 2 else 2)]
    right = draw.randrange(len(choices))
    choices[right] = sentence(draw, "lamp")
    return {"question": sentence(draw), "choices": choices, "label": right}


def tokens(draw: random.Random, index: int) -> dict[str, Any]:
    words = sentence(draw, "London", *["Paris"] * (index % 2)).split()
    tags = ["B-place" if word in ("London", "Paris") else "O" for word in words]
    return {"tokens": words, "tags": tags}


def span(draw: random.Random, index: int) -> dict[str, Any]:
    answer = ("lamp", "rain", "bread")[index % 3]
    context = sentence(draw, answer)
    return {
        "context": context,
        "question": f"which {answer[0]} is it",
        "answer": answer,
        "start": context.index(answer),
    }


MAKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "classify": classify,
    "entail": entail,
    "similar": similar,
    "scored": scored,
    "regress": regress,
    "choice": choice,
    "tokens": tokens,
    "span": span,
}


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``decoder`` in GPT-2's shape, ``encoder`` in BERT's."""
    folders = {}
    for name, shape, kind, size in (("decoder", "gpt2", "bpe", 290), ("encoder", "bert-tiny", "wordpiece", 120)):
        folders[name] = tmp_path_factory.mktemp("bodies") / name
        tokenizer = train_tokenizer(kind, [f"{VERSE} lamp rain bread London Paris yes no now which is it. " * 9], size)
        config = ModelConfig(**{**preset(shape), **TINY, "vocab_size": tokenizer.vocab_size})
        model = Transformer.initialised(config, seed=1)
        save_model(folders[name], model, config, tokenizer=tokenizer)
    return folders


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A file of ``n`` rows of a task; ``seed``: other rows of it."""

    def write(kind: str, n: int = 24, seed: int = 0, **options: Any) -> Path:
        path = tmp_path / f"{kind}-{n}-{seed}.jsonl"
        draw = random.Random(seed)
        rows = [MAKERS[kind](draw, index, **options) for index in range(n)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from few resamples and no pictures of confusions: most of what a run of four steps takes."""
    monkeypatch.setattr(task_metrics, "bootstrap", partial(significance.bootstrap, samples=20))
    monkeypatch.setattr(final, "can_draw", lambda: False)


@pytest.fixture
def tune(bodies: dict[str, Path], table: Callable[..., Path], tmp_path: Path, cheap: None) -> Callable[..., Any]:
    """``gptloom.finetune`` of a body on rows of a task, 4 steps of 8 examples into ``tmp_path/run``."""

    def run(body: str = "decoder", kind: str = "classify", **given: Any) -> Any:
        options: dict[str, Any] = {
            "task": {"scored": "similar"}.get(kind, kind),
            "out": str(tmp_path / "run"),
            "quiet": True,
            "precision": "fp32",
            "threads": torch.get_num_threads(),
        }
        if "data" not in given:
            options |= {"data": [str(table(kind))], "valid": [str(table(kind, 12, 1))]}
        by_steps = given.get("method", "full") not in ("feature",)
        if by_steps:
            options |= {"log": ["none"], "batch_size": 8, "lr": 3e-3}
            budgets = ("max_steps", "max_epochs", "max_minutes", "max_train_tokens")
            if not any(name in given for name in budgets):
                options["max_steps"] = 4
        return gptloom.finetune(str(bodies.get(body, body)), **{**options, **given})

    return run
