"""Saving a run: while it waits, or aside while it trains on; on a full disk it waits for room.

Only the writing of files happens in a thread. All that the processes tell each other is told by their main threads, at
the same points of the run, so that an error of one becomes an error of all and nobody waits for who is gone.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptloom.config.run_folder import CHECKPOINTS, MODEL
from gptloom.model.store import save_model
from gptloom.model.stored_weights import StoredWeights
from gptloom.train.checkpoint import masters_state, name_of
from gptloom.train.disk import Room, is_full, unless_full
from gptloom.train.form import About
from gptloom.train.run import Run
from gptloom.train.snapshot import Shares, Snapshot, begin, clear_leftovers, commit, take_snapshot, write_files

Describe = Callable[[Run, Path], About]
Sums = dict[str, str]


@dataclass
class _Save:
    """A checkpoint on its way to the disk."""

    snapshot: Snapshot
    room: Room
    begun: float
    files: Future[Sums | None]
    pause: float = 0.0  # seconds for which training stood still


class Saver:
    """Writes checkpoints, one at a time. ``describe(run, folder)`` says what belongs into a model folder at this moment.

    With ``aside`` a save copies the tensors into the memory of the CPU and returns; files are written while training
    goes on, and the checkpoint stands after a later ``settle``. ``wait_for_disk``: minutes to wait for room.
    """

    def __init__(self, describe: Describe, *, aside: bool = False, wait_for_disk: float = 30.0) -> None:
        self._describe, self._aside, self._wait_for_disk = describe, aside, wait_for_disk
        self._shares = Shares()
        self._copies = _Copies()
        self._save: _Save | None = None
        self._deletion: threading.Thread | None = None

    def save(self, run: Run) -> None:
        """Begins the checkpoint of the present step, unless there is one; all processes together."""
        target = run.path / CHECKPOINTS / name_of(run.state.step)
        if self._save is not None and self._save.snapshot.target == target:
            return
        self.settle(run, wait=True)
        self.deleted()  # its room may be needed now
        if not run.world.first_does(lambda: _clear_way(target)):
            return
        begun = time.perf_counter()
        snapshot = take_snapshot(run, target, self._describe(run, target / MODEL), self._shares)
        room = Room(run, f"the checkpoint of step {run.state.step}", snapshot.n_bytes, self._wait_for_disk)
        room.wait()
        if self._aside:
            snapshot = self._copies.of(snapshot)
        self._save = _Save(snapshot, room, begun, _written(run, snapshot))
        if not self._aside:
            self.settle(run, wait=True)
        else:
            self._save.pause = time.perf_counter() - begun

    def settle(self, run: Run, *, wait: bool = False) -> None:
        """Gives the checkpoint its name once all processes have written it; ``wait``: until then.

        What went wrong in one process is raised in all. All call it together.
        """
        save = self._save
        if save is None or not (wait or _all_done(run, save)):
            return
        resumed = time.perf_counter()
        while not self._finished(run, save):
            save.room.wait(tried=True)
            save.files = _written(run, save.snapshot)
        self._save = None
        save.room.found()
        now = time.perf_counter()
        run.emit(
            "checkpoint",
            sync=True,
            step=save.snapshot.document["run"]["step"],
            path=f"{CHECKPOINTS}/{save.snapshot.target.name}",
            kind="last",
            seconds=now - save.begun,
            pause=save.pause + now - resumed if self._aside else now - save.begun,
        )

    def _finished(self, run: Run, save: _Save) -> bool:
        """Whether the checkpoint stands now; False when the disk was full, of which nothing is left then."""
        with run.world.patience("saving"):
            outcomes = run.world.all_do(save.files.result)
        if None not in outcomes:
            sums = {file: digest for part in outcomes for file, digest in part.items()}
            if run.world.first_does(lambda: unless_full(lambda: commit(save.snapshot, sums))):
                return True
        run.world.first_does(lambda: shutil.rmtree(save.snapshot.part, ignore_errors=True))
        return False

    def delete(self, folders: list[Path]) -> None:
        """Deletes what is no longer a checkpoint; aside when saves are, since gigabytes take the file system a while.

        What cannot be deleted is tried again, and then said, when the next save clears leftovers.
        """
        self.deleted()
        self._deletion = threading.Thread(target=_delete_all, args=(folders,), name="deleting")
        self._deletion.start()
        if not self._aside:
            self.deleted()

    def deleted(self) -> None:
        """Waits for the deletion under way."""
        if self._deletion is not None:
            self._deletion.join()

    def forget(self, run: Run) -> None:
        """Drops what is being saved of a step that the run has gone back behind."""
        if self._save is not None and self._save.snapshot.document["run"]["step"] > run.state.step:
            self._save.files.exception()  # its thread must be done with the memory and the folder
            self._save = None

    def write_final(self, run: Run, folder: Path) -> None:
        """The present masters as a model folder for everyone: one process's from memory, else from the checkpoint.

        The checkpoint of this step must stand. Tensor by tensor, so that no process needs memory for a whole model.
        """
        about = self._describe(run, folder)
        n_bytes = sum(4 * tensor.numel() for tensor in masters_state(run).values())
        room = Room(run, f"the model folder {folder.name}", n_bytes, self._wait_for_disk)
        room.wait()
        while not run.world.first_does(lambda: unless_full(lambda: _write_model(run, folder, about))):
            room.wait(tried=True)
        room.found()


def _clear_way(target: Path) -> bool:
    """Removes what broken-off saves have left beside a checkpoint; False where it stands already."""
    clear_leftovers(target.parent)
    return not target.exists()


def _delete_all(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_model(run: Run, folder: Path, about: About) -> None:
    if run.world.size == 1:
        run.form.write(folder, masters_state(run), about)
        return
    checkpoint = run.path / CHECKPOINTS / name_of(run.state.step)
    with StoredWeights(checkpoint / MODEL, about.config) as weights:
        save_model(folder, weights, about.config, tokenizer=about.tokenizer, lineage=about.lineage)


def _written(run: Run, snapshot: Snapshot) -> Future[Sums | None]:
    """Begins to write this process's files, in a thread; None when there is no room for them.

    The thread is a daemon: it does not keep a process from ending.
    """
    made = run.world.first_does(lambda: unless_full(lambda: begin(snapshot)))
    files: Future[Sums | None] = Future()

    def work() -> None:
        try:
            files.set_result(write_files(snapshot) if made else None)
        except BaseException as error:
            if is_full(error):
                files.set_result(None)
            else:
                files.set_exception(error)

    threading.Thread(target=work, name="saving", daemon=True).start()
    return files


def _all_done(run: Run, save: _Save) -> bool:
    return run.world.sum([save.files.done()])[0] == run.world.size


class _Copies:
    """Memory of the CPU that takes a snapshot's tensors; kept, since fresh pages cost more than copying into old ones."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def of(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, independent of the training. What the last one held is overwritten."""
        copied = snapshot.map(self._copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        memory = self._memory.get(key)
        if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
            memory = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._memory[key] = memory
        return memory.copy_(tensor, non_blocking=tensor.is_cuda)
