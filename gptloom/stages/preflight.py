"""Before a training starts: what it will cost here, and every reason not to start it, all at once."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import SIZED_FAMILIES, ModelConfig, family_presets, preset
from gptloom.data.batch import Batch
from gptloom.model.counting import count_parameters
from gptloom.model.transformer import Transformer
from gptloom.observe.machine import memory
from gptloom.observe.numbers import human_bytes
from gptloom.train.compiling import can_compile, compile_blocks, uncompile
from gptloom.train.objective import Objective
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.out_of_memory import is_out_of_memory
from gptloom.train.parallel import Parallel

OVERHEAD = 400 * 2**20  # bytes: the interpreter and its libraries


def training_memory(
    config: ModelConfig,
    micro_tokens: int,
    dtype: torch.dtype,
    *,
    trained: int | None = None,
    parts: int = 1,
    tensor: int = 1,
    recompute: bool = False,
) -> int:
    """Bytes of one process: masters, gradients and two moments in fp32, a compute copy, one micro-batch's activations.

    ``trained``: so many parameters are (default: all); the others have neither gradients nor moments. ``parts``: into how
    many the parameters are cut; what is gathered of them at a time, a block and the embeddings, comes on top. ``tensor``:
    processes that share each layer's activations. ``recompute``: kept is each block's input only.
    """
    n = count_parameters(config).total
    weights = (4 * n + 12 * (n if trained is None else trained)) // parts
    if parts == 1:
        weights += dtype.itemsize * n if dtype.itemsize < 4 else 0
    else:
        embeddings = n - count_parameters(config).non_embedding
        gathered = (
            embeddings + 2 * (n - embeddings) // config.n_layer
        ) // tensor  # a block, and the next one on its way
        weights += gathered * (dtype.itemsize + 4)  # with gradients
    return weights + micro_tokens * activation_bytes(config, dtype, tensor=tensor, recompute=recompute) + OVERHEAD


def activation_bytes(config: ModelConfig, dtype: torch.dtype, *, tensor: int = 1, recompute: bool = False) -> int:
    """Bytes that are kept of each token until the backward pass; the arguments are those of ``training_memory``."""
    layer = 14 * config.d_model + 4 * config.d_ff
    kept = config.n_layer * config.d_model + layer if recompute else config.n_layer * layer
    return (kept // tensor + 4 * config.d_model) * dtype.itemsize


def checkpoint_bytes(config: ModelConfig) -> int:
    """Masters and AdamW's two moments."""
    return 12 * count_parameters(config).total


def device_memory(device: torch.device, processes: int = 1) -> int | None:
    """Bytes that each of ``processes`` on this machine may use of it; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    there = memory()[0]
    return None if there is None else there // processes


def check_memory(
    config: ModelConfig, needed: int, there: int | None, micro_tokens: int, dtype: torch.dtype, shards: bool = False
) -> None:
    """UserError, naming what would fit, when a process needs more bytes than ``there`` are; ``shards``: it has all yet."""
    if there is None or needed <= there:
        return
    fitting = [
        name
        for name in family_presets(config.family if config.family in SIZED_FAMILIES else "modern")
        if training_memory(ModelConfig(**preset(name)), micro_tokens, dtype) <= there
    ]
    levers = [f"--model {fitting[-1]}, the largest that fits" if fitting else "a machine with more memory"]
    rest = training_memory(config, micro_tokens, dtype, parts=1 << 30)
    if not shards and rest < there:
        parts = next(n for n in range(2, 1 << 20) if training_memory(config, micro_tokens, dtype, parts=n) <= there)
        levers.insert(0, f"--strategy fsdp on {parts} such processes or more")
    if training_memory(config, micro_tokens, dtype, recompute=True) <= there:
        levers.insert(0, "--recompute")
    raise too_little_memory(needed, there, levers)


def too_little_memory(needed: int, there: int, ways: Sequence[str], where: str | None = None) -> UserError:
    """What to say where a process needs more bytes than are ``there``, with ``ways`` to train all the same."""
    what = f"this training needs {human_bytes(needed)} of memory in a process, which has {human_bytes(there)}"
    return UserError(Problem(what, where, ", or ".join(ways)))


def check_disk(folder: Path, needed: int) -> None:
    """UserError when the checkpoints to come do not fit on the disk of ``folder``."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        what = f"the run needs {human_bytes(needed)} of disk, {human_bytes(free)} are free"
        raise UserError(Problem(what, str(folder), "--keep 1, a smaller --model, or another --out"))


