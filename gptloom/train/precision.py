"""Which numbers a model computes in here, and the fp32 masters that the optimizer keeps beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptloom.config.errors import Problem, UserError
from gptloom.model.dtypes import DTYPES
from gptloom.observe.machine import has_fast_bf16


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else Apple's GPU, else the CPU. UserError when the device asked for is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there[name]:
        found = " and ".join(kind for kind, ok in there.items() if ok)
        raise UserError(Problem(f"no {name} device on this machine; found {found}", mend="--device auto"))
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The compute dtype and why. ``auto``: bf16 only where the hardware multiplies bf16 fast."""
    if name != "auto":
        return DTYPES[name], "asked for"
    if has_fast_bf16(device):
        return torch.bfloat16, f"this {'GPU' if device.type == 'cuda' else 'CPU'} multiplies bf16 fast"
    if device.type == "cuda":
        return torch.float16, "this GPU has no fast bf16: fp16 with loss scaling"
    return torch.float32, f"this {device.type.upper()} has no fast bf16"


def use_threads(threads: int | None) -> None:
    """Lets torch compute with so many CPU threads; None: as many as it chose itself, the physical cores."""
    if threads is not None:
        torch.set_num_threads(threads)


class Masters:
    """fp32 masters of a model's parameters; the model itself is their copy in the compute dtype.

    A gradient moves to its master's ``grad`` as soon as autograd has finished it (summed in fp32 over micro-batches),
    so that gradients in the compute dtype never exist all at once. When computing in fp32 (or fp64) the parameters are
    their own masters and nothing is copied; neither where sharding keeps fp32 shards and makes the copies itself.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, sharded: bool = False) -> None:
        self.separate = dtype in (torch.bfloat16, torch.float16) and not sharded
        named = dict(model.named_parameters())
        self.tensors: dict[str, Tensor] = dict(named)
        self._copies: list[tuple[Tensor, Tensor]] = []
        if not self.separate:
            return
        for name, parameter in named.items():
            master = parameter.detach().float().clone().requires_grad_(parameter.requires_grad)
            parameter.data = master.detach().to(dtype)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._mover(master))
            self.tensors[name] = master
            self._copies.append((parameter, master))

    @staticmethod
    def _mover(master: Tensor):  # type: ignore[no-untyped-def]
        def move(parameter: Tensor) -> None:
            assert parameter.grad is not None
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

        return move

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the masters into the model, after an optimizer step or a load."""
        if self._copies:
            torch._foreach_copy_([copy for copy, _ in self._copies], [master for _, master in self._copies])


@dataclass
class LossScale:
    """Dynamic loss scaling for fp16: halved when a gradient overflows, doubled after ``patience`` good steps."""

    scale: float = 2.0**16
    good_steps: int = 0
    patience: int = 2000

    def update(self, overflowed: bool) -> None:
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps == self.patience:
            self.scale, self.good_steps = self.scale * 2, 0
