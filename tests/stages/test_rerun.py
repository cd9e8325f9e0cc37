"""A finished run again: the same to the bit, other inputs refused, and what is not as it was named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.stages.rerun import Record
from gptloom.train.run import read_state

SHAPE = ["--n-layer", "1", "--d-model", "16", "--n-head", "2", "--context", "16", "--batch-tokens", "256"]
PACE = ["--log-every", "1", "--sample-tokens", "4", "--log", "none", "--threads", "1", "--quiet"]


def some_text(kings: int) -> str:
    return "\n".join(f"The {n}th of {n * n} kings went down to river {n % 7}." for n in range(kings))


class Runs:
    """Trains and repeats in one folder, and answers with the JSON document."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.text = folder / "plays.txt"
        self.text.write_text(some_text(400), encoding="utf-8")

    def pretrain(self, *arguments: object, base: Path | None = None, out: str = "run") -> Path:
        shape = [str(base)] if base else SHAPE
        place = ["--data", str(self.text), "--out", str(self.folder / out)]
        code, _ = self._run("pretrain", *shape, *place, *PACE, *map(str, arguments))
        assert code == 0
        return self.folder / out

    def rerun(self, run: Path, *arguments: str, out: str = "again") -> tuple[int, Any]:
        place = ["--out", str(self.folder / out)]
        code, printed = self._run("rerun", str(run), "--quiet", "--json", *place, *arguments)
        return code, json.loads(printed)

    def _run(self, *arguments: str) -> tuple[int, str]:
        threads = torch.get_num_threads()
        self._capsys.readouterr()
        code = main(arguments)
        torch.set_num_threads(threads)
        return code, self._capsys.readouterr().out


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    return Runs(tmp_path, capsys)


def same(code: int, document: dict[str, Any]) -> bool:
    # The commit of gptloom may change while its developers test it; then the bits must agree all the same.
    equal = [part["largest_difference"] == 0 for part in document["parts"]]
    changed = [what for what in document["changed"] if "commit" not in what]
    return code == 0 and document["holds"] and all(equal) and not changed


def test_a_run_is_repeated_to_the_bit(runs: Runs) -> None:
    run = runs.pretrain("--max-steps", 6, "--dropout", 0.1)
    code, document = runs.rerun(run, "--verify")
    assert same(code, document), document
    assert len(document["parts"]) == 10 and document["original"] == str(run)
    assert read_state(runs.folder / "again").state == "finished"


@pytest.mark.slow
def test_without_verify_it_only_trains(runs: Runs) -> None:
    code, document = runs.rerun(runs.pretrain("--max-steps", 2))
    assert (code, document["holds"], document["parts"]) == (0, None, None) and document["step"] == 2


