"""Inference copies: how close each precision stays, what is shared, and what compiling costs in graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gptloom.generation import weights
from gptloom.generation.weights import InferenceModel, find_compiler, prepare, quantise
from gptloom.model.transformer import Transformer

MakeModel = Callable[..., Transformer]
IDS = torch.randint(0, 257, (2, 40), generator=torch.Generator().manual_seed(0))


def decoded(model: InferenceModel, ids: Tensor, prompt: int = 20) -> Tensor:
    """Logits [B, T - prompt + 1, V] of a prefill and then one step per token."""
    cache = model.make_cache(len(ids), ids.shape[1])
    steps = [model.logits(model.hidden(ids[:, :prompt], cache=cache, reach=prompt)[:, -1])]
    for place in range(prompt, ids.shape[1]):
        positions = torch.full((len(ids),), place)
        steps.append(model.next_logits(ids[:, place], positions, cache, place + 1))
    return torch.stack(steps, dim=1)


@pytest.mark.parametrize("family", ["gpt2", "modern", "fast"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.08)])
def test_precisions_stay_close(make_model: MakeModel, family: str, precision: weights.Precision, bound: float) -> None:
    """Root mean square of the difference of log-probabilities, against the model itself in fp32."""
    model = make_model(family)
    with torch.no_grad():
        expected = model(IDS)[:, 19:].log_softmax(-1)
    difference = decoded(prepare(model, precision), IDS).log_softmax(-1) - expected
    assert difference.square().mean().sqrt() <= bound


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_int8_layer(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, bias = torch.randn(33, 47, generator=generator), torch.randn(33, generator=generator)
    layer = quantise(weight, bias, torch.float32)
    x = torch.randn(rows, 47, generator=generator)
    widened = layer.weight.float() * layer.scale[:, None]
    assert (widened - weight).abs().max() <= float(weight.abs().max()) / 254 + 1e-6
    assert torch.allclose(layer(x), x @ widened.T + bias, atol=1e-4)


def test_fp32_weights_are_shared_with_the_model(make_model: MakeModel) -> None:
    model = make_model()
    copy = prepare(model)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
        assert torch.allclose(copy.logits(copy.hidden(IDS)), model(IDS), atol=1e-4)
    assert model.embedding.weight.requires_grad and type(model.blocks[0].mlp.up) is torch.nn.Linear


def test_the_copy_has_no_dropout_and_leaves_the_model_training(make_model: MakeModel) -> None:
    model = make_model("gpt2", dropout=0.5).train()
    copy = prepare(model)
    assert torch.equal(copy.hidden(IDS), copy.hidden(IDS))
    assert model.training and model.blocks[0].dropout.training


def test_spare_rows_of_the_head_are_no_tokens(make_model: MakeModel) -> None:
    model = make_model(vocab_size=300)
    for precision in ("fp32", "int8"):
        copy = prepare(model, precision, vocab_size=257)
        assert copy.logits(copy.hidden(IDS)).shape[-1] == 257


needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_step_equals_eager_with_two_graphs(make_model: MakeModel, precision: weights.Precision) -> None:
    """Two graphs (block, head) serve every length, cache and layer."""
    model = make_model("modern", n_layer=4)
    expected = decoded(prepare(model, precision), IDS[:1])
    copy = prepare(model, precision)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert copy.compile() and copy.compiled
    difference = decoded(copy, IDS[:1]) - expected
    assert difference.square().mean().sqrt() <= (0.05 if precision == "int8" else 1e-5), "int8 works in bf16"
    long = IDS.reshape(1, -1).repeat(1, 3)[:, :200]
    decoded(copy, long, prompt=3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 2
    batch = decoded(copy, IDS)
    assert torch.allclose(batch, decoded(prepare(model, precision), IDS), atol=1e-4), "several rows are not compiled"


def test_a_failing_compiler_costs_a_warning_only(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        def fail(*_: object) -> None:
            raise RuntimeError("no compiler found\ndetails")

        return fail

    monkeypatch.setattr(weights, "_compiled", broken)
    model = make_model()
    copy = prepare(model)
    with pytest.warns(UserWarning, match="torch.compile failed, decoding goes on without it: no compiler found"):
        assert not copy.compile()
    assert not copy.compiled
    assert torch.equal(decoded(copy, IDS[:1]), decoded(prepare(model), IDS[:1]))


def test_when_compiling_pays(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = prepare(make_model())
    monkeypatch.setattr(weights, "find_compiler", lambda: "/usr/bin/c++")
    assert not copy.pays_to_compile(10**6), "too small a model"
    copy.parameter_count = 30_000_000
    assert copy.pays_to_compile(2_000) and not copy.pays_to_compile(1_999)
    monkeypatch.setattr(weights, "find_compiler", lambda: None)
    assert not copy.pays_to_compile(2_000)
