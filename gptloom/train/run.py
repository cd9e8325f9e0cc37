"""The run folder: state, events, lock, stop requests. One folder is one training, however often it was resumed."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.run_folder import EVENTS, STATE, STOP
from gptloom.config.signals import signals_named
from gptloom.observe.events import EventLog, next_attempt
from gptloom.train.disk import REASON, DiskFull, PatientLog, unless_full
from gptloom.train.form import Form, WholeModel
from gptloom.train.guards import Guard
from gptloom.train.lock import RunLock, is_locked
from gptloom.train.lost import lost_peer
from gptloom.train.parallel import Parallel
from gptloom.train.schedules import Schedule
from gptloom.train.timing import StepTimer
from gptloom.train.world import World

if TYPE_CHECKING:
    from torch import nn

    from gptloom.data.batch import Batch
    from gptloom.train.optimizers import Optimizer
    from gptloom.train.out_of_memory import Levers
    from gptloom.train.rollback import WayBack

VERSION = 1
Hook = Callable[[dict[str, Any], "Run"], str | None]


@dataclass(frozen=True)
class LoopSettings:
    """What the loop itself must know; everything else is in batches, objective, model, optimizer and hooks."""

    steps: int
    schedule: Schedule | None = None  # None: constant
    micro_batch: int | None = None  # rows of a forward pass; None: the whole batch at once
    halve: bool = False  # whether those may be halved when memory runs out
    clip: float = 1.0  # largest global gradient norm; 0: no clipping
    seed: int = 1337  # of dropout
    log_every: int = 1  # steps between train events that are written
    flops_per_token: float | None = None
    peak_flops: float | None = None  # for MFU


@dataclass
class RunState:
    """What ``state.json`` holds: where the run is and why it is not running, if so."""

    state: str = "running"  # running, paused, finished, failed
    reason: str = ""
    step: int = 0
    steps: int = 0
    begin: int = 0  # step at which the present schedule began: not 0 after an extension with a new warm-up
    tokens: int = 0
    seconds: float = 0.0  # of training, evaluation and saving, over all attempts
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float | None = None  # on validation, at the best step of a fine-tuning: decides between equal values
    stale_evaluations: int = 0  # evaluations since the best one
    valid_loss: float | None = None
    bits_per_byte: float | None = None


class Run:
    """A training in a folder. ``fit`` moves ``state.step`` on; hooks may read everything and call ``emit``.

    Every process of a parallel training has a ``Run`` and calls the same hooks in the same order; only the first one
    holds the lock and writes into the folder.
    """

    def __init__(self, path: Path, settings: LoopSettings, state: RunState, parallel: Parallel | None = None) -> None:
        self.path = path
        self.settings = settings
        self.parallel = parallel or Parallel.alone()
        self.lock = RunLock(path)
        self.state = state
        self.state.steps = settings.steps
        self.guard = Guard()
        self.form: Form = WholeModel()  # which weights are stored, and how
        self.hooks: Sequence[Hook] = ()
        self.summary: dict[str, Any] = {}  # shown in the start event
        self.describe: Callable[[Batch], str] | None = None  # a refused batch as text, for its guard event
        self.way_back: WayBack | None = None  # how it goes back after repeated trouble; None: it stops
        self.halvings: list[tuple[int, int]] = []  # from which step on a forward pass had so many rows only
        self.levers: Callable[[], Levers] | None = None  # what to try when memory runs out
        self.save_on_signal: list[str] = []  # names of signals that save and end the run, besides TERM, INT and HUP
        self.stopping: str | None = None
        self._unseen: list[dict[str, Any]] = []
        self._signal: str | None = None
        self.device = self.parallel.device
        self.model: nn.Module
        self.optimizer: Optimizer
        self._log: PatientLog | None = None

    @classmethod
    def create(cls, path: str | Path, settings: LoopSettings, *, overwrite: bool = False) -> Run:
        """A new run folder. UserError when there is a run already and ``overwrite`` is not given."""
        folder = Path(path)
        replaced = prepare_folder(folder, overwrite=overwrite)
        if replaced is not None:
            shutil.rmtree(replaced)
        return cls(folder, settings, RunState())

    @property
    def world(self) -> World:
        """The processes of this training."""
        return self.parallel.world

    @property
    def timer(self) -> StepTimer:
        """Where the time of a step goes."""
        return self.parallel.timer

    def emit(
        self, type: str, *, write: bool = True, sync: bool = False, step: int | None = None, **fields: Any
    ) -> None:
        """Appends an event (unless ``write`` is false) and shows it to every hook, in the order listed.

        ``step``: that the event is about, where it is not the present one. Processes other than the first show it to
        their hooks without writing it (it then has no ``time``). An event that a
        hook emits is shown after every hook has seen the one at hand: all see them as they were written.
        """
        step = self.state.step if step is None else step
        if write and self.world.first:
            assert self._log is not None, "events are emitted inside `working`"
            event = self._log.append(type, step=step, sync=sync, **fields)
        else:
            event = {"type": type, "step": step, **fields}
        self._unseen.append(event)
        if len(self._unseen) > 1:
            return
        try:
            while self._unseen:
                for hook in self.hooks:
                    self.world.progress(self.state.step)
                    if hook(self._unseen[0], self) == "stop" and self.stopping is None:
                        self.stopping = f"finished: {getattr(hook, '__name__', hook.__class__.__name__)} asked to stop"
                self._unseen.pop(0)
        finally:
            self._unseen.clear()  # a hook that failed must not keep the end from being shown

    def start_again(self) -> None:
        """A new attempt from the present step: readers drop what was written beyond it."""
        if self._log is not None:
            self._log.attempt += 1
        self.emit("start", sync=True, steps=self.settings.steps, **self.summary)

    def write_state(self) -> None:
        if self.world.first:
            write_text(self.path / STATE, json.dumps({"version": VERSION, **asdict(self.state)}, indent=1) + "\n")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Holds the lock, listens for signals, and leaves a state that says how it ended."""
        self.world.first_does(lambda: take_lock(self.lock))
        try:
            self.state.state, self.state.reason = "running", ""
            if self.world.first:
                self._log = PatientLog(EventLog(self.path / EVENTS, next_attempt(self.path / EVENTS)))
            self.write_state()
            self.world.on_failure = lambda reason: self._end("failed", reason)
            with self._signals():
                yield
        except KeyboardInterrupt:
            self._end("failed", "broken off by a second Ctrl-C")
            raise
        except DiskFull:
            self._end("paused", REASON)
            raise
        except BaseException as error:
            words = lost_peer(error) or str(error)
            self._end("failed", words.splitlines()[0] if words else type(error).__name__)
            raise
        else:
            reason = (self.stopping or f"{self.settings.steps} steps").removeprefix("finished: ")
            self._end("finished" if self.complete else "paused", reason)
        finally:
            self.world.on_failure = None
            if self._log is not None:
                self._log.close()
                self._log = None
            self.lock.release()

    def _end(self, state: str, reason: str) -> None:
        self.state.state, self.state.reason = state, reason
        unless_full(self.write_state)  # before any hook may fail
        if self._log is not None or not self.world.first:
            self.emit("end", sync=True, state=state, reason=reason)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all steps are done, or a hook said that it is enough."""
        return self.stopping is None or self.stopping.startswith("finished")

    def check_stop(self) -> bool:
        """Whether the run should end now: a signal, a hook or ``gptloom stop``. All processes come to the same answer."""
        if self.stopping is None and self._signal is not None:
            self.stopping = self._signal
        if self.stopping is None and self.world.first and (self.path / STOP).exists():
            self.stopping = "stop was asked for"
        if self.world.size > 1 and self.world.largest([self.stopping is not None])[0]:
            reasons = [reason for reason in self.world.gather(self.stopping) if reason is not None]
            self.stopping = reasons[0]
        return self.stopping is not None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGHUP, the first Ctrl-C and ``save_on_signal`` end the run at the next step; a second Ctrl-C at once.

        Of several processes each notes what reached it; ``check_stop`` makes them end at the same step.
        """
        asked_for = signals_named(self.save_on_signal)
        if threading.current_thread() is not threading.main_thread():
            if asked_for:
                what = "--save-on-signal needs the main thread: Python gives signals to no other"
                raise UserError(Problem(what, mend="train in the main thread, or leave it out"))
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._signal = signal.Signals(number).name

        always = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # One that is ignored stays ignored, unless it was asked for by name: ``nohup`` means it.
        heard = [number for number in always if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, on_signal) for number in {*heard, *asked_for}}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by no Python code