@pytest.mark.slow
def test_what_was_measured_is_held_fast(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over the text, a time, and a shape that another machine would choose differently."""
    run = runs.pretrain("--max-epochs", 2, "--max-minutes", 5, "--max-steps", 10)
    assert read_state(run).steps < 11
    monkeypatch.setattr("gptloom.stages.machine.matrix_peak", lambda dtype, device: 1e6)  # a slower machine
    code, document = runs.rerun(run, "--verify")
    assert same(code, document), document
    given = Record.read(run).given
    assert "max_minutes" not in given and "max_epochs" not in given
    assert (given["max_steps"], given["n_layer"], given["d_model"], given["context"]) == (
        read_state(run).steps,
        1,
        16,
        16,
    )
    assert given["threads"] == 1 and given["precision"] in ("fp32", "bf16") and given["compile"] is False


@pytest.mark.slow
def test_a_run_from_a_base_and_with_a_constant_rate(runs: Runs) -> None:
    base = runs.pretrain("--max-steps", 3, out="base")
    arguments = ["--max-steps", 3, "--batch-tokens", 128, "--schedule", "constant"]
    run = runs.pretrain(*arguments, base=base)
    assert same(*runs.rerun(run, "--verify"))
    changed = runs.pretrain("--max-steps", 2, "--overwrite", out="base")
    assert changed == base
    code, document = runs.rerun(run, out="third")
    assert code == 2 and "the base model has changed" in document["error"][0]["what"]
    assert not (runs.folder / "third").exists()


@pytest.mark.slow
def test_a_run_that_was_paused_and_resumed_is_repeated_in_one_go(runs: Runs) -> None:
    import gptloom

    def stop(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 3:
            (run.path / "stop").touch()

    numbers = {"n_layer": 1, "d_model": 16, "n_head": 2, "context": 16, "batch_tokens": 256, "sample_tokens": 0}
    rest = {"max_steps": 6, "threads": 1, "log": "none", "quiet": True, "dropout": 0.1}
    run = gptloom.pretrain(data=runs.text, out=runs.folder / "run", callbacks=[stop], **numbers, **rest)
    assert run.state.state == "paused"
    with pytest.raises(UserError, match="the run is paused, not finished"):
        gptloom.rerun(run.path)
    gptloom.resume(run.path, quiet=True)
    repeated = gptloom.rerun(run.path, verify=True, out=runs.folder / "again", quiet=True)
    assert repeated.holds and repeated.comparison.exact


def test_other_text_is_refused(runs: Runs) -> None:
    run = runs.pretrain("--max-steps", 2)
    runs.text.write_text(some_text(401), encoding="utf-8")
    code, document = runs.rerun(run)
    assert code == 2 and "the text has changed" in document["error"][0]["what"]
    assert not (runs.folder / "again").exists()
    runs.text.unlink()
    code, document = runs.rerun(run)
    assert code == 2 and str(runs.text) in str(document["error"])


@pytest.fixture
def edited(runs: Runs) -> Callable[..., Path]:
    """A finished run of which one JSON file is changed."""

    def edit(name: str, change: Callable[[Any], None]) -> Path:
        run = runs.pretrain("--max-steps", 3)
        path = run / name
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return run

    return edit


def test_another_result_ends_with_code_1_and_names_it(runs: Runs, edited: Callable[..., Path]) -> None:
    def other_loss(lines: list[dict[str, Any]]) -> None:
        next(line for line in lines if line["type"] == "train" and line["step"] == 2)["loss"] *= 1.01

    code, document = runs.rerun(edited("events.jsonl", other_loss), "--verify")
    losses = next(part for part in document["parts"] if part["name"] == "training losses")
    assert code == 1 and document["holds"] is False
    assert losses["at"] == "step 2 loss" and losses["largest_difference"] == pytest.approx(0.0099, abs=1e-4)


@pytest.mark.slow
def test_on_another_machine_losses_are_held_against_a_tolerance(runs: Runs, edited: Callable[..., Path]) -> None:
    def elsewhere(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["type"] == "start":
                line["repeat"]["processor"] = "another one"
            if line["type"] == "train":
                line["loss"] *= 1.002
                line["grad_norm"] *= 2
            if line["type"] == "sample":
                line["text"] = "another one"

    run = edited("events.jsonl", elsewhere)
    code, document = runs.rerun(run, "--verify", "--tolerance", "0.01")
    assert code == 0 and document["holds"] and document["tolerance"] == 0.01
    assert any(what.startswith("processor: another one, now ") for what in document["changed"])
    code, document = runs.rerun(run, "--verify", "--tolerance", "0.001", out="third")
    assert code == 1 and not document["holds"]


@pytest.mark.slow
def test_of_a_gpu_no_bits_are_demanded(runs: Runs, edited: Callable[..., Path]) -> None:
    def with_gpu(lines: list[dict[str, Any]]) -> None:
        next(line for line in lines if line["type"] == "start")["machine"]["gpus"] = ["a fast one"]

    on_cpu = Record.read(edited("events.jsonl", lambda lines: None))
    assert on_cpu.unlike(on_cpu) == ()
    shutil.rmtree(on_cpu.folder)
    on_gpu = Record.read(edited("events.jsonl", with_gpu))
    assert on_gpu.unlike(on_gpu) == ("computed on a GPU, which may add up in any order",)


def test_refusals(runs: Runs) -> None:
    run = runs.pretrain("--max-steps", 2)
    code, document = runs.rerun(run, "--tolerance", "0.1")
    assert code == 2 and "--tolerance does nothing without --verify" in document["error"][0]["what"]
    code, document = runs.rerun(runs.folder / "nowhere")
    error = document["error"][0]
    assert code == 2 and error["what"] == "no such run folder" and str(run) in error["mend"]
    code, document = runs.rerun(run, out="run")
    assert code == 2 and "a run in this folder already" in document["error"][0]["what"]
    shutil.rmtree(run / "checkpoints")
    assert runs.rerun(run)[0] == 2


@pytest.mark.parametrize("command", ["rerun", "verify-resume"])
def test_a_fine_tuning_is_refused_in_one_sentence(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.json").write_text('{"state": "finished"}', encoding="utf-8")
    (tmp_path / "config.yaml").write_text("version: 1\ncommand: finetune\noptions: {}\n", encoding="utf-8")
    assert main([command, str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count(" tun") == 1 and "there is no option" not in told


@pytest.mark.slow
def test_an_extension_with_a_new_warm_up_is_no_single_training(runs: Runs) -> None:
    run = runs.pretrain("--max-steps", 3, "--schedule", "cosine")
    assert main(["resume", str(run), "--max-steps", "6", "--quiet"]) == 0
    code, document = runs.rerun(run)
    assert code == 2 and "extended at step 3" in document["error"][0]["what"]


@pytest.mark.slow
def test_a_run_of_several_processes_is_repeated_by_as_many(runs: Runs) -> None:
    run = runs.pretrain("--max-steps", 6, "--dropout", 0.1, "--micro-batch", 4, "--processes", 2)
    assert Record.read(run).given["processes"] == 2
    code, document = runs.rerun(run, "--verify")
    assert same(code, document), document
    assert Record.read(runs.folder / "again").facts["processes"] == 2


@pytest.mark.slow
def test_deterministic_changes_nothing_and_repeats_to_the_bit(runs: Runs) -> None:
    plain = runs.pretrain("--max-steps", 3, "--dropout", 0.1, out="plain")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        run = runs.pretrain("--max-steps", 3, "--dropout", 0.1, "--deterministic")
        code, document = runs.rerun(run, "--verify")
    finally:
        torch.use_deterministic_algorithms(before)
    assert same(code, document), document
    losses = [[event["loss"] for event in events(path)] for path in (plain, run)]
    assert losses[0] == losses[1]  # on a CPU there is nothing to give up


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["type"] == "train"]
