"""Acting on the guard: an update skipped, the run put back to a checkpoint before the trouble, or stopped.

What is decided is written to the event log, and synced, before it is done. The windows of text that a roll-back leaves
out are an input of the data order (``OrderedBatches.batch(step, excluded)``), so a run that is killed at any moment reads
them there and goes on with exactly the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gptloom.config.errors import GuardStop, UserError
from gptloom.data.batch import Batch
from gptloom.model.reference import finished_checkpoints
from gptloom.train.checkpoint import forget_after, read_checkpoint
from gptloom.train.diagnosis import diagnose
from gptloom.train.guards import Verdict
from gptloom.train.run import Run

Event = Mapping[str, Any]
PutBack = Callable[[Run, Path, dict[str, Any]], None]

ROLL_BACKS, STRETCH = 3, 1000
"""At most so many within so many steps. A bad stretch of text is left behind by the first; what comes back after three
comes from the training itself. Per stretch and not per run, since a long run of a large model meets several (PaLM about
twenty: Chowdhery et al. 2022, section 5.1). Resuming does not begin the count anew: it is that of the event log."""

PROGRESS = (
    "step",
    "tokens",
    "best_step",
    "best_value",
    "best_loss",
    "stale_evaluations",
    "valid_loss",
    "bits_per_byte",
)
"""What of a run's state belongs to the step it stands at."""


class Place(Protocol):
    """Where one example of a batch comes from."""

    @property
    def position(self) -> int:
        """In the data order, counted from the start of the run."""


class Batches(Protocol):
    """The global batch of every step, as a pure function of (step, excluded positions)."""

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch: ...

    def describe(self, step: int, excluded: Sequence[int] = ()) -> Sequence[Place]: ...


class WayBack:
    """What a run needs to go back: batches that can leave windows out, and how a checkpoint is put back.

    ``put_back(run, checkpoint, document)`` gives masters, optimizer and guard the values they had there, at every
    process. ``events``: those of the run so far.
    """

    def __init__(self, batches: Batches, put_back: PutBack, events: Sequence[Event] = ()) -> None:
        self.batches, self.put_back = batches, put_back
        self.excluded = excluded_windows(events)
        self.taken = [event["step"] for event in events if _to_step(event) is not None]

    def batch(self, step: int) -> Batch:
        """The global batch of ``step`` without the windows left out so far: the ``batches`` of ``fit``."""
        return self.batches.batch(step, self.excluded)

    def windows(self, steps: Iterable[int]) -> list[list[int]]:
        """The positions in the data order of the rows of ``steps``, as ranges [first, one past the last]."""
        return _ranges(place.position for step in steps for place in self.batches.describe(step, self.excluded))


def heed(run: Run, verdict: Verdict, batch: Batch, loss: float, norm: float) -> bool:
    """Does what the guard said of the step just counted; True when the run stands at an earlier step now.

    Raises GuardStop, with the diagnosis, for a training that has diverged or cannot go back any more. All processes
    call it together, with the gradients of the step still there.
    """
    facts: dict[str, Any] = {"loss": loss, "grad_norm": norm, "text": run.describe(batch) if run.describe else None}
    if verdict.kind == "refused":
        run.emit("guard", sync=True, reason=verdict.reason, action="update skipped", **facts)
        return False
    found: dict[str, Any] = {"why_not": ""}
    if verdict.kind == "repeated":
        found = run.world.first_does(lambda: _find_checkpoint(run))
    if "why_not" in found:
        diagnosis = diagnose(run, verdict, found["why_not"])
        run.emit("guard", sync=True, reason=verdict.reason, action="training stopped", diagnosis=diagnosis, **facts)
        raise GuardStop(diagnosis)
    _go_back(run, found["step"], found["document"], {"reason": verdict.reason, **facts})
    return True


def _find_checkpoint(run: Run) -> dict[str, Any]:
    """The newest sound checkpoint from before the trouble: its step and document, or why there is no going back."""
    way = run.way_back
    if way is None:
        return {"why_not": "the batches of this training cannot leave windows out"}
    if sum(abs(run.state.step - step) < STRETCH for step in way.taken) >= ROLL_BACKS:
        return {"why_not": f"the run went back {ROLL_BACKS} times within {STRETCH:,} steps, and it did not help"}
    for step in checkpoints_before_trouble(run):
        path = finished_checkpoints(run.path)[step]
        try:
            return {"step": step, "document": read_checkpoint(path)}
        except UserError:  # damaged: an older one will do
            continue
    return {"why_not": "there is no checkpoint from before the trouble to go back to"}


def checkpoints_before_trouble(run: Run) -> list[int]:
    """Steps of the checkpoints that a roll-back may go to, the best choice first; empty while nothing is refused.

    The update before the first refused step may be what harmed the weights, so a checkpoint without it comes first. It
    makes no difference to the result which of those it is: the steps up to there are done again just as they were.
    """
    first = run.guard.first_refused
    if first is None:
        return []
    fitting = [step for step in finished_checkpoints(run.path) if run.state.begin <= step <= first]
    return sorted(fitting, key=lambda step: (step == first, -step))


def _go_back(run: Run, to: int, document: dict[str, Any], facts: dict[str, Any]) -> None:
    way, first = run.way_back, run.guard.first_refused
    assert way is not None and first is not None
    windows = way.windows(range(max(to, first - 1), run.state.step))
    count = sum(end - begin for begin, end in windows)
    run.emit(
        "guard",
        sync=True,
        action=f"back to step {to}, leaving out {count:,} windows of text",
        to_step=to,
        excluded=windows,
        **facts,
    )
    way.taken.append(run.state.step)
    way.excluded = sorted({*way.excluded, *_members(windows)})
    if run.world.first:
        forget_after(run.path, to)
    way.put_back(run, finished_checkpoints(run.path)[to], document)
    for name in PROGRESS:
        setattr(run.state, name, document["run"].get(name))  # an older checkpoint may not know one
    run.write_state()
    run.start_again()


def excluded_windows(events: Iterable[Event]) -> list[int]:
    """The positions of the data order that the run of ``events`` leaves out, sorted."""
    return sorted({position for event in events for position in _members(event.get("excluded", ()))})


def not_taken_back(checkpoints: Mapping[int, Path], events: Sequence[Event]) -> dict[int, Path]:
    """The checkpoints from which a run may go on: without those beyond a roll-back that was decided but not yet done."""
    for event in reversed(events):
        if event["type"] == "start":
            break
        bound = _to_step(event)
        if bound is not None:
            return {step: path for step, path in checkpoints.items() if step <= bound}
    return dict(checkpoints)


def _to_step(event: Event) -> int | None:
    """The step that a roll-back went to; None for every other event."""
    return event.get("to_step") if event["type"] == "guard" else None


def _members(ranges: Iterable[Sequence[int]]) -> Iterable[int]:
    return (position for first, end in ranges for position in range(first, end))


def _ranges(positions: Iterable[int]) -> list[list[int]]:
    """Sorted, as [first, one past the last]."""
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return ranges
