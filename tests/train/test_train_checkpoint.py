from __future__ import annotations

import hashlib
import json
import random
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.model.reference import finished_checkpoints, resolve_reference
from gptloom.model.store import load_model
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.train.checkpoint import OPTIMIZER, name_of, newest_sound, prune, read_checkpoint, restore, seal
from gptloom.train.hooks import Save
from gptloom.train.objective import NextToken
from gptloom.train.saver import Saver
from gptloom.train.schedules import Schedule
from gptloom.train.snapshot import About

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)
SCRIPT = Path(__file__).parent / "tiny_training.py"


def about(run, folder: Path) -> About:
    return About(CONFIG, None, {"step": run.state.step}, {"threads": 1})


def save(every: int, keep_last: int = 2) -> Save:
    return Save(Saver(about), every, keep_last)


@pytest.fixture
def trained(train):
    """Four steps in bf16, saved at 2 and 4."""
    return train(steps=4, dtype=torch.bfloat16, objective=NextToken(), hooks=[save(every=2)])


def test_the_layout_is_as_promised(trained) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    assert {path.name for path in folder.iterdir()} == {"model", "optimizer.safetensors", "state.json"}
    assert {path.name for path in folder.parent.iterdir()} == {"step-00000002", "step-00000004"}
    document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    assert document["version"] == 3 and document["run"]["step"] == 4 and document["facts"] == {"threads": 1}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"state.json"}
    assert document["xxh3_128"] == {
        name: xxhash.xxh3_128((folder / name).read_bytes()).hexdigest() for name in sorted(files)
    }
    newest = max(folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns if path.is_file() else 0)
    assert newest.name == "state.json"


def test_the_weights_are_the_masters_once(trained) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    model, _ = load_model(folder / "model")
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, trained.weights[name])
    stored = load_file(folder / "optimizer.safetensors")
    assert {key.rsplit("/", 1)[1] for key in stored} == {"step", "exp_avg", "exp_avg_sq"}
    assert resolve_reference(str(folder)).path == folder / "model"


def test_checkpoints_are_told_in_the_events(trained) -> None:
    told = [e for e in read_events(trained.run.path / "events.jsonl") if e["type"] == "checkpoint"]
    assert [(e["step"], e["path"], e["kind"]) for e in told] == [
        (2, "checkpoints/step-00000002", "last"),
        (4, "checkpoints/step-00000004", "last"),
    ]


