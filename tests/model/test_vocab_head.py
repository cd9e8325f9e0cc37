from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptloom.model import vocab_head
from gptloom.model.vocab_head import cross_entropy, plain_cross_entropy

V, D = 37, 12
CAPS = pytest.mark.parametrize("cap", [None, 3.0], ids=["plain", "softcap"])
WEIGHTED = pytest.mark.parametrize("weighted", [True, False], ids=["weights", "no-weights"])


def problem(dtype: torch.dtype, seed: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [2, 15, D], weight [V, D], targets [2, 15], weights [2, 15] of which some are 0 and some above 1."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 15, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    targets = torch.randint(V, (2, 15), generator=generator)
    weights = torch.rand(2, 15, generator=generator) * 2
    weights[0, :4] = 0
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets, weights


def loss_and_gradients(function, dtype: torch.dtype, cap: float | None, weighted: bool, scale: float = 1.0):
    hidden, weight, targets, weights = problem(dtype)
    loss = function(hidden, weight, targets, weights if weighted else None, cap)
    (loss * scale).backward()
    return loss.detach(), hidden.grad, weight.grad


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("chunk_rows", [1, 7, 30, 1000], ids="chunks-of-{}".format)
@pytest.mark.parametrize("inner_rows", [2, 1000], ids="rows-of-{}".format)
@WEIGHTED
@CAPS
def test_equals_the_plain_twin_however_it_is_cut(monkeypatch, cap, weighted, inner_rows, chunk_rows) -> None:
    monkeypatch.setattr(vocab_head, "LOGIT_BYTES", chunk_rows * V * 8)
    monkeypatch.setattr(vocab_head, "ROWS_BYTES", inner_rows * V * 4)
    ours = loss_and_gradients(cross_entropy, torch.float64, cap, weighted, scale=0.37)
    plain = loss_and_gradients(plain_cross_entropy, torch.float64, cap, weighted, scale=0.37)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype and relative(a, b) < 1e-12


@CAPS
def test_bf16_stays_near_the_exact_result_and_sums_in_fp32(monkeypatch, cap) -> None:
    monkeypatch.setattr(vocab_head, "LOGIT_BYTES", 4 * V * 2)
    ours = loss_and_gradients(cross_entropy, torch.bfloat16, cap, True)
    exact = loss_and_gradients(plain_cross_entropy, torch.float64, cap, True)
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == ours[2].dtype == torch.bfloat16
    assert relative(ours[0], exact[0]) < 5e-3
    assert all(relative(a, b) < 2e-2 for a, b in zip(ours[1:], exact[1:], strict=True))


def test_a_long_sum_does_not_stick_in_bf16(monkeypatch) -> None:
    """10,000 equal losses of ln V: a bf16 sum would stop growing at a few hundred of them."""
    monkeypatch.setattr(vocab_head, "LOGIT_BYTES", 500 * V * 2)
    hidden = torch.zeros(10_000, D, dtype=torch.bfloat16)
    loss = cross_entropy(hidden, torch.zeros(V, D, dtype=torch.bfloat16), torch.zeros(10_000, dtype=torch.long))
    assert float(loss) == pytest.approx(10_000 * torch.log(torch.tensor(float(V))).item(), rel=1e-5)


@CAPS
def test_gradients_agree_with_finite_differences(cap) -> None:
    hidden, weight, targets, weights = problem(torch.float64)
    cross_entropy(hidden, weight, targets, weights, cap).backward()
    generator = torch.Generator().manual_seed(8)
    for tensor in (hidden, weight):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            tensor += 1e-5 * direction
            above = cross_entropy(hidden, weight, targets, weights, cap)
            tensor -= 2e-5 * direction
            below = cross_entropy(hidden, weight, targets, weights, cap)
            tensor += 1e-5 * direction
        assert float((above - below) / 2e-5) == pytest.approx(float((tensor.grad * direction).sum()), rel=1e-7)


@pytest.mark.parametrize(("wants_hidden", "wants_weight"), [(False, False), (True, False), (False, True)])
def test_gives_only_the_gradients_that_are_wanted(wants_hidden: bool, wants_weight: bool) -> None:
    hidden, weight, targets, weights = problem(torch.float64)
    hidden.requires_grad_(wants_hidden)
    weight.requires_grad_(wants_weight)
    before = hidden.detach().clone(), weight.detach().clone()
    loss = cross_entropy(hidden, weight, targets, weights)
    assert loss.requires_grad == (wants_hidden or wants_weight)
    if loss.requires_grad:
        loss.backward()
    assert (hidden.grad is not None, weight.grad is not None) == (wants_hidden, wants_weight)
    reference = plain_cross_entropy(hidden.detach(), weight.detach(), targets, weights)
    assert relative(loss.detach(), reference) < 1e-12
    assert torch.equal(hidden, before[0]) and torch.equal(weight, before[1])


def test_without_gradients_the_inputs_are_left_alone() -> None:
    hidden, weight, targets, weights = problem(torch.float32)
    before = hidden.detach().clone(), weight.detach().clone()
    with torch.no_grad():
        loss = cross_entropy(hidden, weight, targets, weights, 3.0)
        assert torch.allclose(loss, plain_cross_entropy(hidden, weight, targets, weights, 3.0))
    assert torch.equal(hidden, before[0]) and torch.equal(weight, before[1])


def test_a_weight_of_zero_takes_a_token_out() -> None:
    hidden, weight, targets, weights = problem(torch.float64)
    whole = cross_entropy(hidden, weight, targets, weights)
    whole.backward()
    assert not hidden.grad[0, :4].any()
    other = targets.clone()
    other[0, :4] = 0
    assert torch.equal(whole.detach(), cross_entropy(hidden, weight, other, weights).detach())


def test_a_tied_matrix_gets_the_gradient_of_both_uses() -> None:
    _, weight, targets, weights = problem(torch.float64)
    twin = weight.detach().clone().requires_grad_()
    ids = torch.arange(30).view(2, 15)
    cross_entropy(weight[ids], weight, targets, weights).backward()
    plain_cross_entropy(twin[ids], twin, targets, weights).backward()
    assert relative(weight.grad, twin.grad) < 1e-12


def test_a_second_backward_is_refused_rather_than_wrong() -> None:
    hidden, weight, targets, weights = problem(torch.float64)
    loss = cross_entropy(hidden, weight, targets, weights)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second"):
        loss.backward()


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000], ids="chunks-of-{}".format)
@CAPS
def test_a_bias_is_added_and_gets_its_gradient(monkeypatch, cap, chunk_rows) -> None:
    monkeypatch.setattr(vocab_head, "LOGIT_BYTES", chunk_rows * V * 8)
    found = []
    for function in (cross_entropy, plain_cross_entropy):
        hidden, weight, targets, weights = problem(torch.float64)
        bias = torch.linspace(-2, 2, V, dtype=torch.float64).requires_grad_()
        loss = function(hidden, weight, targets, weights, cap, bias)
        (loss * 0.37).backward()
        found.append((loss.detach(), hidden.grad, weight.grad, bias.grad))
    assert all(relative(a, b) < 1e-12 for a, b in zip(*found, strict=True))


def test_no_tokens_cost_nothing() -> None:
    _, weight, _, _ = problem(torch.float64)
    nothing = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(nothing, weight, torch.zeros(0, dtype=torch.long), torch.zeros(0))
    loss.backward()
    assert float(loss.detach()) == 0 and nothing.grad is not None
