"""What the benches are made of: targets, medians, the page of results, and the peers' loss over a whole split."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script of bench/ by name. The folder comes last on the path: one of its files is named tokenize."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCH)])
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


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
