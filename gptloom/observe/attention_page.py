"""One self-contained HTML page about a model's attention: nothing is fetched, every word of the text is escaped.

Legend: L layers, H heads, T queries, S keys (as many).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.observe.numbers import human_bytes

PAGE_BYTES = 20_000_000
_HALF_BYTES = 2 * 4 / 3  # a float16 in base64
_PLACE_BYTES = 600  # of one token and the ten words expected there
_TEMPLATE_BYTES = 40_000

Figures = npt.NDArray[np.float32]
Share = tuple[str, float]


class ShownToken(NamedTuple):
    """A token as the page shows it; ``frame``: it is not of the text, as [CLS] is not; ``segment`` 1: of a second text."""

    text: str
    frame: bool = False
    segment: int = 0


class Expected(NamedTuple):
    """What is expected at each position: ``next`` words, the words ``here``, or the ``labels`` of a classifier of tokens.

    ``masks`` are the positions of [MASK], where a model does not see the word that it is asked for.
    """

    kind: Literal["next", "here", "labels"]
    places: Sequence[Sequence[Share]]
    masks: Sequence[int] = ()


class Answer(NamedTuple):
    """What a classifier says about the text: its answer, and the probability of each where it has them."""

    said: str
    shares: Sequence[Share] = ()
    note: str = ""


@dataclass(frozen=True)
class AttentionPage:
    """All that the page shows.

    ``weights`` [L, H, T, S] are the softmax; ``totals`` [L, H, T] are the logarithms of the sums it divides by, with
    which they give back the scores before it, that are made by ``formula``. ``value_sizes`` [L, H, S] times a weight is
    the size of what a head takes; ``taken`` [L, T, S] is the size of what all heads of a layer take together. What is
    None is not shown. ``word`` is the position that is chosen at first.
    """

    title: str
    about: str
    tokens: Sequence[ShownToken]
    weights: Figures
    causal: bool
    word: int
    totals: Figures | None = None
    value_sizes: Figures | None = None
    taken: Figures | None = None
    formula: str = "q·k / √d"
    expected: Expected | None = None
    answer: Answer | None = None


def check_page_size(n_layer: int, n_head: int, length: int, causal: bool) -> None:
    """UserError when a page about so many tokens is larger than a browser opens with ease; it names what fits."""
    if page_bytes(n_layer, n_head, length, causal) <= PAGE_BYTES:
        return
    fits = max(n for n in range(length) if n == 0 or page_bytes(n_layer, n_head, n, causal) <= PAGE_BYTES)
    size = human_bytes(page_bytes(n_layer, n_head, length, causal))
    what = (
        f"the page would have {size}: {n_layer} layers of {n_head} heads, {length:,} tokens by {length:,} each; "
        f"a browser opens {human_bytes(PAGE_BYTES)} with ease"
    )
    raise UserError(Problem(what, "--text", f"a text of at most {fits:,} tokens"))


def page_bytes(n_layer: int, n_head: int, length: int, causal: bool) -> int:
    """About how large the page of a text of ``length`` tokens is."""
    pairs = length * (length + 1) // 2 if causal else length * length
    squares = n_layer * (n_head + 1) * pairs * _HALF_BYTES
    rows = n_layer * n_head * length * 4 * _HALF_BYTES
    return math.ceil(squares + rows + length * _PLACE_BYTES + _TEMPLATE_BYTES)


def write_attention_page(page: AttentionPage, path: Path) -> None:
    """Writes the page, whole or not at all."""
    write_text(path, render(page))


def render(page: AttentionPage) -> str:
    """The page as text."""
    here = resources.files("gptloom.observe")
    html, script = (here.joinpath(f"attention.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    return Template(html).substitute(
        title=escape(page.title), about=escape(page.about), data=_script_json(_data(page)), script=script
    )


def _data(page: AttentionPage) -> dict[str, Any]:
    """What the script reads: square tables as logarithms in float16, the rest of the figures in float32, all in base64.

    Of a weight its logarithm is kept, so that the small ones keep their digits, too; plus that of the sum of its row it
    is the score.
    """
    expected, answer = page.expected, page.answer
    return {
        "heads": page.weights.shape[1],
        "causal": page.causal,
        "word": page.word,
        "formula": page.formula,
        "tokens": [[token.text, int(token.frame), token.segment] for token in page.tokens],
        "weights": [_packed(layer, page.causal) for layer in page.weights],
        "totals": page.totals is not None and [_base64(layer, "<f4") for layer in page.totals],
        "values": page.value_sizes is not None and [_base64(layer, "<f4") for layer in page.value_sizes],
        "taken": page.taken is not None and [_packed(layer[None], page.causal) for layer in page.taken],
        "words": expected
        and {
            "kind": expected.kind,
            "places": [_shares(place) for place in expected.places],
            "masks": list(expected.masks),
        },
        "answer": answer and {"said": answer.said, "shares": _shares(answer.shares), "note": answer.note},
    }


def _packed(squares: Figures, causal: bool) -> str:
    """Logarithms of [H, T, S] as float16, row after row; of a causal model only what each row sees."""
    seen = squares[:, np.tri(squares.shape[-1], dtype=bool)] if causal else squares
    with np.errstate(divide="ignore"):  # of nothing it is -inf
        return _base64(np.log(seen), "<f2")


def _base64(figures: Figures, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(figures, dtype=dtype).tobytes()).decode("ascii")


def _shares(shares: Sequence[Share]) -> list[list[Any]]:
    return [[text, float(f"{share:.4g}")] for text, share in shares]


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no text in it can end the element, or begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
