"""Options that exclude each other or would do nothing: all of them at once, by name, before any text is read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import recipe_names, resolve_with_recipe
from gptloom.config.resolve import Resolved
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.choices import check_warmup
from gptloom.stages.conflicts import check_options, recipe_named
from gptloom.stages.joining import asked_world
from gptloom.train import compiling
from gptloom.train.world import World


def asked(**given: Any) -> Resolved[PretrainOptions]:
    return resolve_with_recipe(PretrainOptions, {"data": ["no/such/text.txt"], **given}, "command line")


def problems(world: World | None = None, **given: Any) -> list[str]:
    """Each as one line: what, where, mend."""
    options = asked(**given)
    try:
        with recipe_named(options):
            check_options(options, world or asked_world(options.options))
    except UserError as error:
        return [f"{p.what} | {p.where} | {p.mend}" for p in error.problems]
    return []


TWO = {"processes": 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": ["-"]}, "--data -: text is read several times"),
        ({"valid": ["-"]}, "--valid -: text is read"),
        ({"encoding": "utf-9"}, "unknown encoding"),
        ({"split": "none", "valid_fraction": 0.2}, "--valid-fraction does nothing"),
        ({"valid": ["held.txt"], "split": "tail"}, "--split does nothing"),
        ({"tokenizer": "gpt2", "vocab_size": 500}, "--vocab-size is for tokenizers trained here"),
        ({"model": "modern-smal"}, "did you mean"),
        ({"d_model": 100, "n_head": 7}, "does not divide"),
        ({"base": "no/such/model"}, "no/such/model"),
        ({"base": "small"}, "gptloom pretrain --model small"),
        ({"max_steps": 10, "warmup": 6}, "--warmup 6 is longer than the run of 10 steps allows"),
        ({"optimizer": "adamw", "embedding_lr": 0.1}, "--embedding-lr is for --optimizer muon"),
        ({"model": "gpt2", "embedding_lr": 0.1}, "--embedding-lr is for --optimizer muon"),
        ({"schedule": "cosine", "decay": 0.2}, "--decay is for --schedule trapezoid, not cosine"),
        ({"model": "gpt2", "decay": 0.2}, "--decay is for --schedule trapezoid, not cosine"),
        ({"schedule": "constant", "final_lr": 0.1}, "--final-lr does nothing with --schedule constant"),
        (
            {"context": 256, "batch_tokens": 1000},
            "--batch-tokens 1000 is not a multiple of the context 256 | None | --b",
        ),
        ({"log": ["none", "csv"]}, "'none' beside other log readers"),
        ({"log": []}, "--log names nothing"),
        ({"sample": ["The king"], "sample_tokens": 0}, "--sample does nothing with --sample-tokens 0"),
        ({"split": "none", "sample_tokens": 9}, "--sample-tokens does nothing without validation text"),
        ({"split": "none", "patience": 3}, "--patience needs validation text"),
        ({"split": "none", "limit_batches": 3}, "--limit-batches needs validation text"),
        ({"split": "none", "eval_every": 3, "save_every": 3}, "--eval-every does nothing"),
        ({"save_on_signal": ["USR7"]}, "no such signal"),
        ({"port": 4000}, "--port does nothing"),
        ({"elastic": True}, "--elastic does nothing: there is only one process | None | --processes 2"),
        ({"timeout": 5}, "--timeout does nothing: there is only one process"),
        ({"strategy": "ddp"}, "--strategy does nothing: there is only one process"),
        ({"tensor_parallel": 2}, "--tensor-parallel does nothing: there is only one process"),
        ({"offload": True, "device": "cpu"}, "--offload moves parameters from an accelerator to the CPU"),
        ({**TWO, "offload": True, "strategy": "fsdp", "device": "cpu"}, "this training is on the CPU"),
        ({**TWO, "strategy": "hsdp"}, "--strategy hsdp shards within each of several machines, and there is one"),
        ({**TWO, "strategy": "fsdp", "tensor_parallel": 2}, "no processes to shard over: --tensor-parallel 2 takes"),
        ({"nodes": ["a", "b"]}, "--nodes needs --out"),
        ({"out": "x", "nodes": ["a", "b"], "strategy": "hsdp"}, "no processes to shard over: each machine has one"),
        ({"processes": 3, "tensor_parallel": 2}, "3 processes do not divide into groups of --tensor-parallel 2"),
        ({**TWO, "tensor_parallel": 2, "n_head": 3, "d_model": 12}, "--tensor-parallel 2 does not divide n_head 3"),
        ({"processes": 3, "context": 16, "batch_tokens": 256}, "3 processes cannot share a batch of 16 rows"),
        ({"overwrite": True}, "--overwrite does nothing without --out"),
    ],
)
def test_what_is_wrong_is_named_once(given: dict[str, Any], said: str) -> None:
    found = problems(**given)
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": "fast"},
        {"model": "modern", "decay": 0.3, "embedding_lr": 0.01},
        {"max_steps": 10, "warmup": 5},
        {"max_steps": 1, "warmup": 1},
        {"split": "none", "sample": ["The king"], "eval_every": 5, "save_every": 9},
        {"valid": ["held.txt"], "patience": 3, "limit_batches": 2},
        {"split": "none", "eval_every": 5},  # save-every follows it
        {"out": "x", "nodes": ["a"], "port": 4000, "elastic": True, "timeout": 5},
        {"out": "x", "nodes": ["a", "b"], "strategy": "fsdp"},
        {"out": "x", "nodes": ["a", "b"], **TWO, "strategy": "hsdp", "timeout": 5},
        {"processes": 4, "strategy": "fsdp", "tensor_parallel": 2, "recompute": True, "elastic": True},
        {"processes": 3, "batch_tokens": 1000},  # whether that divides is known with the context
        {"log": ["csv", "tensorboard"], "sample_tokens": 0},
        {"tokenizer": "words", "vocab_size": 500},
    ],
)
def test_what_means_something_is_let_through(given: dict[str, Any]) -> None:
    assert problems(**given) == []


def test_all_is_said_at_once() -> None:
    found = problems(
        data=["-"],
        model="gpt2",
        decay=0.1,
        max_steps=5,
        warmup=50,
        split="none",
        patience=2,
        log=["none", "csv"],
        port=4000,
        tensor_parallel=5,
        context=64,
        batch_tokens=100,
        processes=2,
        overwrite=True,
    )
    starts = [line.partition(" ")[0] for line in found]
    assert starts == ["--data", "--warmup", "--decay", "'none'", "--patience", "2", "--port", "--overwrite"]
    assert found[5].startswith("2 processes do not divide into groups of --tensor-parallel 5")
    assert len(problems(d_model=100, n_head=7, schedule="constant", final_lr=0.1, elastic=True)) == 3


def test_a_base_decides_its_own_shape(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=300, context=16, n_layer=1, n_head=1, d_model=16)
    save_model(tmp_path / "base", Transformer.initialised(config, seed=1), config)
    base = str(tmp_path / "base")
    found = problems(base=base, model="small", n_layer=3, tokenizer="gpt2")
    assert [line.split()[0] for line in found] == ["--model", "--tokenizer", "--n-layer"]
    found = problems(base=base, batch_tokens=100, processes=2)
    assert len(found) == 1 and "not a multiple of the context 16" in found[0] and "--batch-tokens 96" in found[0]
    found = problems(base=base, batch_tokens=128, processes=2, tensor_parallel=2)
    assert len(found) == 1 and "--tensor-parallel 2 does not divide n_head 1" in found[0]


def test_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compiler", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = problems(compile=True, log=["wandb"])
    assert "log reader wandb" in found[0] and "--compile needs a C++ compiler" in found[1] and len(found) == 2
    found = problems(device="cuda", processes=2)
    assert len(found) == 1 and "no cuda device on this machine" in found[0]


def test_where_a_run_may_go(tmp_path: Path) -> None:
    run, file, notes = tmp_path / "run", tmp_path / "file", tmp_path / "notes"
    run.mkdir()
    notes.mkdir()
    for path in (run / "state.json", run / "text.txt", file, notes / "letter.txt"):
        path.write_text("{}", encoding="utf-8")
    for out, said in (
        (run, "there is a run in this folder already"),
        (file, "there is a file of this name"),
        (file / "below", "cannot be written"),
        (notes, "not empty and holds no run"),
    ):
        found = problems(out=out)
        assert len(found) == 1 and said in found[0] and str(out) in found[0]
    assert problems(out=tmp_path / "new" / "run") == [] and problems(out=run, overwrite=True) == []
    found = problems(out=run, overwrite=True, data=[f"{run}/text.txt@0.5"])
    assert len(found) == 1 and "--overwrite would delete what this training reads" in found[0]


def test_what_comes_from_a_recipe_says_so_and_how_to_be_rid_of_it() -> None:
    (found,) = problems(recipe="shakespeare-char", max_steps=60)
    assert found.startswith(
        "--warmup 100 is longer than the run of 60 steps allows, half of it | shakespeare-char.yaml:"
    )
    assert found.endswith("--warmup 1, or a longer run")
    found = "\n".join(problems(recipe="modern-20b", device="cpu"))
    assert "--offload moves" in found and "modern-20b.yaml:" in found and found.endswith("--no-offload")
    (found,) = problems(recipe="quickstart", schedule="cosine")
    assert "--decay is for" in found and "gptloom recipes copy quickstart" in found
    with pytest.raises(UserError) as refused, recipe_named(asked(recipe="shakespeare-char")):
        check_warmup(asked(recipe="shakespeare-char").options, 7)  # as when the length is known late
    assert "shakespeare-char.yaml" in str(refused.value)


def test_a_model_that_no_folder_could_hold_is_refused_before_it_is_trained() -> None:
    (found,) = problems(model="gpt2", head_dim=80)
    assert "head_dim is 80; the gpt2 layout holds only 64" in found


def test_recipes_have_no_conflicts_of_their_own() -> None:
    for name in recipe_names():
        nodes = {"out": "x", "nodes": ["a", "b", "c"], "offload": False} if name.endswith("-20b") else {}
        assert problems(recipe=name, **nodes) == [], name
