"""What would make a training need less memory: which levers apply, in which order, and what each saves."""

from __future__ import annotations

import math

import pytest
import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.model.counting import count_parameters
from gptloom.stages.derive import choose_largest_micro_batch
from gptloom.stages.levers import find_levers
from gptloom.stages.machine import Machine
from gptloom.stages.preflight import training_memory
from gptloom.train.world import World

CONFIG = ModelConfig(**preset("gpt2"))


def machine(size: int = 1) -> Machine:
    return Machine(World(size=size, local_size=size), torch.device("cpu"), torch.float32, 1e12)


def levers_of(size: int = 1, config: ModelConfig = CONFIG, **given: object) -> dict[str, int]:
    options = PretrainOptions(data=["x"], **{"micro_batch": 8, **given})
    return {lever.change: lever.saves for lever in find_levers(options, config, machine(size)).levers}


def test_a_process_alone_is_told_of_rows_recomputing_and_context() -> None:
    found = levers_of()
    assert list(found) == ["--micro-batch 4", "--recompute", "--context 512"]
    # Half the activations: 8 rows of 1,024 tokens, 12 layers of 14 x 768 + 4 x 3,072 numbers and 4 x 768 on top, in fp32.
    per_token = 4 * (12 * (14 * 768 + 4 * 3072) + 4 * 768)
    assert found["--micro-batch 4"] == 4 * 1024 * per_token
    # Of each layer only the input is kept, and one layer at a time in full.
    assert found["--recompute"] == 8 * 1024 * 4 * (11 * (14 * 768 + 4 * 3072) - 12 * 768)
    assert (
        abs(found["--context 512"] - found["--micro-batch 4"]) < 16 * 512 * 768 + 1
    )  # and half the position embeddings


def test_several_processes_are_told_to_shard_the_weights() -> None:
    found = levers_of(4, strategy="ddp")
    assert list(found) == ["--micro-batch 4", "--recompute", "--strategy fsdp"]
    weights = 16 * count_parameters(CONFIG).total
    assert weights / 2 < found["--strategy fsdp"] < weights * 3 / 4
    assert "--strategy fsdp" not in levers_of(4, strategy="fsdp")


def test_what_is_done_already_is_left_out() -> None:
    found = levers_of(recompute=True)
    assert list(found)[:2] == ["--micro-batch 4", "--context 512"] and list(found)[2].startswith("--model modern-")
    needed = training_memory(CONFIG, 8 * 1024, torch.float32, recompute=True)
    assert list(found.values())[2] >= needed / 4
    assert next(iter(levers_of(micro_batch=1, recompute=True))) == "--context 512"


def test_the_savings_are_the_difference_of_two_predictions() -> None:
    options = PretrainOptions(data=["x"], micro_batch=8)
    found = find_levers(options, CONFIG, machine())
    assert found.needed == training_memory(CONFIG, 8 * 1024, torch.float32)
    for lever, rows, recompute in zip(found.levers, (4, 8), (False, True), strict=False):
        after = training_memory(CONFIG, rows * 1024, torch.float32, recompute=recompute)
        assert lever.saves == found.needed - after > 0


@pytest.mark.parametrize(("there", "rows"), [(None, 48), (48_000, 48), (47_999, 24), (6_000, 6), (10, 1)])
def test_auto_begins_with_all_rows_that_are_predicted_to_fit(there: int | None, rows: int) -> None:
    choice = choose_largest_micro_batch(48, there, lambda rows: 1000 * rows)
    assert choice.value == rows and choice.rule.startswith("auto: ")
    assert math.isclose(48 / rows, 2 ** round(math.log2(48 / rows)), rel_tol=0.5)
