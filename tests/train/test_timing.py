"""The clock of the steps, by hand-made time; who is late, by numbers; and FSDP's waiting, in real processes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gptloom.train import timing
from gptloom.train.timing import NAMES, StepTimer, Timing, find_stragglers, time_collectives
from gptloom.train.world import World


class Clock:
    """Time that passes when told to; as a CUDA event it remembers when it was recorded."""

    now = 0.0
    reached = float("inf")  # how far the GPU has come

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Clock.now

    def query(self) -> bool:
        return self.at <= Clock.reached

    def elapsed_time(self, end: Clock) -> float:
        return 1000 * (end.at - self.at)


@pytest.fixture(params=["cpu", "cuda"])
def timer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StepTimer:
    monkeypatch.setattr(Clock, "now", 0.0)
    monkeypatch.setattr(Clock, "reached", float("inf"))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    monkeypatch.setattr(torch.cuda, "Event", Clock)
    return StepTimer(torch.device(request.param))


def step(timer: StepTimer, forward: float = 2.0) -> None:
    timer.begin_step()
    with timer.phase("data"):
        Clock.now += 0.5
    for _ in range(2):
        with timer.phase("forward"):
            Clock.now += forward
            with timer.phase("communication"):
                Clock.now += 1
        Clock.now += 0.25
    timer.end_step()


def test_inner_phases_are_taken_off_the_outer_ones_and_all_is_the_step(timer: StepTimer) -> None:
    step(timer)
    step(timer, forward=4.0)
    zeros = dict.fromkeys(NAMES, 0.0)
    assert timer.take() == {**zeros, "data": 0.5, "forward": 6.0, "communication": 2.0, "other": 0.5}
    step(timer)
    assert timer.take()["forward"] == 4.0, "since the last look only"


def test_outside_a_step_nothing_is_measured(timer: StepTimer) -> None:
    with timer.phase("forward"), timer.collective():
        Clock.now += 7
    timer.begin_step()
    timer.end_step()
    with timer.phase("backward"):
        Clock.now += 7
    assert not any(timer.take().values())


def test_collectives_hold_up_a_cpu_and_run_beside_a_gpu(timer: StepTimer) -> None:
    timer.begin_step()
    with timer.phase("backward"):
        Clock.now += 1
        with timer.collective():
            Clock.now += 2
    timer.end_step()
    taken = timer.take()
    found = taken["backward"], taken["communication"], taken["exchange"]
    assert found == ((3.0, 0.0, 2.0) if timer.cuda else (1.0, 2.0, 0.0))


def test_a_gpu_that_is_behind_is_not_waited_for(timer: StepTimer) -> None:
    if not timer.cuda:
        pytest.skip("a CPU has done what it was told")
    step(timer)
    Clock.reached = 1.0
    assert timer.take()["communication"] == 0.0
    Clock.reached = float("inf")
    step(timer)
    assert timer.take()["communication"] == 4.0, "what was not ready comes with the next look"


def test_who_works_longer_than_the_middle_one_is_late() -> None:
    phases = {"data": [0.1] * 4, "forward": [1.0, 1.0, 1.5, 1.1], "backward": [2.0, 2.0, 3.0, 2.1]}
    assert find_stragglers(phases) == {2: 1.48}
    assert find_stragglers({**phases, "data": [1.0, 0.1, 0.1, 0.1]}) == {0: 1.21, 2: 1.39}
    assert find_stragglers({name: times[:1] for name, times in phases.items()}) == {}
    assert find_stragglers({name: [0.0, 0.0] for name in phases}) == {}


def test_of_two_the_slower_is_late() -> None:
    assert find_stragglers({"data": [0.0, 0.0], "forward": [1.0, 1.3], "backward": [1.0, 1.3]}) == {1: 1.3}


def test_waiting_inside_forward_and_backward_is_no_work() -> None:
    # All need 5 s, in which the first two wait 2 s for the last: its collectives begin when the others' are long there.
    phases = {"data": [0.0] * 3, "forward": [2.0] * 3, "backward": [3.0] * 3, "exchange": [2.5, 2.4, 0.5]}
    assert find_stragglers(phases) == {2: 1.61}
    unseen = {"data": [0.0] * 2, "forward": [1.0, 2.0], "backward": [4.0, 3.0]}
    assert find_stragglers(unseen) == {} and find_stragglers(unseen, {"backward"}) == {1: 2.0}


def run_of(world: World, timer: StepTimer, **settings: int) -> SimpleNamespace:
    run = SimpleNamespace(
        world=world,
        timer=timer,
        parallel=SimpleNamespace(strategy="fsdp"),
        settings=SimpleNamespace(**settings),
        state=SimpleNamespace(step=0),
        written=[],
    )
    run.emit = lambda type, **fields: run.written.append({"type": type, "step": run.state.step, **fields})
    return run


def test_each_written_step_but_the_first_comes_with_the_times_since_the_last(timer: StepTimer) -> None:
    run, hook = run_of(World(host="here"), timer, log_every=2, steps=5), Timing()
    hook({"type": "start"}, run)
    for run.state.step in range(1, 6):
        step(timer, forward=float(run.state.step))
        hook({"type": "train"}, run)
        hook({"type": "evaluate"}, run)
    assert [event["step"] for event in run.written] == [2, 4, 5]
    assert [event["phases"]["forward"] for event in run.written] == [[4.0], [7.0], [10.0]]
    assert run.written[0] == {
        "type": "timing",
        "step": 2,
        "phases": {
            "data": [0.5],
            "forward": [4.0],
            "backward": [0.0],
            "communication": [2.0],
            "optimizer": [0.0],
            "other": [0.5],
        },
        "hosts": ["here"],
        "stragglers": [],
    }


# ---- two processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_slow_one_of_two_sharded_processes_is_named_by_both() -> None:
    first, second = run_ranks(train_with_a_slow_one, 2)
    assert first == second
    assert first["stragglers"] == [{"rank": 1, "host": first["hosts"][0], "times": first["stragglers"][0]["times"]}]
    forward, communication = first["phases"]["forward"], first["phases"]["communication"]
    assert forward[1] > 0.1 > forward[0], "the sleep is in the forward pass of the second only"
    assert communication[0] > 0.1, "the first waits for it where parameters are gathered and gradients scattered"


def train_with_a_slow_one(world: World) -> dict[str, Any]:
    """The second process sleeps in the first of two layers; without clocks the weights come out the same."""
    timer = StepTimer(torch.device("cpu"))
    run, hook = run_of(world, timer, log_every=3, steps=3), Timing()
    timed, plain = layers(), layers()
    time_collectives(timed, timer)
    hook({"type": "start"}, run)
    for run.state.step in range(1, 4):
        inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(world.rank))
        timer.begin_step()
        with timer.phase("forward"):
            hidden = timed[0](inputs)
            time.sleep(0.15 * world.rank)
            loss = timed[1](hidden).square().sum()
        with timer.phase("backward"):
            loss.backward()
        timer.end_step()
        plain[1](plain[0](inputs)).square().sum().backward()
        hook({"type": "train"}, run)
    for one, other in zip(timed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad.full_tensor(), other.grad.full_tensor())
    (event,) = run.written
    return event


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for layer in model:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    return model
