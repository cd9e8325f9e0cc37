from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.model.vocab_head import plain_cross_entropy
from gptloom.train.loop import draw_seed, fit, forward_backward
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run
from gptloom.train.schedules import Schedule

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)
TOLERANCES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_micro_batch_changes_nothing(train, dtype, tolerance, kind) -> None:
    # A large epsilon: Adam divides by the size of a gradient, however small, and would blow rounding up.
    optimizer = OptimizerSettings(kind=kind, lr=1e-3, eps=1e-3)
    whole = train(dtype=dtype, micro_batch=None, optimizer=optimizer)
    for rows in (1, 2, 3, 4, 8):
        cut = train(dtype=dtype, micro_batch=rows, optimizer=optimizer)
        assert cut.losses == pytest.approx(whole.losses, rel=tolerance)
        # Muon's orthogonalisation computes in bf16, whose rounding a difference in the last bit of fp32 can tip.
        assert cut.distance(whole) < (1e-2 if (kind, dtype) == ("muon", torch.float32) else tolerance * 10)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["fp32", "fp64"])
def test_gradients_are_those_of_the_plain_loss(tmp_path, make_batch, two_terms, dtype, tolerance) -> None:
    batch = make_batch(0)
    plain = Transformer.initialised(CONFIG, seed=4).to(dtype)
    hidden = plain.hidden(batch.ids)
    even = batch.ids % 2 == 0
    first = plain_cross_entropy(hidden, plain.head_weight, batch.targets, batch.weights) / batch.weights.sum()
    second = hidden.square().mean(-1)[even].sum() / even.sum()
    (first + 0.25 * second).backward()
    for rows in (1, 3, 8):
        model = Transformer.initialised(CONFIG, seed=4).to(dtype)
        run = Run.create(tmp_path / str(rows), LoopSettings(steps=1, micro_batch=rows))
        optimizer = Optimizer(model, OptimizerSettings(), dtype)
        losses = forward_backward(run, two_terms, batch, model, optimizer)
        assert losses == pytest.approx({"next_token": first.item(), "length": second.item()}, rel=tolerance)
        for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
            error = (ours.grad - theirs.grad).norm() / theirs.grad.norm().clamp_min(1e-12)
            assert error < tolerance * 5 or theirs.grad.norm() < 1e-9, name


