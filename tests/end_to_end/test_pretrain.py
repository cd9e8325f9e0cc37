from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import gptloom as package
from gptloom.config.errors import UserError
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model, read_lineage
from gptloom.observe.events import read_events
from gptloom.stages import training as stage
from gptloom.train.checkpoint import seal
from gptloom.train.run import read_state
from gptloom.train.schedules import Schedule

TWENTY = ("--max-steps", 20, "--sample-tokens", 8)
BRIEF = ("--sample-tokens", 0, "--eval-every", 100)


def events(run: Path, kind: str) -> list[dict]:
    return [event for event in read_events(run / "events.jsonl") if event["type"] == kind]


# ---- the main job ------------------------------------------------------------------------------------------------


def test_a_text_becomes_a_model(pretrain, gptloom, tmp_path: Path) -> None:
    done = pretrain(*TWENTY)
    run = tmp_path / "run"
    assert done.code == 0, done.err
    assert "validation: the last 10 %" in done.err and "--lr" in done.err and "finished at step 20" in done.err
    state = read_state(run)
    assert (state.state, state.reason, state.step, state.steps) == ("finished", "20 steps", 20, 20)
    kinds = {event["type"] for event in read_events(run / "events.jsonl")}
    assert kinds == {"start", "train", "timing", "evaluate", "sample", "checkpoint", "end"}
    start = events(run, "start")[0]
    assert start["steps"] == 20 and start["tokens_per_step"] == 256 and start["context"] == 16
    losses = [event["loss"] for event in events(run, "train")]
    assert losses[-1] < losses[0] - 0.3
    evaluated = events(run, "evaluate")
    assert evaluated[-1]["step"] == 20 and evaluated[-1]["bits_per_byte"] < evaluated[0]["bits_per_byte"]
    assert events(run, "sample")[-1]["text"]
    model, config = load_model(run / "final")
    assert (config.n_layer, config.d_model, config.context) == (2, 16, 16)
    lineage = read_lineage(run / "final")["lineage"]
    assert lineage["stage"] == "pretrain" and lineage["step"] == 20 and lineage["data_hash"]
    assert lineage["metrics"]["bits_per_byte"] == evaluated[-1]["bits_per_byte"]
    last = load_model(finished_checkpoints(run)[20] / "model")[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), last.parameters(), strict=True))
    options = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["options"]
    assert options["max_steps"] == {"value": 20, "source": "command line"}
    explained = gptloom("config", "explain", run, "lr")
    assert explained.code == 0 and "derived" in explained.out and options["lr"]["rule"] in explained.out


def test_in_python_the_same(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    options = {"n_layer": 1, "d_model": 16, "n_head": 2, "context": 16, "batch_tokens": 64, "threads": 1, "log": "none"}
    run = package.pretrain(
        data=text,
        out=tmp_path / "run",
        max_steps=3,
        quiet=True,
        callbacks=[lambda event, run: seen.append(event["type"])],
        **options,
    )
    assert run.state.state == "finished" and seen[0] == "start" and seen[-1] == "end"
    assert run.events[-1]["type"] == "end"
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="there is no option"):
        package.pretrain(data=text, out=tmp_path / "other", layers=3)


def test_json_prints_one_document(pretrain, tmp_path: Path) -> None:
    done = pretrain(*TWENTY, "--json")
    assert done.code == 0
    assert done.document["run"] == str(tmp_path / "run") and done.document["state"] == "finished"


