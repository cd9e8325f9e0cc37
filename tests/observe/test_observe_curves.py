"""Curves and glossary: what the pictures draw and the words beside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gptloom.observe.curves import Curves, TokenClock, smooth, thin, visible_range
from gptloom.observe.glossary import METRICS, as_markdown, metric


def train(step: int, tokens: int | None = None, loss: float | None = 1.0) -> dict[str, Any]:
    return {"type": "train", "step": step, "tokens": tokens, "loss": loss}


def test_the_token_clock_goes_through_the_known_points() -> None:
    clock = TokenClock([{"type": "start", "step": 0, "tokens_per_step": 7}, train(10, 100), train(20, 400)])
    assert [clock(step) for step in (0, 5, 10, 15, 20, 22)] == [0, 50, 100, 250, 400, 414]


def test_without_tokens_the_clock_counts_steps() -> None:
    assert TokenClock([train(3)])(5) == 5


def test_evaluations_stand_at_their_tokens_and_missing_values_are_no_points() -> None:
    evaluate = {"type": "evaluate", "step": 15, "valid_loss": 2.0, "bits_per_byte": None}
    curves = Curves.of([train(10, 100, 3.0), evaluate, train(20, 400, None)])
    assert curves.train_loss == [(100, 3.0)]
    assert curves.valid_loss == [(250, 2.0)]
    assert curves.bits_per_byte == curves.lr == []


def test_smoothing_keeps_a_constant_and_lags_a_jump() -> None:
    assert all(math.isclose(y, 2.0) for _, y in smooth([(x, 2.0) for x in range(300)]))
    jump = smooth([(x, float(x >= 150)) for x in range(300)])
    assert jump[149][1] == 0 and 0.1 < jump[151][1] < 0.5 and jump[-1][1] > 0.99


def test_thinning_keeps_spikes_and_order() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    points[5_001] = (5_001.0, 99.0)
    few = thin(points, limit=100)
    assert len(few) <= 100 and (5_001.0, 99.0) in few and few == sorted(few)
    assert thin(points[:50], limit=100) == points[:50]


def test_the_visible_range_lets_the_first_steps_leave() -> None:
    low, high = visible_range([(0, 11.0), *((x, 3.0 + x / 1000) for x in range(1, 200))])
    assert low < 3.0 and 3.19 < high < 4
    assert visible_range([(0, 2.0)])[0] < 2.0 < visible_range([(0, 2.0)])[1]


def test_the_page_of_the_docs_is_the_glossary() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == as_markdown()


def test_every_entry_is_complete_and_terms_find_their_group() -> None:
    assert len({entry.name for entry in METRICS}) == len(METRICS)
    assert all("\n" not in entry.meaning and entry.healthy and entry.try_this for entry in METRICS)
    assert metric("losses/lm") is metric("losses") is not None
    assert metric("unheard_of") is None