def test_ten_steps_equal_torch_adamw_on_the_plain_loss(train, make_batch) -> None:
    schedule = Schedule(10, warmup=3)
    settings = OptimizerSettings(lr=1e-3, weight_decay=0.1)
    ours = train(steps=10, micro_batch=3, clip=0.5, schedule=schedule, optimizer=settings, objective=NextToken())
    model = Transformer.initialised(CONFIG, seed=4)
    wide = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torch_adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    losses = []
    for step in range(10):
        batch = make_batch(step)
        for group in torch_adamw.param_groups:
            group["lr"] = 1e-3 * schedule(step)
        loss = plain_cross_entropy(model.hidden(batch.ids), model.head_weight, batch.targets, batch.weights)
        loss = loss / batch.weights.sum()
        torch_adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        torch_adamw.step()
        losses.append(loss.item())
    assert ours.losses == pytest.approx(losses, rel=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(ours.weights[name], parameter, rtol=1e-5, atol=1e-6), name


def test_a_term_without_items_is_left_out(train, make_batch, two_terms) -> None:
    def odd_ids(step: int) -> Batch:
        batch = make_batch(step)
        return replace(batch, ids=batch.ids // 2 * 2 + 1 - 2 * (batch.ids // 2 * 2 + 1 >= 29))

    both = train(batches=odd_ids)
    alone = train(batches=odd_ids, objective=NextToken())
    assert both.losses == alone.losses
    assert both.distance(alone) == 0
    assert all(set(event["losses"]) == {"next_token"} for event in both.seen if event["type"] == "train")


def test_a_batch_without_any_items_is_named(train, make_batch) -> None:
    def nothing(step: int) -> Batch:
        batch = make_batch(step)
        return replace(batch, weights=batch.weights * (step < 1))

    with pytest.raises(ValueError, match="step 1 holds nothing to learn"):
        train(batches=nothing, objective=NextToken())


def test_clipping_bounds_the_gradient_and_reports_what_it_was(train) -> None:
    moved: list[float] = []

    class Watch(Optimizer):
        def step(self, factor: float = 1.0) -> None:
            moved.append(
                float(torch.stack([p.grad.norm() for p in self.trained.values() if p.grad is not None]).norm())
            )
            super().step(factor)

    def norms(clip: float) -> list[float]:
        moved.clear()
        model = Transformer.initialised(CONFIG, seed=4)
        done = train(model=model, clip=clip, make_optimizer=Watch)
        return [event["grad_norm"] for event in done.seen if event["type"] == "train"]

    free = norms(0.0)
    assert moved == pytest.approx(free, rel=1e-5)
    clipped = norms(0.01)
    assert clipped[0] == free[0] > 0.01
    assert moved == pytest.approx([0.01] * 3, rel=1e-4)


def test_dropout_depends_on_seed_step_and_micro_batch_alone(train) -> None:
    config = CONFIG.model_copy(update={"dropout": 0.3})
    plain = train(config=config, micro_batch=2)

    def disturb(event, run) -> None:
        torch.manual_seed(event["step"])
        torch.rand(7)
        run.model.eval()
        run.model(torch.zeros(1, 3, dtype=torch.long))

    disturbed = train(config=config, micro_batch=2, hooks=[disturb])
    assert disturbed.losses == plain.losses and disturbed.distance(plain) == 0
    assert train(config=config, micro_batch=2, seed=7).losses != plain.losses
    assert train(micro_batch=2).losses != plain.losses  # it does drop


def test_draw_seeds_differ_and_stay_the_same() -> None:
    seeds = {draw_seed(seed, step, micro) for seed in range(3) for step in range(20) for micro in range(5)}
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(1337, 0, 0) == 7783046385639953446  # another value would break every resumed run


def test_a_tied_embedding_learns_from_both_uses(train, make_batch) -> None:
    """In bf16 the gradient moves to the master once autograd has summed both."""
    tied = CONFIG
    model = Transformer.initialised(tied, seed=4)
    optimizer = Optimizer(model, OptimizerSettings(), torch.bfloat16)
    batch, objective = make_batch(0), NextToken()
    optimizer.backward(objective.loss(model, batch)["next_token"])
    exact = Transformer.initialised(tied, seed=4)
    plain_cross_entropy(exact.hidden(batch.ids), exact.head_weight, batch.targets, batch.weights).backward()
    ours, theirs = optimizer.masters.tensors["embedding.weight"].grad, exact.embedding.weight.grad
    assert float((ours - theirs).norm() / theirs.norm()) < 0.05
    unused = sorted(set(range(29)) - set(batch.ids.unique().tolist()))
    used = batch.ids.unique()
    only_head = torch.zeros_like(theirs)
    hidden = exact.hidden(batch.ids).detach()
    weight = exact.head_weight.detach().requires_grad_()
    plain_cross_entropy(hidden, weight, batch.targets, batch.weights).backward()
    only_head.copy_(weight.grad)
    assert float((theirs[used] - only_head[used]).norm()) > 0.1 * float(theirs[used].norm())  # the other use matters
    assert all(torch.allclose(theirs[i], only_head[i], atol=1e-5) for i in unused)


@pytest.mark.parametrize("name", ["gpt2", "modern-nano", "fast-nano"])
def test_every_family_learns_a_line_by_heart(train, name) -> None:
    config = ModelConfig(**preset(name) | {"vocab_size": 29, "context": 12, "n_layer": 2, "d_model": 32, "n_head": 4})
    ids = torch.arange(13).repeat(4, 1) * 7 % 29
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(4, 12))
    settings = OptimizerSettings(kind="muon", lr=0.02, embedding_lr=0.02)
    done = train(steps=40, config=config, optimizer=settings, objective=NextToken(), batches=lambda step: batch)
    assert done.losses[0] == pytest.approx(math.log(29), abs=0.6)
    assert done.losses[-1] < 0.2


def test_resumes_counting_where_the_run_stands(tmp_path, make_batch) -> None:
    asked: list[int] = []

    def batches(step: int) -> Batch:
        asked.append(step)
        return make_batch(step)

    model = Transformer.initialised(CONFIG, seed=4)
    run = Run.create(tmp_path / "run", LoopSettings(steps=5))
    run.state.step = 3
    fit(run, NextToken(), batches, model, Optimizer(model, OptimizerSettings()), [])
    assert asked == [3, 4]
    assert not model.training
