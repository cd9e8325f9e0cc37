"""Documents packed into a row: attended to one by one, whatever their lengths, equal to the table of the plain twin."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.model import attention
from gptloom.model.attention import Mask, attend, plain_attention
from gptloom.model.cpu_attention import BLOCK
from gptloom.model.documents import SHORT, SIMILAR, Documents
from gptloom.model.transformer import Transformer

LENGTHS = {
    "one": [[9]],
    "single tokens": [[1, 1, 1, 5, 1]],
    "unlike": [[3, 70, 33, 12, 2, 68, 1]],
    "beyond a block": [[5, BLOCK + 3, BLOCK - 1]],
    "several rows": [[4, 60, 6], [70], [1, 35, 34]],
}


def numbers_of(rows: list[list[int]]) -> Tensor:
    """[B, T]: each row counts its documents from 0."""
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows])


def draw(numbers: Tensor, heads: int, groups: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows, length = numbers.shape
    shapes = [(rows, count, length, 8) for count in (heads, groups, groups)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of one fixed random projection of it."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("rows", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 7), (True, 1), (False, None), (False, 9)])
def test_every_rule_within_documents_equals_the_plain_twin(
    rows: list[list[int]], padded: bool, causal: bool, window: int | None
) -> None:
    numbers = numbers_of(rows)
    inputs = draw(numbers, heads=4, groups=2)
    valid = torch.rand(numbers.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    sight = Mask(key_valid=valid if padded else None, documents=numbers).sight(causal, window)
    wanted = with_gradients(plain_attention(*inputs, sight, scale=0.4)[0], inputs)
    found = with_gradients(attend(*inputs, sight, scale=0.4), inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    with torch.no_grad():  # by PyTorch's kernel
        torch.testing.assert_close(attend(*inputs, sight, scale=0.4), wanted[0], rtol=0, atol=1e-12)


def test_equal_numbers_apart_are_different_documents() -> None:
    numbers = torch.tensor([[0, 0, 1, 0, 0]])
    weights = plain_attention(*draw(numbers, 2, 2), Mask(documents=numbers).sight())[1]
    assert (weights[0, 0] > 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_what_is_spread_comes_back_to_its_place() -> None:
    numbers = numbers_of(LENGTHS["several rows"])
    documents = Documents.of(numbers)
    (rows, *_) = draw(numbers, 3, 3)
    laid_out = documents.spread(rows)
    assert torch.equal(documents.collect(laid_out), rows)
    assert sum(int((group != 0).any(-1).any(1).sum()) for group in laid_out) == numbers.numel()


def test_groups_hold_documents_of_similar_length() -> None:
    lengths = torch.randint(1, 900, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    shapes = Documents.of(numbers_of([lengths])).shapes
    assert sum(documents for documents, _ in shapes) == 300
    longest = sorted(lengths, reverse=True)
    ends = torch.tensor([0, *(documents for documents, _ in shapes)]).cumsum(0).tolist()
    for (_, width), (begin, end) in zip(shapes, pairwise(ends), strict=True):
        assert longest[begin] == width and (longest[end - 1] >= SIMILAR * width or width <= SHORT)
    assert len(shapes) <= 13  # 900 * 0.75^12 < 32


def model_of(**changes: object) -> Transformer:
    sizes = {"vocab_size": 31, "context": 64, "n_layer": 4, "d_model": 32, "n_head": 4}
    model = Transformer(ModelConfig(**{**preset("gpt2"), **sizes, "dropout": 0.0, **changes})).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_the_layout_is_made_once_a_batch_and_the_cpu_kernel_meets_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Documents] = []
    of, kernel, met = Documents.of, attention.block_attention, []

    def counted(numbers: Tensor) -> Documents:
        made.append(of(numbers))
        return made[-1]

    def watched(q: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        met.append(tuple(q.shape[:2]))
        return kernel(q, *rest)

    monkeypatch.setattr(Documents, "of", counted)
    monkeypatch.setattr(attention, "block_attention", watched)
    model = model_of(banded="alternate", window=4)
    numbers = numbers_of([[60, 50, 3]])
    ids = torch.arange(113)[None] % 31
    positions = torch.cat([torch.arange(length) for length in (60, 50, 3)])[None]
    model.hidden(ids, positions, Mask(documents=numbers))
    assert len(made) == 1
    assert met == [(8, 60), (4, 3)] * 4  # documents times heads, and the longest, of two groups in four layers


def test_a_model_that_sees_everything_sees_its_own_document_only() -> None:
    model = model_of(mask="bidirectional")
    parts = [
        torch.randint(0, 31, (1, length), generator=torch.Generator().manual_seed(length)) for length in (9, 40, 3)
    ]
    numbers = numbers_of([[9, 40, 3]])
    positions = torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    packed = model.hidden(torch.cat(parts, 1), positions, Mask(documents=numbers))
    torch.testing.assert_close(packed, torch.cat([model.hidden(part) for part in parts], 1), rtol=0, atol=1e-11)