def take_lock(lock: RunLock) -> None:
    """Holds the run from here on. UserError when another process does.

    A request to stop that is older than the lock was for another; one made since then, during the preparation, holds.
    """
    if not lock.held:
        lock.acquire()
        (lock.path.parent / STOP).unlink(missing_ok=True)


def read_state(run: Path) -> RunState:
    """The state of a run. UserError when the folder is no run, or was made by a newer gptloom."""
    path = run / STATE
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(Problem("not a run folder: it has no state.json", str(run), "gptloom runs")) from None
    except ValueError as error:
        raise UserError(Problem(f"not valid JSON ({error})", str(path), "restore the file from a copy")) from None
    if document.get("version", 0) > VERSION:
        message = f"made by a newer gptloom (state version {document['version']}, this one knows {VERSION})"
        raise UserError(Problem(message, str(path), "pip install --upgrade gptloom"))
    known = RunState.__dataclass_fields__
    return RunState(**{key: value for key, value in document.items() if key in known})


def prepare_folder(folder: Path, *, overwrite: bool) -> Path | None:
    """Makes ``folder`` ready for a new run: nothing of an earlier one is replaced unless ``overwrite`` is given.

    The run that was there is put aside; its new place is returned, to be deleted once the new run is sure to start.
    """
    check_free(folder, overwrite=overwrite)
    replaced = None
    try:
        if folder.is_dir() and (folder / STATE).exists():
            lock = RunLock(folder)
            lock.acquire()
            lock.release()
            replaced = folder.with_name(f".{folder.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        message = f"the folder cannot be written ({error.strerror})"
        raise UserError(Problem(message, str(folder), "another --out")) from None
    return replaced


def check_free(folder: Path, *, overwrite: bool) -> None:
    """UserError when a new run may not be made in ``folder``; nothing is changed."""
    if folder.exists() and not folder.is_dir():
        raise UserError(Problem("there is a file of this name", str(folder), "another --out"))
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / STATE).exists():
            if is_locked(folder):
                raise UserError(Problem("another process is beginning a run there", str(folder), "another --out"))
            raise UserError(Problem("the folder is not empty and holds no run", str(folder), "another --out"))
        if not overwrite:
            mend = f"gptloom resume {folder}, another --out, or --overwrite"
            raise UserError(Problem("there is a run in this folder already", str(folder), mend))
