"""The attention of a model in a text a user gives: how the text is read, what the heads do, and what the model says.

Legend: L layers, H heads, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import TaskConfig
from gptloom.data.example import Example
from gptloom.data.preprocess import preprocess
from gptloom.data.task_inputs import FIRST, SECOND, Encoded
from gptloom.generation.attention_weights import AttentionMaps, Reading, attention_maps
from gptloom.generation.classifier import PAIRS, Classifier
from gptloom.model.counting import count_parameters
from gptloom.model.task_head import TaskModel
from gptloom.model.transformer import Transformer
from gptloom.observe.attention_page import Answer, AttentionPage, Expected, Share, ShownToken, check_page_size
from gptloom.observe.numbers import human_count
from gptloom.tokenizer.roles import framing
from gptloom.tokenizer.tokenizer import Tokenizer

TOP_WORDS = 10
LOGIT_ROWS = 64  # positions that meet the vocabulary at once


@dataclass(frozen=True)
class Watched:
    """A model that can be watched, ours or another library's: how to look into it, and what must be known of it.

    ``context`` is its longest text, ``segments`` how many BERT tells apart; ``speaks``: it has something to say about
    words. ``kind`` is what a page calls it.
    """

    model: nn.Module
    look: Callable[[Reading], AttentionMaps]
    kind: str
    n_layer: int
    n_head: int
    causal: bool
    context: int
    segments: int
    speaks: bool
    formula: str = "q·k / √d"

    @classmethod
    def of(cls, model: Transformer) -> Watched:
        """One of our own models, with all there is to see."""
        config = model.config
        return cls(
            model=model,
            look=partial(attention_maps, model),
            kind=f"{config.family}, {human_count(count_parameters(config).total)} parameters",
            n_layer=config.n_layer,
            n_head=config.n_head,
            causal=config.mask == "causal",
            context=config.context,
            segments=config.segments,
            speaks=config.mask == "causal" or config.masked_head,
            formula="q·k / √d" if config.scale_attention else "q·k",
        )


@dataclass(frozen=True)
class SeenText:
    """What a model does with one text; ``word`` is the position that a page shows first."""

    watched: Watched
    reading: Reading
    tokens: tuple[ShownToken, ...]
    maps: AttentionMaps
    word: int
    expected: Expected | None
    answer: Answer | None

    def page(self, title: str) -> AttentionPage:
        """All of it as a page shows it."""
        watched, maps = self.watched, self.maps
        return AttentionPage(
            title=f"Attention in {title}",
            about=f"{watched.kind} · {watched.n_layer} layers of {watched.n_head} heads · {len(self.reading)} tokens",
            tokens=self.tokens,
            weights=maps.weights.numpy(),
            causal=watched.causal,
            word=self.word,
            totals=None if maps.scores is None else maps.scores.logsumexp(-1).numpy(),
            value_sizes=None if maps.value_sizes is None else maps.value_sizes.numpy(),
            taken=None if maps.taken is None else maps.taken.numpy(),
            formula=watched.formula,
            expected=self.expected,
            answer=self.answer,
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values, rounded to four digits: lists by layer, head, word that looks, word looked at."""
        tokens, maps = zip(self.reading.ids, self.tokens, strict=True), self.maps
        return {
            "tokens": [{"id": token_id, **token._asdict()} for token_id, token in tokens],
            "weights": _rounded(maps.weights.tolist()),
            "scores": None if maps.scores is None else _rounded(maps.scores.tolist()),
            "value_sizes": None if maps.value_sizes is None else _rounded(maps.value_sizes.tolist()),
            "expected": None if self.expected is None else self.expected._asdict(),
            "answer": None if self.answer is None else self.answer._asdict(),
        }


