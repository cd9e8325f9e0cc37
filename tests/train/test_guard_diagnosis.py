"""The diagnosis: which tensors are harmed, where gradients grew, and suggestions that fit what was seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import run_ranks

from gptloom.config.errors import GuardStop
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.train.assemble import fresh_model
from gptloom.train.diagnosis import Health, Setting, describe, examine, suggest
from gptloom.train.guards import Verdict
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel, local
from gptloom.train.world import World

CONFIG = ModelConfig(vocab_size=32, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)
VICTIM = "blocks.1.mlp.down.weight"


def trained(parallel: Parallel, kind: str, harm: str = "") -> Optimizer:
    """An optimizer after one update, with the gradients of a second step; ``harm`` is what is broken in the victim."""
    model = fresh_model(CONFIG, 4, parallel, torch.float32)
    optimizer = Optimizer(model, OptimizerSettings(kind=kind, lr=1e-3), torch.float32, parallel)  # type: ignore[arg-type]
    objective = NextToken(parallel.cross_entropy)
    for step in range(2):
        ids = torch.randint(32, (4, 13), generator=torch.Generator().manual_seed(step))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(4, 12))
        loss = objective.loss(model, parallel.own_rows(batch))["next_token"] / 48
        optimizer.backward(loss)
        optimizer.gradient_norm()
        if step == 0:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        victim = optimizer.trained[VICTIM]
        if harm == "value":
            local(victim).fill_(math.nan)
        if harm == "size":
            local(victim).fill_(-50)
        if harm == "gradient":
            local(victim.grad).fill_(math.inf)
        if harm == "moment":
            part = optimizer.state_tensors()
            local(part[f"{VICTIM}/{'momentum_buffer' if kind == 'muon' else 'exp_avg'}"]).fill_(math.nan)
        if harm == "growth":
            local(victim.grad).mul_(1000)
    return optimizer


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_norms_are_those_of_the_tensors(kind: str) -> None:
    optimizer = trained(Parallel.alone(), kind)
    state = optimizer.state_tensors()
    for one in examine(optimizer):
        tensor = optimizer.trained[one.name]
        assert one.value == pytest.approx(float(tensor.detach().norm()))
        assert one.gradient == pytest.approx(float(tensor.grad.norm()))
        if f"{one.name}/exp_avg_sq" in state:
            # After one step the mean of squares is (1 - beta2) times the square of that step's gradient.
            assert one.usual == pytest.approx(
                float(state[f"{one.name}/exp_avg"].norm()) / 0.1 * math.sqrt(0.05), rel=1e-4
            )
        else:
            assert one.usual == pytest.approx(float(state[f"{one.name}/momentum_buffer"].norm()))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("harm", "line"),
    [
        ("value", f"not finite, values: {VICTIM}"),
        ("size", f"weights out of hand, by their root mean square: {VICTIM} 50"),
        ("gradient", f"not finite, gradients: {VICTIM}"),
        ("moment", f"not finite, optimizer's memory: {VICTIM}/"),
        ("growth", f"gradient norms grown most over what the optimizer remembers: {VICTIM} "),
    ],
)
def test_the_harmed_tensor_is_named(kind: str, harm: str, line: str) -> None:
    lines = describe(examine(trained(Parallel.alone(), kind, harm)))
    assert any(text.startswith(line) for text in lines), lines
    assert harm == "growth" or not any("more" in text for text in lines if text.startswith("not finite"))


def examined(world: World, strategy: str, tensor: int) -> dict[str, Any]:
    parallel = Parallel(world, strategy, torch.device("cpu"), tensor=tensor)  # type: ignore[arg-type]
    health = examine(trained(parallel, "adamw"))
    numbers = [[one.value, one.gradient, one.usual] for one in health]
    return {"numbers": numbers, "lines": describe(examine(trained(parallel, "adamw", "value")))}


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "tensor"), [("fsdp", 1), ("fsdp", 2)])
def test_several_processes_see_whole_tensors(strategy: str, tensor: int) -> None:
    alone = examine(trained(Parallel.alone(), "adamw"))
    for result in run_ranks(examined, 2, strategy=strategy, tensor=tensor):
        for one, numbers in zip(alone, result["numbers"], strict=True):
            assert numbers == pytest.approx([one.value, one.gradient, one.usual], rel=1e-3)
        assert f"not finite, values: {VICTIM}" in result["lines"]


def test_many_names_are_cut_and_gradients_come_from_the_loss_down() -> None:
    health = [Health(f"layer.{n}", 1.0, 1, math.nan, 1.0, {}) for n in range(5)]
    assert describe(health) == ["not finite, gradients: layer.4, layer.3, layer.2 and 2 more"]


SOUND = [Health("w", 1.0, 1, 1.0, 1.0, {})]
SETTING = Setting(step=500, finite=True, lr=3e-3, warmup=100, clip=1.0, narrow=False)


@pytest.mark.parametrize(
    ("kind", "health", "changes", "expected"),
    [
        ("diverged", SOUND, {}, ["--lr 0.001", "--warmup 200", "--clip 0.5"]),
        ("diverged", SOUND, {"clip": 0.0}, ["--lr 0.001", "--warmup 200", "--clip 1"]),
        ("diverged", SOUND, {"narrow": True}, ["--lr 0.001", "--warmup 200", "--precision fp32"]),
        (
            "repeated",
            [replace(SOUND[0], value=math.nan)],
            {"finite": False},
            ["--lr 0.001", "--warmup 200", "--clip 0.5"],
        ),
        ("repeated", [replace(SOUND[0], value=40.0)], {"finite": False}, ["--lr 0.001", "--warmup 200", "--clip 0.5"]),
        ("repeated", SOUND, {"finite": False}, ["data show RUN --step 501", "--lr 0.001", "--clip 0.5"]),
        ("repeated", SOUND, {"finite": False, "narrow": True}, ["--precision fp32", "data show RUN", "--lr 0.001"]),
        ("repeated", SOUND, {}, ["--lr 0.001", "data show RUN --step 501", "--clip 0.5"]),
        ("repeated", SOUND, {"step": 150}, ["--lr 0.001", "--warmup 200", "--clip 0.5"]),
    ],
)
def test_three_suggestions_fit_what_was_seen(kind: Any, health: Any, changes: Any, expected: list[str]) -> None:
    found = suggest(Verdict(kind, "..."), health, replace(SETTING, **changes))
    assert len(found) == 3
    assert all(option in text for option, text in zip(expected, found, strict=True)), found


def test_a_stopped_run_tells_all_of_it(train: Any) -> None:
    def break_weights(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 3:
            run.optimizer.masters.tensors["blocks.0.attention.q.weight"].data.fill_(math.inf)

    with pytest.raises(GuardStop) as stopped:
        train(steps=50, model=Transformer.initialised(CONFIG, 4), hooks=[break_weights])
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith("10 updates in a row were refused, at last because the loss is nan")
    assert "(step 13, learning rate 1.00e-03, torch.float32)" in lines[0]
    assert lines[1].startswith("  step 4: loss nan, gradient norm nan") and len(lines) == 11 + 2 + 4
    assert lines[11] == "  not finite, values: blocks.0.attention.q.weight"
    assert lines[12].startswith("  not finite, gradients: norm.weight")
    assert [line.strip()[:2] for line in lines[14:]] == ["1.", "2.", "3."]