def test_quiet_says_nothing(pretrain) -> None:
    done = pretrain("--max-steps", 2, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_dry_run_writes_nothing(pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = pretrain("--max-steps", 20, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.document["dry_run"] and done.document["cost"]["tokens"] == 20 * 256
    assert done.document["options"]["optimizer"] == "muon"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["chars", "bytes", "words"])
def test_other_tokenizers(pretrain, tmp_path: Path, kind: str) -> None:
    done = pretrain("--max-steps", 2, "--tokenizer", kind, "--optimizer", "adamw", "--dropout", 0.1)
    assert done.code == 0, done.err
    assert events(tmp_path / "run", "evaluate")[-1]["bits_per_byte"] > 0


def test_without_validation(pretrain, tmp_path: Path) -> None:
    done = pretrain(
        "--max-steps", 4, "--split", "none", "--sample", "The king", "--eval-every", 2, "--sample-tokens", 5
    )
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert not events(run, "evaluate")
    assert [event["prompt"] for event in events(run, "sample")] == ["The king", "The king"]
    refused = pretrain("--split", "none", "--patience", 3, out="other")
    assert refused.code == 2 and "--patience needs validation text" in refused.err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_shards_built_before(pretrain, gptloom, text: Path, tmp_path: Path) -> None:
    assert gptloom("tokenizer", "train", "--data", text, "--vocab-size", 300, "--out", tmp_path / "tok").code == 0
    built = gptloom("data", "build", "--data", text, "--tokenizer", tmp_path / "tok", "--out", tmp_path / "shards")
    assert built.code == 0, built.err
    done = pretrain("--max-steps", 3, "--tokenizer", tmp_path / "tok", data=tmp_path / "shards")
    assert done.code == 0, done.err
    assert gptloom("resume", tmp_path / "run", "--max-steps", 5).code == 0
    assert gptloom("tokenizer", "train", "--data", text, "--vocab-size", 310, "--out", tmp_path / "other").code == 0
    refused = pretrain("--tokenizer", tmp_path / "other", data=tmp_path / "shards", out="r2")
    assert refused.code == 2 and "tokenizer" in refused.err
    assert not (tmp_path / "r2").exists()
    without = pretrain(data=tmp_path / "shards", out="r3")
    assert without.code == 2 and "--tokenizer" in without.err


def test_continuing_on_a_base(pretrain, gptloom, more_text: Path, tmp_path: Path) -> None:
    assert pretrain(*TWENTY).code == 0
    base = load_model(tmp_path / "run" / "final")[0]
    arguments = ["--max-steps", 5, "--batch-tokens", 128, "--threads", 1, "--log", "none", "--out", tmp_path / "second"]
    done = gptloom("pretrain", tmp_path / "run", "--data", more_text, "--lr", 1e-6, "--embedding-lr", 1e-6, *arguments)
    assert done.code == 0, done.err
    model = load_model(tmp_path / "second" / "final")[0]
    assert torch.allclose(model.embedding.weight, base.embedding.weight, atol=1e-4)
    assert not torch.equal(model.embedding.weight, base.embedding.weight)
    lineage = read_lineage(tmp_path / "second" / "final")["lineage"]
    assert (tmp_path / "second" / "final" / lineage["parents"][0]["path"]).resolve() == tmp_path / "run" / "final"
    tokenizers = [(tmp_path / run / "tokenizer" / "tokenizer.json").read_bytes() for run in ("run", "second")]
    assert tokenizers[0] == tokenizers[1]
    refused = gptloom("pretrain", tmp_path / "run", "--data", more_text, "--model", "small", "--vocab-size", 500)
    assert refused.code == 2 and "--model cannot be given" in refused.err and "--vocab-size cannot" in refused.err


# ---- resuming ----------------------------------------------------------------------------------------------------


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def test_a_run_that_is_stopped_goes_on_to_the_bit(pretrain, gptloom, tmp_path: Path) -> None:
    for optimizer, precision in (("adamw", "fp32"), ("muon", "bf16")):
        options = ["--max-steps", 12, "--dropout", 0.1, "--optimizer", optimizer, "--precision", precision, *BRIEF]
        straight, broken = f"straight-{optimizer}", f"broken-{optimizer}"
        assert pretrain(*options, out=straight).code == 0
        stop = tmp_path / broken / "stop"

        def ask(event: dict, run: object, stop: Path = stop) -> None:
            if event["type"] == "train" and event["step"] == 7:
                stop.touch()

        with pytest.MonkeyPatch.context() as patch:
            real = stage.train
            patch.setattr(stage, "train", lambda *given, ask=ask, real=real: real(*given[:4], [ask]))
            paused = pretrain(*options, out=broken)
        assert paused.code == 0 and "gptloom resume" in paused.err
        state = read_state(tmp_path / broken)
        assert (state.state, state.step) == ("paused", 7)
        assert not (tmp_path / broken / "final").exists()
        resumed = gptloom("resume", tmp_path / broken)
        assert resumed.code == 0, resumed.err
        ours, theirs = weights(tmp_path / broken), weights(tmp_path / straight)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        again = gptloom("resume", tmp_path / broken)
        assert again.code == 2 and "the run is finished" in again.err and "--max-steps" in again.err


def lr_by_step(run: Path) -> dict[int, float]:
    return {event["step"]: event["lr"] for event in events(run, "train")}


@pytest.mark.slow
def test_a_trapezoid_is_extended_from_before_its_decay(pretrain, gptloom, tmp_path: Path) -> None:
    options = ["--schedule", "trapezoid", "--decay", 0.4, "--lr", 0.01, "--save-every", 3, "--log-every", 1, *BRIEF]
    assert pretrain("--max-steps", 10, *options).code == 0
    run = tmp_path / "run"
    assert 6 in finished_checkpoints(run)  # where the decay began, though 9 and 10 came after it
    done = gptloom("resume", run, "--max-steps", 20)
    assert done.code == 0, done.err
    assert "going on from step 6, before the learning rate came down" in done.err
    assert pretrain("--max-steps", 20, *options, out="straight").code == 0
    ours, theirs = weights(run), weights(tmp_path / "straight")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # as if it had been planned so
    assert lr_by_step(run) == pytest.approx(lr_by_step(tmp_path / "straight"))
    assert read_state(run).steps == 20 and 12 in finished_checkpoints(run) and 6 not in finished_checkpoints(run)


@pytest.mark.slow
def test_another_schedule_is_warmed_up_again(pretrain, gptloom, tmp_path: Path) -> None:
    options = ["--schedule", "cosine", "--warmup", 2, "--lr", 0.01, "--save-every", 4, "--log-every", 1, *BRIEF]
    assert pretrain("--max-steps", 8, *options).code == 0
    run = tmp_path / "run"
    done = gptloom("resume", run, "--max-steps", 18)
    assert done.code == 0 and "a new warm-up and decay over the steps 8 to 18" in done.err
    assert "extended by gptloom resume" in gptloom("config", "explain", run, "max_steps").out
    schedule = Schedule(18, 2, "cosine", 0.1, begin=8)
    rates = lr_by_step(run)
    assert [rates[step] for step in range(9, 19)] == pytest.approx([0.01 * schedule(step) for step in range(8, 18)])


@pytest.mark.slow
def test_an_extension_that_is_broken_off_keeps_its_schedule(pretrain, gptloom, text: Path, tmp_path: Path) -> None:
    options = ["--schedule", "cosine", "--warmup", 2, "--lr", 0.01, "--save-every", 3, "--log-every", 1, *BRIEF]
    for out in ("run", "straight"):
        assert pretrain("--max-steps", 8, *options, out=out).code == 0
    assert gptloom("resume", tmp_path / "straight", "--max-steps", 18).code == 0
    run = tmp_path / "run"

    def stop(event: dict, run) -> str | None:
        if event["type"] == "train" and event["step"] == 13:
            (run.path / "stop").touch()
        return None

    assert package.resume(run, max_steps=18, quiet=True, callbacks=[stop]).state.state == "paused"
    assert gptloom("resume", run).code == 0
    ours, theirs = weights(run), weights(tmp_path / "straight")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_killed_in_the_middle_it_is_resumed(pretrain, gptloom, text: Path, tmp_path: Path) -> None:
    options = ["--max-steps", 60, "--save-every", 4, "--log-every", 1, *BRIEF]
    assert pretrain(*options, out="straight").code == 0
    from_config = yaml.safe_load((tmp_path / "straight" / "config.yaml").read_text(encoding="utf-8"))["options"]
    given = [
        word
        for name, entry in from_config.items()
        if entry["source"] == "command line" and name not in ("data", "out", "log")
        for word in (f"--{name.replace('_', '-')}", str(entry["value"]))
    ]
    slow = "import sys, time; from gptloom.cli.main import main; from gptloom.train import loop\n"
    slow += "real = loop.forward_backward\n"
    slow += "loop.forward_backward = lambda *given: (time.sleep(0.03), print('step', flush=True), real(*given))[2]\n"
    slow += "sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        slow,
        "pretrain",
        "--data",
        text,
        "--out",
        tmp_path / "run",
        "--log",
        "none",
        *given,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout):
            if count == 17:
                process.send_signal(signal.SIGKILL)
    assert max(finished_checkpoints(tmp_path / "run")) in (12, 16)
    assert read_state(tmp_path / "run").state == "running"
    resumed = gptloom("resume", tmp_path / "run")
    assert resumed.code == 0, resumed.err
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "straight")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_what_changed_since_the_checkpoint_is_said_or_refused(pretrain, gptloom, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 4, "--schedule", "cosine").code == 0
    run = tmp_path / "run"
    state = finished_checkpoints(run)[4] / "state.json"
    document = json.loads(state.read_text(encoding="utf-8"))
    document["facts"]["threads"] = 7
    document["facts"]["torch"] = "1.0"
    del document["seal"]
    document["seal"] = seal(document)
    state.write_text(json.dumps(document), encoding="utf-8")
    said = gptloom("resume", run, "--max-steps", 6)
    assert said.code == 0
    assert "threads changed since the checkpoint (7, now 1)" in said.err and "torch changed" in said.err
    shard = next((run / "data" / "train").glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    refused = gptloom("resume", run, "--max-steps", 8)
    assert refused.code == 2 and "the token shards have changed since the checkpoint" in refused.err


def test_a_damaged_checkpoint_is_refused_by_name(pretrain, gptloom, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 4, "--schedule", "cosine").code == 0
    harmed = finished_checkpoints(tmp_path / "run")[4] / "optimizer.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-1])
    refused = gptloom("resume", tmp_path / "run", "--max-steps", 8)
    assert refused.code == 2 and "optimizer.safetensors" in refused.err and "checksum differs" in refused.err


# ---- guards ------------------------------------------------------------------------------------------------------


def test_a_diverging_run_ends_with_code_3(pretrain, tmp_path: Path) -> None:
    done = pretrain("--max-steps", 60, "--lr", 1e30, "--embedding-lr", 1e30, "--clip", 0, "--warmup", 0)
    assert done.code == 3, done.err
    assert "updates in a row were refused" in done.err and "--lr" in done.err
    run = tmp_path / "run"
    assert read_state(run).state == "failed"
    guards = events(run, "guard")
    assert len(guards) == 10 and guards[0]["action"] == "update skipped"
    assert guards[0]["text"].startswith("row ") and 50 < len(guards[0]["text"]) < 1000


def test_a_second_ctrl_c_ends_with_code_130(pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptloom.train.loop.forward_backward", broken_off)
    assert pretrain("--max-steps", 3).code == 130
    assert read_state(tmp_path / "run").state == "failed"


@pytest.mark.slow
def test_more_than_a_day_is_said_and_asked(pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = pretrain("--max-steps", 10**10, "--dry-run")
    assert said.code == 0 and "parameters would take an hour" in said.err
    asked: list[str] = []
    monkeypatch.setattr("gptloom.cli.output.Output.at_terminal", True)
    monkeypatch.setattr("gptloom.cli.output.Output.ask", lambda self, question, yes: asked.append(question))
    refused = pretrain("--max-steps", 10**10)
    assert refused.code == 2 and "not started" in refused.err and asked == ["Start it?"]
    assert not (tmp_path / "run").exists()
    assert pretrain("--max-steps", 2).code == 0 and len(asked) == 1


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt"),
        ("empty.txt", b"", "empty"),
        ("binary.txt", bytes(range(256)) * 40, "byte"),
        ("latin.txt", "Gr\xfc\xdfe ".encode("latin-1") * 400, "--encoding"),
        ("short.txt", b"too short", ""),
        ("book.pdf", b"%PDF-1.4", "pdf"),
    ],
)
def test_text_that_cannot_be_trained_on(
    pretrain, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused = pretrain(data=tmp_path / name)
    assert refused.code == 2, refused.err
    assert message in refused.err and "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "small"], "--model"),
        (["--model", "smal"], "did you mean"),
        (["--n-head", "3"], "does not divide"),
        (["--vocab-size", "90000"], "--vocab-size"),
        (["--context", "100000", "--batch-tokens", "100000"], "context"),
        (["--batch-tokens", "250"], "--batch-tokens 256"),
        (["--max-steps", "3", "--warmup", "9"], "longer than the run"),
        (["--max-steps", "-3"], "--max-steps"),
        (["--optimizer", "sgd"], "--optimizer"),
        (["--precision", "int8"], "--precision"),
        (["--tokenizer", "no/such/place"], "no/such/place"),
        (["--resume"], "--resume"),
        (["--split", "none", "--valid-fraction", "0.2"], "--valid-fraction does nothing"),
        (["--schedule", "constant", "--final-lr", "0.1"], "--final-lr does nothing"),
        (["--sample", "The king", "--sample-tokens", "0"], "--sample does nothing"),
        (["--sample", "the old king and his young queen went down to the river where a boat " * 4], "leaves no room"),
    ],
)
def test_options_that_cannot_be(pretrain, tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = pretrain(*arguments)
    assert refused.code == 2, refused.err
    assert message in refused.err and "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()


def test_a_refused_overwrite_keeps_the_old_run(pretrain, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 2, *BRIEF).code == 0
    before = weights(tmp_path / "run")
    refused = pretrain("--overwrite", "--batch-tokens", 250)
    assert refused.code == 2
    after = weights(tmp_path / "run")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert pretrain("--overwrite", "--max-steps", 3, *BRIEF).code == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".run")] == []


