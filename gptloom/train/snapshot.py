"""One moment of a training, and its way to the disk as a checkpoint.

All processes of a world write at once, each its own files. What one of them meets on the way (no room, an error) the
others must hear of before anyone goes on: that is the business of whoever calls this (``saver``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptloom.config.files import write_text
from gptloom.config.run_folder import MODEL, STATE
from gptloom.model.checksum import ALGORITHM, file_sum
from gptloom.model.store import write_description
from gptloom.model.weight_writer import write_tensors
from gptloom.train.checkpoint import OPTIMIZER, OPTIMIZER_PIECES, SEAL, VERSION, masters_state, seal, sync
from gptloom.train.form import About, Form
from gptloom.train.run import Run
from gptloom.train.sharded_checkpoint import Piece, pieces_of, share_out, write_pieces


@dataclass(frozen=True)
class Snapshot:
    """One moment of a training as one process writes it. ``pieces``: by ``model`` or ``optimizer``, then by name."""

    target: Path
    rank: int
    in_pieces: bool
    about: About
    form: Form
    document: Mapping[str, Any]
    pieces: Mapping[str, Mapping[str, Piece]]
    n_bytes: int  # of the tensors that all processes write together

    @property
    def part(self) -> Path:
        """Where it is written before it has its name."""
        return self.target.with_name(f".{self.target.name}.part")

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Snapshot:
        """The snapshot with every tensor replaced by ``change(key, tensor)``."""
        changed = {
            kind: {name: Piece(change(f"{kind}/{name}", piece.tensor), piece.offsets) for name, piece in pieces.items()}
            for kind, pieces in self.pieces.items()
        }
        return replace(self, pieces=changed)


class Shares:
    """Which process writes what: worked out by all together once, and again only when the tensors are others."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, ...], list[str]] = {}

    def own(self, run: Run, tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
        """This process's pieces of ``tensors``; all of them when it is alone."""
        if run.world.size == 1:
            return pieces_of(tensors, tensors)
        names = tuple(tensors)
        if names not in self._of:
            self._of[names] = share_out(run.world, tensors)
        return pieces_of(tensors, self._of[names])


def take_snapshot(run: Run, target: Path, about: About, shares: Shares) -> Snapshot:
    """What the checkpoint ``target`` is to hold, sharing the memory of the run's tensors. All processes together."""
    tensors = {MODEL: masters_state(run), OPTIMIZER_PIECES: run.optimizer.state_tensors()}
    document = {
        "run": asdict(run.state),
        "guard": run.guard.state(),
        "loss_scale": run.optimizer.loss_scale and asdict(run.optimizer.loss_scale),
        "facts": dict(about.facts),
    }
    n_bytes = sum(tensor.numel() * tensor.element_size() for kind in tensors.values() for tensor in kind.values())
    pieces = {kind: shares.own(run, found) for kind, found in tensors.items()}
    return Snapshot(target, run.world.rank, run.world.size > 1, about, run.form, document, pieces, n_bytes)


def clear_leftovers(checkpoints: Path) -> None:
    """Removes what saves and deletions that were broken off have left; they may hold the room that is missing."""
    for left in checkpoints.glob(".*.part"):
        shutil.rmtree(left)


def begin(snapshot: Snapshot) -> None:
    """Makes the folder that all processes write into."""
    (snapshot.part / MODEL).mkdir(parents=True)
    if snapshot.in_pieces:
        (snapshot.part / OPTIMIZER_PIECES).mkdir()


def write_files(snapshot: Snapshot) -> dict[str, str]:
    """Writes this process's files, synced; file -> checksum. Communicates with nobody."""
    part, about = snapshot.part, snapshot.about
    sums: dict[str, str] = {}
    if snapshot.in_pieces:
        for kind, pieces in snapshot.pieces.items():
            written = write_pieces(part / kind, snapshot.rank, pieces)
            sums |= {f"{kind}/{file}": digest for file, digest in written.items()}
        if snapshot.rank == 0:
            write_description(
                part / MODEL, about.config, torch.float32, tokenizer=about.tokenizer, lineage=about.lineage
            )
    else:
        masters, moments = ({n: p.tensor for n, p in pieces.items()} for pieces in snapshot.pieces.values())
        with ThreadPoolExecutor(2) as pool:  # side by side: one is synced while the other is written
            model = pool.submit(snapshot.form.write, part / MODEL, masters, about)
            sums[OPTIMIZER] = write_tensors(part / OPTIMIZER, moments, moments.__getitem__, {})
            sums |= {f"{MODEL}/{file}": digest for file, digest in model.result().items()}
    if snapshot.rank == 0:
        for path in (part / MODEL).iterdir():
            if path.suffix != ".safetensors":
                sync(path)
                sums[path.relative_to(part).as_posix()] = file_sum(path)
    for folder in (part / MODEL, part / OPTIMIZER_PIECES):
        if folder.is_dir():
            sync(folder)
    return sums


def commit(snapshot: Snapshot, sums: Mapping[str, str]) -> None:
    """Gives the checkpoint its state.json and its name, when the files of all processes, with ``sums``, are there."""
    facts = {"version": VERSION, **snapshot.document, ALGORITHM: dict(sorted(sums.items()))}
    document = json.loads(json.dumps(facts))  # as it will be read back
    write_text(snapshot.part / STATE, json.dumps({**document, SEAL: seal(document)}, indent=1) + "\n")
    sync(snapshot.part)
    snapshot.part.rename(snapshot.target)
    sync(snapshot.target.parent)
