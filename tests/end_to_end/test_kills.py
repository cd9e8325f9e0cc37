"""``kill -9`` at any moment costs nothing but time: real processes, killed, resumed, and compared to the bit.

``pytest tests/end_to_end/test_kills.py --kills 100`` kills a hundred times at random moments instead of twenty.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gptloom.stages.compare_runs import compare_runs
from gptloom.stages.killing import Attempt, Moment
from gptloom.stages.verify_resume import PHASES, Killed, Straight, Trial

STEPS, EVAL_EVERY, SAVE_EVERY = 36, 6, 4
SHAPE = ["--n-layer", 3, "--d-model", 64, "--n-head", 2, "--context", 32, "--batch-tokens", 256, "--micro-batch", 2]
REST = ["--limit-batches", 2, "--sample-tokens", 12, "--threads", 1, "--log", "none", "--no-compile"]
ADAMW = ["--optimizer", "adamw", "--dropout", 0.1, "--precision", "fp32"]
MUON = ["--optimizer", "muon", "--dropout", 0.1, "--precision", "bf16"]
trained_with = pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw-fp32", "muon-bf16"])


def make_trial(folder: Path, text: Path, *more: object) -> Trial:
    return Trial(folder, ["--data", text, *SHAPE, *REST, *more], STEPS, EVAL_EVERY, SAVE_EVERY)


def assert_equal(done: Killed, straight: Straight) -> None:
    assert done.fault is None, done.kills
    compared = compare_runs(done.run, straight.run)
    assert compared.exact, (done.kills, compared.beyond(0.0))


@pytest.mark.slow
def test_a_training_killed_in_the_midst_of_it(tmp_path: Path, text: Path) -> None:
    trial = make_trial(tmp_path, text, *ADAMW)
    straight = trial.straight()
    done = trial.killed("killed", 1, 1, [Moment(13, "training", straight.seconds_per_step / 2)])
    (kill,) = done.kills
    assert 13 <= kill.step < STEPS and kill.attempt == 0
    assert_equal(done, straight)


@pytest.mark.slow
@trained_with
def test_a_kill_in_every_phase(optimizer: list[object], tmp_path: Path, text: Path) -> None:
    trial = make_trial(tmp_path, text, *optimizer)
    straight = trial.straight()
    moments = trial.plan(len(PHASES), straight, random.Random(11))
    done = trial.killed("killed", 1, 1, moments)
    hit = [kill.phase for kill in done.kills]
    assert len(hit) == len(PHASES) and set(hit) >= set(PHASES) - {"training"}, hit
    assert_equal(done, straight)


@pytest.mark.slow
@trained_with
def test_kills_at_random_moments(
    optimizer: list[object], tmp_path: Path, text: Path, request: pytest.FixtureRequest
) -> None:
    wanted = request.config.getoption("--kills", default=20)
    seed = random.randrange(10**6)  # other moments each time; printed when it fails
    print("seed", seed)
    trial, draw = make_trial(tmp_path, text, *optimizer), random.Random(seed)
    straight = trial.straight()
    survived = 0
    while survived < wanted:  # several in each run: what one leaves behind, the next must not stumble over
        some = sorted(
            (straight.random_moment(draw) for _ in range(min(5, wanted - survived))),
            key=lambda moment: -1 if moment.step is None else moment.step,
        )
        done = trial.killed("killed", 1, 1, some)
        assert_equal(done, straight)
        survived += len(done.kills)
        shutil.rmtree(done.run)


@pytest.mark.slow
def test_a_resume_that_is_killed_while_it_loads(tmp_path: Path, text: Path) -> None:
    trial = make_trial(tmp_path, text, *ADAMW)
    straight = trial.straight()
    start = straight.events[0]["time"] - straight.launched
    loading = [Moment(None, "loading", start * share) for share in (0.3, 0.6, 0.8)]
    done = trial.killed("killed", 1, 1, [Moment(9, "saving"), *loading])
    assert [kill.phase for kill in done.kills][:2] == ["saving", "loading"]
    assert_equal(done, straight)


@pytest.mark.slow
def test_what_a_killed_save_leaves_is_never_taken_for_a_checkpoint(tmp_path: Path, text: Path) -> None:
    """Killed in the midst of each save in turn, and once more in the same save."""
    trial = make_trial(tmp_path, text, *ADAMW)
    moments = [Moment(step, "saving") for step in (4, 4, 8, 8, 12, 16, 24)]
    done = trial.killed("killed", 1, 1, moments)
    assert [kill.phase for kill in done.kills] == ["saving"] * 7
    assert_equal(done, trial.straight())
    assert not list((done.run / "checkpoints").glob(".*")), "broken-off saves stay behind"


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path, text: Path) -> None:
    trial = make_trial(tmp_path, text, *ADAMW)
    moments = [Moment(None, "preparing", 0.02), Moment(2, "training"), Moment(3, "training")]
    done = trial.killed("killed", 1, 1, moments)
    assert [kill.phase for kill in done.kills] == ["preparing", "training", "training"]
    assert_equal(done, trial.straight())
    assert not done.run.with_name(f".{done.run.name}.replaced").exists()


def test_the_harness_leaves_no_process_behind(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run"
    command = ["pretrain", "--data", text, *SHAPE, *REST, "--max-steps", 10**6, "--eval-every", 50, "--out", run]
    with pytest.raises(ZeroDivisionError), Attempt(run, command, tmp_path / "log", eval_every=50) as attempt:
        raise ZeroDivisionError
    assert attempt.wait_for(Moment(1), 0) is False  # it has ended
