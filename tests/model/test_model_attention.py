from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptloom.model.attention import Mask, Sight, attend, band_tiles, plain_attention
from gptloom.model.cpu_attention import BLOCK, block_attention

BORDERS = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]


def draw(length: int, dtype: torch.dtype = torch.float64, heads: int = 2, groups: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, 8), (2, groups, length, 8), (2, groups, length, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def causal(q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: Tensor) -> tuple[Tensor, Tensor]:
    return block_attention(q, k, v, None, True, None, q.shape[-1] ** -0.5, dropout, seed)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of one fixed random projection of it."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out.double() * weight).sum(), inputs)]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        scale = b.double().abs().max().clamp(min=1)
        assert float(((a.double() - b.double()).abs().max() / scale).detach()) <= tolerance


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("length", BORDERS)
def test_cpu_kernel_and_sdpa_equal_the_plain_twin_in_float64(length: int, groups: int) -> None:
    q, k, v = inputs = draw(length, groups=groups)
    plain = with_gradients(plain_attention(q, k, v)[0], inputs)
    kernel = with_gradients(attend(q, k, v), inputs)
    sdpa = with_gradients(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=groups == 1), inputs)
    assert_close(kernel, plain, 1e-12)
    assert_close(sdpa, plain, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK + 1])
def test_lower_precisions_stay_near_float64(length: int, dtype: torch.dtype, tolerance: float) -> None:
    inputs = draw(length, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted = with_gradients(plain_attention(*exact)[0], exact)
    assert_close(with_gradients(attend(*inputs), inputs), wanted, tolerance)


def test_weights_that_were_not_kept_are_computed_again_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(BLOCK + 9)
    kept = with_gradients(attend(*inputs), inputs)
    monkeypatch.setattr("gptloom.model.cpu_attention.KEEP_BYTES", 0)
    flat = [t.reshape(-1, *t.shape[2:]) for t in inputs]
    assert causal(*flat, 0.0, torch.tensor(0))[1].numel() == 0
    again = with_gradients(attend(*inputs), inputs)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_without_gradients_the_result_is_the_same() -> None:
    inputs = draw(BLOCK + 1)
    with torch.no_grad():
        assert_close([attend(*inputs)], [plain_attention(*inputs)[0]], 1e-12)


def flat(length: int) -> list[Tensor]:
    return [t.detach().reshape(-1, length, 8).requires_grad_() for t in draw(length)]


def test_dropout_keeps_the_expectation() -> None:
    q, k, v = (t.detach() for t in flat(6))
    exact = causal(q, k, v, 0.0, torch.tensor(0))[0]
    draws = torch.stack([causal(q, k, v, 0.25, torch.tensor(seed))[0] for seed in range(4000)])
    error = draws.std(0) / len(draws) ** 0.5
    assert float(((draws.mean(0) - exact).abs() / (error + 1e-12)).max()) < 5


def test_dropout_drops_the_share_asked_for() -> None:
    n, length = 8, BLOCK + 32
    q = k = torch.zeros(n, length, length, dtype=torch.float64)
    v = torch.eye(length, dtype=torch.float64).expand(n, length, length)
    seen = causal(q, k, v, 0.25, torch.tensor(3))[0]
    below = torch.ones(length, length).tril().bool().expand_as(seen)
    assert float((seen[below] == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert not seen[~below].any()


def test_different_seeds_drop_differently_and_equal_seeds_alike() -> None:
    q, k, v = flat(BLOCK + 3)
    first, second, third = (causal(q, k, v, 0.5, torch.tensor(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("keep_bytes", [1 << 20, 0])
def test_gradients_with_dropout_by_finite_differences(keep_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.model.cpu_attention.KEEP_BYTES", keep_bytes)
    monkeypatch.setattr("gptloom.model.cpu_attention.BLOCK", 3)
    inputs = [t.detach()[:2, :7, :4].clone().requires_grad_() for t in flat(7)]
    torch.autograd.gradcheck(lambda *qkv: causal(*qkv, 0.4, torch.tensor(11))[0], inputs, eps=1e-6, atol=1e-7)


def test_the_operator_keeps_the_rules_of_custom_operators() -> None:
    torch.library.opcheck(block_attention, (*flat(BLOCK + 2), None, True, None, 0.3, 0.0, torch.tensor(0)))


def test_a_document_alone_equals_the_document_packed() -> None:
    q, k, v = inputs = draw(11)
    documents = torch.tensor([[0] * 4 + [1] * 5 + [2] * 2] * 2)
    packed = with_gradients(attend(q, k, v, Mask(documents=documents).sight()), inputs)
    alone = []
    for start, stop in ((0, 4), (4, 9), (9, 11)):
        alone.append(attend(*(t[:, :, start:stop] for t in inputs)))
    assert_close(packed, with_gradients(torch.cat(alone, dim=2), inputs), 1e-12)


def test_padding_changes_no_real_token() -> None:
    q, k, v = draw(9)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[0, :3] = False  # padded on the left
    valid[1, 6:] = False  # padded on the right
    sight = Mask(key_valid=valid).sight()
    for kernel in (lambda *a: plain_attention(*a)[0], attend):
        out = kernel(q, k, v, sight)
        assert_close([out[:1, :, 3:]], [kernel(*(t[:1, :, 3:] for t in (q, k, v)))], 1e-12)
        assert_close([out[1:, :, :6]], [kernel(*(t[1:, :, :6] for t in (q, k, v)))], 1e-12)
        assert out.isfinite().all()


def test_padding_and_documents_together_keep_both_rules() -> None:
    valid = torch.tensor([[True, True, False, True, True]])
    documents = torch.tensor([[0, 0, 0, 1, 1]])
    visible = Mask(key_valid=valid, documents=documents).sight().table(5, valid.device)
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert visible[0, 0].int().tolist() == expected


def test_plain_weights_are_probabilities_over_the_past() -> None:
    weights = plain_attention(*draw(7, heads=4, groups=2))[1]
    assert weights.shape == (2, 4, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not weights.triu(1).any()


def some_padding(length: int) -> Tensor:
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[0, : length // 3] = False
    valid[1, length - length // 4 :] = False
    return valid


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, BLOCK, BLOCK + 40])
@pytest.mark.parametrize("causal", [True, False])
def test_every_rule_of_the_cpu_kernel_equals_the_plain_twin(causal: bool, window: int | None, padded: bool) -> None:
    length = 2 * BLOCK + 5
    inputs = draw(length, groups=1)
    sight = Sight(causal, window, some_padding(length) if padded else None)
    plain = with_gradients(plain_attention(*inputs, sight, scale=0.2)[0], inputs)
    assert_close(with_gradients(attend(*inputs, sight, scale=0.2), inputs), plain, 1e-12)
    with torch.no_grad():  # SDPA
        assert_close([attend(*inputs, sight, scale=0.2)], plain[:1], 1e-12)


def test_a_band_is_what_its_name_says() -> None:
    weights = plain_attention(*draw(6), Sight(window=2))[1]
    assert torch.equal(weights[0, 0] > 0, torch.ones(6, 6).tril().triu(-1).bool())
    weights = plain_attention(*draw(6), Sight(causal=False, window=2))[1]
    assert torch.equal(weights[0, 0] > 0, torch.ones(6, 6).tril(1).triu(-1).bool())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [1, 7, 200])
def test_the_tiles_of_flex_attention_are_the_band(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention trains on CUDA only; its forward pass and its description of the band run anywhere."""
    inputs = [t.detach().float() for t in draw(160, groups=1)]
    sight = Sight(window=window, tiles=band_tiles(160, window, torch.device("cpu")))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # only then are they used
    with torch.no_grad():
        assert_close([attend(*inputs, sight)], [plain_attention(*inputs, Sight(window=window))[0]], 2e-6)


def test_the_bidirectional_operator_keeps_the_rules_of_custom_operators() -> None:
    arguments = (*flat(BLOCK + 2), some_padding(BLOCK + 2), False, 9, 0.3, 0.0, torch.tensor(0))
    torch.library.opcheck(block_attention, arguments)
