"""Low-rank adapters (Hu et al. 2021, LoRA): a frozen matrix and, beside it, the product of two thin ones that learn.

``add_lora`` puts them in, ``merge_lora`` folds them into the matrices. Nothing here freezes anything: who trains decides.

Legend: N rows of an input, I inputs and O outputs of a layer, r rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.model.dropout import Dropout

TARGETS = ("q", "k", "v", "out", "up", "gate", "down")  # the matrices of our blocks
ALL = "all"
PARTS = ("lora_a", "lora_b")
_ELSEWHERE = {  # what other libraries' encoders and decoders call queries, keys and values
    "q": ("query", "q_proj", "query_proj", "q_lin"),
    "k": ("key", "k_proj", "key_proj", "k_lin"),
    "v": ("value", "v_proj", "value_proj", "v_lin"),
}


@dataclass(frozen=True)
class LoraConfig:
    """Which layers have an adapter, and of what shape.

    Attributes:
        rank: r.
        alpha: an adapter's output is scaled by alpha / r.
        dropout: of the adapters' inputs.
        target_modules: ``TARGETS``, ``all``, or ends of module names such as ``query`` or ``blocks.3.attention.q``.
        rank_pattern: module name -> its rank, where it is not ``rank``.
        alpha_pattern: module name -> its alpha, where it is not ``alpha``.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q", "v")
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, name: str) -> int:
        """The rank of the module ``name``."""
        return self.rank_pattern.get(name, self.rank)

    def alpha_of(self, name: str) -> float:
        """The alpha of the module ``name``."""
        return self.alpha_pattern.get(name, self.alpha)


class LoraLinear(nn.Linear):
    """y = x W^T + b + (alpha / r) dropout(x) A^T B^T (Hu et al. 2021, section 4.1).

    ``lora_a`` [r, I] and ``lora_b`` [O, r] stand beside ``weight`` [O, I] and ``bias``, which are those of ``linear``.
    W + B A is never formed: forward and backward cost four thin products more than the layer, and with a frozen W its
    gradient, a third of a layer's work, is not computed.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        self.lora_dropout = Dropout(dropout)
        self.lora_a = nn.Parameter(linear.weight.new_zeros(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, I] or [..., N, I] -> the same with O."""
        rows = x.flatten(0, -2)
        y = F.linear(rows, self.weight, self.bias)
        thin = F.linear(self.lora_dropout(rows), self.lora_a)
        # Into y itself, scaled on the way: no second [N, O] is written. Autocast does not look into such calls.
        y = y.addmm_(thin, self.lora_b.t().to(thin.dtype), alpha=self.scale)
        return y.view(*x.shape[:-1], self.out_features)

    def merged(self) -> nn.Linear:
        """The plain layer that computes the same, its matrix summed in fp32 at least."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.no_grad():
            change = self.lora_b.to(wide) @ self.lora_a.to(wide)
            weight = torch.add(self.weight.to(wide), change, alpha=self.scale).to(self.weight.dtype)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = nn.Parameter(weight, self.weight.requires_grad), self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, alpha={self.alpha}"


def add_lora(model: nn.Module, config: LoraConfig, seed: int) -> list[str]:
    """Gives the layers that ``config`` names an adapter that changes nothing yet; their names, in the order of the modules.

    A is drawn from U(-1/sqrt(I), 1/sqrt(I)) by ``seed`` alone, B is 0: as PEFT and the paper's own code begin. ``model``
    is ours or any other with ``nn.Linear`` in numbered blocks; its parameters stay where and what they are.

    Raises:
        UserError: a target that no layer is called by, with the nearest names and those that there are.
    """
    layers = adaptable(model)
    names = _chosen(config.target_modules, layers)
    drawn = torch.Generator().manual_seed(seed)
    for name in names:
        adapted = LoraLinear(layers[name], config.rank_of(name), config.alpha_of(name), config.dropout)
        bound = adapted.in_features**-0.5
        with torch.no_grad():
            adapted.lora_a.copy_(torch.empty(adapted.lora_a.shape).uniform_(-bound, bound, generator=drawn))
        _replace(model, name, adapted.train(layers[name].training))
    return names


def merge_lora(model: nn.Module) -> None:
    """Folds every adapter into its matrix, in fp32; what remains is plain ``nn.Linear``.

    A matrix in bf16 rounds the sum: bring fp32 masters into the model first.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            _replace(model, name, module.merged())


def is_lora(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return name.rpartition(".")[2] in PARTS


def adaptable(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that may have an adapter: plain ones in a numbered block; no head, pooler or embedding is."""
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        assert not isinstance(module, LoraLinear), f"{name} has an adapter already: merge it first"
        # A class derived from nn.Linear may be read in other ways than by calling it.
        if type(module) is nn.Linear and any(part.isdigit() for part in name.split(".")):
            found[name] = module
    return found


def _chosen(targets: Iterable[str], layers: Mapping[str, nn.Linear]) -> list[str]:
    """The names among ``layers`` that end in one of ``targets``."""
    problems, chosen = [], set()
    for target in targets:
        found = set(layers) if target == ALL else _ending_in([target], layers)
        if not found:
            found = _ending_in(_ELSEWHERE.get(target, ()), layers)
        if not found:
            problems.append(_unknown(target, layers))
        chosen |= found
    if problems:
        raise UserError(*problems)
    return [name for name in layers if name in chosen]


def _ending_in(targets: Iterable[str], layers: Iterable[str]) -> set[str]:
    return {name for name in layers for target in targets if name == target or name.endswith(f".{target}")}


def _unknown(target: str, layers: Iterable[str]) -> Problem:
    """The last part of a name says enough, but for those that are numbered or stand for more than one place."""
    known = sorted({_short(name) for name in layers})
    close = nearest(target, [*known, ALL])
    everything = (
        f"target modules of this model: {' '.join(known)}, or {ALL}" if known else "this model has no such layers"
    )
    mend = everything if close.startswith("known: ") else f"{close} ({everything})"
    return Problem(f"no layer of the blocks is called {target!r}", "--target-modules", mend)


def _short(name: str) -> str:
    """``query`` of ``encoder.layer.0.attention.self.query``, ``output.dense`` of a ``dense``, which says too little."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] == "dense" else parts[-1]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
