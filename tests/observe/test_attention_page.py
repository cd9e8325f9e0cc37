"""The page about attention: its figures come back from the file, its words stay words, and a browser draws it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptloom.config.errors import UserError
from gptloom.observe.attention_page import (
    PAGE_BYTES,
    Answer,
    AttentionPage,
    Expected,
    ShownToken,
    check_page_size,
    page_bytes,
    render,
    write_attention_page,
)

WORDS = ("·the", "</script><img src=x>", "<b>&amp;", "\\u2028", "wörd\u2028🙂")
LAYERS, HEADS = 2, 3
SCORES = (
    np.random.default_rng(0).uniform(-12, 12, (LAYERS, HEADS, 150, 150)).astype(np.float32)
)  # some weights are tiny


def some_page(causal: bool = True, words: tuple[str, ...] = WORDS) -> AttentionPage:
    random, length = np.random.default_rng(1), len(words)
    scores = SCORES[:, :, :length, :length].copy()
    if causal:
        scores[:, :, ~np.tri(length, dtype=bool)] = -np.inf
    places = [[(word, 0.5), ("<i>other", 0.1234567)] for word in words]
    return AttentionPage(
        title="runs/<x>",
        about='a & b "c"',
        tokens=[ShownToken(word, frame=place == 0, segment=int(place > 2)) for place, word in enumerate(words)],
        weights=softmax(scores),
        totals=np.log(np.exp(scores).sum(-1)),
        value_sizes=random.uniform(0, 9, (LAYERS, HEADS, length)).astype(np.float32),
        taken=random.uniform(0, 9, (LAYERS, length, length)).astype(np.float32),
        causal=causal,
        word=3,
        expected=Expected("next" if causal else "here", places),
        answer=Answer("</h2>good", [("</h2>good", 0.75), ("bad", 0.25)], "a note"),
    )


def softmax(scores: Any) -> Any:
    parts = np.exp(scores - scores.max(-1, keepdims=True))
    return parts / parts.sum(-1, keepdims=True)


def data_of(text: str) -> dict[str, Any]:
    """The JSON inside of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def numbers(text: str, kind: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind).astype(np.float64)


@pytest.mark.parametrize("causal", [True, False])
def test_weights_scores_and_sizes_come_back_from_the_page(causal: bool) -> None:
    page = some_page(causal)
    data, length = data_of(render(page)), len(WORDS)
    seen = np.tri(length, dtype=bool) if causal else np.ones((length, length), dtype=bool)
    for layer in range(LAYERS):
        logs = numbers(data["weights"][layer], "<f2").reshape(HEADS, -1)
        assert logs.shape[1] == seen.sum()  # of a causal model only what is seen
        wanted = page.weights[layer][:, seen]
        np.testing.assert_allclose(np.exp(logs), wanted, rtol=0.008)
        np.testing.assert_allclose(np.exp(logs)[wanted > 0.01], wanted[wanted > 0.01], rtol=0.002)
        totals = numbers(data["totals"][layer], "<f4").reshape(HEADS, length, 1)
        rows = np.broadcast_to(totals, (HEADS, length, length))[:, seen]
        np.testing.assert_allclose(logs + rows, SCORES[layer][:, :length, :length][:, seen], atol=0.01)
        np.testing.assert_allclose(
            numbers(data["values"][layer], "<f4").reshape(HEADS, length), page.value_sizes[layer], rtol=1e-6
        )
        np.testing.assert_allclose(np.exp(numbers(data["taken"][layer], "<f2")), page.taken[layer][seen], rtol=0.002)


def test_a_weight_of_nothing_is_nothing() -> None:
    page = some_page()
    page.weights[..., 4, 0] = 0
    page.taken[:] = 0
    data = data_of(render(page))
    logs = numbers(data["weights"][0], "<f2").reshape(HEADS, -1)
    assert np.exp(logs[:, 10]).max() == 0 and not np.isnan(logs).any()
    assert np.exp(numbers(data["taken"][0], "<f2")).max() == 0


def test_words_can_not_become_markup() -> None:
    text = render(some_page())
    assert "runs/&lt;x&gt;" in text and "a &amp; b" in text
    for dangerous in ("<img", "<b>", "<i>", "</h2>good"):
        assert dangerous not in text
    assert text.count("</script>") == 2
    data = data_of(text)
    assert [token[0] for token in data["tokens"]] == list(WORDS)
    assert data["words"]["places"][1] == [[WORDS[1], 0.5], ["<i>other", 0.1235]]
    assert data["answer"]["said"] == "</h2>good"


def test_nothing_is_fetched() -> None:
    text = render(some_page())
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<link|<iframe|@import|url\(|\bfetch\(|XMLHttpRequest|<script src", text)
    assert "default-src 'none'" in text


def test_the_size_is_known_before(tmp_path: Path) -> None:
    for causal, length in ((True, 150), (False, 90)):
        page = some_page(causal, tuple(f"·word{place}" for place in range(length)))
        write_attention_page(page, tmp_path / "page.html")
        size = (tmp_path / "page.html").stat().st_size
        assert 0.7 * size < page_bytes(LAYERS, HEADS, length, causal) < 1.6 * size


def test_too_large_a_page_is_refused_with_what_fits() -> None:
    with pytest.raises(UserError, match="24 layers of 16 heads, 512 tokens") as error:
        check_page_size(24, 16, 512, causal=False)
    fits = int(re.findall(r"at most ([\d,]+) tokens", str(error.value))[0].replace(",", ""))
    check_page_size(24, 16, fits, causal=False)
    assert page_bytes(24, 16, fits + 1, causal=False) > PAGE_BYTES
    check_page_size(24, 16, int(1.3 * fits), causal=True)  # half of each matrix is not there


def test_what_is_not_known_is_not_there() -> None:
    page = replace(some_page(), totals=None, value_sizes=None, taken=None)
    data = data_of(render(page))
    assert not data["totals"] and not data["values"] and not data["taken"] and len(data["weights"]) == LAYERS


@pytest.mark.slow
def test_a_browser_draws_the_tables(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    page = some_page(words=("·the", "<b>old", "·man", "·looked", "·up"))
    write_attention_page(page, tmp_path / "page.html")
    address = (tmp_path / "page.html").as_uri() + "#layer=2&head=3&word=3"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    budget = ["--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([browser, *flags, *budget, address], capture_output=True, timeout=120, check=True)
    drawn = done.stdout.decode("utf-8")
    table = re.search(r'<table id="table">.*?</table>', drawn, re.DOTALL)
    assert table
    cells = [re.sub(r"<[^>]*>", " ", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", table[0], re.DOTALL)]
    told = [" ".join(html.unescape(cell).split()) for cell in cells if cell.strip()]
    weights = page.weights[1, 2, 3, :4]
    best = int(weights.argmax())
    assert told[0] == f"{best} {page.tokens[best].text}"
    assert float(told[1].removesuffix(" %")) == pytest.approx(100 * weights[best], abs=0.15)
    assert float(told[2]) == pytest.approx(SCORES[1, 2, 3, best], abs=0.06)
    assert float(told[3]) == pytest.approx(weights[best] * page.value_sizes[1, 2, best], abs=0.02)
    assert len(told) == 4 * 4  # four words are seen from the fourth
    assert "What comes after word 3" in html.unescape(drawn) and "It answers: &lt;/h2&gt;good" in drawn
    assert drawn.count('aria-pressed="true"') >= 1 and "M0 " in drawn
