"""Trainings whose steps are not all alike: a batch that grows, rates that follow the tokens, rows of another length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptloom.data.step_sizes import StepSizes
from gptloom.observe.events import read_events
from gptloom.stages import training as stage
from gptloom.train.run import read_state

BRIEF = ("--sample-tokens", 0, "--eval-every", 100, "--log-every", 1, "--optimizer", "adamw", "--precision", "fp32")
RAMP = ("--batch-ramp", 64, 1000)  # 4 rows of 16 tokens, then 8, 12 and the full 16 of 256
SIZES = StepSizes(16, 4, 63)


def trained(run: Path) -> list[dict]:
    return [event for event in read_events(run / "events.jsonl") if event["type"] == "train"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def same(ours: Path, theirs: Path) -> bool:
    there = weights(theirs)
    return all(torch.equal(tensor, there[name]) for name, tensor in weights(ours).items())


def test_a_batch_grows_and_the_tokens_are_counted(pretrain: Callable, gptloom: Callable, tmp_path: Path) -> None:
    done = pretrain(*RAMP, "--max-train-tokens", 2000, *BRIEF)
    assert done.code == 0, done.err
    run = tmp_path / "run"
    counted = [event["tokens"] for event in trained(run)]
    assert counted == [16 * SIZES.before(step) for step in range(1, len(counted) + 1)]
    assert counted[-2] < 2000 <= counted[-1] == read_state(run).tokens
    assert {SIZES.rows(step) for step in range(len(counted))} == {4, 8, 12, 16}
    shown = gptloom("data", "show", run, "--step", 1, "--rows", 99, "--json").document["windows"]
    assert [window["position"] for window in shown] == [0, 1, 2, 3]
    later = gptloom("data", "show", run, "--step", len(counted), "--rows", 99, "--json").document["windows"]
    assert len(later) == 16 and later[0]["position"] == SIZES.before(len(counted) - 1)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_its_ramp_goes_on_to_the_bit(
    pretrain: Callable, gptloom: Callable, tmp_path: Path
) -> None:
    options = (*RAMP, "--max-steps", 12, "--warmup-tokens", 300, "--decay-tokens", 1500, "--dropout", 0.1, *BRIEF)
    assert pretrain(*options, "--schedule", "cosine", out="straight").code == 0

    def ask(event: dict, run: object) -> None:
        if event["type"] == "train" and event["step"] == 5:
            (tmp_path / "broken" / "stop").touch()

    with pytest.MonkeyPatch.context() as patch:
        real = stage.train
        patch.setattr(stage, "train", lambda *given: real(*given[:4], [ask]))
        assert pretrain(*options, "--schedule", "cosine", out="broken").code == 0
    assert read_state(tmp_path / "broken").step == 5
    assert gptloom("resume", tmp_path / "broken").code == 0
    assert same(tmp_path / "broken", tmp_path / "straight")
    rates = [event["lr"] for event in trained(tmp_path / "broken")]
    assert rates == [event["lr"] for event in trained(tmp_path / "straight")]


@pytest.mark.slow
def test_the_rows_of_a_forward_pass_change_nothing(pretrain: Callable, tmp_path: Path) -> None:
    options = (*RAMP, "--max-steps", 8, "--lr", 0.003, "--warmup", 2, *BRIEF)
    losses = []
    for rows in (1, 3, 16):
        assert pretrain(*options, "--micro-batch", rows, out=f"run-{rows}").code == 0
        losses.append([event["loss"] for event in trained(tmp_path / f"run-{rows}")])
    assert all(other == pytest.approx(losses[0], rel=1e-5) for other in losses[1:])


@pytest.mark.slow
def test_rates_follow_the_tokens(pretrain: Callable, gptloom: Callable, tmp_path: Path) -> None:
    options = ("--schedule", "linear", "--lr", 0.01, "--final-lr", 0.1, *RAMP, *BRIEF)
    done = pretrain("--max-steps", 15, "--warmup-tokens", 256, "--decay-tokens", 1700, *options)
    assert done.code == 0, done.err
    events = trained(tmp_path / "run")
    before = [0, *(event["tokens"] for event in events)]
    up = next(tokens for tokens in before if tokens >= 256)  # whole steps
    down = next(tokens for tokens in before if tokens >= 1700)
    for event, begun in zip(events, before, strict=False):
        rise = event["tokens"] / up
        fall = 1 - 0.9 * min(1.0, (begun - up) / (down - up))
        assert event["lr"] == pytest.approx(0.01 * (rise if begun < up else fall))
    assert events[-1]["lr"] == pytest.approx(0.001)
    more = gptloom("resume", tmp_path / "run", "--max-steps", 18)  # nothing of it hangs on the length of the run
    assert more.code == 0 and "follows --decay-tokens" in more.err, more.err
    assert trained(tmp_path / "run")[-1]["lr"] == pytest.approx(0.001)
    straight = ("--max-steps", 18, "--warmup-tokens", 256, "--decay-tokens", 1700, *options)
    assert pretrain(*straight, out="straight").code == 0
    assert same(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
def test_rows_shorter_than_the_context(pretrain: Callable, gptloom: Callable, tmp_path: Path) -> None:
    done = pretrain("--max-steps", 3, "--context", 64, "--sequence-length", 16, *BRIEF)
    assert done.code == 0, done.err
    assert trained(tmp_path / "run")[-1]["tokens"] == 3 * 256
    shown = gptloom("data", "show", tmp_path / "run", "--step", 1, "--rows", 99, "--json").document["windows"]
    assert [len(window["ids"]) for window in shown] == [17] * 16
    text = tmp_path / "plays.txt"
    longer = gptloom("pretrain", tmp_path / "run", "--data", text, "--out", tmp_path / "longer", "--max-steps", 2)
    assert longer.code == 0, longer.err  # of the whole context now


def test_masked_words_in_a_batch_that_grows(pretrain: Callable, text: Path, tmp_path: Path) -> None:
    masked = ("--objective", "masked", "--pairs", "none", "--tokenizer", "wordpiece", "--vocab-size", 100)
    done = pretrain("--model", "bert-tiny", *masked, *RAMP, "--max-steps", 6, "--context", 16, *BRIEF)
    assert done.code == 0, done.err
    assert [event["tokens"] for event in trained(tmp_path / "run")] == [16 * SIZES.before(n) for n in range(1, 7)]


@pytest.mark.slow
def test_a_ramp_is_repeated(pretrain: Callable, gptloom: Callable, tmp_path: Path) -> None:
    options = ("--schedule", "cosine", "--warmup-tokens", 128, "--epsilon", 1e-6, "--sequence-length", 16)
    assert pretrain("--max-steps", 6, "--context", 32, *options, *RAMP, *BRIEF).code == 0
    again = gptloom("rerun", tmp_path / "run", "--out", tmp_path / "again", "--verify")
    assert again.code == 0 and "to the bit" in again.out + again.err, again.err


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--batch-ramp", 64), "--batch-ramp takes two numbers"),
        (("--batch-ramp", 100, 1000), "--batch-ramp begins with 100 tokens: not a multiple of 16 tokens, below 256"),
        (("--batch-ramp", 512, 1000), "--batch-ramp 240 1000"),
        (("--warmup", 2, "--warmup-tokens", 300), "--warmup and --warmup-tokens say the same"),
        (("--warmup-tokens", 3000, "--max-steps", 10), "--warmup-tokens 3000 are 12 steps; the run has 10"),
        (
            ("--warmup-tokens", 1000, "--decay-tokens", 900, "--max-steps", 10, "--schedule", "linear"),
            "--decay-tokens 900 end at step 4, within the warm-up of 4 steps",
        ),
        (("--decay-tokens", 900, "--schedule", "trapezoid"), "--decay-tokens is for --schedule cosine or linear"),
        (("--sequence-length", 32), "--sequence-length 32 is more than the model's context 16"),
        (("--epsilon", 0), "--epsilon '0' must be greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    pretrain: Callable, tmp_path: Path, options: tuple[object, ...], what: str
) -> None:
    done = pretrain(*options)
    assert done.code == 2
    assert what in done.err
    assert not (tmp_path / "run").exists()
