"""Checkpoints in pieces: written and read by any number of processes, however the model is spread over them."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import xxhash
from ranks import run_ranks
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.run_folder import MODEL
from gptloom.model.reference import resolve_reference
from gptloom.model.store import content_hash, load_model, read_config
from gptloom.model.transformer import Transformer
from gptloom.model.weight_files import WeightFiles
from gptloom.train.assemble import model_from
from gptloom.train.checkpoint import masters_state, newest_sound, read_checkpoint, restore
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel, local, own_part
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.sharded_checkpoint import Piece, pieces_of, write_pieces
from gptloom.train.snapshot import About, Shares, begin, commit, take_snapshot, write_files
from gptloom.train.world import World

pytestmark = pytest.mark.slow  # two processes write what all of them read

# 61 rows divide among neither 2 nor 4, and the norms of a head (2 numbers) leave two of 4 processes without any.
SHAPE = {"vocab_size": 61, "context": 12, "n_layer": 1, "n_head": 4, "d_model": 8, "head_dim": 2, "d_ff": 20}
CONFIGS = {
    "modern": preset("modern-nano") | SHAPE | {"n_kv_head": 2},
    "gpt2": preset("gpt2") | SHAPE | {"n_kv_head": 4},
}
Layout = tuple[str, int]  # strategy, processes that share each matrix
LAYOUTS: dict[int, list[Layout]] = {  # by number of processes
    1: [("one", 1)],
    2: [("ddp", 1), ("fsdp", 1), ("ddp", 2)],
    4: [("ddp", 1), ("fsdp", 1), ("hsdp", 1), ("fsdp", 2)],
}
NAMES = [f"{strategy}-{size}-{tensor}" for size, layouts in LAYOUTS.items() for strategy, tensor in layouts]


def drawn(name: str, shape: torch.Size) -> Tensor:
    """Values that say to which tensor, and to which place in it, they belong."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(shape, generator=generator)


def training(world: World, path: Path, family: str, strategy: str, tensor: int, values: bool) -> Run:
    """A run before its first step; with ``values`` its masters and moments are those of ``drawn``."""
    torch.set_num_threads(1)
    config = ModelConfig(**CONFIGS[family])
    world.local_size = 2 if strategy == "hsdp" else world.size  # two machines, or one
    parallel = Parallel(world, strategy, torch.device("cpu"), tensor=tensor)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}
    weights = {name: drawn(name, shape) if values else torch.zeros(shape) for name, shape in shapes.items()}
    model = model_from(weights.items(), config, parallel, torch.float32)
    run = Run(path, LoopSettings(9), RunState(step=5, tokens=77), parallel)
    run.optimizer = Optimizer(model, OptimizerSettings(), torch.float32, parallel)
    if values:
        run.optimizer.load_state_tensors(moments(run))
        run.guard.mean = 0.5
    return run


def moments(run: Run) -> dict[str, Tensor]:
    """AdamW's state as it would be after some steps, in this process's parts."""
    state: dict[str, Tensor] = {}
    for name, master in masters_state(run).items():
        state[f"{name}/step"] = torch.tensor(float(len(name)))
        for quantity in ("exp_avg", "exp_avg_sq"):
            moment = torch.empty_like(master)
            local(moment).copy_(own_part(drawn(f"{name}/{quantity}", master.shape), master))
            state[f"{name}/{quantity}"] = moment
    return state


def write(world: World, family: str, path: Path, strategy: str, tensor: int) -> Path:
    """A checkpoint."""
    run = training(world, path, family, strategy, tensor, values=True)
    about = About(ModelConfig(**CONFIGS[family]), None, {"stage": "test"}, {"threads": 1})
    snapshot = take_snapshot(run, run.path / "checkpoints" / "step-00000005", about, Shares())
    world.first_does(lambda: begin(snapshot))
    sums = {file: digest for part in world.gather(write_files(snapshot)) for file, digest in part.items()}
    world.first_does(lambda: commit(snapshot, sums))
    return snapshot.target


def read(world: World, family: str, checkpoint: Path, strategy: str, tensor: int) -> list[str]:
    """Restores into a run of zeros; names of all that is not as it was written, to the bit."""
    run = training(world, checkpoint, family, strategy, tensor, values=False)
    document = read_checkpoint(checkpoint, world)
    restore(run, checkpoint, document)
    expected = training(world, checkpoint, family, strategy, tensor, values=True)
    wrong = []
    for kind in (masters_state, lambda run: run.optimizer.state_tensors()):
        assert kind(run).keys() == kind(expected).keys()
        pairs = [(name, tensor, kind(run)[name]) for name, tensor in kind(expected).items()]
        wrong += [name for name, a, b in pairs if a.shape != b.shape or not torch.equal(local(a), local(b))]
        wrong += [name for name, a, b in pairs if type(a).__name__.removeprefix("Parameter") != type(b).__name__]
    if run.guard.mean != 0.5 or document["run"]["tokens"] != 77:
        wrong.append("state.json")
    return wrong


