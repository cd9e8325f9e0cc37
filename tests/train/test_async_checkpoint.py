"""Saving aside: the checkpoint is that of its step though training went on, and whatever happens to it is heard of."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

from gptloom.config.errors import EndedElsewhere, Problem, UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.data.batch import Batch
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model, save_model
from gptloom.model.stored_weights import StoredWeights
from gptloom.observe.events import read_events
from gptloom.train import saver
from gptloom.train.assemble import fresh_model
from gptloom.train.checkpoint import OPTIMIZER, name_of, newest_sound, read_checkpoint
from gptloom.train.hooks import Save
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.saver import Saver, _Copies
from gptloom.train.sharded_checkpoint import Piece
from gptloom.train.snapshot import About, Snapshot
from gptloom.train.world import World

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)
GPT2 = ModelConfig(**preset("gpt2") | {"vocab_size": 29, "context": 12, "n_layer": 1, "d_model": 16, "n_head": 2})


def about(run: Run, folder: Path) -> About:
    return About(CONFIG, None, {"step": run.state.step}, {})


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What the writing thread waits for before it writes; let go after a while, so that nothing waits for ever."""
    opened, write = threading.Event(), saver.write_files

    def gated(snapshot: Snapshot) -> dict[str, str]:
        assert opened.wait(20)
        return write(snapshot)

    monkeypatch.setattr(saver, "write_files", gated)
    return opened


