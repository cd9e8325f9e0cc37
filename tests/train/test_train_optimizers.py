from __future__ import annotations

import math

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.model.transformer import Transformer
from gptloom.train.muon import Muon
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.precision import LossScale, choose_device, choose_dtype

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)


def tiny() -> Transformer:
    return Transformer.initialised(CONFIG, seed=4)


def test_muon_moves_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = tiny()
    optimizer = Optimizer(model, OptimizerSettings(kind="muon", lr=0.02, embedding_lr=0.01))
    muon, adamw = optimizer._parts
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    in_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert in_muon == {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert in_adamw == set(names.values()) - in_muon
    rates = {names[id(p)]: group["lr"] for group in adamw.param_groups for p in group["params"]}
    assert rates["embedding.weight"] == 0.01 and rates["norm.weight"] == 0.02
    assert optimizer.lr == 0.02


def test_only_matrices_decay() -> None:
    for kind in ("adamw", "muon"):
        optimizer = Optimizer(tiny(), OptimizerSettings(kind=kind, weight_decay=0.3))
        for part in optimizer._parts:
            for group in part.param_groups:
                assert {group["weight_decay"]} == {0.3 if parameter.ndim >= 2 else 0.0 for parameter in group["params"]}


def test_masters_keep_updates_that_bf16_would_lose() -> None:
    """Near 1 the next number of bf16 is 1/128 away: a hundred steps of 1e-4 would all be rounded off."""
    model = tiny()
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
    optimizer = Optimizer(model, OptimizerSettings(lr=1e-4), torch.bfloat16)
    master = optimizer.masters.tensors["norm.weight"]
    assert model.norm.weight.dtype == torch.bfloat16 and master.dtype == torch.float32
    for _ in range(100):
        optimizer.backward(model.norm.weight.float().sum())
        optimizer.step()
        optimizer.zero_grad()
    assert master.mean().item() == pytest.approx(0.99, abs=1e-4)
    assert torch.equal(model.norm.weight, master.to(torch.bfloat16))
    lost = torch.tensor([1.0], dtype=torch.bfloat16)
    for _ in range(100):
        lost -= 1e-4
    assert lost.item() == 1.0


def test_micro_batches_are_summed_in_fp32() -> None:
    model = tiny()
    optimizer = Optimizer(model, OptimizerSettings(), torch.bfloat16)
    optimizer.backward((model.norm.weight * 256).sum())
    for _ in range(100):  # each too small to be seen beside 256 in bf16
        optimizer.backward((model.norm.weight * 0.5).sum())
    assert torch.allclose(optimizer.masters.tensors["norm.weight"].grad, torch.tensor(306.0))
    assert model.norm.weight.grad is None


def test_bf16_training_stays_near_fp32(train) -> None:
    settings = OptimizerSettings(lr=1e-3, eps=1e-3)
    wide = train(objective=NextToken(), optimizer=settings, steps=5)
    narrow = train(objective=NextToken(), optimizer=settings, steps=5, dtype=torch.bfloat16)
    assert narrow.losses == pytest.approx(wide.losses, rel=2e-2)
    assert all(tensor.dtype == torch.float32 for tensor in narrow.weights.values())


def test_frozen_parameters_do_not_move(train) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny()
        model.embedding.weight.requires_grad_(False)
        before = model.embedding.weight.detach().clone()
        done = train(model=model, dtype=dtype, objective=NextToken())
        assert torch.equal(done.weights["embedding.weight"], before)
        assert not torch.equal(done.weights["blocks.0.mlp.up.weight"], tiny().blocks[0].mlp.up.weight)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        Optimizer(model, OptimizerSettings())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_out_and_in_again(make_batch, kind: str) -> None:
    def step(model: Transformer, optimizer: Optimizer, number: int) -> None:
        optimizer.backward(NextToken().loss(model, make_batch(number))["next_token"] / 90)
        optimizer.step(0.5)
        optimizer.zero_grad()

    first = tiny()
    optimizer = Optimizer(first, OptimizerSettings(kind=kind))
    for number in range(3):
        step(first, optimizer, number)
    second = Transformer(CONFIG)
    second.load_state_dict(first.state_dict())
    copy = Optimizer(second, OptimizerSettings(kind=kind))
    copy.load_state_tensors({name: tensor.clone() for name, tensor in optimizer.state_tensors().items()})
    step(first, optimizer, 3)
    step(second, copy, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(value, copy.state_tensors()[key]) for key, value in optimizer.state_tensors().items())


def test_foreign_state_is_refused() -> None:
    optimizer = Optimizer(tiny(), OptimizerSettings())
    with pytest.raises(ValueError, match=r"unknown parameters: nothing\.weight/exp_avg"):
        optimizer.load_state_tensors({"nothing.weight/exp_avg": torch.zeros(3)})
    with pytest.raises(ValueError, match="shape"):
        optimizer.load_state_tensors({"norm.weight/exp_avg": torch.zeros(3)})


def test_loss_scale_halves_on_overflow_and_doubles_after_good_steps() -> None:
    scale = LossScale(scale=8.0, patience=3)
    for overflowed, expected in [(True, 4), (False, 4), (False, 4), (False, 8), (False, 8), (True, 4), (False, 4)]:
        scale.update(overflowed)
        assert scale.scale == expected
    assert scale.good_steps == 1
    for _ in range(5):
        scale.update(True)
    assert scale.scale == 1.0


def test_fp16_leaves_overflowing_steps_out_without_a_guard(train) -> None:
    """Scaled by 2^40 every gradient is infinite in fp16: the first steps only find a scale that fits."""
    before = tiny()

    class High(Optimizer):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.loss_scale.scale = 2.0**40

    done = train(dtype=torch.float16, objective=NextToken(), steps=40, make_optimizer=High)
    norms = [event["grad_norm"] for event in done.seen if event["type"] == "train"]
    overflows = [norm is None or not math.isfinite(norm) for norm in norms]
    assert overflows[0] and not overflows[-1]
    assert sum(overflows) > done.run.guard.patience
    assert not [event for event in done.seen if event["type"] == "guard"]
    assert done.optimizer.loss_scale.scale == 2.0 ** (40 - sum(overflows))
    assert done.losses[-1] < done.losses[0]
    assert not torch.equal(done.weights["embedding.weight"], before.embedding.weight)


def test_the_gradient_norm_is_that_of_torch(make_batch) -> None:
    model = tiny()
    optimizer = Optimizer(model, OptimizerSettings())
    optimizer.backward(NextToken().loss(model, make_batch(0))["next_token"])
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert float(optimizer.gradient_norm()) == pytest.approx(float(expected), rel=1e-6)


def test_devices_and_precisions(monkeypatch) -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == cpu
    with pytest.raises(UserError, match="no cuda device on this machine; found cpu"):
        choose_device("cuda")
    assert choose_dtype("bf16", cpu) == (torch.bfloat16, "asked for")
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_bf16=has_bf16: has_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert choose_dtype("auto", cpu)[0] == expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_dtype("auto", torch.device("cuda"))[0] == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert choose_dtype("auto", torch.device("cuda"))[0] == torch.bfloat16
