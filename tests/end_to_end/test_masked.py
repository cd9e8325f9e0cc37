"""Masked pretraining from the command line: trained, broken off and resumed, spread, shown, and refused where it must be."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gptloom as package
from gptloom.model.store import read_config
from gptloom.observe.events import read_events
from gptloom.stages.compare_runs import compare_runs

SHAPE = ("--model", "bert-tiny", "--n-layer", 2, "--d-model", 32, "--n-head", 2, "--context", 32, "--dropout", 0.0)
WORDS = ("--tokenizer", "wordpiece", "--vocab-size", 70, "--document-separator", "\n\n")
PACE = ("--batch-tokens", 512, "--micro-batch", 4, "--precision", "fp32", "--seed", 3, "--lr", 3e-3, "--warmup", 1)
REST = ("--log-every", 1, "--device", "cpu", "--threads", 1, "--log", "none", "--no-compile")
VERSE = [
    "the",
    "old",
    "king",
    "and",
    "his",
    "young",
    "queen",
    "went",
    "down",
    "to",
    "river",
    "where",
    "boat",
    "was",
    "all",
]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    draw = random.Random(4)
    sentences = (" ".join(draw.choices(VERSE, k=draw.randint(4, 9))).capitalize() + "." for _ in range(600))
    path = tmp_path / "stories.txt"
    path.write_text("\n\n".join("\n".join(next(sentences) for _ in range(6)) for _ in range(100)), encoding="utf-8")
    return path


@pytest.fixture
def train(gptloom: Any, stories: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, *options: object, steps: int = 12) -> Path:
        given = (*SHAPE, *WORDS, *PACE, *REST, "--max-steps", steps, "--eval-every", 6, "--save-every", 6, *options)
        done = gptloom("pretrain", "--data", stories, "--out", tmp_path / name, *given)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def losses(run: Path) -> list[dict[str, float]]:
    return [event["losses"] for event in read_events(run / "events.jsonl") if event["type"] == "train"]


def test_a_text_becomes_a_model_that_fills_masks(train: Callable[..., Path], gptloom: Any) -> None:
    run = train("run", steps=40)
    first, last = losses(run)[0], losses(run)[-1]
    assert first["masked_words"] == pytest.approx(math.log(70), abs=0.4)
    assert first["pair"] == pytest.approx(math.log(2), abs=0.2)
    assert last["masked_words"] < first["masked_words"] - 0.5
    samples = [event for event in read_events(run / "events.jsonl") if event["type"] == "sample"]
    assert "[MASK]" in samples[-1]["prompt"] and "[MASK] →" in samples[-1]["text"]
    evaluated = [event for event in read_events(run / "events.jsonl") if event["type"] == "evaluate"]
    assert set(evaluated[-1]["losses"]) == {"masked_words", "pair"} and evaluated[-1]["bits_per_byte"] is None
    config = read_config(run / "final")
    assert config.mask == "bidirectional" and config.pair_head and config.pooler
    filled = gptloom("fill-mask", run, "--text", "The old [MASK] and his young queen", "--json")
    assert filled.code == 0, filled.err
    refused = gptloom("generate", run, "--prompt", "The old")
    assert refused.code == 2 and "gptloom fill-mask" in refused.err


def test_the_folder_opens_in_transformers(train: Callable[..., Path]) -> None:
    transformers = pytest.importorskip("transformers")
    run = train("run", steps=1)
    model, told = transformers.BertForPreTraining.from_pretrained(run / "final", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert model.config.type_vocab_size == 2


def test_short_rows_are_also_what_it_is_measured_on(
    train: Callable[..., Path], gptloom: Any, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places that the training never saw would spoil the figure."""
    from gptloom.evaluation import masked

    lengths: list[int] = []
    sweep = masked.masked_eval_batches
    monkeypatch.setattr(
        masked,
        "masked_eval_batches",
        lambda tokens, length, *a, **k: lengths.append(length) or sweep(tokens, length, *a, **k),
    )
    run = train("run", "--sequence-length", 16, steps=1)
    done = gptloom("evaluate", run, "--data", stories)
    assert done.code == 0 and lengths == [16], done.err


