"""Receipts: proof that a model which went through a door computes what it computed before.

Two *witnesses*, the model before and after, answer the same fixed prompts in float32, one after the other, so that only
one of them is in memory. The receipt holds how far their answers lie apart, what that does to perplexity, and the token
ids that both tokenizers give for fixed texts.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

import gptloom
from gptloom.config.errors import Problem, VerificationError
from gptloom.config.files import write_text
from gptloom.observe.events import finite
from gptloom.train.memory import return_freed_memory

if TYPE_CHECKING:
    from gptloom.tokenizer.tokenizer import Tokenizer

RECEIPT_FILE = "receipt.json"
RECEIPT_VERSION = 1
TOLERANCE = 1e-4  # float32, as a share of the largest number: roundings of another order of additions stay far below
LONGEST_TEXT, LONGEST_DRAWN = 192, 48  # tokens of a prompt
MASK_EVERY = 7

PASSAGE = (
    "The lamp in the harbour office burned until four. Nobody had told Marta that the ferry was late, so she sat with "
    "the timetable on her knees and counted: seven crates of oranges, 36 letters, one piano. When the horn sounded at "
    "last, she wasn't sure whether she had slept. “You're early,” she said to the captain, and he laughed, because it "
    "was true of the next day's boat."
)
TEXTS = (
    "Hello, world!",
    "  two spaces,\n\n\ta tab and a blank line ",
    "naïve café, 東京, Ελλάδα, 👩‍🚀 and e\u0301",
    "1234567890 + 3.14159 = $5,000.00",
    "def f(x):\n    return x**2  # it's 'S and don't",
)


@dataclass(frozen=True)
class Prompt:
    """Token ids [T], and which positions are scored: (position, the id that its logits should give)."""

    ids: tuple[int, ...]
    scored: tuple[tuple[int, int], ...] = ()


class Witness(Protocol):
    """A model that is opened, asked and let go.

    Attributes:
        name: what it is and by whose code it computes, for the receipt.
    """

    name: str

    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        """What the model gives for each prompt, float32 on the CPU: of ``logits`` [T, V], ``hidden`` [T, D], ``pooled`` [D]
        and ``pair_logits`` [2] those it has. The model is in memory during the call only."""
        ...

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        """The ids of each text without anything added; None where there is no tokenizer."""
        ...


@dataclass(frozen=True)
class Receipt:
    """What a comparison found; ``receipt.json``.

    Attributes:
        verified: compared, and equal within the tolerance.
        reference: what the result was compared with, and by whose code that was computed; None: not compared.
        candidate: the same of the result.
        max_logit_difference: the largest |Δ logit|; None where the model has no logits (see ``outputs``).
        perplexity_change: candidate's / reference's - 1 on the fixed text (BERT: on every seventh word, masked).
        token_ids: text -> ids, of the reference; None where there is no tokenizer to compare with.
        outputs: for each output, ``max_difference``, ``scale`` (the largest number; of logits, from the mean of their
            position) and ``tolerance`` times that scale, which the difference may reach.
        tolerance: share of the scale.
        same_top_token: share of positions at which both have the same likeliest token.
        positions: how many positions were compared.
        notes: what else is to be known: dtype, resized vocabulary, why it was not compared.
        problems: why it is not verified.
    """

    verified: bool
    reference: str | None = None
    candidate: str | None = None
    max_logit_difference: float | None = None
    perplexity: Mapping[str, float] | None = None
    perplexity_change: float | None = None
    token_ids: Mapping[str, Sequence[int]] | None = None
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tolerance: float | None = None
    same_top_token: float | None = None
    positions: int = 0
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def unverified(cls, *notes: str) -> Receipt:
        """The receipt of a door that was asked not to look back."""
        return cls(verified=False, notes=("not compared: --no-verify", *notes))

    def as_dict(self) -> dict[str, Any]:
        """The document of ``receipt.json``."""
        versions = {"gptloom": gptloom.__version__, "torch": torch.__version__}
        return {"version": RECEIPT_VERSION, **asdict(self), "versions": versions}

    def lines(self) -> list[str]:
        """What a person wants to know of it."""
        if self.reference is None:
            return list(self.notes)
        lines = [f"compared with {self.reference}, {self.positions} positions in float32"]
        for name, output in self.outputs.items():
            allowed = f"{output['tolerance']:.1e} allowed"
            lines.append(f"largest difference of {name.replace('_', ' ')}: {output['max_difference']:.1e} ({allowed})")
        if self.perplexity is not None and self.perplexity_change is not None:
            lines.append(f"perplexity {self.perplexity['reference']:.4g}, changed by {self.perplexity_change:+.1e}")
        if self.token_ids is not None:
            lines.append(f"token ids of {len(self.token_ids)} texts: equal")
        return [*lines, *self.notes]

    def check(self) -> None:
        """``VerificationError`` with every problem, when there is one."""
        if self.problems:
            raise VerificationError(*(Problem(text) for text in self.problems))


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Writes ``receipt`` to ``path``, or, when that is a folder, to ``receipt.json`` in it. Whole or not at all."""
    file = path / RECEIPT_FILE if path.is_dir() else path
    text = json.dumps(finite(receipt.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n")


def fixed_prompts(
    tokenizer: Tokenizer | None,
    vocab_size: int,
    context: int,
    *,
    masked: bool = False,
    special: tuple[int | None, int | None, int | None] = (None, None, None),
) -> list[Prompt]:
    """The prompts of every receipt: a passage and odd texts by ``tokenizer``, and ids drawn from all of the vocabulary.

    The passage is scored, or, without a tokenizer, the drawn ids. With ``masked`` (BERT) every seventh token is replaced
    by [MASK] and scored; ``special`` are the ids of [CLS], [SEP] and [MASK], None where unknown.
    """
    draw = random.Random(20)
    length = min(LONGEST_DRAWN, context)
    drawn = [[int(draw.random() * vocab_size) for _ in range(length)] for _ in range(2)]
    texts = [] if tokenizer is None else tokenizer.encode_batch([PASSAGE, *TEXTS])
    scored = texts[:1] or drawn
    others = [*texts[1:], *drawn] if texts else []
    cut = min(LONGEST_TEXT, context)
    if masked:
        return [_masked(ids, cut, special) for ids in scored] + [_framed(ids, cut, special) for ids in others]
    return [_continued(ids[:cut]) for ids in scored] + [Prompt(tuple(ids[:cut])) for ids in others if ids]


def _continued(ids: Sequence[int]) -> Prompt:
    return Prompt(tuple(ids), tuple(enumerate(ids[1:])))


def _framed(ids: Sequence[int], cut: int, special: tuple[int | None, int | None, int | None]) -> Prompt:
    first, last, _ = special
    inner = list(ids)[: cut - (first is not None) - (last is not None)]
    return Prompt((*(() if first is None else (first,)), *inner, *(() if last is None else (last,))))


def _masked(ids: Sequence[int], cut: int, special: tuple[int | None, int | None, int | None]) -> Prompt:
    whole, mask = _framed(ids, cut, special).ids, special[2]
    places = range(1, max(2, len(whole) - 1), MASK_EVERY)
    scored = tuple((place, whole[place]) for place in places if place < len(whole))
    if mask is None:
        return Prompt(whole, scored)
    chosen = {place for place, _ in scored}
    return Prompt(tuple(mask if place in chosen else token for place, token in enumerate(whole)), scored)


def compare(
    reference: Witness,
    candidate: Witness,
    prompts: Sequence[Prompt],
    *,
    tolerance: float = TOLERANCE,
    notes: Sequence[str] = (),
) -> Receipt:
    """Asks both witnesses, one after the other, and says how far apart they are.

    Args:
        tolerance: what a difference may reach, as a share of the scale of the output (see ``Receipt.outputs``); rounded
            weights, as of GGUF's q8_0, need a larger one than ``TOLERANCE``.

    Returns:
        The receipt; where the two differ it is not ``verified`` and its ``problems`` say why.
    """
    return_freed_memory()  # so that the room of the first model is there for the second
    wanted, wanted_ids = reference.answers(prompts), reference.token_ids(TEXTS)
    found, found_ids = candidate.answers(prompts), candidate.token_ids(TEXTS)
    problems: list[str] = []
    outputs = {}
    for name in wanted[0]:
        if name in found[0]:
            pairs = [(w[name].float(), f[name].float()) for w, f in zip(wanted, found, strict=True)]
            outputs[name] = _differences(name, pairs, tolerance, problems)
    if not outputs:
        problems.append(f"nothing to compare: {', '.join(wanted[0])} of one, {', '.join(found[0])} of the other")
    perplexity = change = top = None
    if "logits" in outputs and outputs["logits"]["max_difference"] < math.inf:
        losses = [_mean_loss(prompts, [answer["logits"] for answer in side]) for side in (wanted, found)]
        perplexity = {"reference": _exp(losses[0]), "candidate": _exp(losses[1])}
        change = _exp(losses[1] - losses[0]) - 1
        same = [(w["logits"].argmax(-1) == f["logits"].argmax(-1)) for w, f in zip(wanted, found, strict=True)]
        top = float(torch.cat(same).float().mean())
    token_ids = _token_ids(wanted_ids, found_ids, problems)
    return Receipt(
        verified=not problems,
        reference=reference.name,
        candidate=candidate.name,
        max_logit_difference=outputs["logits"]["max_difference"] if "logits" in outputs else None,
        perplexity=perplexity,
        perplexity_change=change,
        token_ids=token_ids,
        outputs=outputs,
        tolerance=tolerance,
        same_top_token=top,
        positions=sum(len(prompt.ids) for prompt in prompts),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def compare_rounded(
    plain: Witness,
    alike: Witness,
    candidate: Witness,
    prompts: Sequence[Prompt],
    *,
    dtype: str,
    tolerance: float,
    notes: Sequence[str] = (),
) -> Receipt:
    """Two comparisons of a result whose numbers were rounded to ``dtype``, with one model in memory at a time.

    The result against the source rounded ``alike`` must agree as float32 does: a tensor in a wrong place would show. The
    result against the source as it is, ``plain``, shows what the rounding itself does; that has a ``tolerance`` of its own.

    Returns:
        The receipt of the second comparison, where the first finds nothing wrong; else that of the first.
    """
    asked_once = _Remembered(candidate)
    exact = compare(alike, asked_once, prompts, notes=notes)
    if exact.problems:
        return exact
    found = max(output["max_difference"] for output in exact.outputs.values())
    note = f"rounded to {dtype}: against the source rounded alike, logits differ by up to {found:.1e}"
    return compare(plain, asked_once, prompts, tolerance=tolerance, notes=[*notes, note])


class _Remembered:
    """A witness that is asked once, however often it is compared."""

    def __init__(self, witness: Witness) -> None:
        self.name = witness.name
        self._witness = witness
        self._answers: list[dict[str, Tensor]] | None = None

    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        if self._answers is None:
            self._answers = self._witness.answers(prompts)
        return self._answers

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        return self._witness.token_ids(texts)


def _differences(
    name: str, pairs: Sequence[tuple[Tensor, Tensor]], tolerance: float, problems: list[str]
) -> dict[str, float]:
    shapes = [(list(wanted.shape), list(found.shape)) for wanted, found in pairs if wanted.shape != found.shape]
    if shapes:
        problems.append(f"{name} is {shapes[0][1]} after and {shapes[0][0]} before")
        return {"max_difference": math.inf, "scale": 0.0, "tolerance": 0.0}
    # torch's max, unlike Python's, lets NaN through.
    difference = float(torch.stack([(found - wanted).abs().max() for wanted, found in pairs]).max())
    scale = float(torch.stack([_scale(name, wanted) for wanted, _ in pairs]).max())
    if not difference < math.inf:
        what = "the result computes" if math.isfinite(scale) else "the source itself computes"
        problems.append(f"{what} numbers that are not finite ({name})")
        return {"max_difference": math.inf, "scale": scale, "tolerance": 0.0}
    if difference > tolerance * scale:
        allowed = f"allowed is {tolerance * scale:.1e} ({tolerance:g} of {scale:.3g})"
        problems.append(f"{name.replace('_', ' ')} differ by up to {difference:.3g}; {allowed}")
    return {"max_difference": difference, "scale": scale, "tolerance": tolerance * scale}


def _scale(name: str, values: Tensor) -> Tensor:
    """The largest number. Logits count from the mean of their position: GPT-2's all lie around -100, which means nothing."""
    return (values - values.mean(-1, keepdim=True) if name == "logits" else values).abs().max()


def _mean_loss(prompts: Sequence[Prompt], logits: Sequence[Tensor]) -> float:
    """Natural logarithm of the perplexity over every scored position."""
    losses = []
    for prompt, scores in zip(prompts, logits, strict=True):
        if prompt.scored:
            places, targets = zip(*prompt.scored, strict=True)
            rows = scores[list(places)].double().log_softmax(-1)
            losses.append(-rows.gather(1, torch.tensor(targets)[:, None])[:, 0])
    return float(torch.cat(losses).mean()) if losses else math.nan


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _token_ids(
    wanted: list[list[int]] | None, found: list[list[int]] | None, problems: list[str]
) -> dict[str, list[int]] | None:
    if wanted is None or found is None:
        return None
    for text, before, after in zip(TEXTS, wanted, found, strict=True):
        if before != after:
            problems.append(f"token ids of {text!r} are {after} after and {before} before")
    return dict(zip(TEXTS, wanted, strict=True))
