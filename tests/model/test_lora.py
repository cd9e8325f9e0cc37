from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.lora import LoraConfig, LoraLinear, add_lora, is_lora, merge_lora
from gptloom.model.transformer import Transformer
from gptloom.train.precision import Masters

SIZES = {"context": 16, "n_layer": 2, "d_model": 16, "n_head": 2, "head_dim": 0, "d_ff": 24, "vocab_size": 31}
IDS = torch.arange(20).view(2, 10)


def transformer(name: str = "modern-nano", **changes: object) -> Transformer:
    """With weights that are nowhere 0: a new ``modern`` model writes nothing into its residual stream."""
    model = Transformer.initialised(ModelConfig(**preset(name) | SIZES | changes), 3)
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=drawn) * 0.1
    return model


def filled(model: nn.Module, seed: int = 1) -> nn.Module:
    """With adapters that change something: B is no longer 0."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_lora(name):
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    return model


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if is_lora(name)}


class Stranger(nn.Module):
    """Named as BERT is elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList()
        for _ in range(2):
            block = nn.ModuleDict({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)})
            block["output"] = nn.ModuleDict({"dense": nn.Linear(4, 4)})
            self.encoder.layer.append(block)
        self.pooler = nn.Linear(4, 4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_formula_of_the_paper(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 5, bias=bias)
    layer = filled(LoraLinear(linear, rank=3, alpha=4.5, dropout=0.0))
    assert isinstance(layer, LoraLinear)
    x = torch.randn(2, 7, 6)
    expected = linear(x) + 4.5 / 3 * (x @ layer.lora_a.T) @ layer.lora_b.T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0]), expected[0])


def test_gradients_are_those_of_the_formula_and_a_frozen_matrix_gets_none() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(6, 5).double(), rank=3, alpha=2.0, dropout=0.0)
    filled(layer)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a, b: layer(x), (x, layer.lora_a, layer.lora_b))
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.lora_a.grad is not None


def test_new_adapters_change_nothing_and_begin_as_peft_has_it() -> None:
    model = transformer()
    before = model(IDS)
    names = add_lora(model, LoraConfig(rank=4), seed=0)
    assert names == [f"blocks.{i}.attention.{part}" for i in range(2) for part in "qv"]
    assert torch.equal(model(IDS), before)
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLinear) and not layer.lora_b.any()
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.5 * bound < layer.lora_a.abs().max() <= bound


