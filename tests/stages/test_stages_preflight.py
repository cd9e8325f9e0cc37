from __future__ import annotations

import math
import re
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset, presets
from gptloom.config.pretrain import PretrainOptions
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.stages import preflight
from gptloom.stages.architecture import objective_of
from gptloom.stages.cost import Cost
from gptloom.stages.goal import first_losses
from gptloom.stages.preflight import check_disk, check_first_loss, check_memory, measure, want_compile
from gptloom.train import compiling
from gptloom.train.objective import MaskedWords, NextToken
from gptloom.train.optimizers import OptimizerSettings
from gptloom.train.parallel import Parallel

CPU = torch.device("cpu")
CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)


def a_batch() -> Batch:
    ids = torch.randint(29, (8, 13), generator=torch.Generator().manual_seed(1))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(8, 12))


@pytest.mark.parametrize(("gigabytes", "fits"), [(2, "modern-small"), (4, "modern-medium"), (40, "modern-xl")])
def test_a_model_bigger_than_memory_names_what_would_fit(gigabytes: int, fits: str) -> None:
    config = ModelConfig(**preset("gpt2-xl"))
    needed = preflight.training_memory(config, 1024, torch.float32)
    with pytest.raises(UserError, match="in a process, which has") as refused:
        check_memory(config, max(needed, 41 << 30), gigabytes << 30, 1024, torch.float32)
    mend = refused.value.problems[0].mend
    assert mend is not None and f"--model {fits}, the largest that fits" in mend


def test_so_many_shards_as_are_said_do_fit() -> None:
    config = ModelConfig(**preset("gpt2-xl"))
    memory = partial(preflight.training_memory, config, 64, torch.float32)
    with pytest.raises(UserError) as refused:
        check_memory(config, memory(), 6 << 30, 64, torch.float32)
    found = re.search(r"--strategy fsdp on (\d+) such processes or more", str(refused.value))
    assert found is not None
    assert memory(parts=int(found[1])) <= 6 << 30 < memory(parts=int(found[1]) - 1)
    with pytest.raises(UserError) as refused:
        check_memory(config, memory(parts=2), 6 << 30, 64, torch.float32, shards=True)
    assert "fsdp" not in str(refused.value)


def test_what_fits_is_let_through_and_nothing_fits_is_said() -> None:
    config = ModelConfig(**preset("modern-nano"))
    check_memory(config, 1 << 60, None, 256, torch.float32)
    check_memory(config, 1 << 29, 1 << 30, 256, torch.float32)
    with pytest.raises(UserError, match="a machine with more memory"):
        check_memory(config, 1 << 29, 1 << 20, 256, torch.float32)


@pytest.mark.parametrize("lever", [{"parts": 8}, {"recompute": True}, {"parts": 2, "tensor": 2}])
def test_every_lever_saves_memory(lever: dict) -> None:
    config = ModelConfig(**preset("modern-large"))
    assert preflight.training_memory(config, 8192, torch.bfloat16, **lever) < preflight.training_memory(
        config, 8192, torch.bfloat16
    )


def test_memory_of_training_is_near_what_a_training_takes() -> None:
    """GPT-2 124M in fp32: weights, gradients and two moments are 2.0 GB."""
    needed = preflight.training_memory(ModelConfig(**preset("gpt2")), 512, torch.float32)
    assert 2.0e9 < needed < 4.0e9


def test_a_disk_that_is_too_small_is_refused(monkeypatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 10**6))
    check_disk(tmp_path / "not" / "yet", 10**5)
    with pytest.raises(UserError, match=r"needs 10 MB of disk, 1 MB are free"):
        check_disk(tmp_path / "not" / "yet", 10**7)


def test_the_first_loss_must_be_that_of_ignorance() -> None:
    check_first_loss(math.log(1000) + 0.3, 6.4, 7.4)
    for loss in (math.log(1000) + 1, 2.0, math.nan, math.inf):
        with pytest.raises(UserError, match="loss before the first step"):
            check_first_loss(loss, 6.4, 7.4)


@pytest.mark.parametrize("name", [name for name, fields in presets().items() if fields["d_model"] <= 2048])
def test_every_preset_begins_as_surprised_as_it_should(name: str) -> None:
    """One layer each, since the number of layers changes little; the width, which does, is the preset's."""
    config = ModelConfig(**preset(name) | {"n_layer": 1, "context": 32, "vocab_size": 4096})
    model = Transformer.initialised(config, seed=1)
    ids = torch.randint(4096, (2, 33), generator=torch.Generator().manual_seed(1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(2, 32))
    objective = MaskedWords(pairs=False) if config.mask == "bidirectional" else NextToken()
    with torch.no_grad():
        (loss,) = objective.loss(model, batch).values()
    options = PretrainOptions(data=["text"], objective=objective_of(config), pairs="none")
    check_first_loss(float(loss) / 64, *first_losses(options, config))


def test_measuring_leaves_nothing_behind_and_sees_the_first_loss() -> None:
    made: list[Transformer] = []

    def build() -> Transformer:
        made.append(Transformer.initialised(CONFIG, seed=3))
        return made[-1]

    batch = a_batch()
    options = {"micro_batch": 2, "dtype": torch.float32, "parallel": Parallel.alone(), "compile": False}
    measured = measure(build, OptimizerSettings(), NextToken(), batch, **options)
    assert len(made) == 1 and measured.seconds_per_step > 0 and not measured.compiled and measured.note is None
    fresh = Transformer.initialised(CONFIG, seed=3)
    with torch.no_grad():
        expected = float(NextToken().loss(fresh, batch.split(2)[0])["next_token"]) / 24
    assert measured.first_loss == pytest.approx(expected, rel=1e-5)


def test_a_compiler_that_fails_is_lived_without(monkeypatch) -> None:
    def broken(blocks) -> None:
        for block in blocks:
            block._compiled_call_impl = lambda *arguments: (_ for _ in ()).throw(RuntimeError("no such target"))

    monkeypatch.setattr(preflight, "compile_blocks", broken)
    options = {"micro_batch": 8, "dtype": torch.float32, "parallel": Parallel.alone(), "compile": True}
    model = lambda: Transformer.initialised(CONFIG, seed=3)  # noqa: E731
    measured = measure(model, OptimizerSettings(), NextToken(), a_batch(), **options)
    assert not measured.compiled
    assert measured.note == "torch.compile failed (RuntimeError): training goes on without it"


def test_whether_to_compile(monkeypatch) -> None:
    monkeypatch.setattr(compiling, "compiler", lambda: "g++")
    assert want_compile(None, CPU, 10_000)[0] and not want_compile(None, CPU, 60)[0]
    assert want_compile(True, CPU, 1)[0] and not want_compile(False, CPU, 10_000)[0]
    monkeypatch.setattr(compiling, "compiler", lambda: None)
    assert want_compile(None, CPU, 10_000) == (False, "there is no C++ compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        want_compile(True, CPU, 10_000)


def test_the_compiler_is_looked_for_on_the_path(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/clang++" if name == "clang++" else None)
    assert compiling.compiler() in ("clang++", None)  # None on Windows, which looks for cl
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiling.compiler() is None and not compiling.can_compile(CPU)


def test_the_cost_is_one_sentence() -> None:
    cost = Cost(12_345_678, 10**9, 2.5, 3 * 2**30, 10**9, 5400.0)
    text = cost.sentence()
    assert "12.3M parameters" in text and "2.5 passes" in text and "1 h 30 min" in text
