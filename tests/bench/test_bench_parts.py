"""What the benches are made of: targets, medians, the page of results, and the peers' loss over a whole split."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_a_target_is_reached_from_below_or_kept_from_above(bench: Any) -> None:
    check = bench("harness").Check
    assert check("speed", 3.0, 3.0).reached and not check("speed", 2.9, 3.0).reached
    assert check("time", 0.3, 0.3, at_most=True).reached and not check("time", 0.31, 0.3, at_most=True).reached
    assert not check("time", None, 0.3, at_most=True).reached


def test_median_is_missing_when_any_round_is(bench: Any) -> None:
    median = bench("harness").median
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([3.0, None, 2.0]) is None
    assert median([]) is None


def test_sides_take_turns(bench: Any) -> None:
    order: list[tuple[str, int]] = []
    sides = {name: lambda turn, name=name: order.append((name, turn)) or {"turn": turn} for name in ("a", "b")}
    found = bench("harness").take_turns(sides, 2)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert found == {"a": [{"turn": 0}, {"turn": 1}], "b": [{"turn": 0}, {"turn": 1}]}


def test_a_side_that_breaks_off_is_no_result(bench: Any) -> None:
    harness = bench("harness")
    with pytest.raises(RuntimeError, match="no luck"):
        harness.run_json([sys.executable, "-c", "raise SystemExit('no luck')"])
    assert harness.run_json([sys.executable, "-c", "print('words'); print('{\"a\": 1}')"]) == {"a": 1}


def test_peak_memory_belongs_to_the_process_itself(bench: Any) -> None:
    """A child of a large process is small; where the system does not say, there is no figure."""
    large = torch.ones(64 << 20)  # 256 MiB
    code = f"import sys; sys.path.append({str(BENCH)!r}); import harness; print(harness.peak_bytes() or 0)"
    peak = int(bench("harness").run_command([sys.executable, "-c", code]))
    assert peak < large.numel() * 4


def test_a_side_that_does_not_train_is_no_result(bench: Any) -> None:
    step_sides = bench("step_sides")

    def side(first: float, last: float) -> dict[str, list[dict[str, Any]]]:
        return {"a": [{"first_loss": first, "last_loss": last, "untrained_loss": 11.0}]}

    step_sides.check_sides(side(11.2, 10.9))
    for losses in ((11.6, 9.0), (11.0, 11.0)):
        with pytest.raises(RuntimeError, match="a does not train"):
            step_sides.check_sides(side(*losses))


def test_ours_is_compared_with_the_fastest_peer(bench: Any) -> None:
    bert_step = bench("bert_step")
    speeds = {"transformers fp32": 100.0, "transformers bf16": 240.0, "gptloom": 290.0, "gptloom compiled": 310.0}
    fp32, best = bert_step.compare({name: {"tokens/s": speed} for name, speed in speeds.items()})
    assert (fp32.value, fp32.reached) == (3.1, True)
    assert (
        math.isclose(best.value, 310 / 240) and "gptloom compiled" in best.what and "(transformers bf16)" in best.what
    )


def test_both_sides_guess_the_same_words(bench: Any) -> None:
    from gptloom.config.model import ModelConfig, preset

    bert_step = bench("bert_step")
    batch = bert_step.random_batch(ModelConfig(**preset("bert-tiny")), 4, 128)
    theirs = bert_step.peer_inputs(batch)
    hidden = batch.weights > 0
    assert hidden.sum(1).tolist() == [19] * 4 and (batch.ids[hidden] == bert_step.MASK_ID).all()
    assert torch.equal(theirs["labels"][hidden], batch.targets[hidden]) and (theirs["labels"][~hidden] == -100).all()
    assert torch.equal(batch.ids[~hidden], batch.targets[~hidden])


def test_first_evaluation_as_good_as_the_peer_counts(bench: Any) -> None:
    meet = bench("char_recipe").meet
    evaluations = [{"seconds": s, "loss": loss, "step": 10 * s} for s, loss in ((1, 2.0), (2, 1.9), (3, 1.8))]
    ours = {"parameters": 5, "evaluations": evaluations}
    assert meet({"loss": 1.9, "seconds": 8, "parameters": 5}, ours) == {**evaluations[1], "share": 0.25}
    assert meet({"loss": 1.7, "seconds": 8, "parameters": 5}, ours)["seconds"] is None
    with pytest.raises(RuntimeError, match="5 parameters, the peer 4"):
        meet({"loss": 1.9, "seconds": 8, "parameters": 4}, ours)


def test_the_recipe_has_at_most_the_parameters_of_the_smaller_count(bench: Any) -> None:
    """nanoGPT prints 795,904 for its recipe, without positions."""
    from gptloom.config.model import ModelConfig, preset
    from gptloom.config.recipes import load_recipe
    from gptloom.model.counting import count_parameters

    options = load_recipe(str(BENCH / "char_recipe.yaml")).options
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "context")
    shape = {name: options[name] for name in names if name in options}
    special = 3  # end-of-text, pad, unknown
    config = ModelConfig(**{**preset(options["model"]), **shape, "vocab_size": 65 + special})
    assert count_parameters(config).total <= 795_904


def test_peer_loss_counts_every_character_but_the_first_once(bench: Any) -> None:
    peers = bench("char_peers")
    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(7, (16 * 5 + 4,), generator=torch.Generator().manual_seed(1))
    expected = -table.log_softmax(1)[ids[:-1], ids[1:]].mean().item()
    seen = []

    def logits_of(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape))
        return table[part]

    loss = peers.whole_split_loss(logits_of, ids.numpy(), context=16)
    assert math.isclose(loss, expected, rel_tol=1e-6)
    assert seen == [(5, 16), (1, 3)]


def test_peer_schedule_is_that_of_the_recipe(bench: Any) -> None:
    char_recipe, peers = bench("char_recipe"), bench("char_peers")
    rates = [peers.learning_rate(step, char_recipe.SETTINGS) for step in range(2000)]
    assert math.isclose(rates[0], 1e-3 / 101) and math.isclose(rates[100], 1e-3)
    assert rates[99] < rates[100] > rates[101] and math.isclose(rates[1050], 5.5e-4)
    assert 1e-4 < rates[-1] < 1.00001e-4


def test_text_is_cut_as_nanogpt_cuts_it(bench: Any, tmp_path: Path) -> None:
    import numpy as np

    text = "abcabcabcabcabcabcabcabcabcabcz"  # 31 characters: 27 and 4
    assert bench("char_recipe").prepare(text, tmp_path) == 4
    assert (tmp_path / "train.txt").read_bytes() == text[:27].encode()
    assert (tmp_path / "val.txt").read_bytes() == text[27:].encode()
    ids = np.fromfile(tmp_path / "data" / "shakespeare_char" / "val.bin", dtype="<u2")
    assert ids.tolist() == ["abcz".index(character) for character in text[27:]]


def test_decode_reports_the_ratio_of_both_sides(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decode: ModuleType = bench("decode")
    sides = {name: lambda: None for name in (decode.OURS, decode.PEER)}
    monkeypatch.setattr(decode, "build_sides", lambda *_: (sides, dict.fromkeys(sides, 10), 1.5))
    monkeypatch.setattr(decode, "read_bandwidth", lambda: 1e9)
    result = decode.measure(4, 8, 3)
    speeds = {name: figures["tokens/s"] for name, figures in result.tables["one sequence"].items()}
    [check] = result.checks
    assert math.isclose(check.value, speeds[decode.OURS] / speeds[decode.PEER])
    assert len(result.raw["seconds"][decode.PEER]) == 3


def test_the_plain_file_is_whole_when_it_is_synced(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = bench("checkpoint")
    monkeypatch.setattr(checkpoint, "BLOCK", 1000)
    sync, sizes = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size) or sync(handle))
    assert checkpoint.write_plain([torch.ones(3, 777), torch.tensor(1.0)], tmp_path / "plain")["seconds"] > 0
    assert sizes == [4 * (3 * 777 + 1)]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_a_way_past_the_cache_has_no_figure(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = bench("checkpoint")
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    assert checkpoint.write_uncached(1000, tmp_path / "plain") == {"seconds": None}
    assert checkpoint.summary([{"seconds": None}], 1.5)["MB/s"] is None


def test_pause_and_speed_are_shares_of_the_right_side(bench: Any) -> None:
    checkpoint = bench("checkpoint")
    figures = {"s": None, "MB/s": None, "training stands s": None, "steps lose s": None}
    table = {
        checkpoint.PLAIN: {**figures, "s": 1.0, "MB/s": 1500.0},
        checkpoint.WAITED: {**figures, "s": 2.0, "MB/s": 750.0, "training stands s": 2.5},
        checkpoint.ASIDE: {**figures, "s": 4.0, "MB/s": 375.0, "training stands s": 0.5},
    }
    speed, pause = checkpoint.compare(table)
    assert (speed.value, speed.reached) == (0.5, False)
    assert (pause.value, pause.at_most) == (0.25, True)


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux names file systems there")
def test_file_system_is_that_of_the_innermost_mount(bench: Any) -> None:
    file_system = bench("checkpoint").file_system
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) != "proc"


def test_overhead_counts_pairs_of_steps_between_warm_up_and_end(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    overhead = bench("overhead")
    clock = iter(range(1000))
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(overhead.Turns, "_bare_step", staticmethod(lambda run: 0.25))
    turns, run = overhead.Turns(warmup=2), SimpleNamespace(state=SimpleNamespace(step=0))
    run.settings = SimpleNamespace(steps=6)
    for step in range(1, 7):
        run.state.step = step
        turns({"type": "timing"}, run)
        turns({"type": "train"}, run)
    # Each call reads the clock at its beginning and at its end, so a step of the training lasts one tick.
    assert turns.seconds == {overhead.FULL: [1.0] * 3, overhead.BARE: [0.25] * 3}


def test_sides_that_do_not_train_the_same_are_refused(bench: Any) -> None:
    processes = bench("processes")

    def side(*losses: float) -> list[dict[str, Any]]:
        return [{"ranks": [{"losses": list(losses), "ln_vocabulary": 7.6}]}]

    processes.check_losses({"one": side(7.61, 7.2), "two": side(7.612, 7.3)})
    for two in (side(7.7, 7.3), side(7.61, 7.61)):
        with pytest.raises(RuntimeError, match="two does not train as the others"):
            processes.check_losses({"one": side(7.61, 7.2), "two": two})


def test_shares_of_phases_are_of_all_processes_and_all_steps(bench: Any) -> None:
    processes = bench("processes")
    phases = [
        {"forward": [3.0, 2.0], "communication": [1.0, 2.0]},
        {"forward": [1.0, 1.0], "communication": [1.0, 1.0]},
    ]
    assert processes.share([{"ranks": [{"phases": phases}]}], "communication") == 43.75


def test_what_a_shard_needs_is_counted_in_the_tensors_of_a_model(bench: Any) -> None:
    from gptloom.model.transformer import Transformer

    shard_memory = bench("shard_memory")
    config = shard_memory.model_config(3, 128)
    model = Transformer.initialised(config, seed=0)
    block = sum(tensor.numel() for tensor in model.blocks[0].parameters())
    total = sum(tensor.numel() for tensor in model.parameters())
    parts = shard_memory.predict(config, 4, 4)
    assert parts["shards"] == 4 * total and parts["gathered"] == 8 * (total - 2 * block)
    assert parts["on its way"] == 6 * block
    assert shard_memory.predict(config, 2, 2)["on its way"] == 2 * block
    assert (
        shard_memory.predict(config, 1, 2)["gathered"] == 2 * total
        and shard_memory.predict(config, 1, 4)["gathered"] == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_resident_memory_grows_by_what_is_written() -> None:
    """In a process of its own: one that has trained has memory to spare, and need not grow."""
    script = """
