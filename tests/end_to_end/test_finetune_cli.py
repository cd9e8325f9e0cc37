"""Fine-tuning as a user types it, on the first rows of real sets: every task, then predict, compare and report."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_readers import task_file

from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

Command = Callable[..., Any]
TINY: dict[str, Any] = {"n_layer": 2, "d_model": 32, "n_head": 4, "head_dim": 0, "d_ff": 64, "context": 512}
QUICK = "--max-steps 3 --batch-size 8 --threads 1 --log none --lr 1e-3"
# set, its splits, what the user says of it, header lines, the metric
SETS = {
    "sst2": ("train", "valid", "--task classify", 0, "accuracy"),
    "sick_entail": ("train", "valid", "--task entail --second sentence_B --label entailment_judgment", 1, "accuracy"),
    "sick_similar": ("train", "valid", "--task similar --second sentence_B --label relatedness_score", 1, "pearson"),
    "stsb": ("train", "valid", "--task regress --text 1 --second 2 --label 3", 0, "pearson"),
    "copa": ("train", "valid", "--task choice --text question --choices choice1 choice2 --label label", 0, "accuracy"),
    "wnut17": ("train", "valid", "--task tokens", 0, "entity_f1"),
    "xquad": ("train", "train", "--task span --text context --second question --label answer", 0, "f1"),
}


def rows(name: str, split: str, folder: Path, n: int, skip: int = 0) -> Path:
    """The first rows of a set's file as they lie there, after ``skip`` of them."""
    path = task_file(name, split, folder)
    header = SETS[name][3]
    lines = path.read_bytes().splitlines(keepends=True)
    short = folder / f"{name}-{split}-{skip}{path.suffix}"
    short.write_bytes(b"".join([*lines[:header], *lines[header + skip : header + skip + n]]))
    return short


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two narrow layers, with random weights and bytes for tokens."""
    folder = tmp_path_factory.mktemp("base") / "gpt"
    tokenizer = train_tokenizer("bytes", [], None)
    config = ModelConfig(**{**preset("gpt2"), **TINY, "vocab_size": tokenizer.vocab_size})
    save_model(folder, Transformer.initialised(config, seed=1), config, tokenizer=tokenizer)
    return folder


def tune(gptloom: Command, base: Path, tmp_path: Path, name: str, out: str = "run", more: str = "") -> Any:
    train, valid, said, _, _ = SETS[name]
    n = 400 if name == "wnut17" else 40  # tags that are seldom must be among the rows of training
    skip = n if train == valid else 0
    files = ("--data", rows(name, train, tmp_path, n), "--valid", rows(name, valid, tmp_path, 20, skip))
    return gptloom("finetune", base, *shlex.split(f"{said} {more or QUICK}"), *files, "--out", tmp_path / out)


@pytest.mark.parametrize(
    "name", ["sst2", *(pytest.param(name, marks=pytest.mark.slow) for name in SETS if name != "sst2")]
)
def test_every_task_from_file_to_predictions(gptloom: Command, base: Path, tmp_path: Path, name: str) -> None:
    done = tune(gptloom, base, tmp_path, name)
    assert done.code == 0, done.err
    assert SETS[name][4] in done.out and "gptloom predict" in done.err
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert figures["metric"] == SETS[name][4]

    valid = next(tmp_path.glob(f"{name}-{SETS[name][1]}-{40 if name == 'xquad' else 0}.*"))
    table = tmp_path / "answers.csv"
    answered = gptloom("predict", tmp_path / "run", "--data", valid, "--out", table, "--json")
    assert answered.code == 0, answered.err
    assert answered.document["report"]["metrics"] == figures["valid"]["metrics"]
    with table.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == figures["valid"]["n"] == 20

    page = gptloom("report", tmp_path / "run")
    assert page.code == 0, page.err


@pytest.mark.slow
def test_methods_are_compared(gptloom: Command, base: Path, tmp_path: Path) -> None:
    assert tune(gptloom, base, tmp_path, "sst2", "full").code == 0
    assert tune(gptloom, base, tmp_path, "sst2", "lora", f"{QUICK} --method lora --rank 4").code == 0
    valid = tmp_path / "sst2-valid-0.tsv"
    both = gptloom("compare", tmp_path / "full", tmp_path / "lora", "--data", valid)
    assert both.code == 0, both.err
    assert "McNemar" in both.out + both.err
    stars = gptloom("compare", tmp_path / "full", tmp_path / "lora", "--data", _relabelled(valid))
    assert stars.code == 2 and "Traceback" not in stars.err and "good" in stars.err

    adapted = gptloom("predict", tmp_path / "lora" / "adapter", "--text", "a stirring, funny film", "--json")
    merged = gptloom("predict", tmp_path / "lora", "--text", "a stirring, funny film", "--json")
    assert adapted.code == merged.code == 0, adapted.err + merged.err
    near, far = (found.document["rows"][0] for found in (adapted, merged))
    numbers = [name for name, value in near.items() if isinstance(value, float)]
    assert numbers and [near[name] for name in numbers] == pytest.approx([far[name] for name in numbers], abs=1e-5)

    table = tune(gptloom, base, tmp_path, "sst2", "all", f"{QUICK} --method all")
    assert table.code == 0, table.err
    assert [line.split()[0] for line in table.out.splitlines()[-4:]] == ["feature", "last", "full", "lora"]
    assert (tmp_path / "all" / "comparison.png").is_file()


def _relabelled(path: Path) -> Path:
    text = path.read_text(encoding="utf-8").replace("\t1", "\tgood").replace("\t0", "\tbad")
    other = path.with_name("stars.tsv")
    other.write_text(text, encoding="utf-8")
    return other


def test_a_mistake_is_told_without_a_traceback(gptloom: Command, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\na film\tgood\nanother film\tbad\n", encoding="utf-8")
    wrong = gptloom("finetune", base, "--task", "classify", "--data", path, "--label", "lable", "--text", "text")
    assert wrong.code == 2 and "lable" in wrong.err and "did you mean" in wrong.err and "Traceback" not in wrong.err
    missing = gptloom(
        "finetune", base, "--task", "classify", "--data", tmp_path / "no.tsv", "--valid", tmp_path / "none.tsv"
    )
    assert missing.code == 2 and "no.tsv" in missing.err and "none.tsv" in missing.err