def test_the_lock_is_held_while_the_text_is_prepared(pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptloom.stages import pretrain as stage
    from gptloom.train.lock import is_locked

    seen: list[bool] = []
    real = stage.open_shards_of

    def watched(*given: object):  # type: ignore[no-untyped-def]
        seen.append(is_locked(tmp_path / "run"))
        return real(*given)

    monkeypatch.setattr(stage, "open_shards_of", watched)
    assert pretrain("--max-steps", 2, *BRIEF).code == 0
    assert seen == [True] and not is_locked(tmp_path / "run")


def test_errors_are_a_document_too(pretrain) -> None:
    refused = pretrain("--model", "smal", "--json")
    assert refused.code == 2 and "smal" in refused.document["error"][0]["what"]


def test_empty_validation_text_is_refused(pretrain, tmp_path: Path) -> None:
    (tmp_path / "none.txt").touch()
    refused = pretrain("--valid", tmp_path / "none.txt")
    assert refused.code == 2 and "none.txt" in refused.err and "empty" in refused.err
    assert not (tmp_path / "run").exists()


def test_validation_text_that_overlaps_is_refused(pretrain, text: Path) -> None:
    refused = pretrain("--valid", text)
    assert refused.code == 2 and "--valid" in refused.err


def test_an_existing_run_is_never_overwritten_unasked(pretrain, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 2).code == 0
    before = weights(tmp_path / "run")
    refused = pretrain("--max-steps", 3)
    assert refused.code == 2 and "a run in this folder already" in refused.err and "--overwrite" in refused.err
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run").items())
    assert pretrain("--max-steps", 3, "--overwrite").code == 0
    assert read_state(tmp_path / "run").steps == 3
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "letter.txt").write_text("dear", encoding="utf-8")
    assert pretrain(out="notes").code == 2 and (notes / "letter.txt").exists()


