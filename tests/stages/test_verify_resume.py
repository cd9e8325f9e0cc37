"""The plan of kills, the verdict, and the command; the kills themselves are in tests/end_to_end/test_kills.py."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.resolve import resolve
from gptloom.config.verify import VerifyResumeOptions
from gptloom.stages import verify_resume as stage
from gptloom.stages.compare_runs import SAMPLES, WEIGHTS, Comparison, Part
from gptloom.stages.killing import Attempt, AttemptFailed, Kill
from gptloom.stages.verify_resume import PHASES, Proof, Straight, Trial, Verified, make_trial


def options(**given: object) -> VerifyResumeOptions:
    return resolve(VerifyResumeOptions, given).options


# ---- the plan ----------------------------------------------------------------------------------------------------


def straight_run(steps: int = 24) -> Straight:
    """Starts after 3 s, a step a second, evaluations and saves in between take no time of their own."""
    events = [{"type": "start", "step": 0, "time": 103.0}]
    events += [{"type": "train", "step": step, "time": 103.0 + step} for step in range(1, steps + 1)]
    return Straight(Path("run"), 100.0, [*events, {"type": "end", "step": steps, "time": 103.5 + steps}])


def test_one_kill_in_each_phase_then_at_random(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [], steps=24, eval_every=6, save_every=4)
    for count in (1, 3, 6, 11):
        for seed in range(20):
            moments = trial.plan(count, straight_run(), random.Random(seed))
            assert len(moments) == count
            assert {moment.phase for moment in moments} - {None} == set(PHASES[:count])
            for moment in moments:
                if moment.phase in ("evaluating", "sampling"):
                    assert moment.step is not None and moment.step % 6 == 0 and moment.step > 0
                if moment.phase == "saving":
                    assert moment.step is not None and moment.step % 4 == 0 and moment.step > 0
    assert trial.plan(9, straight_run(), random.Random(4)) == trial.plan(9, straight_run(), random.Random(4))


def test_the_plan_never_waits_for_a_step_that_is_passed(tmp_path: Path) -> None:
    trial = Trial(tmp_path, [], steps=24, eval_every=6, save_every=4)
    order = ("training", "evaluating", "sampling", "saving", "finishing")
    for seed in range(50):
        placed = [m for m in trial.plan(30, straight_run(), random.Random(seed)) if m.step is not None]
        assert [m.step for m in placed] == sorted(m.step for m in placed if m.step is not None)
        for one, other in pairwise(placed):
            if one.step == other.step and one.phase and other.phase:
                assert order.index(one.phase) <= order.index(other.phase)


def test_random_moments_are_spread_over_the_whole_run() -> None:
    straight = straight_run()
    assert straight.seconds == 27.5 and straight.seconds_per_step == pytest.approx(24.5 / 24)
    moments = [straight.random_moment(random.Random(seed)) for seed in range(400)]
    starting = [moment for moment in moments if moment.step is None]
    assert 20 < len(starting) < 80 and all(0 <= moment.delay <= 3 for moment in starting)  # 3 s of 27.5
    assert {moment.step for moment in moments} == {None, *range(25)}
    assert all(0 <= moment.delay <= 1 for moment in moments if moment.step is not None)


# ---- what is trained ---------------------------------------------------------------------------------------------


def flags(trial: Trial) -> dict[str, object]:
    words = [word for word in trial.options if word != "--no-compile"]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_every_option_that_would_be_measured_is_given(tmp_path: Path, text: Path) -> None:
    given = flags(make_trial(options(data=text, threads=1, seed=5), tmp_path))
    assert {"--micro-batch", "--batch-tokens", "--limit-batches", "--context", "--threads"} <= given.keys()
    assert (given["--model"], given["--n-layer"], given["--d-model"]) == ("modern-micro", 4, 256)
    assert given["--seed"] == 5 and given["--dropout"] == 0.1 and "--strategy" not in given
    assert flags(make_trial(options(model="gpt2", data=text, optimizer="muon"), tmp_path))["--model"] == "gpt2"


@pytest.mark.parametrize("pairs", [["1:1"], ["2:4"], ["1:3", "2:1"], ["6"]])
def test_every_number_of_processes_gets_as_many_micro_batches(pairs: list[str], tmp_path: Path, text: Path) -> None:
    chosen = options(data=text, processes=pairs)
    given = flags(make_trial(chosen, tmp_path))
    rows = int(str(given["--batch-tokens"])) // int(str(given["--context"]))
    assert all(rows % (count * int(str(given["--micro-batch"]))) == 0 for pair in chosen.pairs for count in pair)


@pytest.mark.slow
def test_the_text_is_the_same_on_every_call(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        data = flags(make_trial(options(), tmp_path / name))["--data"]
        texts.append(Path(str(data)).read_bytes())
    assert texts[0] == texts[1] and 200_000 <= len(texts[0]) < 400_000


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("words " * 500, encoding="utf-8")
    return path


# ---- options -----------------------------------------------------------------------------------------------------


def test_pairs_of_process_counts() -> None:
    assert options(processes=["1:1", "1:2", "4"]).pairs == [(1, 1), (1, 2), (4, 4)]
    with pytest.raises(UserError) as refused:
        options(processes=["1:1", "0:2", "two", "1:2:3"])
    assert [problem.what.split()[-1] for problem in refused.value.problems] and len(refused.value.problems) == 3


# ---- the verdict -------------------------------------------------------------------------------------------------


def compared(losses: float, texts: float = 0.0, weights: float = 0.0) -> Comparison:
    parts = {"training losses": (losses, "step 3 loss"), SAMPLES: (texts, "step 2 text"), WEIGHTS: (weights, "head")}
    return Comparison([Part(name, 4, distance, where) for name, (distance, where) in parts.items()])


KILLS = [Kill(0, 1, "saving", 8)]


@pytest.mark.parametrize(
    ("comparison", "tolerance", "kills", "holds", "said"),
    [
        (compared(0.0), 0.0, KILLS, True, "equal to the bit"),
        (compared(0.0), 1e-5, KILLS, True, "equal to the bit"),
        (compared(1e-9), 0.0, KILLS, False, "training losses by 1.0e-09 at step 3 loss (no bit may differ)"),
        (compared(0.0, math.inf), 0.0, KILLS, False, "samples by inf at step 2 text (no bit may differ)"),
        (compared(1e-6, math.inf), 1e-5, KILLS, True, "losses equal within 1e-05 (largest difference 1.0e-06)"),
        (compared(2e-5), 1e-5, KILLS, False, "training losses by 2.0e-05 at step 3 loss (1e-05 is allowed)"),
        (compared(0.0, 0.0, 9e-4), 1e-5, KILLS, True, "weights and optimizer within 1e-03 (9.0e-04)"),
        (compared(0.0, 0.0, 2e-3), 1e-5, KILLS, False, "final weights by 2.0e-03 at head (1e-03 is allowed)"),
        (compared(0.0), 0.0, [], False, "more --steps"),
    ],
)
def test_verdicts(comparison: Comparison, tolerance: float, kills: list[Kill], holds: bool, said: str) -> None:
    proof = Proof(1, 1, kills, comparison, tolerance)
    assert proof.holds is holds and said in proof.verdict


def test_a_resume_that_fails_is_told_with_its_words_and_the_kills_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(attempt: Attempt, seconds: float) -> None:
        raise AttemptFailed("gptloom resume ended with code 1:\nOSError: no such shard")

    trial = Trial(tmp_path, [], 24, 6, 4, {1: straight_run()})
    monkeypatch.setattr(Attempt, "__enter__", lambda attempt: attempt)
    monkeypatch.setattr(Attempt, "__exit__", lambda *given: None)
    monkeypatch.setattr(Attempt, "kill_at", lambda *given: ("saving", 8))
    monkeypatch.setattr(Attempt, "finish", fail)
    proof = stage.prove(trial, options(kills=2), 1, 1)
    assert not proof.holds and "no such shard" in proof.verdict
    assert proof.kills == [Kill(0, 1, "saving", 8), Kill(1, 1, "saving", 8)]


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def result(verified: Verified) -> None:
        monkeypatch.setattr(stage, "verify_resume", lambda resolved: verified)

    return result


def test_the_command_shows_kills_comparison_and_verdict(
    pretend: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    proven = Proof(1, 2, [Kill(0, 1, "training", 3), Kill(1, 2, "saving", 8)], compared(1e-6), 1e-5)
    differs = Proof(2, 1, KILLS, compared(3e-4), 1e-5)
    pretend(Verified([proven], None))
    assert main(["verify-resume"]) == 0
    shown = capsys.readouterr().out
    assert "saving" in shown and "1.0e-06" in shown and "1:2  2 kills  proven: losses equal within 1e-05" in shown
    pretend(Verified([proven, differs], tmp_path))
    assert main(["verify-resume", "--json"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["holds"], document["folder"]) == (False, str(tmp_path)) and str(tmp_path) in captured.err
    assert [(proof["from"], proof["to"], proof["holds"]) for proof in document["proofs"]] == [
        (1, 2, True),
        (2, 1, False),
    ]
    assert document["proofs"][0]["kills"][1] == {"attempt": 1, "processes": 2, "phase": "saving", "step": 8}


@pytest.mark.slow
def test_what_the_training_refuses_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.txt")
    assert main(["verify-resume", "--data", missing]) == 2
    assert "nowhere.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quickstart_model_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", "--threads", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] and document["folder"] is None
    (proof,) = document["proofs"]
    assert [kill["phase"] for kill in proof["kills"]] and len(proof["kills"]) == 3
    assert all(part["largest_difference"] == 0 for part in proof["parts"]) and len(proof["parts"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["1:2", "2:1", "2:2", "2:4"])
def test_other_numbers_of_processes(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", "--threads", "1", "--processes", pair, "--kills", "2", "--json"]) == 0
    (proof,) = json.loads(capsys.readouterr().out)["proofs"]
    assert proof["holds"] and proof["tolerance"] == (0 if pair == "2:2" else 1e-5)
