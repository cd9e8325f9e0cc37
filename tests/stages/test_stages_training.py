from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.stages import training
from gptloom.stages.training import describe_worst, id_bytes
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.compiling import compile_blocks, compiler
from gptloom.train.hooks import Evaluate, Patience
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.validation import Validation, validate

BYTES = train_tokenizer("bytes", [], None)
CONFIG = ModelConfig(vocab_size=BYTES.vocab_size, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)


def a_run(path: Path, **settings) -> Run:
    run = Run.create(path, LoopSettings(**{"steps": 9, **settings}))
    run.model = Transformer.initialised(CONFIG, seed=1)
    return run


def test_a_bad_batch_is_told_by_its_hardest_rows(tmp_path: Path) -> None:
    texts = [f"row {index} says hello" for index in range(5)]
    ids = torch.tensor([BYTES.encode(text)[:13] for text in texts])
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(5, 12))
    run = a_run(tmp_path / "run", micro_batch=2)
    with torch.no_grad():
        run.model.embedding.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    objective = NextToken()
    losses = [float(objective.loss(run.model, row)["next_token"].detach()) / 12 for row in batch.split(1)]
    hardest = sorted(range(5), key=lambda row: -losses[row])
    told = describe_worst(run, NextToken(), BYTES, batch).splitlines()
    assert told == [f"row {row}, loss {losses[row]:.3f}: {texts[row][:12]!r}" for row in hardest[:3]]
    with torch.no_grad():
        run.model.norm.weight.fill_(math.nan)
    assert describe_worst(run, NextToken(), BYTES, batch).count("loss nan") == 3


def test_bits_per_byte_by_hand() -> None:
    model = Transformer.initialised(CONFIG, seed=1)
    text = "Grüße aus Köln, 漢字! " * 4
    ids = torch.tensor([*BYTES.encode(text), BYTES.eot_id])
    with torch.no_grad():
        nats = 0.0
        for start in range(0, len(ids) - 1, 12):
            window, targets = ids[start : start + 12], ids[start + 1 : start + 13]
            logits = model(window[None, : len(targets)])[0]
            nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    rows = -(-(len(ids) - 1) // 12)
    padded = torch.zeros(rows * 12 + 1, dtype=torch.long)
    padded[: len(ids)] = ids
    weights = (torch.arange(rows * 12) < len(ids) - 1).float()
    batch = Batch(padded[:-1].view(rows, 12), padded[1:].view(rows, 12), weights.view(rows, 12))
    result = validate(NextToken(), model, batch.split(2), id_bytes=id_bytes(BYTES, CONFIG.vocab_size))
    assert result.items == len(ids) - 1
    assert result.n_bytes == len(text.encode()) - 1  # all but the first, which nothing predicts; end-of-text has none
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.loss == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.n_bytes, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert model.training  # left as it was found


def test_validation_weighs_terms_as_training_does() -> None:
    class Two(NextToken):
        weights = {"next_token": 1.0, "twice": 0.5, "never": 1.0}  # noqa: RUF012

        def count(self, batch):
            return {**super().count(batch), "twice": 2.0, "never": 0.0}

        def loss(self, model, batch):
            return {**super().loss(model, batch), "twice": torch.tensor(6.0), "never": torch.tensor(0.0)}

    ids = torch.zeros(1, 13, dtype=torch.long)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.full((1, 12), 0.25))
    model = Transformer.initialised(CONFIG, seed=1)
    result = validate(Two(), model, [batch])
    assert result.losses.keys() == {"next_token", "twice"}
    assert result.loss == pytest.approx(result.losses["next_token"] + 0.5 * 3.0)
    assert result.losses["next_token"] == pytest.approx(math.log(CONFIG.vocab_size), abs=0.5)
    with pytest.raises(ValueError, match="nothing to predict"):
        validate(NextToken(), model, [])


def test_evaluate_remembers_the_best_and_patience_ends(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, math.nan, 2.5, 2.1])

    def measured(run: Run) -> Validation:
        loss = next(values)
        return Validation(loss, {"next_token": loss}, 10, 10 * loss, 20)

    run = a_run(tmp_path / "run")
    run.hooks = [evaluate := Evaluate(measured, every=1), Patience(3)]
    with run.working():
        for step, best in [(1, 1), (2, 2), (3, 2), (4, 2)]:
            run.state.step = step
            evaluate.now(run)
            assert run.state.best_step == best
            assert run.stopping is None
            assert (run.state.valid_loss is None) == (step == 3)
        run.state.step = 5
        evaluate.now(run)
    assert (run.state.best_value, run.state.stale_evaluations) == (2.0, 3)
    assert (run.state.state, run.state.reason) == ("finished", "Patience asked to stop")


def test_a_first_evaluation_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    values = iter([math.nan, 4.0])
    run = a_run(tmp_path / "run")
    evaluate = Evaluate(lambda run: Validation(loss := next(values), {}, 1, loss, None), every=1)
    with run.working():
        evaluate.now(run)
        assert run.state.best_step is None
        run.state.step = 1
        evaluate.now(run)
        assert run.state.best_step == 1


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_all_blocks_share_one_compiled_graph() -> None:
    config = CONFIG.model_copy(update={"n_layer": 4, "dropout": 0.1})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Transformer.initialised(config, seed=1).train()
    plain = Transformer.initialised(config.model_copy(update={"dropout": 0.0}), seed=1)
    compile_blocks(model.blocks)
    optimizer = Optimizer(model, OptimizerSettings())
    for step in range(3):
        ids = torch.randint(200, (4, 13), generator=torch.Generator().manual_seed(step))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(4, 12))
        optimizer.backward(NextToken().loss(model, batch)["next_token"])
        optimizer.step(0.0)
        optimizer.zero_grad()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 2
    assert not torch._dynamo.utils.counters["graph_break"]
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(batch.ids), plain.eval()(batch.ids), atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 1


def test_a_base_on_another_drive_is_named_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows knows no way from one drive to another."""

    def other_drive(path: str, start: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", other_drive)
    monkeypatch.setattr(training, "checkpoint_facts", lambda task: {})
    base = {"path": "D:/models/base", "hash": "0"}
    task: Any = SimpleNamespace(parents=[base], data_hash="", resolved=SimpleNamespace(settings=dict))
    task.config = task.tokenizer = None
    assert training.describe(task, Run(tmp_path, LoopSettings(1), RunState()), tmp_path).lineage["parents"] == [base]
