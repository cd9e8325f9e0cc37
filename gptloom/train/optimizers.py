"""AdamW and Muon over the fp32 masters, behind one small face: step, clip, state in and out as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gptloom.train.muon import Muon
from gptloom.train.parallel import Parallel, local
from gptloom.train.precision import LossScale, Masters


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates are those at the top of the schedule.

    With ``muon`` the hidden matrices go to Muon with ``lr`` (its update scaled to AdamW's usual size, Liu et al. 2025,
    section 2.2) and everything else to AdamW: embeddings and head with ``embedding_lr``, vectors with ``lr``.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 6e-4
    embedding_lr: float | None = None  # None: as lr
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95


class Optimizer:
    """Updates a model in place. ``masters`` maps parameter names to fp32 tensors; only those that require grad move."""

    def __init__(
        self,
        model: nn.Module,
        settings: OptimizerSettings,
        dtype: torch.dtype = torch.float32,
        parallel: Parallel | None = None,
        lr_factor: Callable[[str], float] | None = None,
    ) -> None:
        """``lr_factor``: of the parameter of that name, on top of the settings' rate (default: 1 for all)."""
        self.parallel = parallel or Parallel.alone()
        self.masters = Masters(model, dtype, self.parallel.sharded)
        trained = {name: tensor for name, tensor in self.masters.tensors.items() if tensor.requires_grad}
        if not trained:
            raise ValueError("no parameter requires a gradient")
        self.trained = trained
        self.parallel.watch(model, self.masters.tensors)
        self._parts = _build(trained, settings, self.parallel, lr_factor)
        self.loss_scale = LossScale() if dtype == torch.float16 else None
        self.overflowed = (
            False  # whether the gradients of this step were too large for fp16, and scaling lower may help
        )
        for part in self._parts:
            for group in part.param_groups:
                group["top_lr"] = group["lr"]

    @property
    def lr(self) -> float:
        """Of the first group, at the last step taken."""
        return float(self._parts[0].param_groups[0]["lr"])

    @property
    def top_lr(self) -> float:
        """Of the first group, where the schedule's factor is 1."""
        return float(self._parts[0].param_groups[0]["top_lr"])

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Adds the gradients of ``loss`` to the masters'; in fp16 scaled up, so that small ones don't vanish.

        ``last``: no other backward pass of this step follows, gradients may go to the other processes.
        """
        self.parallel.before_backward(last)
        (loss if self.loss_scale is None else loss * self.loss_scale.scale).backward()

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Global L2 norm of the masters' gradients, fp32; call it once a step, after the last ``backward``.

        From then on the gradients are those of all processes.
        """
        self.parallel.finish_gradients(self.masters.tensors)
        if self.loss_scale is not None:
            self.scale_gradients(1 / self.loss_scale.scale)
        grads = [tensor.grad for tensor in self.trained.values() if tensor.grad is not None]
        norms = list(torch._foreach_norm([local(grad) for grad in grads]))
        if self.parallel.sharded:
            norm = torch.tensor(self.parallel.norm_squared(norms, grads)).sqrt()
        else:
            norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.loss_scale is not None:
            finite = bool(torch.isfinite(norm))
            self.overflowed = not finite and self.loss_scale.scale > 1
            self.loss_scale.update(overflowed=not finite)
        return norm

    @torch.no_grad()
    def scale_gradients(self, factor: Tensor | float) -> None:
        torch._foreach_mul_([local(tensor.grad) for tensor in self.trained.values() if tensor.grad is not None], factor)

    def zero_grad(self) -> None:
        for tensor in self.trained.values():
            tensor.grad = None

    def step(self, factor: float = 1.0) -> None:
        """One update with every learning rate times ``factor``; the model's compute copy follows."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["top_lr"] * factor
            part.step()
        self.masters.refresh()

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything the optimizer remembers, as ``parameter name/quantity`` -> tensor."""
        names = {id(tensor): name for name, tensor in self.trained.items()}
        return {
            f"{names[id(parameter)]}/{key}": value
            for part in self._parts
            for parameter, state in part.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of ``state_tensors``: all that was remembered before is forgotten, and ``tensors`` are taken over.

        ValueError when names or shapes don't belong to this optimizer.
        """
        unknown = {key for key in tensors if key.rsplit("/", 1)[0] not in self.trained}
        if unknown:
            raise ValueError(f"optimizer state for unknown parameters: {', '.join(sorted(unknown)[:3])}")
        for part in self._parts:
            part.state.clear()
        owner = {id(p): part for part in self._parts for group in part.param_groups for p in group["params"]}
        for key, value in tensors.items():
            name, quantity = key.rsplit("/", 1)
            parameter = self.trained[name]
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(f"optimizer state {key} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
            device = "cpu" if quantity == "step" and parameter.device.type == "cpu" else parameter.device
            owner[id(parameter)].state[parameter][quantity] = value.to(device)


def _build(
    trained: dict[str, Tensor],
    settings: OptimizerSettings,
    parallel: Parallel,
    lr_factor: Callable[[str], float] | None,
) -> list[torch.optim.Optimizer]:
    """Weight decay on tensors of two or more dimensions only, as nanoGPT, llm.c and the GPT papers have it."""
    wide = {name: tensor for name, tensor in trained.items() if tensor.ndim >= 2}
    vectors = [tensor for name, tensor in trained.items() if tensor.ndim < 2]
    hidden = [tensor for name, tensor in wide.items() if name.startswith("blocks.")]
    outer = [tensor for name, tensor in wide.items() if not name.startswith("blocks.")]
    outer_lr = settings.lr if settings.embedding_lr is None else settings.embedding_lr
    groups: list[dict[str, Any]] = [
        {"params": outer, "lr": outer_lr, "weight_decay": settings.weight_decay},
        {"params": vectors, "lr": settings.lr, "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = []
    if settings.kind == "muon" and hidden:
        assert lr_factor is None, "layer-wise rates are for AdamW"
        everyone = dist.group.WORLD if parallel.world.size > 1 else None
        waiting = parallel.timer.phase("communication")
        parts.append(Muon(hidden, settings.lr, settings.weight_decay, settings.momentum, everyone, waiting))
    else:
        groups.insert(0, {"params": hidden, "lr": settings.lr, "weight_decay": settings.weight_decay})
    groups = [group for group in groups if group["params"]]
    if lr_factor is not None:
        names = {id(tensor): name for name, tensor in trained.items()}
        groups = [part for group in groups for part in _by_factor(group, lambda tensor: lr_factor(names[id(tensor)]))]
    if groups:
        betas = (settings.beta1, settings.beta2)
        fused = trained[next(iter(trained))].device.type in ("cpu", "cuda")
        parts.append(torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=fused))
    return parts


def _by_factor(group: dict[str, Any], factor: Callable[[Tensor], float]) -> list[dict[str, Any]]:
    """The parameters of ``group`` in groups of one learning rate each, the highest first."""
    factors = sorted({factor(tensor) for tensor in group["params"]}, reverse=True)
    return [
        {**group, "params": [tensor for tensor in group["params"] if factor(tensor) == own], "lr": group["lr"] * own}
        for own in factors
    ]
