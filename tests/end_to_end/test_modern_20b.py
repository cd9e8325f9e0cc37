"""The recipe of a 20B GPT: its numbers, and that it starts at a shrunken size on four processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe, resolve_with_recipe
from gptloom.model.counting import count_parameters
from gptloom.model.store import load_model
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.stages.architecture import choose_model
from gptloom.stages.settings import schedule_of

NODES = ["node1", "node2", "node3"]
SHRUNK = {
    "vocab_size": 300,
    "context": 16,
    "n_layer": 3,
    "d_model": 96,
    "n_head": 4,
    "head_dim": 24,
    "d_ff": 256,
    "batch_tokens": 512,
    "micro_batch": 2,
    "max_steps": 6,
    "warmup": 2,
    "eval_every": 3,
    "save_every": 3,
    "valid_fraction": 0.1,
    "threads": 1,
    "device": "cpu",
}


def test_the_recipe_is_gpt_neox_20b_in_modern_layers() -> None:
    resolved = resolve_with_recipe(PretrainOptions, {"recipe": "modern-20b", "data": "pile", "nodes": NODES}, "python")
    config, _ = choose_model(resolved, vocab_size=50432, n_tokens=10**12, peak=1e15)
    assert (config.family, config.n_layer, config.d_model, config.n_head, config.context) == (
        "modern",
        44,
        6144,
        64,
        2048,
    )
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Transformer(config).parameters())
    assert parameters == count_parameters(config).total
    # GPT-NeoX-20B has 19,934,859,264 besides its embeddings: its biases make the difference.
    assert parameters - config.vocab_size * config.d_model == pytest.approx(19_934_859_264, rel=2e-4)
    options = resolved.options
    assert options.batch_tokens == 1536 * 2048
    own_rows = 1536 // (len(NODES) * (options.processes or 1))
    assert own_rows * len(NODES) * 8 == 1536 and own_rows % int(options.micro_batch or 0) == 0
    rates = schedule_of(options, 150_000)
    assert options.lr is not None and options.lr * rates(149_999) == pytest.approx(0.97e-5, rel=1e-3)
    assert rates(1499) == 1.0 and rates(0) == pytest.approx(1 / 1500)
    assert options.strategy == "fsdp" and options.offload and options.recompute and options.async_save


@pytest.mark.slow
def test_it_starts_at_a_shrunken_size_on_four_processes(
    gptloom: Callable[..., Any], text: Path, tmp_path: Path
) -> None:
    """Everything but the offload, which moves parameters off an accelerator."""
    mine = tmp_path / "mine.yaml"
    lines = load_recipe("modern-20b").text.splitlines()
    mine.write_text("\n".join(line for line in lines if "offload:" not in line), encoding="utf-8")
    sizes = [word for name, value in SHRUNK.items() for word in (f"--{name.replace('_', '-')}", value)]
    run = tmp_path / "run"
    done = gptloom("pretrain", "--recipe", mine, "--data", text, "--out", run, "--processes", 4, "--no-compile", *sizes)
    assert done.code == 0, done.err
    events = read_events(run / "events.jsonl")
    start, train = events[0], [event for event in events if event["type"] == "train"]
    assert start["parallel"] == "4 processes: the model in 4 shards" and start["precision"] == "bfloat16"
    assert [event["step"] for event in train] == [1, 2, 4, 6] and train[-1]["loss"] < train[0]["loss"]
    timing = [event for event in events if event["type"] == "timing"]
    assert len(timing[-1]["hosts"]) == 4 and all(seconds > 0 for seconds in timing[-1]["phases"]["communication"])
    assert events[-1]["type"] == "end" and events[-1]["state"] == "finished"
    assert list((run / "tensorboard").glob("events.*"))
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["step-00000003", "step-00000006"]
    model, config = load_model(run / "final")
    assert config.n_layer == 3 and all(torch.isfinite(parameter).all() for parameter in model.parameters())