@dataclass(frozen=True)
class Measured:
    """A few steps of the real training, thrown away again."""

    seconds_per_step: float
    first_loss: float
    compiled: bool
    note: str | None


def measure(
    build: Callable[[], Transformer],
    settings: OptimizerSettings,
    objective: Objective,
    batch: Batch,
    *,
    micro_batch: int,
    dtype: torch.dtype,
    parallel: Parallel,
    compile: bool,
    patience: float = 8.0,
) -> Measured:
    """Times micro-batches and an update on a model of its own, so that nothing of it is left in the training.

    All processes of ``parallel`` do it together and agree on the slowest one's time. The first micro-batch pays for
    set-up (and compilation, when asked for) and is not counted; after it up to three more are timed, as long as
    ``patience`` seconds last.
    """
    measured = _measured(build, settings, objective, batch, micro_batch, dtype, parallel, compile, patience)
    parallel.release()
    gc.collect()  # a sharded model and its parameters refer to each other
    return measured


def _measured(
    build: Callable[[], Transformer],
    settings: OptimizerSettings,
    objective: Objective,
    batch: Batch,
    micro_batch: int,
    dtype: torch.dtype,
    parallel: Parallel,
    compile: bool,
    patience: float,
) -> Measured:
    model = build()
    model.train()
    optimizer = Optimizer(model, settings, dtype, parallel)
    micros = parallel.own_rows(batch).split(micro_batch)
    note = None
    if compile:
        compile_blocks(model.blocks)

    def forward_backward(micro: Batch, last: bool) -> float:
        counts, losses = objective.count(micro), objective.loss(model, micro.to(parallel.device))
        loss = torch.stack([losses[term] / counts[term] for term in losses]).sum()
        optimizer.backward(loss, last)
        return float(loss.detach())

    try:
        first_loss = forward_backward(micros[0], last=True)
    except Exception as error:
        if not compile or is_out_of_memory(error):
            raise
        uncompile(model.blocks)
        compile, note = False, f"torch.compile failed ({type(error).__name__}): training goes on without it"
        first_loss = forward_backward(micros[0], last=True)
    optimizer.gradient_norm()
    optimizer.step(0.0)
    begun = time.perf_counter()
    times: list[float] = []
    while len(times) < 3 and parallel.world.largest([time.perf_counter() - begun])[0] < patience:
        started = time.perf_counter()
        forward_backward(micros[len(times) % len(micros)], last=False)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    forward_backward(micros[0], last=True)  # only then do copies exchange their gradients
    optimizer.gradient_norm()
    optimizer.step(0.0)
    update = max(0.0, time.perf_counter() - started - min(times))
    seconds = parallel.world.largest([min(times) * len(micros) + update])[0]
    return Measured(seconds, first_loss, compile, note)


def want_compile(asked: bool | None, device: torch.device, seconds: float) -> tuple[bool, str]:
    """Whether to compile and why. Unasked only where it pays: its tens of seconds against a tenth of the run."""
    found = can_compile(device)
    if asked:
        if not found:
            raise UserError(
                Problem("--compile needs a C++ compiler, and there is none", mend="install g++, or leave it out")
            )
        return True, "asked for"
    if asked is False:
        return False, "asked for"
    if not found:
        return False, "there is no C++ compiler"
    return (
        (True, "it pays on a run of this length") if seconds > 1200 else (False, "the run is too short for it to pay")
    )


def check_first_loss(loss: float, lowest: float, highest: float) -> None:
    """UserError when an untrained model is not about as surprised as one that knows nothing."""
    if not lowest <= loss <= highest:
        what = (
            f"the loss before the first step is {loss:.3f}; a fresh model's lies between {lowest:.2f} and {highest:.2f}"
        )
        raise UserError(Problem(what, mend="--precision fp32; if it stays, report it: the initialisation is wrong"))
