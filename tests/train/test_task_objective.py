"""The loss of a fine-tuning: by hand, by torch, and equal however a batch is padded, ordered or cut."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import HeadConfig
from gptloom.data.batch import Batch
from gptloom.data.task_batches import padded
from gptloom.data.task_inputs import IGNORED, Encoded, Row
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.train.loop import forward_backward
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.task_objective import TaskLoss

VOCAB, C, LM = 40, 3, 0.5
SIZES = {"vocab_size": VOCAB, "context": 24, "n_layer": 2, "d_model": 32, "n_head": 4, "d_ff": 48}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
# kind, pooling, rows of an example, class weights, label smoothing
KINDS: dict[str, tuple[Any, Any, int, bool, float]] = {
    "classes": ("sequence", "last", 1, False, 0.0),
    "weighted": ("sequence", "mean", 1, True, 0.0),
    "smoothed": ("sequence", "first", 1, True, 0.2),
    "both orders": ("sequence", "last", 2, True, 0.0),
    "score": ("sequence", "last", 1, False, 0.0),
    "choice": ("choice", "last", 3, False, 0.1),
    "tags": ("tokens", "last", 1, True, 0.1),
    "span": ("span", "last", 1, False, 0.0),
}
WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


def examples(name: str, n: int = 7) -> list[Encoded]:
    """Of lengths from 4 to 20, a tag in four missing."""
    kind, _, rows, _, _ = KINDS[name]
    draw = random.Random(name)
    made = []
    for index in range(n):
        own = tuple(Row(tuple(draw.choices(range(1, VOCAB), k=draw.randint(4, 20))), b"", None) for _ in range(rows))
        length = len(own[0].ids)
        label: Any = draw.randrange(C)
        words = None
        if name == "score":
            label = draw.uniform(-2, 2)
        elif kind == "tokens":
            words = tuple(range(1, length, 2))
            label = tuple(IGNORED if draw.random() < 0.25 else draw.randrange(C) for _ in words)
        elif kind == "span":
            first = draw.randrange(length)
            label = (first, draw.randrange(first, length))
        made.append(Encoded(own, label, f"row {index}", 0, words=words))
    return made


def objective_of(name: str, lm_weight: float = LM) -> TaskLoss:
    kind, pooling, _, weighted, smoothing = KINDS[name]
    n_labels = {"choice": 1, "span": 2}.get(kind, 1 if name == "score" else C)
    orders: Any = 2 if name == "both orders" else 1
    head = HeadConfig(kind=kind, n_labels=n_labels, pooling=pooling, orders=orders, dropout=0.0)
    weights = WEIGHTS if weighted else None
    return TaskLoss(head, class_weights=weights, label_smoothing=smoothing, lm_weight=lm_weight)


def model_of(objective: TaskLoss) -> Transformer:
    config = ModelConfig(**{**preset("gpt1"), **SIZES, **NO_DROPOUT, "task_head": objective.head})
    model = Transformer.initialised(config, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model


def batch_of(some: list[Encoded], width: int | None = None) -> Batch:
    """Padded to ``width`` places, by an example that is taken out again."""
    if width is None:
        return padded(some, 0, next_word=True)
    one = some[0]
    rows = tuple(Row((0,) * width, b"", None) for _ in one.rows)
    wide = padded([*some, Encoded(rows, one.label, "", 0, words=one.words)], 0, next_word=True)
    return wide.split(len(some) * len(one.rows))[0]


def value(objective: TaskLoss, model: Transformer, batch: Batch) -> tuple[dict[str, float], list[Tensor]]:
    """The loss of each term per item, and the gradients of their weighted sum."""
    model.zero_grad()
    counts, sums = objective.count(batch), objective.loss(model, batch)
    torch.stack([objective.weights[term] * sums[term] / counts[term] for term in counts]).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return {term: float(sums[term].detach()) / counts[term] for term in counts}, gradients


def assert_same(one: tuple[dict[str, float], list[Tensor]], other: tuple[dict[str, float], list[Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=2e-5)
    largest = max(float(gradient.abs().max()) for gradient in other[1])
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=2e-6 * largest)


@pytest.mark.parametrize("name", KINDS)
def test_order_and_padding_change_nothing(name: str) -> None:
    objective, some = objective_of(name), examples(name)
    model = model_of(objective)
    usual = value(objective, model, batch_of(some))
    assert usual[0]["task"] > 0.1 and usual[0]["next_word"] > 1
    assert_same(value(objective, model, batch_of(some[::-1])), usual)
    assert_same(value(objective, model, batch_of(some, width=24)), usual)


@pytest.mark.parametrize("name", KINDS)
def test_every_micro_batch_gives_the_same_gradients(name: str, tmp_path: Path) -> None:
    """The loop's own step, of passes of 1, 2, 3, 4 rows and of all at once: examples are never cut."""
    objective, batch = objective_of(name), batch_of(examples(name))
    found = []
    for rows in (None, 1, 2, 3, 4):
        model = model_of(objective)
        run = Run(tmp_path, LoopSettings(steps=1, micro_batch=rows), RunState())
        optimizer = Optimizer(model, OptimizerSettings(), torch.float32)
        losses = forward_backward(run, objective, batch, model, optimizer)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients
        found.append((losses, gradients))
    for other in found[1:]:
        assert_same(other, found[0])


