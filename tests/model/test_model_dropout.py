from __future__ import annotations

import pytest
import torch

from gptloom.model.attention import attend
from gptloom.model.dropout import Dropout, kept


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_share_and_the_expectation_are_met(p: float, bits: int) -> None:
    stays, factor = kept(torch.Size((1000, 1001)), p, bits, torch.Generator().manual_seed(1))
    assert stays.shape == (1000, 1001) and stays.dtype == torch.bool
    assert float(stays.double().mean()) == pytest.approx(1 - p, abs=1 / (1 << bits) + 2e-3)
    assert float(stays.double().mean()) * factor == pytest.approx(1, abs=4e-3)


@pytest.mark.parametrize("p", [1e-6, 0.001, 0.999])
def test_the_ends_neither_drop_all_nor_nothing(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 400, requires_grad=True)
    out = Dropout(p)(x)
    assert 0 < int((out == 0).sum()) < out.numel()
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    q = k = v = torch.ones(1, 2, 40, 8, requires_grad=True)
    assert attend(q, k, v, dropout=p).isfinite().all()


def test_a_seed_repeats_and_evaluation_drops_nothing() -> None:
    x, dropout = torch.ones(64, 64), Dropout(0.3)
    torch.manual_seed(5)
    first = dropout(x)
    torch.manual_seed(5)
    assert torch.equal(dropout(x), first) and not torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x
