"""A training as a process of its own, watched through its folder alone, and killed in the midst of whatever it does.

Nothing in the training knows of this: what it does is told from ``events.jsonl`` and from the folders that exist only
while a checkpoint or ``final/`` is being written. The kill is SIGKILL to the process and all that it has started, as by
``kill -9`` or by the kernel when memory runs out: nothing is flushed, closed or answered.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from gptloom.config.errors import Problem
from gptloom.config.run_folder import CHECKPOINTS, EVENTS, FINAL, STATE
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.events import read_events
from gptloom.stages.processes import descendants, kill_process
from gptloom.train.run import read_state

Phase = Literal["preparing", "loading", "training", "evaluating", "sampling", "saving", "finishing", "ending"]
TELLING = ("start", "train", "evaluate", "sample", "checkpoint", "end")  # events after which it is known what comes
POLL = 0.001  # seconds between two looks: a save of a tiny model takes some ten milliseconds


@dataclass(frozen=True)
class Moment:
    """When to kill: ``delay`` seconds after ``phase`` (None: any) is seen with ``step`` updates done by this process.

    ``step`` None: from when the process starts, or the run folder does.
    """

    step: int | None
    phase: Phase | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class Kill:
    """One that was carried out, and what it hit, as told from what the dead process left."""

    attempt: int  # 0: the training as it was started; then one more for each resume
    processes: int
    phase: Phase
    step: int  # updates done


class AttemptFailed(Exception):
    """A training that was not killed ended badly, or not at all; ``problems`` are what it refused, if that was why."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class Attempt:
    """A ``gptloom`` command that works on ``run``, as a process of its own; killed when the block is left.

    ``eval_every`` is the run's: between a step's ``train`` and ``evaluate`` events it evaluates.
    """

    def __init__(self, run: Path, arguments: Sequence[object], log: Path, eval_every: int) -> None:
        self.run, self.eval_every = run, eval_every
        self._begins = not (run / STATE).exists()
        self._command = [sys.executable, "-m", "gptloom", *map(str, arguments), "--json"]
        self._log = log
        self._events: list[dict[str, Any]] = []
        self._size = -1

    def __enter__(self) -> Self:
        with self._log.open("wb") as messages, self._answer.open("wb") as answer:
            self.launched, self._since = time.time(), time.monotonic()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=messages,
                start_new_session=True,  # Ctrl-C in this terminal is for who compares, not for what is compared
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends the process and all that it has started, without a chance to do anything."""
        if self._process.poll() is None:
            self._halt()  # so that it starts no more while its own are looked for
            for pid in (*self.workers, self._process.pid):
                kill_process(pid)
            self._process.wait()

    @property
    def workers(self) -> list[int]:
        """The processes that it has started, and they in turn."""
        return descendants(self._process.pid)

    def send(self, number: int) -> None:
        """A signal to the process that was started, and not to what it has started."""
        self._process.send_signal(number)

    def wait_for(self, moment: Moment, seconds: float) -> bool:
        """Returns True when the moment has come, False when the process has ended; AttemptFailed after ``seconds``."""
        while self._process.poll() is None:
            if self._has_come(moment):
                return True
            self._still_within(seconds)
            time.sleep(POLL)
        return False

    def kill_at(self, moment: Moment, seconds: float) -> tuple[Phase, int] | None:
        """Waits for the moment and kills; what was hit, or None when the training was done before.

        AttemptFailed when it ended badly or did neither for ``seconds``.
        """
        while self.wait_for(moment, seconds):
            time.sleep(moment.delay)
            self._halt()
            if moment.delay or self._has_come(moment):  # else it went on between the look and the halt
                self.kill()
                done = (self.run / STATE).exists() and read_state(self.run).state == "finished"
                return None if done else (self.phase(), self.step)
            self._go_on()
        self.finish(seconds)
        return None

    def finish(self, seconds: float) -> dict[str, Any]:
        """Waits for the end and returns the document that the command printed.

        AttemptFailed when it ended badly, or not within ``seconds``.
        """
        while self._process.poll() is None:
            self._still_within(seconds)
            time.sleep(0.05)
        answer = self._answer.read_text(encoding="utf-8")
        if self._process.returncode != 0:
            refused = json.loads(answer)["error"] if self._process.returncode == 2 and answer else []
            problems = [Problem(problem["what"], problem["where"], problem["mend"]) for problem in refused]
            how = f"{self._named} ended with code {self._process.returncode}:\n{self._last_words()}"
            raise AttemptFailed(how, problems)
        document: dict[str, Any] = json.loads(answer)
        return document

    # ---- what it is doing ----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Updates done when it last said something."""
        events = self._fresh_events()
        return int(events[-1]["step"]) if events else 0

    def phase(self) -> Phase:
        """What it does now, or did when it died."""
        events = self._fresh_events()
        if not events:
            return "loading" if finished_checkpoints(self.run) else "preparing"
        if self._is_written(self.run / CHECKPOINTS, ".step-*.part"):
            return "saving"
        if self._is_written(self.run, f".{FINAL}.*.part"):
            return "finishing"
        last = [event for event in events if event["type"] in TELLING][-1]
        steps = next(event["steps"] for event in events if event["type"] == "start")
        match last["type"]:
            case "train" if last["step"] % self.eval_every == 0 or last["step"] == steps:
                return "evaluating"
            case "evaluate":
                return "sampling"
            case "end":
                return "ending"
        return "training"

    def _has_come(self, moment: Moment) -> bool:
        if self._begins and not (self.run / STATE).exists():  # before there is a run there is none to go on with
            return False
        if moment.step is not None and (not self._fresh_events() or self.step < moment.step):
            return False
        return moment.phase is None or self.phase() == moment.phase

    def _fresh_events(self) -> list[dict[str, Any]]:
        """Those of this process; the file is read again when it has grown."""
        path = self.run / EVENTS
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return []
        if size != self._size:
            self._events = [event for event in read_events(path) if event["time"] >= self.launched]
            self._size = size
        return self._events

    def _is_written(self, folder: Path, pattern: str) -> bool:
        """Whether there is a folder of such a name that this process made; an earlier one may have left its own."""
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # it has just got its name
                if path.stat().st_mtime >= self.launched:
                    return True
        return False

    # ---- its end -------------------------------------------------------------------------------------------------

    def _halt(self) -> None:
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGSTOP)

    def _go_on(self) -> None:
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGCONT)

    def _still_within(self, seconds: float) -> None:
        if time.monotonic() - self._since > seconds:
            raise AttemptFailed(f"{self._named} was still at it after {seconds:.0f} seconds:\n{self._last_words()}")

    @property
    def _answer(self) -> Path:
        return self._log.with_suffix(".json")

    @property
    def _named(self) -> str:
        return f"gptloom {' '.join(self._command[3:])}"

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