def exchange(world: World, folder: str, family: str = "modern") -> dict[str, list[str]]:
    """Writes in every layout of this many processes, then reads whatever is there: "writer to reader" -> what is wrong."""
    layouts = LAYOUTS[world.size]
    for strategy, tensor in layouts:
        path = Path(folder) / f"{strategy}-{world.size}-{tensor}"
        if not path.exists():
            write(world, family, path, strategy, tensor)
    world.barrier()
    return {
        f"{path.name} to {strategy}-{world.size}-{tensor}": read(
            world, family, path / "checkpoints" / "step-00000005", strategy, tensor
        )
        for path in sorted(Path(folder).iterdir())
        for strategy, tensor in layouts
    }


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Every layout read by every other, with as few starts of processes as can be: each is slow."""
    folder = str(tmp_path_factory.mktemp("exchanged"))
    exchange(World(), folder)
    results = [*run_ranks(exchange, 4, folder=folder), *run_ranks(exchange, 2, folder=folder)]
    # Of two processes those of four have not been read before; of one and four those of two.
    results += [*run_ranks(exchange, 4, folder=folder), exchange(World(), folder)]
    return {
        pair: [name for result in results for name in result.get(pair, [])] for result in results for pair in result
    }


@pytest.mark.parametrize("there", NAMES)
@pytest.mark.parametrize("back", NAMES)
def test_from_any_layout_to_any_other(exchanged: dict[str, list[str]], there: str, back: str) -> None:
    assert exchanged[f"{there} to {back}"] == []


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints that two processes write of a GPT-2, by layout; read back by the same."""
    folder = tmp_path_factory.mktemp("two")
    for result in run_ranks(exchange, 2, folder=str(folder), family="gpt2"):
        assert result and not any(result.values())
    return {path.name: path / "checkpoints" / "step-00000005" for path in sorted(folder.iterdir())}


@pytest.fixture
def checkpoint(by_two: dict[str, Path], tmp_path: Path) -> Path:
    """One of them, to be harmed: in a run folder of its own."""
    target = tmp_path / "run" / "checkpoints" / "step-00000005"
    shutil.copytree(by_two["fsdp-2-1"], target)
    return target


def test_one_process_reads_and_opens_what_two_wrote(by_two: dict[str, Path]) -> None:
    config = ModelConfig(**CONFIGS["gpt2"])
    hashes = set()
    for path in by_two.values():
        assert read(World(), "gpt2", path, "one", 1) == []
        model, found = load_model(path / MODEL)
        assert found == config == read_config(path / MODEL)
        assert all(torch.equal(parameter, drawn(name, parameter.shape)) for name, parameter in model.named_parameters())
        assert {parameter.dtype for parameter in load_model(path / MODEL, dtype=torch.bfloat16)[0].parameters()} == {
            torch.bfloat16
        }
        assert resolve_reference(f"{path.parent.parent}@5").path == path / MODEL
        assert resolve_reference(str(path)).path == path / MODEL
        hashes.add(content_hash(path / MODEL))
    assert len(hashes) == len(by_two)


