"""Models that are born spread over processes: no process ever holds more than its part and one whole tensor."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.model.init import Draw, init_weights
from gptloom.model.transformer import Transformer
from gptloom.train.parallel import Parallel, local, own_part


def fresh_model(config: ModelConfig, seed: int, parallel: Parallel, dtype: torch.dtype) -> Transformer:
    """An untrained model in fp32, the same whatever ``parallel`` makes of it; ``dtype``: what it will compute in."""
    if not parallel.sharded:
        model = Transformer.initialised(config, seed).to(parallel.device)
        parallel.prepare(model, dtype)
        return model
    model = empty_model(config, parallel, dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        init_weights(model, _draw_whole)
    return model


def model_from(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, parallel: Parallel, dtype: torch.dtype
) -> Transformer:
    """A model of the fp32 weights that ``tensors`` gives one at a time, by parameter name, all of them."""
    model = empty_model(config, parallel, dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, full in tensors:
            parameter = parameters.pop(name)
            local(parameter).copy_(own_part(full, parameter))
    assert not parameters, f"no tensors for {sorted(parameters)[:3]}"
    return model


def empty_model(config: ModelConfig, parallel: Parallel, dtype: torch.dtype) -> Transformer:
    """A model spread by ``parallel`` whose weights have memory and no values yet."""
    with torch.device("meta"):
        model = Transformer(config)
    parallel.prepare(model, dtype)
    return model.to_empty(device="cpu" if parallel.offload else parallel.device)


def _draw_whole(parameter: Tensor, draw: Draw) -> None:
    whole = torch.empty(parameter.shape)
    draw(whole)
    local(parameter).copy_(own_part(whole, parameter))
