"""Initial weights, as the papers and reference code have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.block import Block
from gptloom.model.norm import LayerNorm, RMSNorm

if TYPE_CHECKING:
    from gptloom.model.transformer import Transformer

Draw = Callable[[Tensor], Any]  # fills a tensor in place
Fill = Callable[[Tensor, Draw], Any]


def in_place(parameter: Tensor, draw: Draw) -> None:
    """The whole parameter is here: it is drawn where it lies."""
    draw(parameter)


def init_weights(model: Transformer, fill: Fill = in_place) -> None:
    """Sets every parameter of ``model`` from the global generator, by ``model.config.init``, in the order of its modules.

    ``fill(parameter, draw)`` puts what ``draw`` makes of a tensor of that shape into the parameter: a model of which
    only parts are here draws each tensor whole, so that its values don't depend on how it is cut.
    """
    normal = _INITS[model.config.init](model)
    for module in model.modules():
        if isinstance(module, LayerNorm | RMSNorm) and module.weight is not None:
            fill(module.weight, nn.init.ones_)
        if isinstance(module, nn.Linear | nn.Embedding):
            fill(module.weight, normal(module))
        if isinstance(module, nn.Linear | LayerNorm) and module.bias is not None:
            fill(module.bias, nn.init.zeros_)
    if model.masked_head is not None:
        fill(model.masked_head.bias, nn.init.zeros_)
    if model.task_head is not None:  # N(0, 0.02) in every family (GPT-1, train.py; BERT, run_classifier.py)
        fill(model.task_head.score.weight, _normal(0.02))


def output_std(config: ModelConfig) -> float:
    """Standard deviation of a fresh output matrix, which is the embedding where the head is tied."""
    if config.init == "modern":
        return min(0.02, 2.56 / config.d_model) if config.tied_head else 0.0
    return {"fast": 0.001, "neox": math.sqrt(2 / (5 * config.d_model))}.get(config.init, 0.02)


def _normal(std: float) -> Draw:
    return partial(nn.init.normal_, std=std)


def _residual_outputs(model: Transformer) -> set[nn.Module | None]:
    """The layers that write into the residual stream."""
    outputs: set[nn.Module | None] = set()
    for block in model.blocks:
        assert isinstance(block, Block)
        outputs |= {block.attention.out, block.mlp.down}
    return outputs


def _gpt1(model: Transformer) -> Callable[[nn.Module], Draw]:
    """N(0, 0.02) everywhere: norms after each branch keep the stream in hand (GPT-1 paper, section 4.1)."""
    return lambda module: _normal(0.02)


def _bert(model: Transformer) -> Callable[[nn.Module], Draw]:
    """N(0, 0.02) without what lies beyond two standard deviations (google-research/bert, modeling.py)."""
    return lambda module: partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04)


def _neox(model: Transformer) -> Callable[[nn.Module], Draw]:
    """N(0, sqrt(2 / (5 D))), residual outputs N(0, 2 / (L sqrt(D))) (GPT-NeoX-20B, Black et al. 2022, section 2.1)."""
    outputs, width = _residual_outputs(model), model.config.d_model
    inner, output = math.sqrt(2 / (5 * width)), 2 / (model.config.n_layer * math.sqrt(width))
    return lambda module: _normal(output if module in outputs else inner)


def _gpt2(model: Transformer) -> Callable[[nn.Module], Draw]:
    """N(0, 0.02), residual outputs N(0, 0.02 / sqrt(2 L)), biases 0 (GPT-2 paper, section 2.3)."""
    outputs = _residual_outputs(model)
    return lambda module: _normal(0.02 / math.sqrt(2 * model.config.n_layer) if module in outputs else 0.02)


def _modern(model: Transformer) -> Callable[[nn.Module], Draw]:
    """Embedding N(0, 0.02), inputs of a branch N(0, 1/sqrt(fan in)), residual outputs 0: every block starts as identity.

    A tied head meets each token's own normed embedding, a score of D std: above 128 channels the embedding is smaller,
    or the model would begin by being sure that every token repeats.
    """
    zero = _residual_outputs(model) | {model.head}
    embedding_std = output_std(model.config) if model.config.tied_head else 0.02

    def draw(module: nn.Module) -> Draw:
        if isinstance(module, nn.Embedding):
            return _normal(embedding_std)
        assert isinstance(module, nn.Linear)
        return nn.init.zeros_ if module in zero else _normal(module.in_features**-0.5)

    return draw


def _fast(model: Transformer) -> Callable[[nn.Module], Draw]:
    """Embedding N(0, 1) (a norm follows), branch inputs uniform with std 1/sqrt(D), residual outputs 0, head N(0, 0.001)."""
    outputs = _residual_outputs(model)
    bound = math.sqrt(3 / model.config.d_model)

    def draw(module: nn.Module) -> Draw:
        if isinstance(module, nn.Embedding):
            return _normal(1.0)
        if module is model.head:
            return _normal(output_std(model.config))
        return nn.init.zeros_ if module in outputs else partial(nn.init.uniform_, a=-bound, b=bound)

    return draw


_INITS: dict[str, Callable[[Transformer], Callable[[nn.Module], Draw]]] = {
    **{"gpt1": _gpt1, "gpt2": _gpt2, "neox": _neox, "bert": _bert},
    **{"modern": _modern, "fast": _fast},
}
