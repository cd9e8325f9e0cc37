"""Sampling: every step against transformers' processors, and the draw against the distribution it draws from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptloom.config.generate import SamplingOptions
from gptloom.generation.sampling import Sampler, draw, keep_top_k, keep_top_p, uniform

VOCABULARY = 1500  # more than the first guess at a nucleus, so that both ways through top-p are taken


def rows(count: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(count))


def ours(logits: Tensor, context: Tensor, **options: float) -> Tensor:
    sampling = SamplingOptions(**options)
    sampler = Sampler([sampling] * len(logits), context.tolist(), [[]] * len(logits), VOCABULARY)
    return sampler.transform(logits)


@pytest.mark.parametrize(
    ("options", "processors"),
    [
        ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
        ({"top_k": 40}, [TopKLogitsWarper(40)]),
        ({"top_k": 5000}, [TopKLogitsWarper(5000)]),
        ({"top_p": 0.9}, [TopPLogitsWarper(0.9)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"top_p": 1e-6}, [TopPLogitsWarper(1e-6)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        ({"repetition_penalty": 1.3}, [RepetitionPenaltyLogitsProcessor(1.3)]),
        (
            {"repetition_penalty": 0.8, "temperature": 1.4, "top_k": 300, "top_p": 0.95, "min_p": 0.01},
            [
                RepetitionPenaltyLogitsProcessor(0.8),
                TemperatureLogitsWarper(1.4),
                TopKLogitsWarper(300),
                TopPLogitsWarper(0.95),
                MinPLogitsWarper(0.01),
            ],
        ),
    ],
)
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_steps_equal_those_of_transformers(options: dict[str, float], processors: list, scale: float) -> None:
    logits = rows(6, scale)
    context = torch.randint(0, VOCABULARY, (6, 30), generator=torch.Generator().manual_seed(1))
    expected = LogitsProcessorList(processors)(context, logits.clone())
    got = ours(logits, context, **options)
    assert torch.equal(got.isinf(), expected.isinf())
    assert (got.softmax(-1) - expected.softmax(-1)).abs().max() <= 1e-6


def test_top_k_keeps_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert keep_top_k(logits, torch.tensor([2])).isfinite().tolist() == [[False, True, True, True, False]]


def test_top_p_keeps_the_token_that_crosses() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert keep_top_p(logits, torch.tensor([0.6])).isfinite().tolist() == [[True, True, False]]


def test_presence_and_frequency_count_the_completion_only() -> None:
    options = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler([options], [[1, 1, 2]], [[3, 3]], 6)
    sampler.observe([4])
    changed = sampler.transform(torch.zeros(1, 6))
    assert changed.tolist() == [[0, 0, 0, -1.0, -0.75, 0]]


def test_bias_comes_before_temperature() -> None:
    options = SamplingOptions(logit_bias={2: 3.0}, temperature=2.0)
    changed = Sampler([options], [[0]], [[]], 4).transform(torch.ones(1, 4))
    assert changed.tolist() == [[0.5, 0.5, 2.0, 0.5]]


def test_rows_of_a_batch_keep_to_their_own_options() -> None:
    different = [
        SamplingOptions(),
        SamplingOptions(temperature=0.5, top_p=0.8),
        SamplingOptions(top_k=3, repetition_penalty=1.5),
        SamplingOptions(min_p=0.2, presence_penalty=1.0),
        SamplingOptions(temperature=0, logit_bias={7: 50.0}),
    ]
    logits = rows(len(different))
    prompts, written = [[5, 6]] * len(different), [[7, 8]] * len(different)
    together = Sampler(different, prompts, written, VOCABULARY).transform(logits)
    for row, options in enumerate(different):
        alone = Sampler([options], prompts[:1], written[:1], VOCABULARY).transform(logits[row : row + 1])
        assert torch.equal(together[row], alone[0])
    assert torch.equal(together[0], logits[0]), "a row that uses nothing is left as it is"


def test_transform_leaves_its_argument_alone() -> None:
    logits = rows(2)
    before = logits.clone()
    Sampler([SamplingOptions(top_k=3), SamplingOptions()], [[0], [0]], [[], []], VOCABULARY).transform(logits)
    assert torch.equal(logits, before)


def test_draws_follow_the_distribution() -> None:
    """χ² over 1e5 draws; the 99.9 % quantile for 8 degrees of freedom is 26.1."""
    probabilities = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.04, 0.01])
    draws = 100_000
    uniforms = torch.tensor([uniform(7, 0, index) for index in range(draws)], dtype=torch.float64)
    ids = draw(probabilities.log().expand(draws, -1), uniforms)
    counts = torch.bincount(ids, minlength=len(probabilities)).double()
    expected = probabilities.double() * draws
    assert float(((counts - expected) ** 2 / expected).sum()) < 26.1


def test_draw_never_takes_an_impossible_token() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 1.0, float("-inf")]])
    for u in (0.0, 1 - 2**-48):
        assert int(draw(logits, torch.tensor([u], dtype=torch.float64))) == (1 if u == 0 else 3)


def test_uniform_is_a_function_of_its_three_numbers() -> None:
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    assert len({uniform(s, c, i) for s in range(4) for c in range(4) for i in range(4)}) == 64
    mean = sum(uniform(0, 0, i) for i in range(10_000)) / 10_000
    assert abs(mean - 0.5) < 4 * (1 / 12) ** 0.5 / 100
