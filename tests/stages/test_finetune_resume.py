"""A fine-tuning that was stopped, killed, refused or out of room: it goes on as if nothing had been, or says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from volumes import small_volume

import gptloom
from gptloom.config.errors import UserError
from gptloom.model.store import load_model, save_model
from gptloom.model.weight_files import WeightFiles
from gptloom.observe.events import read_events
from gptloom.stages.finetune import features, final
from gptloom.tokenizer.load import load_tokenizer
from gptloom.train import disk
from gptloom.train.lock import RunLock
from gptloom.train.run import read_state

Tune = Callable[..., Any]
TABLE = Callable[..., Path]
EVERY = {"max_steps": 5, "eval_every": 2, "save_every": 2}


def stop_at(step: int, name: str = "") -> Callable[[dict[str, Any], Any], None]:
    """A hook that does what ``gptloom stop`` does, in the runs of that name."""

    def hook(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == step and name in run.path.name:
            (run.path / "stop").touch()

    return hook


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weight files."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    with WeightFiles(folder, names) as files:
        return {name: files.read(name).clone() for name in files.shapes}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def resume(folder: Path, **given: Any) -> Any:
    return gptloom.resume(str(folder), quiet=True, threads=torch.get_num_threads(), **given)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


# ---- bit for bit -----------------------------------------------------------------------------------------------------

CASES = [
    ("decoder", "classify", "full"),
    pytest.param("encoder", "classify", "lora", marks=pytest.mark.slow),
    *(
        pytest.param("decoder", kind, "full", marks=pytest.mark.slow)
        for kind in ("regress", "choice", "span", "tokens")
    ),
    *(pytest.param("decoder", "scored", method, marks=pytest.mark.slow) for method in ("last", "lora")),
    pytest.param("bare encoder", "similar", "lora", marks=pytest.mark.slow),
]


@pytest.fixture
def bare_encoder(bodies: dict[str, Path], tmp_path: Path) -> Path:
    """As one that was pretrained on masked words alone: its pooler is as new as the head."""
    folder = tmp_path / "bare"
    model, config = load_model(bodies["encoder"])
    bare = type(config)(**{**config.model_dump(), "pooler": False, "pair_head": False})
    state = {name: p.detach() for name, p in model.named_parameters() if not name.startswith(("pooler.", "pair_"))}
    save_model(folder, state, bare, tokenizer=load_tokenizer(bodies["encoder"]))
    return folder


@pytest.mark.parametrize(("body", "kind", "method"), CASES)
def test_a_stopped_run_ends_as_one_that_was_not(
    tune: Tune, bare_encoder: Path, tmp_path: Path, body: str, kind: str, method: str
) -> None:
    base = str(bare_encoder) if body == "bare encoder" else body
    whole = tune(base, kind, method=method, out=str(tmp_path / "whole"), **EVERY)
    stopped = tune(base, kind, method=method, callbacks=[stop_at(3)], **EVERY)
    assert (stopped.state.state, stopped.state.step) == ("paused", 3)
    assert not (stopped.path / "final").exists()
    again = resume(stopped.path)
    assert (again.state.state, again.state.step) == ("finished", 5)
    assert same(stored(whole.path / "final"), stored(again.path / "final"))
    assert again.state.best_step == whole.state.best_step
    assert again.figures["valid"] == whole.figures["valid"]
    if method == "lora":
        assert same(stored(whole.path / "adapter"), stored(again.path / "adapter"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_run_ends_as_one_that_was_not(
    tune: Tune, table: TABLE, bodies: dict[str, Path], tmp_path: Path, method: str
) -> None:
    """By kill -9 of a process of its own, once its second checkpoint stands."""
    steps = {"max_steps": 60, "eval_every": 10, "save_every": 5}
    threads = torch.get_num_threads()
    try:
        whole = tune(method=method, threads=1, out=str(tmp_path / "whole"), **steps)
        words = ["--task", "classify", "--data", table("classify"), "--valid", table("classify", 12, 1)]
        words += ["--method", method, "--threads", 1, "--precision", "fp32", "--log", "none"]
        words += ["--batch-size", 8, "--lr", 3e-3, "--max-steps", 60, "--eval-every", 10, "--save-every", 5]
        folder = tmp_path / "killed"
        command = [sys.executable, "-m", "gptloom", "finetune", bodies["decoder"], *words, "--out", folder]
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 120
            while not (folder / "checkpoints" / "step-00000010" / "state.json").is_file():
                assert child.poll() is None and time.monotonic() < end, "it ended too early, or never began"
                time.sleep(0.005)
        finally:
            child.kill()
            child.communicate(timeout=30)
        if read_state(folder).state == "finished":
            pytest.skip("the run was faster than the test")
        assert read_state(folder).state == "running" and not (folder / "final").exists()
        again = gptloom.resume(str(folder), quiet=True)
        assert again.state.state == "finished" and again.state.step == 60
        assert same(stored(whole.path / "final"), stored(folder / "final"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_broken_off_while_the_final_folder_is_written(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune("encoder", max_steps=2, out=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(final, "open_classifier", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tune("encoder", max_steps=2)
    folder = tmp_path / "run"
    assert read_state(folder).state == "failed" and not (folder / "metrics.json").exists()
    again = resume(folder)
    assert again.state.state == "finished" and again.figures["valid"] == whole.figures["valid"]
    assert same(stored(whole.path / "final"), stored(folder / "final"))


def test_an_extended_run_that_was_broken_off_keeps_its_new_length(tune: Tune) -> None:
    run = tune(max_steps=2, save_every=2, eval_every=2)
    paused = resume(run.path, max_steps=6, callbacks=[stop_at(4)])
    assert (paused.state.state, paused.state.step, paused.state.begin) == ("paused", 4, 2)
    again = resume(run.path)
    assert (again.state.state, again.state.step, again.state.begin) == ("finished", 6, 2)


@pytest.mark.slow
def test_an_extended_run_that_was_broken_off_at_once_keeps_its_new_length(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint knows yet that the run was extended."""
    run = tune(max_steps=2, save_every=2, eval_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("gptloom.stages.tuning.training.fit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resume(run.path, max_steps=6)
    again = resume(run.path, max_steps=6)
    assert (again.state.state, again.state.step, again.state.begin) == ("finished", 6, 2)


@pytest.mark.slow
def test_a_larger_budget_goes_on_from_the_end(tune: Tune) -> None:
    run = tune(max_steps=3)
    assert "--max-steps 6" in refusal(lambda: resume(run.path))
    assert "planned for 3" in refusal(lambda: resume(run.path, max_steps=2))
    assert "is extended by --max-steps" in refusal(lambda: resume(run.path, max_epochs=9))
    more = resume(run.path, max_steps=6)
    assert (more.state.state, more.state.step, more.state.begin) == ("finished", 6, 3)
    assert [event["step"] for event in more.events if event["type"] == "train"] == [1, 2, 3, 4, 5, 6]


# ---- features --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_features_outlive_a_run_that_was_broken_off(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(method="feature", out=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(features, "_fitted", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tune(method="feature")
    assert read_state(tmp_path / "run").state == "failed"
    monkeypatch.setattr(features, "_collect", lambda *_: 1 / 0)
    again = resume(tmp_path / "run")
    assert again.state.state == "finished"
    assert same(stored(whole.path / "final"), stored(again.path / "final"))
    assert "--overwrite" in refusal(lambda: resume(again.path))


@pytest.mark.slow
def test_features_of_other_rows_are_made_anew(tune: Tune, table: TABLE, tmp_path: Path, monkeypatch: Any) -> None:
    data, valid = table("classify", 20, 5), str(table("classify", 12, 1))
    with monkeypatch.context() as patch:
        patch.setattr(features, "_fitted", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tune(method="feature", data=[str(data)], valid=[valid])
    with data.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence": "one lamp more", "label": "light"}) + "\n")
    again = resume(tmp_path / "run")
    straight = tune(method="feature", data=[str(data)], valid=[valid], out=str(tmp_path / "straight"))
    assert same(stored(straight.path / "final"), stored(again.path / "final"))


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_rows_or_another_base_are_refused(
    tune: Tune, table: TABLE, bodies: dict[str, Path], tmp_path: Path
) -> None:
    data, base = table("classify", 20, 5), tmp_path / "base"
    shutil.copytree(bodies["decoder"], base)
    run = tune(str(base), data=[str(data)], valid=[str(table("classify", 12, 1))], callbacks=[stop_at(2)])
    text = data.read_text(encoding="utf-8")
    data.write_text(text + json.dumps({"sentence": "one lamp more", "label": "light"}) + "\n", encoding="utf-8")
    model, config = load_model(base)
    with torch.no_grad():
        dict(model.named_parameters())["norm.weight"].add_(1)
    save_model(base, model, config, tokenizer=load_tokenizer(base))
    told = refusal(lambda: resume(run.path))
    assert "the rows have changed" in told and f"the weights of {base} have changed" in told
    data.write_text(text, encoding="utf-8")
    assert "the rows" not in refusal(lambda: resume(run.path))
    assert read_state(run.path).state == "paused"


@pytest.mark.slow
def test_two_at_once_in_one_folder_are_one_too_many(tune: Tune, tmp_path: Path) -> None:
    told: list[str] = []

    def second(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 1:
            told.append(refusal(lambda: tune(overwrite=True)))
            told.append(refusal(lambda: resume(run.path)))

    run = tune(callbacks=[second, stop_at(2)])
    assert all("another process is training in this folder" in text for text in told) and len(told) == 2
    assert (run.state.state, run.state.step) == ("paused", 2)
    assert resume(run.path).state.state == "finished"


def test_the_old_run_stays_where_the_new_one_is_refused(tune: Tune) -> None:
    run = tune(max_steps=1)
    before = stored(run.path / "final")
    assert "there is a run in this folder already" in refusal(lambda: tune(max_steps=1))
    assert "--layers 9" in refusal(lambda: tune(method="last", layers=9, overwrite=True))
    assert run.state.state == "finished" and same(before, stored(run.path / "final"))
    assert tune(max_steps=2, overwrite=True).state.step == 2
    assert not list(run.path.parent.glob(".*.replaced"))


# ---- several runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_method_stands_in_one_table(tune: Tune, tmp_path: Path) -> None:
    """Also with an option that one of the methods does not heed; what is done is not done again."""
    given = {"method": "all", "max_steps": 2, "lr": 3e-3, "layers": 1}
    folder = tmp_path / "run"
    assert "--target-modules" in refusal(lambda: tune(target_modules=["nothing"], **given))
    assert not folder.exists(), "the last method is refused before the first is trained"
    comparison = tune(**given)
    assert [line.method for line in comparison.lines] == ["feature", "last", "full", "lora"]
    document = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert document["done"] and document["lines"][0]["mean"] == comparison.lines[0].mean
    assert (folder / "comparison.md").read_text(encoding="utf-8").count("\n") == 6
    assert (folder / "comparison.png").stat().st_size > 1000
    trained = [line.trained_parameters for line in comparison.lines]
    assert trained[0] < trained[3] < trained[1] < trained[2]
    before = (folder / "full" / "state.json").stat().st_mtime_ns
    assert tune(**given).lines == comparison.lines
    assert (folder / "full" / "state.json").stat().st_mtime_ns == before
    assert "other options or rows" in refusal(lambda: tune(**{**given, "max_steps": 3}))
    with_lock = RunLock(folder)
    with_lock.acquire()
    assert "another process" in refusal(lambda: tune(overwrite=True, **given))
    with_lock.release()


@pytest.mark.slow
def test_seeds_go_on_where_they_were_stopped(tune: Tune, table: TABLE, tmp_path: Path) -> None:
    """On one held-out part, whatever the seed: also where a run is gone on with by itself."""
    given = {"data": [str(table("classify", 40))], "valid": [], "seeds": 2, **EVERY}
    whole = tune(out=str(tmp_path / "whole"), **given)
    stopped = tune(callbacks=[stop_at(3, "seed-1338")], **given)
    assert not stopped.done and not (tmp_path / "run" / "comparison.png").exists()
    again = tune(**given)
    assert again.done and again.lines[0].values == whole.lines[0].values
    assert again.lines[0].error is not None
    for seed in ("seed-1337", "seed-1338"):
        assert same(stored(tmp_path / "whole" / seed / "final"), stored(tmp_path / "run" / seed / "final"))
    starts = [
        event["step"]
        for event in read_events(tmp_path / "run" / "seed-1338" / "events.jsonl")
        if event["type"] == "start"
    ]
    assert starts == [0, 3], "it went on from its checkpoint"
    assert tune(overwrite=True, **given).lines[0].values == whole.lines[0].values


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Three megabytes."""
    with small_volume(tmp_path / "volume", 3) as folder:
        yield folder


@pytest.mark.parametrize("when", ["checkpoint", pytest.param("final", marks=pytest.mark.slow)])
def test_a_full_disk_is_waited_for(tune: Tune, volume: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(disk, "LOOK_EVERY", 0.02)
    filler, states = volume / "filler", []

    def make_room() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            state = read_state(volume / "run")
            if state.state == "paused":
                states.append(state.reason)
                filler.unlink()
                return
            time.sleep(0.01)

    def fill(event: dict[str, Any], run: Any) -> None:
        step = 2 if when == "checkpoint" else 4
        if event["type"] == "checkpoint" and event["step"] == step and not filler.exists() and not states:
            with filler.open("wb") as file:
                file.write(bytes(disk.free_bytes(volume) - 50_000))
            threading.Thread(target=make_room, daemon=True).start()

    run = tune(out=str(volume / "run"), eval_every=2, save_every=2, callbacks=[fill])
    assert states == ["the disk is full"]
    assert run.state.state == "finished" and run.figures["valid"]["n"] == 12
    guards = [event["reason"].partition(":")[0] for event in run.events if event["type"] == "guard"]
    assert guards == ["the disk is full", "there is room on the disk again"]