def test_overwrite_never_deletes_what_is_read(pretrain, gptloom, text: Path, more_text: Path, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 2).code == 0
    run = tmp_path / "run"
    refused = gptloom("pretrain", run, "--data", more_text, "--out", run, "--overwrite")
    assert refused.code == 2 and "--overwrite would delete what this training reads" in refused.err
    inside = run / "text.txt"
    inside.write_bytes(text.read_bytes())
    assert pretrain("--overwrite", data=inside).code == 2
    assert inside.exists() and (run / "final" / "model.safetensors").exists()


def test_runs_of_other_makers(pretrain, gptloom, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 2).code == 0
    config = tmp_path / "run" / "config.yaml"
    content = config.read_text(encoding="utf-8")
    config.write_text(content.replace("version: 1", "version: 99", 1), encoding="utf-8")
    refused = gptloom("resume", tmp_path / "run")
    assert refused.code == 2 and "newer gptloom" in refused.err
    (tmp_path / "empty").mkdir()
    assert "no run: neither events.jsonl nor state.json" in gptloom("resume", tmp_path / "empty").err
    assert gptloom("resume", tmp_path / "nowhere").code == 2


def test_a_folder_that_cannot_be_written(pretrain, text: Path) -> None:
    refused = pretrain(out=f"{text.name}/run")
    assert refused.code == 2 and "cannot be written" in refused.err


def test_a_preset_is_no_base(gptloom, text: Path) -> None:
    refused = gptloom("pretrain", "small", "--data", text)
    assert refused.code == 2 and "--model small" in refused.err


@pytest.mark.slow
def test_a_resume_into_a_folder_in_use_changes_nothing(pretrain, gptloom, tmp_path: Path) -> None:
    from gptloom.train.lock import RunLock

    assert pretrain("--max-steps", 4, *BRIEF).code == 0
    run = tmp_path / "run"
    living = RunLock(run)
    living.acquire()
    (run / "stop").touch()  # for the training that holds the lock
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    refused = gptloom("resume", run, "--max-steps", 8)
    assert refused.code == 2 and "another process is training in this folder" in refused.err
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    living.release()
    assert gptloom("resume", run, "--max-steps", 8).code == 0  # an old request to stop is not for this one
    assert read_state(run).step == 8