def see(
    watched: Watched, tokenizer: Tokenizer, text: str, second: str | None = None, task: TaskConfig | None = None
) -> SeenText:
    """Reads ``text`` as the model does, looks into every head, and asks the model what it expects or answers.

    A causal model says what comes next at each position; BERT, which word stands there; a model that was fine-tuned for
    a ``task`` reads the text, and the ``second`` of a pair, as it was trained to, and answers.

    Raises:
        UserError: a text that this model does not read (see ``read_text``), or one whose page is too large.
    """
    if task is None:
        reading = read_text(watched, tokenizer, text, second)
        maps = _look(watched, reading)
        return _seen(watched, tokenizer, reading, maps, _words(watched, tokenizer, reading, maps.hidden), None)
    classifier = Classifier(watched.model, tokenizer, task)
    example = _example(task, text, second)
    [encoded] = classifier.inputs.encode([example])
    row = encoded.rows[0]
    reading = Reading(row.ids, tuple(role not in (FIRST, SECOND) for role in row.roles), row.segments)
    maps = _look(watched, reading)
    expected = _labels(watched.model, task, encoded, maps.hidden)
    return _seen(watched, tokenizer, reading, maps, expected, _answer(classifier, example, encoded))


def _look(watched: Watched, reading: Reading) -> AttentionMaps:
    check_page_size(watched.n_layer, watched.n_head, len(reading), watched.causal)
    return watched.look(reading)


def _seen(
    watched: Watched,
    tokenizer: Tokenizer,
    reading: Reading,
    maps: AttentionMaps,
    expected: Expected | None,
    answer: Answer | None,
) -> SeenText:
    segments = reading.segments or (0,) * len(reading)
    tokens = tuple(
        ShownToken(tokenizer.token_text(token_id), frame, segment)
        for token_id, frame, segment in zip(reading.ids, reading.frame, segments, strict=True)
    )
    if watched.causal:
        word = len(reading) - 1
    elif expected is not None and expected.masks:
        word = expected.masks[0]
    else:
        word = 0
    return SeenText(watched, reading, tokens, maps, word, expected, answer)


# ---- how a text is read ----------------------------------------------------------------------------------------------


def read_text(watched: Watched, tokenizer: Tokenizer, text: str, second: str | None = None) -> Reading:
    """A text as ``generate`` reads it (nothing added), or as ``fill-mask`` does: [CLS] text [SEP], and second [SEP].

    Raises:
        UserError: a second text where a model reads one; no token at all; more tokens than the context.
    """
    first, last = ([], []) if watched.causal else _frame(tokenizer)
    if second is not None and (watched.segments < 2 or not last):
        what = "this model reads one text: pairs are for BERT, and for a model that was fine-tuned on pairs"
        raise UserError(Problem(what, "--second", "leave it out"))
    given = [text] if second is None else [text, second]
    ids, frame, segments = list(first), [True] * len(first), [0] * len(first)
    for segment, part in enumerate(tokenizer.encode_batch(given, special=not watched.causal)):
        ids += [*part, *last]
        frame += [False] * len(part) + [True] * len(last)
        segments += [segment] * (len(part) + len(last))
    if all(frame):
        raise UserError(Problem("the text has no token", "--text", "a text with words"))
    if len(ids) > watched.context:
        around = f", {sum(frame)} of them around the text" if any(frame) else ""
        what = f"the text makes {len(ids):,} tokens{around}; this model's context is {watched.context:,}"
        raise UserError(Problem(what, "--text", f"a text of at most {watched.context - sum(frame):,} tokens"))
    return Reading(tuple(ids), tuple(frame), tuple(segments) if watched.segments > 1 else None)


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What a model that sees both sides has before and after a text: as its tokenizer.json says, else [CLS] and [SEP]."""
    found = framing(tokenizer)
    first, last = (tokenizer.cls_id, tokenizer.sep_id) if found is None else (found.start, found.extract)
    return [] if first is None else [first], [] if last is None else [last]


def _example(task: TaskConfig, text: str, second: str | None) -> Example:
    """A user's text, or pair, as the task reads its rows; of a choice the second text is the one choice."""
    two = task.task in (*PAIRS, "choice") or task.columns.second is not None
    if two and second is None:
        raise UserError(
            Problem(f"{task.task} reads two texts: this model was fine-tuned on pairs", mend="--second ...")
        )
    if second is not None and not two:
        raise UserError(Problem(f"{task.task} reads one text", "--second", "leave it out"))
    given = text.split() if task.task == "tokens" else [text] if second is None else [text, second]
    texts = tuple(preprocess(one, task.preprocess) for one in given)
    if not any(one.strip() for one in texts):
        raise UserError(Problem("the text has no word", "--text", "a text with words"))
    return Example("--text", texts, None, 0)