@pytest.mark.parametrize("name", ["optimizer.safetensors", "model/model.safetensors", "model/config.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_harmed_file_is_named(trained, name: str, harm: str) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    path = folder / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-7])
    else:
        path.unlink()
    with pytest.raises(UserError) as refused:
        read_checkpoint(folder)
    problem, summary = refused.value.problems
    assert problem.where == str(path)
    assert ("missing" if harm == "delete" else "damaged") in problem.what
    assert summary.mend and "step-00000004" in summary.mend and "goes on from step 2" in summary.mend


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1, "ru'])
def test_a_harmed_state_is_named(trained, content: str) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    (folder / "state.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(folder)


def test_a_newer_checkpoint_is_refused(trained) -> None:
    path = trained.run.path / "checkpoints" / "step-00000004" / "state.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["seal"]
    document["version"] = 4
    path.write_text(json.dumps(document | {"seal": seal(document)}), encoding="utf-8")
    with pytest.raises(UserError, match=r"newer gptloom.*version 4"):
        read_checkpoint(path.parent)


def test_a_flipped_bit_in_a_number_of_the_state_is_noticed(trained) -> None:
    path = trained.run.path / "checkpoints" / "step-00000004" / "state.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"step": 4,', '"step": 5,'), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path.parent)


def test_checkpoints_of_before_the_seal_are_read(trained) -> None:
    path = trained.run.path / "checkpoints" / "step-00000004" / "state.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["version"] == 3
    del document["seal"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_checkpoint(path.parent) == document


def test_the_files_are_the_bytes_that_the_library_writes(trained, tmp_path: Path) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    weights = load_file(folder / "model" / "model.safetensors")
    for file, metadata in ((folder / "model" / "model.safetensors", {"format": "pt"}), (folder / OPTIMIZER, None)):
        save_file(load_file(file), tmp_path / "again", metadata=metadata)
        assert file.read_bytes() == (tmp_path / "again").read_bytes()
    assert len(weights) == len(trained.weights)


# ---- which one to go on from -----------------------------------------------------------------------------------------


@pytest.fixture
def four(train) -> Path:
    """A run with checkpoints at 2, 4, 6 and 8."""
    return train(steps=8, objective=NextToken(), hooks=[save(every=2, keep_last=9)]).run.path


def harm(run: Path, step: int, name: str) -> Path:
    path = run / "checkpoints" / name_of(step) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_the_newest_sound_checkpoint_is_found_and_the_others_named(four: Path) -> None:
    step, path, document, problems = newest_sound(four)
    assert (step, path.name, document["run"]["step"], problems) == (8, "step-00000008", 8, [])
    (four / "checkpoints" / name_of(8) / "state.json").unlink()  # half deleted: this file went first
    harmed = [harm(four, 6, OPTIMIZER), harm(four, 4, "model/config.json"), harm(four, 4, "state.json")]
    step, path, document, problems = newest_sound(four)
    assert (step, path.name, document["run"]["step"]) == (2, "step-00000002", 2)
    assert [problem.where for problem in problems] == [
        str(four / "checkpoints" / name_of(8) / "state.json"),
        str(harmed[0]),
        str(harmed[2]),  # which says what the others should be
    ]
    harm(four, 2, OPTIMIZER)
    with pytest.raises(UserError, match="no checkpoint of this run can be used") as refused:
        newest_sound(four)
    assert len(refused.value.problems) == 5


def test_every_bit_of_a_checkpoint_counts(four: Path) -> None:
    """Whatever is flipped, cut off or lost in the newest one: the one before is offered instead."""
    draw = random.Random(3)
    newest = four / "checkpoints" / name_of(8)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for file in files:
        content = file.read_bytes()
        for _ in range(5):
            flipped = bytearray(content)
            flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(flipped)
            assert newest_sound(four)[0] == 6 or json.loads(flipped) == json.loads(content)
        file.write_bytes(content[: draw.randrange(len(content) - 1)])
        assert newest_sound(four)[0] == 6
        file.unlink()
        assert newest_sound(four)[0] == 6
        file.write_bytes(content)
    assert newest_sound(four)[0] == 8


def test_files_that_are_not_of_the_checkpoint_are_refused_where_they_would_be_read(four: Path) -> None:
    newest = four / "checkpoints" / name_of(8)
    (newest / ".DS_Store").write_bytes(b"nobody reads this")
    assert newest_sound(four)[0] == 8
    shutil.copy(newest / OPTIMIZER, newest / "model" / "model-00001-of-00002.safetensors")
    step, _, _, problems = newest_sound(four)
    assert step == 6 and "not of this checkpoint" in problems[0].what


def test_masters_come_back_from_the_checkpoint(trained, train) -> None:
    """Into another model, in bf16 with fp32 masters; the optimizer's state as well, the copies refreshed."""
    other = train(steps=1, dtype=torch.bfloat16, objective=NextToken(), model=Transformer.initialised(CONFIG, seed=9))
    path = trained.run.path / "checkpoints" / "step-00000004"
    restore(other.run, path, read_checkpoint(path))
    assert all(torch.equal(tensor, trained.weights[name]) for name, tensor in other.weights.items())
    ours, theirs = other.optimizer.state_tensors(), trained.optimizer.state_tensors()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name, parameter in other.model.named_parameters():
        assert torch.equal(parameter, trained.weights[name].bfloat16())


def test_checksums_of_older_versions_are_understood(trained) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    files = document.pop("xxh3_128")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    document |= {"version": 1, "sha256": sums}
    del document["seal"]
    (folder / "state.json").write_text(json.dumps({**document, "seal": seal(document)}), encoding="utf-8")
    assert read_checkpoint(folder)["run"]["step"] == 4
    (folder / "model" / "gptloom.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(folder)


def test_without_state_json_it_is_not_finished(trained) -> None:
    folder = trained.run.path / "checkpoints" / "step-00000004"
    (folder / "state.json").unlink()
    assert list(finished_checkpoints(trained.run.path)) == [2]


def test_pruning_keeps_the_last_ones_and_those_named(train) -> None:
    done = train(steps=8, objective=NextToken(), hooks=[save(every=1, keep_last=9)])
    hidden = prune(done.run.path, 2, {3, None})
    assert [path.name for path in hidden] == [f".step-{step:08d}.part" for step in (1, 2, 4, 5, 6)]
    assert list(finished_checkpoints(done.run.path)) == [3, 7, 8]


def test_save_keeps_the_best_and_the_one_before_the_decay(train) -> None:
    def best_is_three(event, run) -> None:
        if event["type"] == "train" and event["step"] == 3:
            run.state.best_step = 3
            run.emit("evaluate", valid_loss=1.0)

    schedule = Schedule(12, kind="trapezoid", decay=7)
    done = train(steps=12, schedule=schedule, objective=NextToken(), hooks=[best_is_three, save(every=2)])
    assert list(finished_checkpoints(done.run.path)) == [3, 5, 10, 12]


def test_a_run_that_goes_back_forgets_what_lay_ahead(train, tmp_path) -> None:
    from gptloom.train.loop import fit

    done = train(steps=6, objective=NextToken(), hooks=[save(every=2, keep_last=9)])
    done.run.state.step = 2
    ahead: list[list[int]] = []
    fit(
        done.run,
        NextToken(),
        lambda step: pytest.fail("stopped before the first batch"),
        done.model,
        done.optimizer,
        [lambda event, run: ahead.append(list(finished_checkpoints(run.path))) or "stop"],
    )
    assert ahead[0] == [2]


def whole(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    last = folder / "checkpoints" / name_of(max(finished_checkpoints(folder)))
    return load_file(last / "model" / "model.safetensors"), load_file(last / "optimizer.safetensors")


def assert_equal(a: Path, b: Path) -> None:
    for ours, theirs in zip(whole(a), whole(b), strict=True):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture
def go():
    """The script's training in this process, with its one thread."""
    threads = torch.get_num_threads()
    yield runpy.run_path(str(SCRIPT))["main"]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, go, kind: str) -> None:
    """fp32 AdamW and bf16 Muon, both with dropout; killed as soon as step 7 has been done."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    go(straight, kind, 14, 0)
    with subprocess.Popen([sys.executable, SCRIPT, broken, kind, "14", "0.1"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 7:
                process.kill()
    assert json.loads((broken / "state.json").read_text(encoding="utf-8"))["state"] == "running"
    assert max(finished_checkpoints(broken)) == 6
    go(broken, kind, 14, 0)
    assert_equal(straight, broken)
    losses = [
        [(e["step"], e["loss"]) for e in read_events(run / "events.jsonl") if e["type"] == "train"]
        for run in (straight, broken)
    ]
    assert losses[0] == losses[1]
    starts = [(e["attempt"], e["step"]) for e in read_events(broken / "events.jsonl") if e["type"] == "start"]
    assert starts == [(0, 0), (1, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("aside", [[], ["aside"]], ids=["now", "aside"])
def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path, aside: list[str]) -> None:
    """Many kills, some of them in the middle of a save."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    subprocess.run([sys.executable, SCRIPT, straight, "adamw", "40"], check=True, stdout=subprocess.DEVNULL)
    draw = random.Random(5)
    for _ in range(12):
        call = [sys.executable, SCRIPT, broken, "adamw", "40", "0", *aside]
        with subprocess.Popen(call, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.12))
            process.kill()
        for path in finished_checkpoints(broken).values():
            read_checkpoint(path)
    subprocess.run([sys.executable, SCRIPT, broken, "adamw", "40"], check=True, stdout=subprocess.DEVNULL)
    assert_equal(straight, broken)
