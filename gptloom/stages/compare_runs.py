"""Two runs held against each other: weights, optimizer state, losses by step, samples and counters.

A distance of 0 means equal to the bit. Other distances are relative: of tensors the norm of the difference by the norm
of the second, of numbers the difference by the larger of the two; infinite where one of them lacks something.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import EVENTS, FINAL, MODEL, STATE
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model, read_config
from gptloom.observe.events import read_events
from gptloom.train.checkpoint import OPTIMIZER
from gptloom.train.run import read_state

Event = dict[str, Any]
NUMBERS = ("step", "steps", "begin", "tokens", "best_step", "best_value", "stale_evaluations", "valid_loss")
SAMPLES, GRADIENTS, WEIGHTS = "samples", "gradient norms", "final weights"
MASTERS, MOMENTS, GUARD = "last checkpoint's masters", "optimizer state", "guard and loss scale"
# What else may be off where bits cannot agree, by how much more than the losses. AdamW moves a weight whose gradient is
# next to nothing by the sign of that gradient, which is its rounding; the last bit of a logit can turn a sampled text.
TENSORS = 100.0
SLACK = {SAMPLES: math.inf, **dict.fromkeys((GRADIENTS, WEIGHTS, MASTERS, MOMENTS, GUARD), TENSORS)}
KEY_BIAS = ".attention.k.bias"
SMALLEST = 5e-324  # of values that are equal and bits that are not, as of 0 and -0


@dataclass(frozen=True)
class Part:
    """One kind of thing that two runs were compared in."""

    name: str
    items: int
    distance: float  # the largest
    where: str  # the item of that distance; "" where all are equal

    def allowed(self, tolerance: float) -> float:
        """How far it may be off where losses may by ``tolerance``."""
        return tolerance * SLACK.get(self.name, 1.0) if tolerance else 0.0

    def told(self, tolerance: float) -> str:
        """How it differs, and from what was allowed."""
        allowed = f"{self.allowed(tolerance):.0e} is allowed" if tolerance else "no bit may differ"
        return f"{self.name} by {self.distance:.1e} at {self.where} ({allowed})"


@dataclass(frozen=True)
class Comparison:
    """All parts of it."""

    parts: list[Part]

    @property
    def exact(self) -> bool:
        """Whether everything is equal to the bit."""
        return not any(part.distance for part in self.parts)

    def beyond(self, tolerance: float) -> list[Part]:
        """The parts that differ by more than they may; a tolerance of 0 asks for equality to the bit."""
        return [part for part in self.parts if part.distance > part.allowed(tolerance)]

    def largest(self, slack: float) -> float:
        """The largest distance of the parts that have this ``slack``."""
        return max((part.distance for part in self.parts if SLACK.get(part.name, 1.0) == slack), default=0.0)


def compare_runs(ours: Path, theirs: Path) -> Comparison:
    """Two finished runs by everything they left: ``final/``, the last checkpoint, the events, and ``state.json``.

    UserError when one of them has no checkpoint, or weights that cannot be opened.
    """
    last, other = _last_checkpoint(ours), _last_checkpoint(theirs)
    # A bias of the keys adds one number to all scores of a query, which a softmax does not see: its gradient is rounding
    # alone, and AdamW makes whole steps of that. (Under rotary positions the numbers differ.)
    unseen = KEY_BIAS if read_config(last / MODEL).positions == "learned" else None
    return Comparison(
        [
            *compare_losses(ours, theirs),
            _tensors(WEIGHTS, _weights(ours / FINAL), _weights(theirs / FINAL), unseen),
            _tensors(MASTERS, _weights(last / MODEL), _weights(other / MODEL), unseen),
            _tensors(MOMENTS, read_tensors(optimizer_of(last)), read_tensors(optimizer_of(other)), unseen),
            _values(GUARD, _guarded(last), _guarded(other)),
            _values("counters of state.json", _counters(ours), _counters(theirs)),
        ]
    )


def compare_losses(ours: Path, theirs: Path) -> list[Part]:
    """What the event logs say: training by step, evaluations, sampled texts. A kind that neither has is left out."""
    first, second = read_events(ours / EVENTS), read_events(theirs / EVENTS)
    kinds = {
        "training losses": ("train", ("loss", "losses")),
        GRADIENTS: ("train", ("grad_norm",)),
        "learning rates and tokens": ("train", ("lr", "tokens")),
        "validation": ("evaluate", ("valid_loss", "bits_per_byte", "perplexity", "losses", "best_step")),
        SAMPLES: ("sample", ("prompt", "text")),
    }
    parts = [
        _values(name, _by_step(first, kind, keys), _by_step(second, kind, keys)) for name, (kind, keys) in kinds.items()
    ]
    return [part for part in parts if part.items]


def optimizer_of(checkpoint: Path) -> Path:
    """Where a checkpoint keeps its optimizer: one file, or a folder of the shards that several processes wrote."""
    file = checkpoint / OPTIMIZER
    return file if file.exists() else file.with_suffix("")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, or of a folder of shards, put together from its pieces.

    Written apart from what training reads checkpoints with, to be held against it. UserError when a piece is missing.
    """
    pieces: dict[str, list[tuple[list[int], Tensor]]] = {}
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(Problem("no tensors are stored here", str(path)))
    for file in files:
        with safe_open(str(file), framework="pt") as stored:
            # What torch.distributed.checkpoint notes beside each piece: where in the whole tensor it begins.
            places = json.loads((stored.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for name in stored.keys():  # noqa: SIM118 (not a dict)
                tensor = stored.get_tensor(name)
                begin = places[name]["saved_offsets"] if name in places else [0] * tensor.ndim
                pieces.setdefault(name, []).append((begin, tensor))
    return {name: _whole(name, found, path) for name, found in pieces.items()}


def _whole(name: str, pieces: list[tuple[list[int], Tensor]], path: Path) -> Tensor:
    if len(pieces) == 1 and not any(pieces[0][0]):
        return pieces[0][1]
    ends = [[start + size for start, size in zip(begin, piece.shape, strict=True)] for begin, piece in pieces]
    whole = torch.empty([max(sizes) for sizes in zip(*ends, strict=True)], dtype=pieces[0][1].dtype)
    filled = torch.zeros(whole.shape, dtype=torch.bool)
    for (begin, piece), end in zip(pieces, ends, strict=True):
        place = tuple(slice(first, last) for first, last in zip(begin, end, strict=True))
        whole[place], filled[place] = piece, True
    if not filled.all():
        raise UserError(Problem(f"a piece of the tensor {name} is missing", str(path)))
    return whole


# ---- what a run left ---------------------------------------------------------------------------------------------


def _last_checkpoint(run: Path) -> Path:
    kept = finished_checkpoints(run)
    if not kept:
        raise UserError(Problem("the run has no checkpoint to compare", str(run), f"gptloom resume {run}"))
    return kept[max(kept)]


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_model(folder)[0].state_dict()


def _guarded(checkpoint: Path) -> dict[str, Any]:
    document = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return _flat({name: document[name] for name in ("guard", "loss_scale")})


def _counters(run: Path) -> dict[str, Any]:
    state = read_state(run)
    return {name: getattr(state, name) for name in NUMBERS}


def _by_step(log: list[Event], kind: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """``step 7 loss`` -> value; of several samples at a step each has its number."""
    found: dict[str, Any] = {}
    count: dict[int, int] = {}
    for event in log:
        if event["type"] == kind:
            number = count[event["step"]] = count.get(event["step"], 0) + 1
            which = f"step {event['step']}" + (f", number {number}" if number > 1 else "")
            found |= _flat({key: event.get(key) for key in keys}, which + " ")
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested mappings and lists by its path; numbers that were written as text (JSON has no NaN) read."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}{key} ").items()}
    if isinstance(value, list):
        return {k: v for place, item in enumerate(value) for k, v in _flat(item, f"{name}{place} ").items()}
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return {name.strip(): value}


# ---- distances ---------------------------------------------------------------------------------------------------


def _tensors(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], unseen: str | None = None) -> Part:
    """``unseen``: of tensors with this in their name it only matters whether every bit is equal."""
    return _part(name, ours, theirs, tensor_distance, unseen)