# ---- what the model says ---------------------------------------------------------------------------------------------


def _words(watched: Watched, tokenizer: Tokenizer, reading: Reading, hidden: Tensor) -> Expected | None:
    """The likeliest words of every position; None where the head for words is not there, as in a bare BERT."""
    if not watched.speaks:
        return None
    masks = [
        place for place, token_id in enumerate(reading.ids) if token_id == tokenizer.mask_id and not watched.causal
    ]
    words = likely_words(cast(Transformer, watched.model), tokenizer, hidden)
    return Expected("next" if watched.causal else "here", words, masks)


@torch.no_grad()
def likely_words(model: Transformer, tokenizer: Tokenizer, hidden: Tensor, top: int = TOP_WORDS) -> list[list[Share]]:
    """hidden [T, D] -> the ``top`` likeliest words of each position, likeliest first, with their probabilities.

    A causal model says which word follows there, BERT which word stands there. Only the tokenizer's ids count.
    """
    places: list[list[Share]] = []
    for part in hidden.to(model.head_weight).split(LOGIT_ROWS):
        shares = model.logits(part)[:, : tokenizer.vocab_size].float().softmax(-1)
        best = shares.topk(min(top, tokenizer.vocab_size))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            places.append([(tokenizer.token_text(i), share) for i, share in zip(ids, values, strict=True)])
    return places


@torch.no_grad()
def _labels(model: nn.Module, task: TaskConfig, encoded: Encoded, hidden: Tensor) -> Expected | None:
    """What a head for tokens or spans says of each position that it was trained to speak of; None of other heads."""
    if task.task not in ("tokens", "span"):
        return None
    head = cast(TaskModel, model).task_head
    assert head is not None
    scores = head(hidden.to(head.score.weight)[None])[0].float()  # [T, C]
    if task.task == "tokens":
        names, shares, spoken = task.labels, scores.softmax(1), set(encoded.words or ())
    else:
        inside = {place for place, (begin, end) in enumerate(encoded.offsets or ()) if end > begin}
        names, shares, spoken = ("an answer begins here", "an answer ends here"), scores.softmax(0), inside
    return Expected("labels", [_ranked(names, row) if p in spoken else [] for p, row in enumerate(shares.tolist())])


def _ranked(names: Sequence[str], shares: Sequence[float]) -> list[Share]:
    return sorted(zip(names, shares, strict=True), key=lambda share: -share[1])[:TOP_WORDS]


def _answer(classifier: Classifier, example: Example, encoded: Encoded) -> Answer | None:
    """The answer in words; None of tags, which the positions tell."""
    task, notes = classifier.task, []
    if task.task == "tokens":
        return None
    if len(encoded.rows) == 2:
        notes.append("The pair is read in both orders, and the two are summed; the page shows the first.")
    if encoded.cut:
        notes.append(f"{encoded.cut:,} tokens did not fit and were left out.")
    if task.task == "choice":
        notes.append("Of several choices the one with the highest score is taken.")
        return Answer(f"a score of {float(classifier.scores([example])[0][0]):.3f}", (), " ".join(notes))
    [prediction] = classifier.predict([example])
    said = f"{prediction.answer:.4g}" if isinstance(prediction.answer, float) else str(prediction.answer)
    shares = prediction.probabilities or {}
    return Answer(said, _ranked(tuple(shares), tuple(shares.values())), " ".join(notes))


def _rounded(value: Any) -> Any:
    """Nested lists of numbers with four significant digits; None where a word is not seen."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return None if value == float("-inf") else float(f"{value:.4g}")
