"""What an example teaches does not depend on how it lies in its batch: alone, padded on either side, packed, or cut up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from gptloom.config.model import ModelConfig, preset
from gptloom.data.batch import Batch
from gptloom.data.packing import Labelled, pack, pad
from gptloom.model.transformer import Transformer
from gptloom.train.compiling import compile_blocks, compiler
from gptloom.train.objective import NextToken
from gptloom.train.parallel import Parallel

VOCAB, LENGTHS = 61, (17, 50, 4, 33, 2, 48)
SIZES = {"vocab_size": VOCAB, "context": 50, "n_layer": 2, "d_model": 32, "n_head": 4}
CONFIGS = {
    "modern": {**preset("modern-nano"), **SIZES, "n_kv_head": 2},
    "learned positions": {**preset("gpt2"), **SIZES},
    "banded": {**preset("gpt3-small"), **SIZES, "banded": "alternate", "window": 6},
}
EVERY = pytest.mark.parametrize("name", CONFIGS)


def model_of(name: str, dtype: torch.dtype = torch.float64, **changes: object) -> Transformer:
    model = Transformer(ModelConfig(**{**CONFIGS[name], "dropout": 0.0, **changes}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if "norm" in key and key.endswith("weight"):
                parameter.add_(1.0)
    return model.to(dtype)


def examples() -> list[Labelled]:
    """The prompt of each counts a little, as with a prompt weight; the answer counts 1."""
    draw = np.random.default_rng(3)
    made = []
    for length in LENGTHS:
        ids = draw.integers(0, VOCAB, length)
        weights = np.where(np.arange(length) < length // 2, 0.25, 1.0).astype(np.float32)
        weights[-1] = 0.0
        made.append(Labelled(ids, np.append(ids[1:], 0), weights))
    return made


def padded_left(sequences: Sequence[Labelled]) -> Batch:
    width = max(len(one.ids) for one in sequences)
    columns = torch.zeros(4, len(sequences), width, dtype=torch.float64)
    for row, one in enumerate(sequences):
        length = len(one.ids)
        parts = (one.ids, one.targets, one.weights, np.ones(length))
        columns[:, row, width - length :] = torch.from_numpy(np.stack(parts).astype(np.float64))
    ids, targets, weights, real = columns
    positions = (real.cumsum(1) - 1).clamp(min=0)
    return Batch(ids.long(), targets.long(), weights.float(), positions.long(), padding_mask=real.bool())


def learned(model: Transformer, batches: Sequence[Batch]) -> list[Tensor]:
    """The loss per item of all ``batches`` together, and the gradient of every weight."""
    objective = NextToken()
    total = sum(objective.count(batch)["next_token"] for batch in batches)
    model.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        part = objective.loss(model, batch)["next_token"] / total
        part.backward()
        loss += part.detach()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [loss, *(gradient.clone() for gradient in gradients if gradient is not None)]


def assert_same(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> None:
    """Relative to each one's norm, but where it is as good as 0, as that of a bias of all keys is."""
    norms = torch.stack([b.double().norm() for b in wanted])
    scales = norms.maximum(1e-3 * norms.max())
    for a, b, scale in zip(found, wanted, scales, strict=True):
        assert float((a.double() - b.double()).norm() / scale) <= tolerance


def only(batch: Batch, document: int) -> Batch:
    """The same batch, of which nothing but one document counts."""
    assert batch.document_ids is not None
    weights = batch.weights * (batch.document_ids == document)
    return type(batch)(batch.ids, batch.targets, weights, batch.positions, batch.document_ids)


@EVERY
def test_each_example_alone_teaches_what_it_teaches_in_every_layout(name: str) -> None:
    model, sequences = model_of(name), examples()
    packed, left, right = pack(sequences), padded_left(sequences), pad(sequences, 5)
    for index, one in enumerate(sequences):
        alone = learned(model, [pad([one], 0)])
        counts = torch.zeros(len(sequences), 1)
        counts[index] = 1
        assert_same(learned(model, [only(packed, index)]), alone, 1e-11)
        for batch in (left, right):
            own = Batch(
                batch.ids, batch.targets, batch.weights * counts, batch.positions, padding_mask=batch.padding_mask
            )
            assert_same(learned(model, [own]), alone, 1e-11)


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_batch_teaches_the_same_in_micro_batches_of_any_size(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model, sequences = model_of(name, dtype), examples()
    alone = learned(model, [pad([one], 0) for one in sequences])
    for whole in (pack(sequences), pad(sequences, 0)):
        for rows in (1, 2, 4, len(sequences)):
            parts = whole.split(rows)
            assert sum(part.tokens for part in parts) == sum(LENGTHS)
            assert_same(learned(model, parts), alone, tolerance)
    assert_same(learned(model, [padded_left(sequences)]), alone, tolerance)


def test_in_bf16_too() -> None:
    model, sequences = model_of("modern", torch.bfloat16), examples()
    exact = learned(model_of("modern"), [pack(sequences)])
    assert_same(learned(model, [pack(sequences)]), exact, 0.06)
    assert_same(learned(model, [pad(sequences, 0)]), exact, 0.06)


@EVERY
def test_no_document_knows_another(name: str) -> None:
    model, sequences = model_of(name), examples()
    changed = [one._replace(ids=(one.ids + 1) % VOCAB) if index == 3 else one for index, one in enumerate(sequences)]
    objective = NextToken()
    losses = [
        torch.stack([objective.loss(model, only(pack(some), index))["next_token"] for index in range(len(sequences))])
        for some in (sequences, changed)
    ]
    apart = (losses[0] - losses[1]).abs()
    assert apart[3] > 1e-3
    assert float(apart[[0, 1, 2, 4, 5]].max().detach()) < 1e-12


def test_the_same_is_dropped_when_layers_are_computed_again() -> None:
    plain, again = (model_of("learned positions", dropout=0.3).train() for _ in range(2))
    Parallel.alone(recompute=True).prepare(again, torch.float64)
    found = []
    for model in (plain, again):
        torch.manual_seed(5)
        found.append(learned(model, [pack(examples())]))
    assert_same(found[1], found[0], 1e-12)
    assert not torch.allclose(found[0][0], learned(plain.eval(), [pack(examples())])[0])


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compiled_blocks_learn_the_same_from_every_packed_row_by_the_same_few_graphs() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (model_of("modern", torch.float32) for _ in range(2))
    compile_blocks(compiled.blocks, varying=True)
    graphs = []
    for count in range(1, len(LENGTHS) + 1):
        batch = pack(examples()[-count:])
        assert_same(learned(compiled, [batch]), learned(plain, [batch]), 1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[1:] == graphs[1:2] * (len(LENGTHS) - 1) and graphs[-1] <= 8