import sys, torch
sys.path.append(sys.argv[1])
import shard_memory
before = shard_memory.resident_bytes()
block = torch.ones(32 << 20, dtype=torch.uint8)
assert 0.9 * block.numel() < shard_memory.resident_bytes() - before < 1.5 * block.numel()
"""
    done = subprocess.run([sys.executable, "-c", script, str(BENCH)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_page_is_made_of_the_raw_figures(bench: Any, tmp_path: Path) -> None:
    harness, results = bench("harness"), bench("results")
    check = harness.Check("tokens/s of the peer", 3.25, 3.0, "×")
    table = {"gptloom": {"tokens/s": 1234.5, "peak GB": None}, "peer": {"tokens/s": 379.8, "peak GB": 2.0}}
    document = harness.Result("train_step", {"batch": 4}, {"dropout 0": table}, [check], ["a note"]).document()
    (tmp_path / "train_step.json").write_text(json.dumps(document), encoding="utf-8")
    page = results.page(results.read_results(tmp_path))
    assert "| gptloom | 1,234 | – |" in page and "| peer | 379.8 | 2 |" in page
    assert "tokens/s of the peer: 3.25× (target: at least 3×): reached" in page
    assert "a note" in page and f"torch {document['machine']['torch']}" in page
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json"):
        results.read_results(tmp_path)


def test_stored_page_is_what_the_stored_figures_give(bench: Any) -> None:
    results = bench("results")
    assert results.PAGE.read_text(encoding="utf-8") == results.page(results.read_results(results.RAW))
