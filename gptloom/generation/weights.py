"""Inference copies of a model: weights in fp32, bf16 or int8, and a compiled step for a single row.

Decoding one row multiplies every weight once, so its speed is that of reading them from memory. Library matrix products
are made for many rows and read at less than half of that speed when there is one; a multiply-and-sum that
``torch.compile`` turns into one loop reads at full speed. Without a compiler the library's products are used.

Legend: B rows, D inputs, O outputs, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from types import FunctionType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.errors import Problem, UserError
from gptloom.model.attention import LayerCache, Sight
from gptloom.model.block import Block
from gptloom.model.cache import BUCKET, KVCache
from gptloom.model.counting import count_parameters
from gptloom.model.dtypes import DTYPES
from gptloom.model.transformer import Transformer, softcap
from gptloom.observe.machine import find_compiler, has_fast_bf16

Precision = Literal["fp32", "bf16", "fp16", "int8"]
COMPILE_PARAMETERS = 30_000_000  # below, weights stay in the processor's cache and reading them costs little
COMPILE_TOKENS = 2_000  # what compiling costs, tens of seconds, is won back after about this many tokens of one row
INT8_ROWS = 16  # up to this many rows the packed int8 product is used, beyond it weights are widened first


def one_row_product(weight: Tensor, x: Tensor) -> Tensor:
    """weight [O, D] times the one row x [..., D] -> [O], summed in fp32; meant to be compiled.

    ``as_strided`` makes the compiler store x first: otherwise it folds whatever made x (a norm, an activation) into the
    loop and computes it again for each of the O outputs.
    """
    width = weight.shape[1]
    row = x.as_strided((1, width), (width, 1))
    return (weight.float() * row.float()).sum(-1)


def _is_one_row(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.numel() == x.shape[-1]


class RowLinear(nn.Linear):
    """A linear layer that reads its weights at memory speed when a compiled step gives it one row."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_one_row(x):
            return super().forward(x)
        y = one_row_product(self.weight, x)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


class Int8Linear(nn.Module):
    """A linear layer of int8 weights [O, D] with one scale per output: w ≈ weight · scale, symmetric."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if _is_one_row(x):
            y = (one_row_product(self.weight, x) * self.scale).to(x.dtype).view(*x.shape[:-1], -1)
        elif x.device.type == "cpu" and x.numel() <= INT8_ROWS * x.shape[-1]:
            y = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
            y = y.view(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class Int8Embedding(nn.Module):
    """The embedding that shares its int8 table [V, D] and scales [V] with a tied head."""

    def __init__(self, head: Int8Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, ids: Tensor) -> Tensor:
        return self.head.weight[ids].to(self.head.scale.dtype) * self.head.scale[ids][..., None]


def quantise(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Int8Linear:
    """Rounds each row of weight [O, D] to 255 even steps up to its largest magnitude; ``dtype`` is what it works in."""
    wide = weight.float()
    scale = wide.abs().amax(1).clamp(min=1e-12) / 127
    rounded = (wide / scale[:, None]).round().to(torch.int8)
    return Int8Linear(rounded, scale.to(dtype), None if bias is None else bias.to(dtype))


def _one_row_block(
    block: Block, x: Tensor, rotary: tuple[Tensor, Tensor] | None, sight: Sight, cache: LayerCache
) -> Tensor:
    return block(x, rotary, sight, cache)


def _one_row_head(head: nn.Module, hidden: Tensor) -> Tensor:
    return head(hidden)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` compiled with a code object of its own: torch counts graphs per code object and gives up at eight, which
    a process that opens several models would reach. dynamic=False: only what is marked as dynamic may vary; all other
    sizes stay numbers, which the loops need to be fast."""
    assert isinstance(function, FunctionType)
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(own, dynamic=False)