def test_counts_come_from_labels_alone() -> None:
    def counted(name: str) -> float:
        return objective_of(name, lm_weight=0.0).count(batch_of(examples(name)))["task"]

    assert counted("classes") == counted("choice") == counted("score") == counted("span") == 7
    labels = [one.label for one in examples("both orders")]
    assert counted("both orders") == pytest.approx(sum(float(WEIGHTS[label]) for label in labels))
    tags = [tag for one in examples("tags") for tag in one.label if tag != IGNORED]
    assert counted("tags") == pytest.approx(sum(float(WEIGHTS[tag]) for tag in tags))


def test_spans_that_were_cut_away_do_not_count() -> None:
    objective, some = objective_of("span", lm_weight=0.0), examples("span")
    gone = Encoded(some[0].rows, (IGNORED, IGNORED), "", 0)
    model = model_of(objective)
    assert objective.count(batch_of([*some, gone])) == {"task": 7.0}
    assert_same(value(objective, model, batch_of([*some, gone])), value(objective, model, batch_of(some)))


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_that_of_every_example_by_hand(name: str) -> None:
    """Each example alone, without padding, and its log-probabilities written out."""
    kind, _, _, weighted, smoothing = KINDS[name]
    objective, some = objective_of(name, lm_weight=0.0), examples(name)
    model = model_of(objective)
    total = items = 0.0
    for one in some:
        batch = batch_of([one])
        with torch.no_grad():
            scores = task_scores(model, batch.ids, batch.padding_mask, group=batch.group)
        if name == "score":
            total, items = total + (float(scores[0, 0]) - one.label) ** 2, items + 1
            continue
        if kind == "span":
            begins, ends = scores[0].double().log_softmax(0).unbind(-1)
            total, items = total - float(begins[one.label[0]] + ends[one.label[1]]) / 2, items + 1
            continue
        asked = [(scores[0], one.label)]
        if kind == "tokens":
            asked = [(scores[0, place], tag) for place, tag in zip(one.words or (), one.label, strict=True)]
        for found, label in asked:
            if label == IGNORED:
                continue
            logs = found.double().log_softmax(0)
            weights = WEIGHTS.double() if weighted else torch.ones(len(logs), dtype=torch.float64)
            sure = -float(weights[label] * logs[label])
            total += (1 - smoothing) * sure - smoothing * float((weights * logs).mean())
            items += float(weights[label])
    batch = batch_of(some)
    assert objective.count(batch)["task"] == pytest.approx(items)
    assert float(objective.loss(model, batch)["task"].detach()) == pytest.approx(total, rel=1e-5)


def test_classes_are_weighted_as_torch_weights_its_mean() -> None:
    objective = objective_of("weighted", lm_weight=0.0)
    batch, model = batch_of(examples("weighted")), model_of(objective)
    scores = task_scores(model, batch.ids, batch.padding_mask)
    assert batch.labels is not None
    expected = F.cross_entropy(scores, batch.labels, weight=WEIGHTS)
    assert value(objective, model, batch)[0]["task"] == pytest.approx(float(expected.detach()))


@pytest.mark.parametrize("name", ["classes", "both orders", "choice"])
def test_next_words_are_averaged_over_each_row_first(name: str) -> None:
    """GPT-1, train.py: the mean of a sequence's losses, then the mean over sequences; both of them times lambda."""
    objective, some = objective_of(name), examples(name)
    model = model_of(objective)
    means = []
    for row in (row for one in some for row in one.rows):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logits = model(ids)[0, :-1]
        means.append(float(F.cross_entropy(logits, ids[0, 1:])))
    found = value(objective, model, batch_of(some))[0]
    assert found["next_word"] == pytest.approx(sum(means) / len(means), rel=1e-5)
    assert objective.weights == {"task": 1.0, "next_word": LM}


def test_without_a_weight_no_next_word_is_asked_for() -> None:
    objective = objective_of("classes", lm_weight=0.0)
    batch = batch_of(examples("classes"))
    model = model_of(objective)
    assert objective.loss(model, batch).keys() == objective.count(batch).keys() == objective.weights.keys() == {"task"}


def test_half_precision_is_summed_in_fp32() -> None:
    for name in KINDS:
        objective = objective_of(name)
        losses = objective.loss(model_of(objective).to(torch.bfloat16), batch_of(examples(name)))
        assert {loss.dtype for loss in losses.values()} == {torch.float32}, name
