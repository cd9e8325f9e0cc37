"""Two runs held against each other: every kind of difference is found and named, and nothing else is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.stages.compare_runs import compare_runs, read_tensors, tensor_distance, value_distance

TINY = ["--n-layer", "1", "--d-model", "16", "--n-head", "2", "--context", "16", "--batch-tokens", "64"]
PACE = ["--max-steps", "4", "--log-every", "1", "--eval-every", "2", "--sample-tokens", "4", "--limit-batches", "1"]


def test_tensors_are_equal_to_the_bit_or_not() -> None:
    one = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert tensor_distance(one, one.clone()) == 0.0
    assert tensor_distance(torch.tensor(2), torch.tensor(2)) == 0.0
    assert tensor_distance(one.t(), one.t().contiguous()) == 0.0
    assert tensor_distance(one + torch.tensor([[0.0, 0.0], [0.05, 0.0]]), one) == pytest.approx(0.01)
    assert 0 < tensor_distance(one.nextafter(torch.tensor(9.0)), one) < 1e-6
    assert tensor_distance(-torch.zeros(2), torch.zeros(2)) > 0  # equal values, other bits
    assert tensor_distance(torch.tensor([0.0, -0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])) > 0
    assert tensor_distance(one, one.double()) == tensor_distance(one, one[:1]) == math.inf
    assert tensor_distance(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf
    assert tensor_distance(torch.tensor([math.nan]), torch.tensor([math.nan])) == 0.0


def test_values_of_every_kind() -> None:
    assert value_distance(4.0, 4.0) == value_distance("a", "a") == value_distance(None, None) == 0.0
    assert value_distance(math.nan, math.nan) == 0.0
    assert value_distance(99.0, 100.0) == value_distance(100, 99) == pytest.approx(0.01)
    assert value_distance("a", "b") == value_distance(None, 1.0) == value_distance(math.nan, 1.0) == math.inf


def test_pieces_of_several_processes_are_put_together(tmp_path: Path) -> None:
    whole = {"a/exp_avg": torch.arange(12.0).reshape(4, 3), "a/step": torch.tensor(7.0), "b": torch.arange(5.0)}
    pieces = {
        "shard-1": {"a/exp_avg": (whole["a/exp_avg"][:2], [0, 0]), "a/step": (whole["a/step"], [])},
        "shard-2": {"a/exp_avg": (whole["a/exp_avg"][2:], [2, 0]), "b": (whole["b"][:3], [0])},
        "shard-3": {"b": (whole["b"][3:], [3])},
    }
    for name, content in pieces.items():
        places = json.dumps({key: {"saved_offsets": begin} for key, (_, begin) in content.items()})
        tensors = {key: tensor.contiguous() for key, (tensor, _) in content.items()}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"DCP_SHARDING_INFO": places})
    found = read_tensors(tmp_path)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    (tmp_path / "shard-2.safetensors").unlink()
    with pytest.raises(UserError, match="a piece of the tensor b is missing"):
        read_tensors(tmp_path)


def test_reads_what_torch_writes(tmp_path: Path) -> None:
    tensors = {"w/exp_avg": torch.randn(3, 4), "w/step": torch.tensor(3.0)}
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
    dcp.save(tensors, storage_writer=writer, no_dist=True)
    found = read_tensors(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    text = folder / "plays.txt"
    text.write_text("\n".join(f"The {n}th of {n * n} kings went down to river {n % 7}." for n in range(300)))
    shape = [*TINY, *PACE, "--threads", "1", "--log", "none", "--no-compile", "--quiet"]
    assert main(["pretrain", "--data", str(text), "--out", str(folder / "run"), *shape]) == 0
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def differing(copy: Path, run: Path) -> dict[str, tuple[float, str]]:
    return {part.name: (part.distance, part.where) for part in compare_runs(copy, run).parts if part.distance}


def test_a_copy_is_equal_in_every_part(run: Path, copy: Path) -> None:
    compared = compare_runs(copy, run)
    assert compared.exact and compared.beyond(0.0) == []
    assert {part.name for part in compared.parts if part.items} == {
        "training losses",
        "gradient norms",
        "learning rates and tokens",
        "validation",
        "samples",
        "final weights",
        "last checkpoint's masters",
        "optimizer state",
        "guard and loss scale",
        "counters of state.json",
    }


def change_tensor(path: Path, name_part: str) -> str:
    """The last bit of one element."""
    tensors = load_file(path)
    name = next(name for name in tensors if name_part in name)
    flat = tensors[name].view(-1)
    flat[-1] = flat[-1].nextafter(torch.tensor(9.0))
    save_file(tensors, path, metadata={"format": "pt"})
    return name


def test_one_bit_of_one_weight_is_found(run: Path, copy: Path) -> None:
    change_tensor(copy / "final" / "model.safetensors", "down_proj")
    ((name, (distance, where)),) = differing(copy, run).items()
    assert name == "final weights" and 0 < distance < 1e-6 and "blocks.0" in where


def test_one_bit_of_the_optimizer_is_found(run: Path, copy: Path) -> None:
    name = change_tensor(copy / "checkpoints" / "step-00000004" / "optimizer.safetensors", "embedding")
    ((part, (_, where)),) = differing(copy, run).items()
    assert part == "optimizer state" and where == name


def test_what_the_log_says_is_compared_by_step(run: Path, copy: Path) -> None:
    log = copy / "events.jsonl"
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    at_three = next(event for event in events if event["type"] == "train" and event["step"] == 3)
    at_three["loss"] *= 1 + 1e-7
    sample = next(event for event in events if event["type"] == "sample")
    sample["text"] += "!"
    last_evaluation = [event for event in events if event["type"] == "evaluate"][-1]
    events.remove(last_evaluation)
    log.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    found = differing(copy, run)
    assert found.keys() == {"training losses", "samples", "validation"}
    assert found["training losses"] == (pytest.approx(1e-7, rel=1e-3), "step 3 loss")
    assert found["samples"] == (math.inf, "step 2 text")
    assert found["validation"][0] == math.inf and found["validation"][1].startswith("step 4 ")
    within = compare_runs(copy, run).beyond(1e-5)
    assert [part.name for part in within] == ["validation"]  # no word on texts where bits need not agree


def test_counters_and_guard_are_compared(run: Path, copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text(encoding="utf-8"))
    state["tokens"] += 64
    (copy / "state.json").write_text(json.dumps(state), encoding="utf-8")
    checkpoint = copy / "checkpoints" / "step-00000004" / "state.json"
    document = json.loads(checkpoint.read_text(encoding="utf-8"))
    document["guard"]["mean"] *= 2
    checkpoint.write_text(json.dumps(document), encoding="utf-8")
    found = differing(copy, run)
    assert {name: where for name, (_, where) in found.items()} == {
        "guard and loss scale": "guard mean",
        "counters of state.json": "tokens",
    }


def test_a_run_without_a_checkpoint_cannot_be_compared(run: Path, copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint to compare"):
        compare_runs(copy, run)
