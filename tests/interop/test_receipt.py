"""What a receipt says of two witnesses, by witnesses whose answers are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptloom.config.errors import VerificationError
from gptloom.interop.receipt import (
    TEXTS,
    TOLERANCE,
    Prompt,
    Receipt,
    compare,
    compare_rounded,
    fixed_prompts,
    write_receipt,
)
from gptloom.tokenizer.train import train_tokenizer

Change = Callable[[Tensor], Tensor]


class Told:
    """Answers with numbers drawn for each prompt, changed by ``change``."""

    def __init__(self, change: Change = lambda logits: logits, ids: int | None = 0, output: str = "logits") -> None:
        self.name, self.change, self.ids, self.output = "told", change, ids, output

    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        draw = torch.Generator().manual_seed(1)
        return [{self.output: self.change(torch.randn(len(p.ids), 50, generator=draw) - 100)} for p in prompts]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        return None if self.ids is None else [[self.ids, len(text)] for text in texts]


PROMPTS = fixed_prompts(None, 50, 20)


def test_equal_witnesses_are_verified() -> None:
    receipt = compare(Told(), Told(), PROMPTS, notes=("a note",))
    assert receipt.verified and receipt.max_logit_difference == 0 and receipt.perplexity_change == 0
    assert receipt.same_top_token == 1 and receipt.positions == 40 and receipt.notes == ("a note",)
    assert receipt.token_ids == {text: [0, len(text)] for text in TEXTS}
    receipt.check()


def test_a_difference_counts_against_the_spread_of_the_logits_not_their_common_height() -> None:
    close = compare(Told(), Told(lambda logits: logits + 1e-5), PROMPTS)
    assert close.verified and close.max_logit_difference == pytest.approx(1e-5, rel=0.5)
    assert close.outputs["logits"]["scale"] < 10  # though each logit is around -100
    apart = compare(Told(), Told(lambda logits: logits + 5e-3), PROMPTS)  # 5e-5 of the logits themselves
    assert not apart.verified and "logits differ by up to 0.005" in apart.problems[0]
    with pytest.raises(VerificationError, match="logits differ"):
        apart.check()
    assert compare(Told(), Told(lambda logits: logits + 5e-3), PROMPTS, tolerance=1e-2).verified


def test_perplexity_is_of_the_scored_positions() -> None:
    prompts = [Prompt((1, 2, 3), ((0, 2), (1, 3))), Prompt((4,))]
    wanted = Told().answers(prompts)[0]["logits"].double().log_softmax(-1)
    doubled = (2 * Told().answers(prompts)[0]["logits"].double()).log_softmax(-1)
    receipt = compare(Told(), Told(lambda logits: 2 * logits), prompts)
    before, after = (math.exp(-float(p[0, 2] + p[1, 3]) / 2) for p in (wanted, doubled))
    assert receipt.perplexity is not None and receipt.perplexity["reference"] == pytest.approx(before)
    assert receipt.perplexity_change == pytest.approx(after / before - 1)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Told(lambda logits: logits[:, :49]), "logits is [20, 49] after and [20, 50] before"),
        (Told(lambda logits: logits.where(logits < -99, math.nan)), "the result computes numbers that are not finite"),
        (Told(ids=7), "token ids of 'Hello, world!' are [7, 13] after and [0, 13] before"),
        (Told(output="hidden"), "nothing to compare: logits of one, hidden of the other"),
    ],
)
def test_what_is_wrong_is_said(candidate: Told, words: str) -> None:
    receipt = compare(Told(), candidate, PROMPTS)
    assert not receipt.verified and words in " ".join(receipt.problems)


def test_a_source_that_is_not_finite_is_named_as_such() -> None:
    broken = Told(lambda logits: logits * math.nan)
    assert "the source itself" in compare(broken, broken, PROMPTS).problems[0]


def test_rounding_is_allowed_and_shown_where_the_source_rounded_alike_agrees() -> None:
    def rounded(logits: Tensor) -> Tensor:
        return logits + 0.01

    found = compare_rounded(Told(), Told(rounded), Told(rounded), PROMPTS, dtype="bf16", tolerance=0.1, notes=("a",))
    assert found.verified and found.max_logit_difference == pytest.approx(0.01, rel=1e-2)
    assert found.notes == ("a", "rounded to bf16: against the source rounded alike, logits differ by up to 0.0e+00")
    wrong = compare_rounded(Told(), Told(), Told(rounded), PROMPTS, dtype="bf16", tolerance=0.1)
    assert not wrong.verified and wrong.tolerance == TOLERANCE


def test_no_tokenizer_is_no_mismatch() -> None:
    receipt = compare(Told(), Told(ids=None), PROMPTS)
    assert receipt.verified and receipt.token_ids is None


def test_hidden_states_alone_are_compared_without_a_perplexity() -> None:
    receipt = compare(Told(output="hidden"), Told(output="hidden"), PROMPTS)
    assert receipt.verified and receipt.max_logit_difference is None and receipt.perplexity is None
    assert receipt.outputs["hidden"]["max_difference"] == 0


def test_the_file_is_json_even_of_infinities(tmp_path: Path) -> None:
    receipt = compare(Told(), Told(lambda logits: logits * math.nan), PROMPTS)
    write_receipt(tmp_path, receipt)
    document = json.loads((tmp_path / "receipt.json").read_text(encoding="utf-8"))
    assert document["version"] == 1 and document["verified"] is False and document["max_logit_difference"] is None
    assert document["problems"] and set(document["versions"]) == {"gptloom", "torch"}
    write_receipt(tmp_path / "other.json", Receipt.unverified("why"))
    other = json.loads((tmp_path / "other.json").read_text(encoding="utf-8"))
    assert other["verified"] is False and other["notes"] == ["not compared: --no-verify", "why"]


def test_prompts_fit_the_context_and_are_always_the_same() -> None:
    tokenizer = train_tokenizer("bytes", [], None)
    prompts = fixed_prompts(tokenizer, tokenizer.vocab_size, 32)
    assert prompts == fixed_prompts(tokenizer, tokenizer.vocab_size, 32)
    assert max(len(prompt.ids) for prompt in prompts) == 32
    assert [bool(prompt.scored) for prompt in prompts] == [True] + [False] * (len(prompts) - 1)
    assert prompts[0].scored[:2] == ((0, prompts[0].ids[1]), (1, prompts[0].ids[2]))
    drawn = [token for prompt in fixed_prompts(None, 50_000, 1024) for token in prompt.ids]
    assert max(drawn) > 45_000 and min(drawn) < 5_000 and all(prompt.scored for prompt in fixed_prompts(None, 9, 9))


def test_masked_prompts_hide_every_seventh_word_and_ask_for_it() -> None:
    tokenizer = train_tokenizer("bytes", [], None)
    masked = fixed_prompts(tokenizer, 300, 40, masked=True, special=(297, 298, 299))
    first, plain = masked[0], masked[1]
    assert first.ids[0] == plain.ids[0] == 297 and first.ids[-1] == plain.ids[-1] == 298 and len(first.ids) == 40
    passage = tokenizer.encode("The lamp in the harbour")
    assert first.scored[:2] == ((1, passage[0]), (8, passage[7]))
    assert {first.ids[place] for place, _ in first.scored} == {299} and first.ids.count(299) == len(first.scored) == 6