def test_the_seed_alone_draws_them() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = []
    for seed in (1, 1, 2):
        model = transformer()
        add_lora(model, LoraConfig(), seed)
        drawn.append(lora_state(model))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_names_of_parameters_stay_and_only_the_adapters_are_new() -> None:
    model = transformer(bias=True)
    parameters = dict(model.named_parameters())
    add_lora(model, LoraConfig(target_modules=("all",)), 0)
    after = dict(model.named_parameters())
    assert {name for name in after if not is_lora(name)} == set(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert set(lora_state(model)) == set(after) - set(parameters)


def test_all_are_the_matrices_of_the_blocks() -> None:
    model = transformer(tied_head=False)
    names = add_lora(model, LoraConfig(target_modules=("all",)), 0)
    parts = {"attention": ("q", "k", "v", "out"), "mlp": ("up", "gate", "down")}
    assert set(names) == {f"blocks.{i}.{room}.{part}" for i in range(2) for room in parts for part in parts[room]}


def test_ranks_and_alphas_of_single_layers() -> None:
    model = transformer()
    name = "blocks.1.attention.q"
    config = LoraConfig(
        2, 4.0, target_modules=("q", "blocks.0.mlp.up"), rank_pattern={name: 5}, alpha_pattern={name: 1}
    )
    assert add_lora(model, config, 0) == ["blocks.0.attention.q", "blocks.0.mlp.up", name]
    own, other = model.get_submodule(name), model.get_submodule("blocks.0.mlp.up")
    assert isinstance(own, LoraLinear) and own.lora_a.shape == (5, 16) and own.scale == 1 / 5
    assert isinstance(other, LoraLinear) and other.lora_b.shape == (24, 2) and other.scale == 2.0


def test_layers_of_other_libraries_by_their_ends_and_by_our_names() -> None:
    own = [f"encoder.layer.{i}.{part}" for i in range(2) for part in ("query", "value")]
    for targets in (("q", "v"), ("query", "value")):
        assert add_lora(Stranger(), LoraConfig(target_modules=targets), 0) == own
    assert add_lora(Stranger(), LoraConfig(target_modules=("output.dense",)), 0)[0] == "encoder.layer.0.output.dense"
    assert len(add_lora(Stranger(), LoraConfig(target_modules=("all",)), 0)) == 6


def test_unknown_names_are_refused_together_with_what_there_is() -> None:
    with pytest.raises(UserError) as caught:
        add_lora(Stranger(), LoraConfig(target_modules=("querry", "pooler", "v")), 0)
    first, second = caught.value.problems
    assert "'querry'" in first.what and "did you mean query?" in str(first.mend)
    assert "'pooler'" in second.what and "output.dense query value, or all" in str(second.mend)
    with pytest.raises(UserError, match="'gate'"):
        add_lora(transformer("gpt2", d_ff=64), LoraConfig(target_modules=("gate",)), 0)


def test_merged_it_computes_the_same_with_plain_layers() -> None:
    model = transformer(bias=True)
    add_lora(model, LoraConfig(target_modules=("all",), dropout=0.5), 0)
    filled(model).eval()
    before = model(IDS)
    merge_lora(model)
    assert not lora_state(model) and not any(isinstance(module, LoraLinear) for module in model.modules())
    # fp32 sums in another order
    torch.testing.assert_close(model(IDS), before, rtol=1e-4, atol=1e-5)


def test_bf16_is_merged_in_fp32() -> None:
    torch.manual_seed(0)
    layer = filled(LoraLinear(nn.Linear(64, 48).bfloat16(), rank=8, alpha=8.0, dropout=0.0))
    assert isinstance(layer, LoraLinear)
    wide = layer.weight.float() + layer.lora_b.float() @ layer.lora_a.float()
    assert torch.equal(layer.merged().weight, wide.bfloat16())


def test_dropout_is_of_the_adapters_input_while_training() -> None:
    model = transformer()
    add_lora(model, LoraConfig(dropout=0.5), 0)
    filled(model).train()
    assert not torch.equal(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


def test_a_step_with_bf16_copies_moves_the_fp32_masters_of_the_adapters_alone() -> None:
    model = transformer()
    add_lora(model, LoraConfig(), 0)
    filled(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_lora(name))
    masters = Masters(model, torch.bfloat16)
    model(IDS).float().square().mean().backward()
    with_gradient = {name for name, tensor in masters.tensors.items() if tensor.grad is not None}
    assert with_gradient == {name for name in masters.tensors if is_lora(name)}
    assert all(masters.tensors[name].dtype == torch.float32 for name in with_gradient)


def test_a_step_costs_less_than_one_of_the_whole_model() -> None:
    """Of three products of a layer's full training, one is not computed; the thin ones come on top."""
    costs = []
    for adapters in (False, True):
        model = transformer(d_model=64, n_head=4, d_ff=192)
        if adapters:
            add_lora(model, LoraConfig(rank=4), 0)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(is_lora(name))
        with FlopCounterMode(display=False) as counted:
            model.hidden(IDS).sum().backward()
        costs.append(counted.get_total_flops())
    assert costs[1] < 0.75 * costs[0]


def test_it_works_under_autocast() -> None:
    torch.manual_seed(0)
    layer = filled(LoraLinear(nn.Linear(6, 5), rank=3, alpha=4.5, dropout=0.0))
    x = torch.randn(2, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=0.02, atol=0.02)  # bf16 has 8 bits
    found.float().sum().backward()
    assert layer.lora_b.grad is not None and layer.lora_b.grad.dtype == torch.float32


@pytest.mark.slow
def test_one_compiled_code_object_serves_all_blocks() -> None:
    model = transformer(n_layer=4)
    add_lora(model, LoraConfig(target_modules=("all",)), 0)
    filled(model)
    plain = copy.deepcopy(model)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), plain(IDS))
    torch._dynamo.reset()
    assert len(graphs) == 1
