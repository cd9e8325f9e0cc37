"""The quickstart's classifiers on a few docstrings: what is trained, measured, gone on with, and left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.quickstart import STAGES, classify
from gptloom.stages.quickstart.accuracies import Row, measure, read_rows, without_network
from gptloom.stages.quickstart.classify import FAST_STEPS, FEATURE, FULL, RANDOM, classify_docstrings
from gptloom.stages.quickstart.corpus import Docstrings, QuickstartCorpus
from gptloom.stages.quickstart.pipeline import check_order, choose_stages, share_minutes
from gptloom.stages.quickstart.stage import Context
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.run import Run, read_state

WORDS = {"internet": "socket server mail", "numbers": "sum mean root", "files": "folder path name"}


def rows(module: str, count: int) -> list[tuple[str, str, str]]:
    return [
        (f'Return the "{words.split()[i % 3]}" of {words} number {module} {i}.', family, module)
        for i in range(count)
        for family, words in WORDS.items()
    ]


def write_table(path: Path, lines: list[tuple[str, str, str]]) -> Path:
    text = "".join("\t".join(line) + "\n" for line in [("text", "family", "module"), *lines])
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A quickstart whose pretraining is done: a base with random weights, and docstrings to classify."""
    out = tmp_path_factory.mktemp("classify")
    train = write_table(out / "train.tsv", rows("one", 20))
    held_out = write_table(out / "held_out.tsv", rows("two", 4) + rows("three", 2))
    tokenizer = train_tokenizer("bpe", [text for text, _, _ in rows("one", 20)], None)
    shape = {"n_layer": 1, "n_head": 1, "d_model": 32, "head_dim": 0, "d_ff": 0, "context": 64}
    config = ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": tokenizer.vocab_size})
    save_model(out / "base", Transformer.initialised(config, seed=0), config, tokenizer=tokenizer)
    docstrings = Docstrings(train, held_out, frozenset({"three", "four"}))
    corpus = QuickstartCorpus("python", "a text", "0" * 64, train, train, "", (), (), (), docstrings)
    return Context(out, corpus, (), 1.5, fast=True, seed=1, machine={"threads": 1, "device": "cpu"})


@pytest.fixture(scope="module")
def finished(begun: Context) -> Any:
    return classify_docstrings(begun)


@pytest.mark.slow
def test_three_ways_are_measured_beside_two_without_a_network(finished: Any, begun: Context) -> None:
    ways = finished.figures["accuracies"]
    assert [way["run"] for way in ways] == [None, None, FEATURE, FULL, RANDOM]
    assert [way["name"] for way in ways][2:] == ["feature-based", "full", "full, from random weights"]
    assert ways[0]["share"] == pytest.approx(1 / 3) and ways[1]["share"] == 1.0  # the words tell
    assert all(way["low"] <= way["share"] <= way["high"] and way["unread"] is not None for way in ways)
    assert (finished.figures["heldout_docstrings"], finished.figures["unread_docstrings"]) == (18, 6)
    assert finished.figures["heldout_modules"] == ["three", "two"]
    assert finished.run == FULL and finished.better.startswith("families told right 33% → ")


@pytest.mark.slow
def test_random_weights_are_trained_as_long_as_the_base(finished: Any, begun: Context) -> None:
    assert read_state(begun.out / FULL).step == read_state(begun.out / RANDOM).step == FAST_STEPS


def test_what_is_finished_is_not_made_again(finished: Any, begun: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "finetune", lambda *_: pytest.fail("nothing is left to do"))
    assert classify_docstrings(begun) == finished


@pytest.mark.slow
def test_a_stopped_run_is_gone_on_with(
    finished: Any, begun: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quick"
    for name in ("base", FEATURE, RANDOM):
        shutil.copytree(begun.out / name, out / name)
    stopped = Context(out, begun.corpus, (), 1.5, fast=True, seed=1, machine=begun.machine)
    whole = classify.finetune

    def stop(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train" and run.state.step == 3:
            (run.path / "stop").touch()

    with monkeypatch.context() as during:
        during.setattr(classify, "finetune", lambda resolved: whole(resolved, [stop]))
        assert classify_docstrings(stopped) is None
    assert read_state(out / FULL).step == 3
    monkeypatch.setattr(classify, "finetune", lambda *_: pytest.fail("it goes on from the checkpoint"))
    result = classify_docstrings(stopped)
    assert result is not None and read_state(out / FULL).state == "finished"
    shares = [[way["share"] for way in made.figures["accuracies"]] for made in (result, finished)]
    assert shares[0] == shares[1]


def test_compiling_is_for_what_is_trained(begun: Context) -> None:
    docstrings = begun.corpus.docstrings
    assert docstrings is not None
    compiled = Context(begun.out, begun.corpus, (), 1.5, False, 1, {"compile": True, "threads": 1})
    ways: list[tuple[str, int | None]] = [(FEATURE, None), (FULL, None), (RANDOM, 7)]
    feature, full, fresh = (classify._options(compiled, run, docstrings, steps) for run, steps in ways)
    assert "compile" not in feature and full["compile"] and feature["threads"] == 1
    assert full["max_minutes"] == pytest.approx(0.6) and full["fresh"] is None
    assert fresh["max_steps"] == 7 and fresh["fresh"] and "max_minutes" not in fresh


def test_shares_intervals_and_what_was_never_read() -> None:
    told = [Row("", "a", "x"), Row("", "a", "y"), Row("", "b", "y"), Row("", "b", "y")]
    found = measure("way", ["a", "b", "b", "b"], told, {"x", "z"})
    assert (found.share, found.unread) == (0.75, 1.0) and found.low < 0.75 < found.high
    assert measure("way", ["a"] * 4, told, {"z"}).unread is None


def test_without_a_network_the_commonest_and_the_words(tmp_path: Path) -> None:
    train = read_rows(
        write_table(tmp_path / "train.tsv", [*rows("one", 9), ('Quotes "stay as they are', "numbers", "one")])
    )
    assert train[-1].text == 'Quotes "stay as they are'
    commonest, words = without_network(train, [Row("a socket", "internet", "two"), Row("a sum", "numbers", "two")], ())
    assert (commonest.share, words.share) == (0.5, 1.0)


# ---- in the pipeline ---------------------------------------------------------------------------------------------------


def test_a_text_of_ones_own_has_no_labelled_docstrings() -> None:
    assert [stage.name for stage in choose_stages([], "plays.txt")] == ["pretrain"]
    with pytest.raises(
        UserError, match="classify needs labelled docstrings, which only the text that Python carries has"
    ):
        choose_stages(["pretrain", "classify"], "plays.txt")
    assert share_minutes(STAGES[0], 4.0, "plays.txt") == 4.0


def test_a_classifier_begins_with_the_base() -> None:
    with pytest.raises(UserError, match="classify begins with what pretrain makes\n  try: --stages pretrain,classify"):
        check_order(choose_stages(["classify"]), {})
    check_order(choose_stages(["classify"]), {"pretrain": None})
    check_order(STAGES, {})