def _values(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Part:
    return _part(name, ours, theirs, value_distance)


def _part(
    name: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    distance: Callable[[Any, Any], float],
    unseen: str | None = None,
) -> Part:
    names = [*ours, *(key for key in theirs if key not in ours)]
    distances = {key: distance(ours[key], theirs[key]) if key in ours and key in theirs else math.inf for key in names}
    if unseen is not None:
        finite = {key: found for key, found in distances.items() if unseen in key and math.isfinite(found)}
        distances |= {key: min(found, SMALLEST) for key, found in finite.items()}
    worst = max(distances, key=lambda key: distances[key], default="")
    largest = distances.get(worst, 0.0)
    return Part(name, len(names), largest, worst if largest else "")


def tensor_distance(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference by that of ``theirs``; 0 only when every bit is equal."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    if torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs))):
        return 0.0
    difference, size = float((ours.double() - theirs.double()).norm()), float(theirs.double().norm())
    return max(difference / size, SMALLEST) if size > 0 and math.isfinite(difference) else math.inf


def value_distance(ours: Any, theirs: Any) -> float:
    """0 for equal values of any kind, relative for numbers, else infinite; two that are not a number are equal."""
    if ours == theirs or (ours != ours and theirs != theirs):
        return 0.0
    if not isinstance(ours, int | float) or not isinstance(theirs, int | float):
        return math.inf
    distance = abs(ours - theirs) / max(abs(ours), abs(theirs))
    return distance if math.isfinite(distance) else math.inf
