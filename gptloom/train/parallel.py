"""How one model is spread over the processes of a world. The model itself never hears of it.

Three meshes of processes, outermost first: *replicas* hold the same parameters, *shards* a part of each (FSDP2), and
*tensor* processes a part of each layer's product. Whole copies in every process ("ddp") need no machinery of torch's:
their fp32 master gradients are summed in buckets while the last backward pass still runs.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.train.timing import StepTimer, time_collectives
from gptloom.train.vocab_parallel import shared_cross_entropy, shared_logits
from gptloom.train.world import World

Strategy = Literal["one", "ddp", "fsdp", "hsdp"]
REPLICAS, SHARDS, TENSOR = "replicas", "shards", "tensor"
COLUMNS = ("attention.q", "attention.k", "attention.v", "mlp.up", "mlp.gate")  # split by outputs: heads, hidden units
ROWS = ("attention.out", "mlp.down")  # split by inputs, their results summed


class Parallel:
    """A strategy on a world. ``data_rank`` of ``data_size`` is this process's share of the rows of a global batch."""

    def __init__(
        self,
        world: World,
        strategy: Strategy,
        device: torch.device,
        *,
        tensor: int = 1,
        offload: bool = False,
        recompute: bool = False,
    ) -> None:
        """UserError when the world cannot be cut up that way."""
        self.world, self.strategy, self.device = world, strategy, device
        self.tensor, self.offload, self.recompute = tensor, offload, recompute
        self.sharded = strategy in ("fsdp", "hsdp") or tensor > 1
        self.timer = StepTimer(device)
        self.mesh: DeviceMesh | None = None
        check_world(world, strategy, device, tensor, offload)
        self.data_size, self.data_rank = world.size // tensor, world.rank // tensor
        self.shards = {"fsdp": self.data_size, "hsdp": world.local_size // tensor}.get(strategy, 1)
        if world.size > 1:
            shape = (self.data_size // self.shards, self.shards, tensor)
            self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=(REPLICAS, SHARDS, TENSOR))
        self._buckets: GradientBuckets | None = None
        self._model: nn.Module | None = None

    @classmethod
    def alone(cls, device: torch.device | str = "cpu", *, recompute: bool = False) -> Parallel:
        """One process with the whole model."""
        return cls(World(), "one", torch.device(device), recompute=recompute)

    def sentence(self) -> str:
        """What a person should know of it."""
        if self.world.size == 1:
            return "one process"
        parts = {
            "ddp": f"{self.data_size} whole copies of the model",
            "fsdp": f"the model in {self.shards} shards",
            "hsdp": f"{self.data_size // self.shards} copies of the model in {self.shards} shards each",
        }
        shared = f", each layer's matrices shared by {self.tensor}" if self.tensor > 1 else ""
        return f"{self.world.size} processes: {parts[self.strategy]}{shared}"

    # ---- batches -----------------------------------------------------------------------------------------------------

    def own_rows(self, batch: Batch) -> Batch:
        """This process's rows of a global batch, whose number must divide (``check_rows``)."""
        if self.data_size == 1:
            return batch
        return batch.split(batch.rows // self.data_size)[self.data_rank]

    def sum(self, values: list[float]) -> list[float]:
        """The sum of each value over all shares of a batch."""
        with self.timer.phase("communication"):
            return [total / self.tensor for total in self.world.sum(values)]

    # ---- the model ---------------------------------------------------------------------------------------------------

    def prepare(self, model: Transformer, dtype: torch.dtype) -> None:
        """Spreads ``model`` (on any device, meta too) over the processes; once, before its optimizer is made."""
        if self.recompute:
            for block in model.blocks:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        if not self.sharded:
            return
        assert self.mesh is not None
        check_heads(model.config, self.tensor)
        if self.tensor > 1:
            _share_matrices(model, self.mesh[TENSOR], self.tensor)
        mesh = self.mesh[REPLICAS, SHARDS] if self.data_size > self.shards else self.mesh[SHARDS]
        narrow = dtype if dtype in (torch.bfloat16, torch.float16) else None
        policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None)
        offload = CPUOffloadPolicy() if self.offload else OffloadPolicy()
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offload)
        # The rest (embeddings, last norm, head) stays gathered between forward and backward: the loss needs the head.
        fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=False)
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # The loss is divided by the global counts already: gradients are summed, not averaged.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        time_collectives(model, self.timer)
        self._model = model

    def release(self) -> None:
        """Lets go of a model that was only tried, so that its memory is free for the one to be trained."""
        self._model = self._buckets = None

    def cross_entropy(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        cap: float | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The loss of the vocabulary head, wherever its rows are."""
        return shared_cross_entropy(hidden, weight, targets, weights, cap, bias)

    # ---- gradients ---------------------------------------------------------------------------------------------------

    def watch(self, model: nn.Module, masters: dict[str, Tensor]) -> None:
        """Called by the optimizer with the tensors whose gradients are to be the same everywhere."""
        if self.world.size > 1 and not self.sharded:
            self._buckets = GradientBuckets(model, masters)

    def before_backward(self, last: bool) -> None:
        """``last``: of the step's micro-batches; only then do whole copies and replicas exchange gradients.

        Shards pass theirs on after each micro-batch: keeping them whole until the last would cost the memory that
        sharding is there to save.
        """
        if self._buckets is not None:
            self._buckets.armed = last
        if isinstance(self._model, FSDPModule):
            self._model.set_requires_all_reduce(last)
            self._model.set_is_last_backward(last)

    def finish_gradients(self, masters: dict[str, Tensor]) -> None:
        """Waits until every gradient is summed over all processes."""
        with self.timer.phase("communication"):
            if self._buckets is not None:
                self._buckets.finish()
            if self.tensor > 1:
                assert self.mesh is not None
                for name, tensor in masters.items():
                    # Norms of single heads: each process has the gradients of its own heads only.
                    if (".q_norm." in name or ".k_norm." in name) and tensor.grad is not None:
                        dist.all_reduce(local(tensor.grad), group=self.mesh[TENSOR].get_group())

    def norm_squared(self, norms: list[Tensor], tensors: list[Tensor]) -> float:
        """The square of the global norm, from the norm of this process's part of each of ``tensors``."""
        shares = [distinct_parts(tensor) / self.world.size for tensor in tensors]
        squares = torch.stack(norms).double().square().tolist()
        return self.world.sum([sum(square * share for square, share in zip(squares, shares, strict=True))])[0]


class GradientBuckets:
    """Sums the gradients of whole copies of a model over all processes, a bucket at a time, from the last layer on.

    torch's DistributedDataParallel would sum gradients in the compute dtype and keep a copy of its own; here the fp32
    gradients of the masters are summed, and only after the last micro-batch of a step.
    """

    BYTES = 25 << 20

    def __init__(self, model: nn.Module, masters: dict[str, Tensor]) -> None:
        self.armed = False
        self._buckets: list[list[Tensor]] = [[]]
        self._missing: list[int] = []
        self._launched: list[tuple[Any, Tensor]] = []
        size = 0
        for name, parameter in reversed(list(model.named_parameters())):
            if not parameter.requires_grad:
                continue
            if size > self.BYTES:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(masters[name])
            size += 4 * parameter.numel()
            parameter.register_post_accumulate_grad_hook(functools.partial(self._ready, len(self._buckets) - 1))
        self._missing = [len(bucket) for bucket in self._buckets]

    def _ready(self, index: int, parameter: Tensor) -> None:
        if not self.armed:
            return
        self._missing[index] -= 1
        # In one order at every process: a bucket waits for those before it.
        while len(self._launched) < len(self._buckets) and self._missing[len(self._launched)] == 0:
            self._launch()

    def _launch(self) -> None:
        bucket = self._buckets[len(self._launched)]
        for tensor in bucket:
            if tensor.grad is None:  # not used in this step by this process's rows
                tensor.grad = torch.zeros_like(tensor)
        flat = torch.cat([tensor.grad.reshape(-1) for tensor in bucket if tensor.grad is not None])
        self._launched.append((dist.all_reduce(flat, async_op=True), flat))

    @torch.no_grad()
    def finish(self) -> None:
        while len(self._launched) < len(self._buckets):
            self._launch()
        for bucket, (work, flat) in zip(self._buckets, self._launched, strict=True):
            work.wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                assert tensor.grad is not None
                tensor.grad.copy_(part.view_as(tensor))
        self._launched.clear()
        self._missing = [len(bucket) for bucket in self._buckets]
        self.armed = False


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` in this process, sharing its memory: the tensor itself unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_part(full: Tensor, like: Tensor) -> Tensor:
    """The part of ``full`` that this process holds of ``like``, a view where that can be.

    Tensor parallelism cuts first and sharding cuts what is left, so the mesh is gone through from its last dimension.
    """
    if not isinstance(like, DTensor):
        return full
    coordinate = like.device_mesh.get_coordinate()
    assert coordinate is not None
    for axis in reversed(range(like.device_mesh.ndim)):
        placement = like.placements[axis]
        if isinstance(placement, Replicate):
            continue
        dim = placement.dim  # type: ignore[attr-defined]  # Shard or _StridedShard, which is no Shard
        parts = full.chunk(like.device_mesh.size(axis), dim=dim)
        place = coordinate[axis]
        full = parts[place] if place < len(parts) else full.narrow(dim, 0, 0)
    return full


def check_heads(config: ModelConfig, tensor: int) -> None:
    """UserError when ``--tensor-parallel`` does not divide heads or MLP, naming the degrees that do."""
    numbers = {"n_head": config.n_head, "n_kv_head": config.n_kv_head, "d_ff": config.d_ff}
    odd = {name: number for name, number in numbers.items() if number % tensor}
    if odd:
        fitting = [n for n in range(1, tensor + 1) if all(number % n == 0 for number in numbers.values())]
        text = " and ".join(f"{name} {number}" for name, number in odd.items())
        what = f"--tensor-parallel {tensor} does not divide {text}"
        raise UserError(Problem(what, mend=f"--tensor-parallel {' or '.join(map(str, fitting))}"))
    if tensor > 1 and config.masked_head:
        what = "--tensor-parallel shares an output matrix without a bias; BERT's has one"
        raise UserError(Problem(what, mend="--strategy fsdp shards everything"))


def check_rows(rows: int, row_tokens: int, shares: int) -> None:
    """UserError, with the nearest numbers that do, when ``rows`` of a batch do not divide into ``shares``."""
    if rows % shares == 0:
        return
    nearest_rows = max(1, round(rows / shares)) * shares
    fitting = max(n for n in range(1, shares) if rows % n == 0)
    what = f"{shares} processes cannot share a batch of {rows} rows of {row_tokens} tokens evenly"
    raise UserError(Problem(what, mend=f"--batch-tokens {nearest_rows * row_tokens}, or {fitting} processes"))


def check_world(world: World, strategy: str | None, device: torch.device, tensor: int, offload: bool) -> None:
    """UserError when the processes of ``world`` cannot share a model that way."""
    problems = []
    if world.size == 1 and (strategy not in (None, "one") or tensor > 1):
        problems.append(Problem("there is only one process to share the model", mend="--processes 2"))
    elif world.size % tensor:
        fitting = [str(n) for n in range(1, world.size + 1) if world.size % n == 0]
        what = f"{world.size} processes do not divide into groups of --tensor-parallel {tensor}"
        problems.append(Problem(what, mend=f"--tensor-parallel {' or '.join(fitting)}"))
    if strategy == "hsdp" and (world.local_size == world.size or world.local_size % tensor):
        what = "--strategy hsdp shards within each of several machines, and there is one"
        problems.append(Problem(what, mend="--strategy fsdp"))
    if offload and device.type == "cpu":
        what = "--offload moves parameters from an accelerator to the CPU, and this training is on the CPU"
        problems.append(Problem(what, mend="leave it out"))
    elif offload and strategy not in ("fsdp", "hsdp"):
        problems.append(Problem("--offload needs sharded parameters", mend="--strategy fsdp"))
    if problems:
        raise UserError(*problems)


def distinct_parts(tensor: Tensor) -> int:
    """Into how many different parts ``tensor`` is cut over the world; each is held by world size / parts processes."""
    if not isinstance(tensor, DTensor):
        return 1
    parts = 1
    for axis, placement in enumerate(tensor.placements):
        parts *= 1 if isinstance(placement, Replicate) else tensor.device_mesh.size(axis)
    return parts


def _share_matrices(model: Transformer, mesh: DeviceMesh, tensor: int) -> None:
    """Tensor parallelism after Megatron-LM (Shoeybi et al. 2019, section 3): one sum after attention, one after the MLP."""
    for block in model.blocks:
        names = {name for name, _ in block.named_modules()}
        plan: dict[str, Any] = {name: ColwiseParallel() for name in COLUMNS if name in names}
        parallelize_module(block, mesh, plan | {name: RowwiseParallel() for name in ROWS})
    # Rows of the vocabulary, so that embedding and head may be one matrix.
    plan = {"embedding": RowwiseParallel(input_layouts=Replicate())}
    parallelize_module(model, mesh, plan)
    if model.head is not None:
        parallelize_module(model, mesh, {"head": ColwiseParallel()})
    config = model.config
    # What is here is a model with fewer heads; a cache for it has room for those.
    model.config = config.model_copy(
        update={"n_head": config.n_head // tensor, "n_kv_head": config.n_kv_head // tensor}
    )

    def logits(hidden: Tensor) -> Tensor:
        weight = model.head_weight
        assert isinstance(weight, DTensor)
        return shared_logits(hidden, weight, config.logit_softcap)

    model.logits = logits  # type: ignore[method-assign]
