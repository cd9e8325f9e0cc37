from __future__ import annotations

import math

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved, resolve
from gptloom.data.step_sizes import StepSizes
from gptloom.stages import choices
from gptloom.stages.architecture import choose_model
from gptloom.stages.choices import choose_optimization
from gptloom.stages.derive import (
    choose_batch_tokens,
    choose_context,
    choose_lr,
    choose_micro_batch,
    choose_optimizer,
    choose_size,
    choose_warmup,
    count_steps,
)
from gptloom.stages.machine import Machine
from gptloom.stages.settings import schedule_of
from gptloom.train.world import World

NONE = {"max_steps": None, "max_epochs": None, "max_minutes": None, "max_train_tokens": None}
ONE = StepSizes(1)
NANO = ModelConfig(**preset("modern-nano"))


ALONE = Machine(World(), torch.device("cpu"), torch.float32, 1e11)


def resolved(**given) -> Resolved[PretrainOptions]:
    return resolve(PretrainOptions, {"data": ["x.txt"], **given})


def test_a_faster_machine_and_more_minutes_ask_for_a_larger_model() -> None:
    def width(peak: float, minutes: float) -> int:
        return preset(str(choose_size("modern", 10**9, 4096, peak, minutes, 4).value))["d_model"]

    widths = [width(1e10, 10), width(1e12, 10), width(1e14, 10)]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    assert width(1e11, 1) < width(1e11, 10_000)


def test_the_context_shrinks_until_the_text_holds_64_windows() -> None:
    assert choose_context(NANO, 10**6).value == 256
    assert choose_context(NANO, 64 * 128).value == 128
    assert choose_context(NANO, 3).value == 16


@pytest.mark.parametrize("total", [1, 10**5, 10**7, 10**9, 10**12])
@pytest.mark.parametrize("context", [16, 100, 256, 1024])
def test_a_batch_is_whole_windows(total: float, context: int) -> None:
    batch = choose_batch_tokens(total, context).value
    assert batch % context == 0 and context <= batch <= max(context, 2**19)
    for memory in (None, 1 << 20, 1 << 40):
        rows = choose_micro_batch(batch, context, memory, NANO).value
        assert rows >= 1 and (batch // context) % rows == 0


def test_rates_follow_gpt3s_table() -> None:
    lr = choose_lr(ModelConfig(**preset("gpt2")), "adamw").value
    assert lr == pytest.approx(6e-4, rel=0.05)
    assert choose_lr(ModelConfig(**preset("modern-xl")), "adamw").value == pytest.approx(2e-4, rel=0.5)
    assert choose_lr(NANO, "adamw").value == 2e-3
    assert choose_optimizer(ModelConfig(**preset("gpt2"))).value == "adamw"
    assert choose_optimizer(NANO).value == "muon"


def test_the_first_budget_reached_ends_the_run() -> None:
    assert count_steps(ONE, 100, 1000, 0.5, **{**NONE, "max_steps": 7}).steps == 7
    assert count_steps(ONE, 100, 1000, 0.5, **{**NONE, "max_epochs": 2.5}).steps == 25
    assert count_steps(ONE, 100, 1000, 0.5, **{**NONE, "max_minutes": 1}).steps == 120
    assert count_steps(ONE, 100, 1000, 0.5, **{**NONE, "max_train_tokens": 950}).steps == 10
    both = count_steps(ONE, 100, 1000, 0.5, **{**NONE, "max_steps": 7, "max_epochs": 0.5})
    assert (both.steps, both.rule) == (5, "0.5 passes")
    assert count_steps(ONE, 100, 1000, 0.5, **NONE).rule == "4 passes"
    assert count_steps(ONE, 100, 10**9, 0.5, **NONE).steps == 1200
    assert count_steps(ONE, 100, 1000, 1e9, **{**NONE, "max_minutes": 1}).steps == 1


def test_a_schedule_fits_whatever_the_run() -> None:
    for kind in ("cosine", "trapezoid", "linear", "constant"):
        for steps, begin in [(1, 0), (2, 0), (3, 2), (10, 9), (100, 40)]:
            warmup = choose_warmup(steps).value
            options = resolved(schedule=kind, warmup=warmup, final_lr=0.0, decay=1.0).options
            schedule = schedule_of(options, steps, begin)
            factors = [schedule(step) for step in range(begin, steps)]
            assert factors[0] > 0 and all(0 <= factor <= 1 for factor in factors)


def test_a_preset_may_be_changed() -> None:
    config, _ = choose_model(resolved(model="gpt2", n_layer=3, context=64, dropout=0.1), 300, 10**6, 1e11)
    assert (config.family, config.n_layer, config.d_model, config.context) == ("gpt2", 3, 768, 64)
    assert (config.vocab_size, config.dropout) == (300, 0.1)
    config, said = choose_model(resolved(d_model=384, n_layer=6), 300, 10**6, 1e11)
    assert (config.d_model, config.n_layer, config.n_head, config.head_dim) == (384, 6, 6, 64)
    assert said.rules["model"] and said.rules["context"]


def test_sizes_of_a_family_are_derived() -> None:
    config, _ = choose_model(resolved(model="fast"), 300, 10**6, 1e11)
    assert config.family == "fast"
    with pytest.raises(UserError, match="did you mean"):
        choose_model(resolved(model="gpt2-lage"), 300, 10**6, 1e11)
    with pytest.raises(UserError, match="does not divide"):
        choose_model(resolved(d_model=100, n_head=7), 300, 10**6, 1e11)


def test_a_batch_that_is_derived_is_shared_evenly() -> None:
    for processes in (1, 2, 3, 7):
        machine = Machine(World(size=processes, local_size=processes), torch.device("cpu"), torch.float32, 1e11)
        done = choose_optimization(resolved(), NANO, 1e7, machine)
        assert done.options.batch_tokens % (processes * NANO.context) == 0
        assert ("equal shares" in done.rules["batch_tokens"]) == (processes in (3, 7))


def test_everything_is_derived_with_its_rule(monkeypatch) -> None:
    monkeypatch.setattr(choices, "memory", lambda: (8 << 30, 8 << 30))
    done = choose_optimization(resolved(), NANO, 1e7, ALONE)
    names = ("batch_tokens", "micro_batch", "optimizer", "lr", "embedding_lr", "schedule", "final_lr")
    assert all(done.source(name) == "derived" and done.rules[name] for name in names)
    assert math.log2(done.options.batch_tokens).is_integer()