class DecodeBlock(nn.Module):
    """A block that hands a single row to the compiled step once there is one."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self.one_row: Callable[..., Tensor] | None = None  # shared by all blocks of a model

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        sight: Sight,
        cache: LayerCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        if self.one_row is not None and cache is not None and x.shape[:2] == (1, 1):
            assert sight.visible is not None
            # How much is read, and how long the cache is, may vary without a new graph.
            for tensor, axis in ((sight.visible, 3), (cache.k, 2), (cache.v, 2)):
                torch._dynamo.mark_dynamic(tensor, axis)
            return self.one_row(self.block, x, rotary, sight, cache)
        return self.block(x, rotary, sight, cache, weights)


class InferenceModel(nn.Module):
    """A model for decoding only: no dropout, no gradients, its weights kept in ``precision``; made by ``prepare``."""

    def __init__(self, body: Transformer, output: nn.Module, precision: Precision, parameters: int) -> None:
        super().__init__()
        self.config = body.config
        self.body = body
        self.output = output
        self.precision = precision
        self.parameter_count = parameters
        self._one_row_head: Callable[..., Tensor] | None = None
        scale = output.scale if isinstance(output, Int8Linear) else output.weight
        assert isinstance(scale, Tensor)
        self.vocab_size = len(scale)
        self.dtype = scale.dtype  # of hidden states and the KV cache
        self.device = scale.device

    @property
    def compiled(self) -> bool:
        """Whether a single row takes the compiled step."""
        return self._one_row_head is not None

    @torch.no_grad()
    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, cache: KVCache | None = None, reach: int | None = None
    ) -> Tensor:
        """ids [B, T] -> hidden states [B, T, D]; see ``Transformer.hidden``."""
        return self.body.hidden(ids, positions, cache=cache, reach=reach)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V] in fp32."""
        if self._one_row_head is not None and hidden.numel() == hidden.shape[-1]:
            # A copy, so that the row's place in a larger tensor, its strides and its shape don't make new graphs.
            scores = self._one_row_head(self.output, hidden.flatten().clone()).view(*hidden.shape[:-1], -1)
        else:
            scores = self.output(hidden)
        return softcap(scores.float(), self.config.logit_softcap)

    def next_logits(self, ids: Tensor, positions: Tensor, cache: KVCache, reach: int) -> Tensor:
        """One decoding step: ids, positions [B] -> logits [B, V] in fp32. ``reach``: 1 + the largest position."""
        return self.logits(self.hidden(ids[:, None], positions[:, None], cache, reach)[:, 0])

    def make_cache(self, batch: int, length: int) -> KVCache:
        """Room for ``length`` tokens in ``batch`` rows, rounded up and with a bucket to spare, so that what is read is
        always less than the whole: the compiled step then needs no second variant for the case that both are equal."""
        return KVCache(self.config, batch, -(-length // BUCKET) * BUCKET + BUCKET, self.dtype, self.device)

    def compile(self) -> bool:  # type: ignore[override]
        """Compiles the step for a single row: two graphs, whatever the lengths. Without a working compiler the model stays
        as it is, a warning says why, and the answer is False. ``UserError`` on anything but a CPU."""
        if self.compiled:
            return True
        if self.device.type != "cpu":
            what = f"the compiled step for one row is made for CPUs, and the model is on {self.device.type}"
            raise UserError(Problem(what, mend="--no-compile"))
        self._set_one_row(_compiled(_one_row_block), _compiled(_one_row_head))
        try:
            token = torch.zeros(1, dtype=torch.long)
            self.next_logits(token, token, self.make_cache(1, BUCKET), reach=1)
        except Exception as error:  # compilers fail in many ways, and none of them should cost the user the answer
            self._set_one_row(None, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, decoding goes on without it: {reason}", stacklevel=2)
        return self.compiled

    def _set_one_row(self, block_step: Callable[..., Tensor] | None, head: Callable[..., Tensor] | None) -> None:
        self._one_row_head = head
        for block in self.body.blocks:
            assert isinstance(block, DecodeBlock)
            block.one_row = block_step

    def pays_to_compile(self, tokens: int) -> bool:
        """Whether compiling is won back over ``tokens`` decoded in a single row: on a CPU with a C++ compiler, from
        30M parameters and 2,000 tokens."""
        big = self.parameter_count >= COMPILE_PARAMETERS and tokens >= COMPILE_TOKENS
        return big and self.device.type == "cpu" and find_compiler() is not None


@torch.no_grad()
def prepare(model: Transformer, precision: Precision = "fp32", vocab_size: int | None = None) -> InferenceModel:
    """An inference copy of ``model``, on its device.

    In the model's own precision weights are shared, not copied, so that the copy follows a model that is being trained;
    otherwise they are converted once. ``vocab_size`` leaves out the spare rows of a head that is larger than its
    tokenizer's vocabulary: they are not tokens, and probabilities add up to 1 without them.
    """
    share: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    body = deepcopy(model, share).eval()
    if precision == "int8":
        dtype = torch.bfloat16 if has_fast_bf16(model.head_weight.device) else torch.float32
    else:
        dtype = DTYPES[precision]
    output = _linear(model.head_weight[:vocab_size], None, dtype, precision)
    _convert(body, dtype, precision)
    if model.head is None:
        if isinstance(output, Int8Linear):
            body.embedding = Int8Embedding(output)  # type: ignore[assignment]
        else:
            body.embedding.weight = output.weight  # type: ignore[assignment]
    body.head = None  # ``output`` has its place
    body.blocks = nn.ModuleList(DecodeBlock(block) for block in body.blocks)  # type: ignore[arg-type]
    return InferenceModel(body, output, precision, count_parameters(model.config).total)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, precision: Precision) -> nn.Module:
    if precision == "int8":
        return quantise(weight, bias, dtype)
    with torch.device("meta"):
        linear = RowLinear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return linear


def _convert(module: nn.Module, dtype: torch.dtype, precision: Precision) -> None:
    """Replaces every linear layer under ``module``, except a head of its own, and casts all other parameters."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and name != "head":
            setattr(module, name, _linear(child.weight, child.bias, dtype, precision))
        else:
            _convert(child, dtype, precision)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
