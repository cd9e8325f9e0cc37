"""Why a training was stopped: which tensors are harmed, the learning rate, the last gradient norms, and what to try.

Nothing of this is computed while all is well. Every process of a sharded model must ask at once: the norms are those of
whole tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptloom.train.guards import Verdict
from gptloom.train.optimizers import Optimizer
from gptloom.train.parallel import distinct_parts, local
from gptloom.train.run import Run
from gptloom.train.world import World

SHOWN = 3  # tensors named in each line
LARGE = 10.0
"""Root mean square from which weights are out of hand: matrices begin below 1, gains of norms at 1, and stay near it."""


@dataclass(frozen=True)
class Health:
    """One trained parameter in numbers; a norm is finite only where all numbers of the tensor are."""

    name: str
    value: float  # L2 norm
    count: int  # of its numbers
    gradient: float  # L2 norm; 0 where there is none
    usual: float  # the gradient norm that the optimizer remembers; 0 before the first update
    moments: dict[str, float]  # what the optimizer keeps for it (exp_avg, momentum_buffer ...): norms

    @property
    def rms(self) -> float:
        """The usual size of its numbers."""
        return self.value / math.sqrt(self.count)

    @property
    def growth(self) -> float:
        """How many times larger the gradient is than the optimizer remembers; 0 where it remembers nothing."""
        return self.gradient / self.usual if self.usual > 0 else 0.0


@dataclass(frozen=True)
class Setting:
    """What a suggestion depends on besides the tensors."""

    step: int  # the refused one; the first is 0
    finite: bool  # whether its loss and gradient norm are
    lr: float  # the highest of the run
    warmup: int  # its last step
    clip: float
    narrow: bool  # whether it computes in bf16 or fp16
    path: str = "RUN"


def examine(optimizer: Optimizer) -> list[Health]:
    """Every trained parameter in the order of the model. All processes call it together."""
    world, state = optimizer.parallel.world, optimizer.state_tensors()
    names = list(optimizer.trained)
    values = _sums([optimizer.trained[name] for name in names], 2, world)
    with_gradient = {name: tensor.grad for name, tensor in optimizer.trained.items() if tensor.grad is not None}
    gradients = dict(zip(with_gradient, _sums(list(with_gradient.values()), 2, world), strict=True))
    # The mean of squares is AdamW's memory of a gradient's size; its sum is the square of the usual norm.
    orders = {key: 1 if key.endswith("/exp_avg_sq") else 2 for key, tensor in state.items() if tensor.ndim > 0}
    moments: dict[str, dict[str, float]] = {name: {} for name in names}
    for order in (1, 2):
        keys = [key for key in orders if orders[key] == order]
        for key, total in zip(keys, _sums([state[key] for key in keys], order, world), strict=True):
            name, quantity = key.rsplit("/", 1)
            moments[name][quantity] = math.sqrt(total)
    return [
        Health(
            name,
            math.sqrt(value),
            optimizer.trained[name].numel(),
            math.sqrt(gradients.get(name, 0.0)),
            moments[name].get("exp_avg_sq", moments[name].get("momentum_buffer", 0.0)),
            moments[name],
        )
        for name, value in zip(names, values, strict=True)
    ]


@torch.no_grad()
def _sums(tensors: Sequence[Tensor], order: int, world: World) -> list[float]:
    """The sum of \\|x\\|^order over each whole tensor, of which this process may hold a part."""
    if not tensors:
        return []
    norms = torch._foreach_norm([local(tensor) for tensor in tensors], order)
    shares = [distinct_parts(tensor) / world.size for tensor in tensors]
    return world.sum([float(norm) ** order * share for norm, share in zip(norms, shares, strict=True)])


def diagnose(run: Run, verdict: Verdict, why_not_back: str) -> str:
    """What to tell the user when ``verdict`` ends the run, while the gradients of the step are still there.

    The first line says it in short; ``why_not_back`` is why the run did not go back instead. All processes call it
    together.
    """
    guard, optimizer, settings = run.guard, run.optimizer, run.settings
    step, loss, norm = guard.recent[-1]
    schedule = settings.schedule
    compute = str(run.summary.get("precision", next(run.model.parameters()).dtype))
    setting = Setting(
        step,
        math.isfinite(loss) and math.isfinite(norm),
        optimizer.top_lr,
        schedule.begin + schedule.warmup if schedule else 0,
        settings.clip,
        "float32" not in compute and "float64" not in compute,
        str(run.path),
    )
    health = examine(optimizer)
    lr = optimizer.top_lr * (schedule(step) if schedule else 1.0)
    lines = [
        f"{_headline(verdict, guard.refused_in_a_row, why_not_back)} (step {step + 1}, learning rate {lr:.2e}, {compute})",
        *(f"  step {at + 1}: loss {loss:.4g}, gradient norm {norm:.4g}" for at, loss, norm in guard.recent),
        *(f"  {line}" for line in describe(health)),
        "  try, in this order:",
        *(f"  {number}. {text}" for number, text in enumerate(suggest(verdict, health, setting), 1)),
    ]
    return "\n".join(lines)


def _headline(verdict: Verdict, refused: int, why_not_back: str) -> str:
    if verdict.kind == "diverged":
        return f"the training has diverged: {verdict.reason}"
    return f"{refused} updates in a row were refused, at last because {verdict.reason}; {why_not_back}"


def describe(health: Sequence[Health]) -> list[str]:
    """Which tensors are not finite or far too large, and where gradients are largest against what the optimizer remembers.

    Gradients are listed in the order of the backward pass: the first is the nearest to where they went wrong.
    """
    lines = []
    bad = {
        "values": [one.name for one in health if not math.isfinite(one.value)],
        "gradients": [one.name for one in reversed(health) if not math.isfinite(one.gradient)],
        "optimizer's memory": [
            f"{one.name}/{quantity}"
            for one in health
            for quantity, norm in one.moments.items()
            if not math.isfinite(norm)
        ],
    }
    for what, names in bad.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"not finite, {what}: {', '.join(names[:SHOWN])}{more}")
    large = sorted((one for one in health if math.isfinite(one.rms) and one.rms > LARGE), key=lambda one: -one.rms)
    if large:
        named = (f"{one.name} {one.rms:.3g}" for one in large[:SHOWN])
        lines.append(f"weights out of hand, by their root mean square: {', '.join(named)}")
    grown = sorted((one for one in health if math.isfinite(one.growth) and one.growth), key=lambda one: -one.growth)
    if grown:
        named = (f"{one.name} {one.gradient:.3g} ({one.growth:.3g} times)" for one in grown[:SHOWN])
        lines.append(f"gradient norms grown most over what the optimizer remembers: {', '.join(named)}")
    return lines


def suggest(verdict: Verdict, health: Sequence[Health], setting: Setting) -> list[str]:
    """Three things to try, the likeliest cure first."""
    lower = f"a third of the learning rate: --lr {setting.lr / 3:.2g}"
    longer = f"a longer warm-up: --warmup {max(2 * setting.warmup, 100)}"
    clip = f"smaller steps: --clip {setting.clip / 2:g}" if setting.clip else "clipped gradients: --clip 1"
    look = f"look at the text: gptloom data show {setting.path} --step {setting.step + 1}"
    wide = ["exact numbers: --precision fp32"] if setting.narrow else []
    harmed = any(not all(map(math.isfinite, (one.value, *one.moments.values()))) or one.rms > LARGE for one in health)
    if verdict.kind == "diverged" or harmed:
        order = [lower, longer, *([clip] if not setting.clip else []), *wide, clip]
    elif not setting.finite:  # and the weights are sound
        order = [*wide, look, lower, clip]
    elif setting.step < 2 * setting.warmup:
        order = [lower, longer, clip]
    else:
        order = [lower, look, clip]
    return list(dict.fromkeys(order))[:3]
