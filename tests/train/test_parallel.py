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
from gptloom.train.parallel import Parallel, check_heads, local, own_part
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


STRATEGIES = [("ddp", 2, 1), ("fsdp", 2, 1), ("ddp", 2, 2), ("ddp", 4, 2), ("fsdp", 4, 2), ("fsdp", 4, 1), ("ddp", 4, 1)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("strategy", "size", "tensor"), STRATEGIES)
def test_every_strategy_has_the_curve_of_one_process(family, strategy, size, tensor) -> None:
    arguments = {"family": family, "kind": "adamw", "steps": 20, "dtype": "float32"}
    alone = curve(World(), strategy="one", tensor=1, micro=8, **arguments)
    for result in run_ranks(curve, size, strategy=strategy, tensor=tensor, micro=1, **arguments):
        assert result["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert result["norms"] == pytest.approx(alone["norms"], rel=1e-3)
        assert result["valid"] == pytest.approx(alone["valid"], rel=1e-5)
        assert result["items"] == alone["items"]