def whole(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors") | load_file(folder / OPTIMIZER)


def test_the_checkpoint_is_of_its_step_though_training_went_on(train: Any, gate: threading.Event) -> None:
    seen: list[tuple[int, list[int]]] = []

    def watch(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train":
            seen.append((event["step"], list(finished_checkpoints(run.path))))
            if event["step"] == 5:
                gate.set()
                for thread in threading.enumerate():
                    if thread.name == "saving":
                        thread.join(20)

    aside = train(steps=6, objective=NextToken(), hooks=[watch, Save(Saver(about, aside=True), every=3, keep_last=9)])
    assert seen[:5] == [(1, []), (2, []), (3, []), (4, []), (5, [])]
    assert seen[5] == (6, [3])  # settled by the hook after ``watch`` at step 5
    monkeyless = train(steps=6, objective=NextToken(), hooks=[Save(Saver(about), every=3, keep_last=9)])
    for step in (3, 6):
        ours, theirs = (whole(run.run.path / "checkpoints" / name_of(step)) for run in (aside, monkeyless))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    documents = [read_checkpoint(run.run.path / "checkpoints" / name_of(3)) for run in (aside, monkeyless)]
    assert documents[0]["run"]["step"] == documents[1]["run"]["step"] == 3
    assert documents[0]["guard"] == documents[1]["guard"]
    events = [event for event in read_events(aside.run.path / "events.jsonl") if event["type"] == "checkpoint"]
    assert [event["path"] for event in events] == ["checkpoints/step-00000003", "checkpoints/step-00000006"]
    assert all(0 < event["pause"] <= event["seconds"] for event in events)


def test_the_next_save_and_the_end_wait(train: Any, gate: threading.Event) -> None:
    def open_late(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train" and event["step"] == 4:  # when the second is due
            threading.Timer(0.1, gate.set).start()

    done = train(steps=4, objective=NextToken(), hooks=[open_late, Save(Saver(about, aside=True), every=2)])
    assert list(finished_checkpoints(done.run.path)) == [2, 4]
    for path in finished_checkpoints(done.run.path).values():
        read_checkpoint(path)


def test_what_goes_wrong_in_the_thread_is_raised_by_the_run(train: Any, tmp_path: Path, monkeypatch: Any) -> None:
    write = saver.write_files

    def failing(snapshot: Snapshot) -> dict[str, str]:
        if snapshot.document["run"]["step"] == 4:
            raise OSError(5, "Input/output error")
        return write(snapshot)

    monkeypatch.setattr(saver, "write_files", failing)
    with pytest.raises(OSError, match="Input/output"):
        train(steps=99, objective=NextToken(), hooks=[Save(Saver(about, aside=True), every=2)])
    (run,) = tmp_path.iterdir()
    assert list(finished_checkpoints(run)) == [2] and newest_sound(run)[0] == 2


def test_a_run_that_goes_back_drops_what_is_being_saved_of_a_later_step(train: Any, gate: threading.Event) -> None:

    def go_back(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train" and event["step"] == 4 and not gate.is_set():
            threading.Timer(0.1, gate.set).start()
            run.state.step = 1
            run.start_again()

    done = train(steps=5, objective=NextToken(), hooks=[Save(Saver(about, aside=True), every=3), go_back])
    assert list(finished_checkpoints(done.run.path)) == [3, 5]
    events = [e for e in read_events(done.run.path / "events.jsonl") if e["type"] == "checkpoint"]
    assert [(e["attempt"], e["path"][-1]) for e in events] == [(1, "3"), (1, "5")]


def test_a_final_model_is_made_of_one_tensor_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    model = fresh_model(GPT2, 3, Parallel.alone(), torch.float32)
    save_model(tmp_path / "a", model, GPT2)
    read, alive, most = StoredWeights.__getitem__, [], [0]

    def counted(self: StoredWeights, name: str) -> torch.Tensor:
        tensor = read(self, name).clone()
        alive.append(weakref.ref(tensor))
        most[0] = max(most[0], sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(StoredWeights, "__getitem__", counted)
    with StoredWeights(tmp_path / "a", GPT2) as weights:
        sums = save_model(tmp_path / "b", weights, GPT2)
    assert list(sums) == ["model.safetensors"] and most[0] <= 3  # queries, keys and values are fused in one
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_are_copied_to_pinned_memory_once_and_for_all(tmp_path: Path) -> None:
    copies, tensor = _Copies(), torch.randn(1000, device="cuda")
    places = []
    for _ in range(2):
        tensor.add_(1)
        pieces = {"model": {"a": Piece(tensor, (0,))}}
        copied = copies.of(Snapshot(tmp_path, 0, False, About(CONFIG, None, {}, {}), {}, pieces, 4000)).pieces["model"][
            "a"
        ]
        expected = tensor.clone()
        tensor.zero_()  # training goes on
        assert copied.tensor.is_pinned() and torch.equal(copied.tensor, expected.cpu())
        places.append(copied.tensor.data_ptr())
    assert places[0] == places[1]


# ---- several processes -----------------------------------------------------------------------------------------------


def batch_of(step: int) -> Batch:
    ids = torch.randint(29, (8, 13), generator=torch.Generator().manual_seed(step))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(8, 12))


def spread_training(world: World, path: Path, *, aside: bool, minutes: float = 1.0, strategy: str = "fsdp") -> Run:
    """Four steps, saved at 2 and 4; then ``final/``."""
    torch.set_num_threads(1)
    parallel = Parallel(world, "one" if world.size == 1 else strategy, torch.device("cpu"))
    model = fresh_model(GPT2, 3, parallel, torch.float32)
    world.first_does(lambda: path.mkdir(parents=True))
    run = Run(path, LoopSettings(4), RunState(), parallel)
    run.optimizer = Optimizer(model, OptimizerSettings(lr=1e-2), torch.float32, parallel)
    keeper = Saver(lambda run, folder: About(GPT2, None, {}, {}), aside=aside, wait_for_disk=minutes)

    def finish(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "closing":
            keeper.write_final(run, path / "final")

    objective = NextToken(parallel.cross_entropy)
    return fit(run, objective, batch_of, model, run.optimizer, [Save(keeper, every=2), finish])


def both_ways(world: World, folder: str) -> None:
    spread_training(world, Path(folder) / "now", aside=False)
    spread_training(world, Path(folder) / "aside", aside=True)


@pytest.mark.slow
def test_two_processes_save_aside_and_write_a_final_model_for_everyone(tmp_path: Path) -> None:
    run_ranks(both_ways, 2, folder=str(tmp_path))
    spread_training(World(), tmp_path / "alone", aside=False)
    for step in (2, 4):
        ours, theirs = (tmp_path / name / "checkpoints" / name_of(step) for name in ("aside", "now"))
        assert read_checkpoint(ours)["xxh3_128"] == read_checkpoint(theirs)["xxh3_128"]
    last = tmp_path / "aside" / "checkpoints" / name_of(4) / "model"
    final, _ = load_model(tmp_path / "aside" / "final")
    assert (tmp_path / "aside" / "final" / "model.safetensors").is_file()
    alone = load_model(tmp_path / "alone" / "final")[0].state_dict()
    for name, tensor in load_model(last)[0].state_dict().items():
        assert torch.equal(tensor, final.state_dict()[name])
        assert torch.allclose(tensor, alone[name], rtol=1e-4, atol=1e-4)
    events = [e["path"] for e in read_events(tmp_path / "aside" / "events.jsonl") if e["type"] == "checkpoint"]
    assert events == ["checkpoints/step-00000002", "checkpoints/step-00000004"]


def one_fails(world: World, folder: str) -> list[str]:
    """How two trainings end of which the second process cannot write."""
    errors = [RuntimeError("no such luck"), UserError(Problem("not allowed", "there", "elsewhere"))]
    ends = []
    for error in errors:

        def failing(snapshot: Snapshot, error: Exception = error) -> dict[str, str]:
            if world.rank == 1:
                raise error
            return {}

        saver.write_files = failing
        try:
            spread_training(world, Path(folder) / type(error).__name__, aside=error is errors[1])
        except (RuntimeError, UserError, EndedElsewhere) as end:
            ends.append(f"{type(end).__name__}: {end}")
    return ends


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(tmp_path: Path) -> None:
    first, second = run_ranks(one_fails, 2, folder=str(tmp_path))
    assert first[0].startswith("EndedElsewhere") and second[0] == "RuntimeError: no such luck"
    assert first[1].startswith("UserError: there: process 1 on") and "not allowed" in first[1]
    assert second[1].startswith("EndedElsewhere")
    assert not any(finished_checkpoints(run) for run in tmp_path.iterdir())