def test_without_pairs_there_is_one_term_and_no_head_for_them(train: Callable[..., Path]) -> None:
    run = train("run", "--pairs", "none", "--whole-word", "--masking", "static", steps=2)
    assert set(losses(run)[0]) == {"masked_words"}
    config = read_config(run / "final")
    assert not config.pair_head and not config.pooler and config.masked_head


@pytest.mark.parametrize(
    "pairs", ["nsp", *(pytest.param(pairs, marks=pytest.mark.slow) for pairs in ("order", "none"))]
)
def test_micro_batches_change_nothing(train: Callable[..., Path], pairs: str) -> None:
    whole, cut = (train(f"cut{rows}", "--pairs", pairs, "--micro-batch", rows, steps=3) for rows in (16, 2))
    assert not compare_runs(whole, cut).beyond(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_what_one_would(train: Callable[..., Path], strategy: str) -> None:
    alone, two = train("alone"), train("two", "--processes", 2, "--strategy", strategy)
    assert not compare_runs(alone, two).beyond(1e-5)


@pytest.mark.slow
def test_a_base_model_learns_on_and_says_so(
    train: Callable[..., Path], gptloom: Any, stories: Path, tmp_path: Path
) -> None:
    base = train("base", steps=2)
    further = ("--batch-tokens", 512, "--max-steps", 2, "--document-separator", "\n\n")
    done = gptloom("pretrain", base, "--data", stories, "--out", tmp_path / "more", *further, *REST)
    assert done.code == 0, done.err
    assert set(losses(tmp_path / "more")[0]) == {"masked_words", "pair"}


def test_a_batch_is_shown_as_the_model_sees_it(train: Callable[..., Path], gptloom: Any) -> None:
    run = train("run", steps=1)
    shown = gptloom("data", "show", run, "--step", 1, "--rows", 4, "--json").document["windows"]
    assert len(shown) == 4
    for window in shown:
        assert window["text"].startswith("[CLS]") and "[MASK]" in "".join(each["text"] for each in shown)
        assert window["pair_label"] in (0, 1) and len(window["second"]) == 2


def test_in_python_the_same(stories: Path, tmp_path: Path) -> None:
    options = {"model": "bert-tiny", "n_layer": 1, "d_model": 16, "n_head": 2, "context": 16, "batch_tokens": 64}
    run = package.pretrain(
        data=stories, out=tmp_path / "run", pairs="order", max_steps=2, quiet=True, threads=1, log="none", **options
    )
    assert run.fills_masks and run.state.state == "finished"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "gpt2", "--objective", "masked"), "--objective masked cannot train this model"),
        (("--model", "bert-tiny", "--objective", "next"), "--objective next cannot train this model"),
        (("--pairs", "none"), "--pairs does nothing: it is for --objective masked"),
        (("--whole-word",), "--whole-word does nothing: it is for --objective masked"),
        (("--model", "bert-tiny", "--tokenizer", "bytes"), "masked pretraining needs [CLS], [SEP], [MASK]"),
        (("--model", "bert-tiny", "--context", 4, "--tokenizer", "wordpiece"), "no room for [CLS], [SEP] and text"),
        (("--model", "bert-tiny", "--sample", "no mask here"), "has no [MASK]"),
        (("--model", "bert-tiny", "--sample-tokens", 9), "--sample-tokens is for models that write"),
    ],
)
def test_what_does_not_go_together_is_refused(
    gptloom: Any, stories: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    small = ("--n-layer", 1, "--d-model", 16, "--n-head", 2, "--batch-tokens", 64, "--max-steps", 1)
    small = () if "--model" not in options else small
    separated = ("--document-separator", "\n\n")
    done = gptloom("pretrain", "--data", stories, "--out", tmp_path / "run", *options, *small, *separated, *REST)
    assert done.code == 2 and message in done.err, done.err
    assert "Traceback" not in done.err


def test_one_document_makes_no_next_sentences(gptloom: Any, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("It was late. The king slept. " * 300, encoding="utf-8")
    given = ("--data", book, *SHAPE, "--vocab-size", 40, *PACE, *REST, "--max-steps", 1)
    done = gptloom("pretrain", "--out", tmp_path / "run", *given, "--pairs", "nsp")
    assert done.code == 2 and "--pairs order or --pairs none" in done.err, done.err
    done = gptloom("pretrain", "--out", tmp_path / "other", *given)
    assert done.code == 0 and "--pairs order: the text is one document" in done.err, done.err
