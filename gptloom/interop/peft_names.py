"""Where PEFT keeps the adapters of our layers: the names and shapes that a layout's own rules say, and no second table.

Where a layout fuses queries, keys and values, PEFT has one adapter for the three: their As lie below each other, and B
is 0 but where the rows of a part meet the columns of its A.

Legend: I inputs and O outputs of a layer, r rank of an adapter, R of the fused one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.model.layouts import layout_for
from gptloom.model.layouts.layout import Rule
from gptloom.model.lora import adaptable
from gptloom.model.transformer import Transformer


@dataclass(frozen=True)
class Place:
    """A layer of a Hugging Face model that may have an adapter, and what it holds of ours.

    Attributes:
        module: its name, as the layout's rules spell it.
        ours: the names of our modules.
        outputs: how many each of them has.
        inputs: I, the same for all.
        transposed: whether the matrix is stored [I, O] (Conv1D).
    """

    module: str
    ours: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int
    transposed: bool
    rule: Rule

    def fuse(self, parts: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Our module -> (A [r, I], B [O, r]), of one or more of ``ours`` -> A [R, I] and B [all O, R] as PEFT has them."""
        below = torch.cat([parts[name][0] for name in self.ours if name in parts])
        columns, start = [], 0
        for name, outputs in zip(self.ours, self.outputs, strict=True):
            own = below.new_zeros(outputs, len(below))
            if name in parts:
                b = parts[name][1]
                own[:, start : start + b.shape[1]] = b
                start += b.shape[1]
            columns.append(own)
        rows = self.rule.write(columns)
        return below, rows.T if self.transposed else rows

    def split(self, a: Tensor, b: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The way back: our module -> (A, B), with what only works in another module left out; those without any are."""
        rows = self.rule.read(b.T if self.transposed else b)
        idle = ~b.any(dim=0)  # columns that work nowhere, as all do before training: everyone keeps them
        found = {}
        for name, own in zip(self.ours, rows, strict=True):
            kept = own.any(dim=0) | idle
            if kept.any():
                found[name] = a[kept], own[:, kept]
        return found


def places(config: ModelConfig) -> dict[str, Place]:
    """Their module -> what it holds, for every layer of ``config``'s layout that may have an adapter."""
    with torch.device("meta"):
        layers = adaptable(Transformer(config))
    found = {}
    for rule in layout_for(config).rules(config):
        ours = tuple(name.removesuffix(".weight") for name in rule.ours)
        if not all(name in layers for name in ours):  # norms, embeddings, and biases, which keep their ending
            continue
        outputs = tuple(layers[name].out_features for name in ours)
        probe = rule.write([torch.empty(size, 1, device="meta") for size in outputs])
        module = rule.theirs.removesuffix(".weight")
        found[module] = Place(module, ours, outputs, layers[ours[0]].in_features, probe.shape[0] == 1, rule)
    return found


def modules_of(config: ModelConfig) -> list[str]:
    """Every module of theirs with a matrix, as it is written; with the heads that a class may have beside ``config``'s."""
    layout = layout_for(config)
    with_heads = config.model_copy(update={"pooler": True, "pair_head": True, "masked_head": True})
    weights = (rule.theirs for rule in layout.rules(with_heads) if rule.theirs.endswith(".weight"))
    return [layout.written(name, config).removesuffix(".weight") for name in weights]


def short_names(wanted: Iterable[str], modules: Sequence[str]) -> list[str]:
    """The shortest ends of the names ``wanted`` that fit no other of ``modules``; PEFT compares ends at a dot."""
    chosen = set(wanted)
    found: dict[str, None] = {}
    for name in chosen:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        fitting = (end for end in ends if all(other in chosen for other in modules if ends_in(other, end)))
        found[next(fitting)] = None
    return sorted(found)


def ends_in(name: str, end: str) -> bool:
    """Whether ``end`` is ``name``, or what follows one of its dots."""
    return name == end or name.endswith(f".{end}")