def test_two_processes_write_every_number_once_and_half_of_them_each(by_two: dict[str, Path]) -> None:
    for path in by_two.values():
        assert {file.name for file in path.iterdir()} == {"model", "optimizer", "state.json"}
        for kind, copies in (("model", 1), ("optimizer", 2)):
            files = sorted((path / kind).glob("*.safetensors"))
            assert [file.name for file in files] == [f"shard-0000{n}-model-00001-of-00001.safetensors" for n in (1, 2)]
            sizes = [
                sum(t.nbytes for name, t in load_file(file).items() if not name.endswith("/step")) for file in files
            ]
            whole = 4 * copies * sum(p.numel() for p in load_model(path / MODEL)[0].parameters())
            assert sum(sizes) == whole and abs(sizes[0] - sizes[1]) < 0.2 * whole


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_reads_our_pieces(by_two: dict[str, Path]) -> None:
    """The other way round than it is written here: torch.distributed.checkpoint's own reader, planner and all."""
    for path in by_two.values():
        shapes = {name: parameter.shape for name, parameter in load_model(path / MODEL)[0].named_parameters()}
        state = {name: torch.zeros(shape) for name, shape in shapes.items()}
        moments = {f"{name}/exp_avg": torch.zeros(shape) for name, shape in shapes.items()}
        for tensors, kind in ((state, "model"), (moments, "optimizer")):
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path / kind)), no_dist=True)
            assert all(torch.equal(tensor, drawn(name, tensor.shape)) for name, tensor in tensors.items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_file_of_pieces_is_what_torch_writes(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4), "a": torch.tensor(2.0), "c": torch.randn(5).bfloat16(), "d": torch.arange(3)}
    torchs = HuggingFaceStorageWriter(str(tmp_path / "torch"), save_distributed=True)
    dcp.save(dict(tensors), storage_writer=torchs, no_dist=True)
    (tmp_path / "ours").mkdir()
    sums = write_pieces(tmp_path / "ours", 0, pieces_of(tensors, tensors))
    (ours,), (theirs,) = (list((tmp_path / name).iterdir()) for name in ("ours", "torch"))
    assert ours.name == theirs.name and sums == {ours.name: xxhash.xxh3_128(ours.read_bytes()).hexdigest()}
    parts = []
    for file in (ours, theirs):
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        header["__metadata__"]["DCP_SHARDING_INFO"] = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
        parts.append((header, content[end:]))
    assert parts[0] == parts[1]
    with WeightFiles(tmp_path / "torch") as files:
        assert files.sharded and all(torch.equal(files.read(name), tensor) for name, tensor in tensors.items())


def test_any_box_of_a_tensor_is_put_together_from_its_pieces(tmp_path: Path) -> None:
    whole = torch.arange(35).view(5, 7)
    corners = [(0, 0), (0, 3), (2, 0), (2, 3)]
    for rank, (row, column) in enumerate(corners):
        part = whole[row : row + (2 if row == 0 else 3), column : column + (3 if column == 0 else 4)]
        write_pieces(tmp_path, rank, {"grid": Piece(part, (row, column))})
    with WeightFiles(tmp_path) as files:
        assert files.shapes == {"grid": (5, 7)} and torch.equal(files.read("grid"), whole)
        for row, column, rows, columns in itertools.product(range(5), range(7), range(6), range(8)):
            if row + rows <= 5 and column + columns <= 7:
                box = files.read("grid", (row, column), (rows, columns))
                assert torch.equal(box, whole[row : row + rows, column : column + columns])


@pytest.mark.parametrize("kind", ["model", "optimizer"])
def test_a_missing_piece_is_named(checkpoint: Path, kind: str) -> None:
    lost = checkpoint / kind / "shard-00002-model-00001-of-00001.safetensors"
    lost.unlink()
    with pytest.raises(UserError) as refused:
        read_checkpoint(checkpoint)
    assert refused.value.problems[0].where == str(lost) and "missing" in refused.value.problems[0].what
    if kind == "model":  # found by who opens the model without asking the checkpoint, too
        with pytest.raises(UserError, match=r"embedding\.weight"):
            load_model(checkpoint / MODEL)


def test_a_piece_too_many_is_named(checkpoint: Path) -> None:
    first = checkpoint / "model" / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(first, first.with_name("shard-00003-model-00001-of-00001.safetensors"))
    with pytest.raises(UserError, match="not of this checkpoint"):
        read_checkpoint(checkpoint)
    with pytest.raises(UserError, match="not the files of one save"):
        load_model(checkpoint / MODEL)


def test_no_pickle_is_ever_opened(checkpoint: Path, tmp_path: Path) -> None:
    """torch's usual storage keeps its index as a pickle called .metadata, which is run when it is read."""
    trap = tmp_path / "sprung"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (trap,)

    for folder in (checkpoint, checkpoint / "model", checkpoint / "optimizer"):
        for name in (".metadata", "__0_0.distcp", "pytorch_model.bin", "optimizer.pt", "data.pkl"):
            (folder / name).write_bytes(pickle.dumps(Malicious()))
    assert read(World(), "gpt2", checkpoint, "one", 1) == []
    load_model(checkpoint / MODEL)
    newest_sound(checkpoint.parent.parent)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert trap.exists()  # it would have been


def test_a_checkpoint_of_another_model_is_refused(by_two: dict[str, Path]) -> None:
    run = training(World(), Path("unused"), "modern", "one", 1, values=False)
    path = by_two["ddp-2-1"]
    with pytest.raises(UserError, match="another model: "):
        restore(run, path, read_checkpoint(path))
