"""Every strategy is the same training: losses, gradient norms and weights of one process, within rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.train.assemble import fresh_model, model_from
from gptloom.train.loop import forward_backward
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel, check_heads, check_rows, check_world, local, own_part
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.validation import validate
from gptloom.train.world import World

SHAPE = {"vocab_size": 61, "context": 12, "n_layer": 2, "n_head": 4, "d_model": 32, "d_ff": 64}
GPT2 = {"family": "gpt2", "norm": "layernorm", "qk_norm": "none", "positions": "learned", "activation": "gelu_tanh"}
FAST = {"family": "fast", "norm": "rmsnorm_plain", "qk_norm": "after_rotary", "activation": "relu2"}
FAMILIES = {
    "gpt2": {**SHAPE, **GPT2, "bias": True},
    "modern": {**SHAPE, "n_kv_head": 2},
    "fast": {**SHAPE, **FAST, "tied_head": False, "logit_softcap": 15.0, "embedding_norm": True},
}


def batch_of(step: int) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(61, (8, 13), generator=generator)
    weights = torch.rand(8, 12, generator=generator)
    weights[5:, :7] = 0  # ranks have different numbers of items: only global counts give the same loss
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)


def random_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Everywhere away from zero, so that no error can hide."""
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):
        model = Transformer(config)
    return {
        name: torch.randn(parameter.shape, generator=generator) * 0.2 + ("norm" in name)
        for name, parameter in model.named_parameters()
    }


def curve(world: World, family: str, strategy: str, tensor: int, kind: str, steps: int, dtype: str, micro: int) -> dict:
    """Losses, gradient norms and a validation loss of a short training."""
    torch.set_num_threads(1)
    config = ModelConfig(**FAMILIES[family])
    parallel = Parallel(world, strategy, torch.device("cpu"), tensor=tensor, recompute=strategy == "fsdp")
    number = getattr(torch, dtype)
    model = model_from(random_weights(config).items(), config, parallel, number)
    optimizer = Optimizer(model, OptimizerSettings(kind=kind, lr=3e-3), number, parallel)
    run = Run(Path("unused"), LoopSettings(steps, micro_batch=micro), RunState(), parallel)
    objective = NextToken(parallel.cross_entropy)
    losses, norms = [], []
    for step in range(steps):
        run.state.step = step
        losses.append(forward_backward(run, objective, batch_of(step), model, optimizer)["next_token"])
        norms.append(float(optimizer.gradient_norm()))
        optimizer.scale_gradients(1.0 / max(1.0, norms[-1]))
        optimizer.step()
        optimizer.zero_grad()
    held_out = validate(objective, model, [batch_of(90 + i) for i in range(3)], parallel=parallel)
    return {"losses": losses, "norms": norms, "valid": held_out.loss, "items": held_out.items}


CASES = {
    2: [("ddp", 1), ("fsdp", 1), ("ddp", 2)],
    4: [("ddp", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 2), ("hsdp", 1)],  # on two machines of two
}


def curves(world: World, kind: str, steps: int, dtype: str, families: list[str]) -> dict[str, dict]:
    """``curve`` of each family under every strategy that so many processes allow."""
    given = {"kind": kind, "steps": steps, "dtype": dtype, "micro": 1}
    return {
        f"{family} {strategy} {tensor}": curve(world, family, strategy=strategy, tensor=tensor, **given)
        for strategy, tensor in CASES[world.size]
        for family in families
    }


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "families"),
    [
        pytest.param(2, ["modern"], marks=slow),
        pytest.param(2, ["gpt2", "fast"], marks=slow),
        pytest.param(4, list(FAMILIES), marks=slow),
    ],
)
@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-5), pytest.param("muon", 1e-3, marks=slow)])
def test_every_strategy_has_the_curve_of_one_process(
    size: int, families: list[str], kind: str, tolerance: float
) -> None:
    given = {"kind": kind, "steps": 20, "dtype": "float32"}
    alone = {family: curve(World(), family, strategy="one", tensor=1, micro=8, **given) for family in families}
    for rank in run_ranks(curves, size, local_size=2, timeout=400, families=families, **given):
        for case, spread in rank.items():
            expected = alone[case.split()[0]]
            assert spread["losses"] == pytest.approx(expected["losses"], rel=tolerance), case
            assert spread["norms"] == pytest.approx(expected["norms"], rel=100 * tolerance), case
            assert spread["valid"] == pytest.approx(expected["valid"], rel=tolerance), case
            assert spread["items"] == expected["items"]


@slow
def test_whole_copies_in_bf16_are_as_near_as_bf16_is() -> None:
    given = {"kind": "adamw", "steps": 5, "dtype": "bfloat16"}
    alone = curve(World(), "modern", strategy="one", tensor=1, micro=1, **given)
    for rank in run_ranks(curves, 2, families=["modern"], **given):
        for case in ("modern ddp 1", "modern fsdp 1", "modern ddp 2"):
            assert rank[case]["losses"] == pytest.approx(alone["losses"], rel=1e-2), case


def fresh(world: World, strategy: str, tensor: int) -> dict[str, float]:
    """How far the fresh weights of a spread model are from those of a whole one."""
    parallel = Parallel(world, strategy, torch.device("cpu"), tensor=tensor)
    distances = {}
    for family, shape in FAMILIES.items():
        config = ModelConfig(**shape)
        whole = dict(Transformer.initialised(config, seed=3).named_parameters())
        for name, part in fresh_model(config, 3, parallel, torch.float32).named_parameters():
            distances[f"{family} {name}"] = float((local(part) - own_part(whole[name], part)).abs().sum())
            if name.endswith((".q.weight", ".down.weight", "embedding.weight")) and "position" not in name:
                assert local(part).numel() <= (whole[name].numel() + part.shape[1]) // 2
    return distances


@pytest.mark.slow
def test_a_fresh_model_is_the_same_however_it_is_spread() -> None:
    for rank in run_ranks(fresh, 2, strategy="ddp", tensor=2) + run_ranks(fresh, 2, strategy="fsdp", tensor=1):
        assert not any(rank.values())


@pytest.mark.parametrize(
    ("given", "message", "mend"),
    [
        ({"strategy": "fsdp"}, "only one process", "--processes 2"),
        ({"world": World(size=6, local_size=6), "tensor": 4}, "do not divide", "--tensor-parallel 1 or 2 or 3 or 6"),
        ({"world": World(size=4, local_size=4), "strategy": "hsdp"}, "there is one", "--strategy fsdp"),
        ({"world": World(size=2, local_size=2), "strategy": "fsdp", "offload": True}, "on the CPU", "leave it out"),
    ],
)
def test_what_cannot_be_spread_is_refused(given: dict, message: str, mend: str) -> None:
    given = {"world": World(), "strategy": None, "tensor": 1, "offload": False, **given}
    with pytest.raises(UserError, match=message) as refused:
        check_world(device=torch.device("cpu"), **given)
    assert refused.value.problems[0].mend == mend


def test_heads_and_rows_must_divide() -> None:
    with pytest.raises(UserError, match="does not divide n_kv_head 2") as refused:
        check_heads(ModelConfig(**FAMILIES["modern"]), 4)
    assert refused.value.problems[0].mend == "--tensor-parallel 1 or 2"
    with pytest.raises(UserError, match="cannot share a batch of 10 rows") as refused:
        check_rows(10, 64, 4)
    assert refused.value.problems[0].mend == "--batch-tokens 512, or 2 processes"
