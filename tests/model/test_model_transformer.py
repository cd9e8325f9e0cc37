from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.attention import Mask
from gptloom.model.cache import KVCache
from gptloom.model.transformer import Transformer

TINY = {"vocab_size": 61, "context": 96, "n_layer": 2, "d_model": 32, "n_head": 4}
CONFIGS = {
    "gpt2": preset("gpt2") | TINY,
    "modern": preset("modern-nano") | TINY,
    "modern-grouped": preset("modern-nano") | TINY | {"n_kv_head": 2, "head_dim": 12},
    "fast": preset("fast-nano") | TINY,
}
EVERY = pytest.mark.parametrize("name", CONFIGS)


def random_model(name: str, dtype: torch.dtype = torch.float64, **change: object) -> Transformer:
    model = Transformer(ModelConfig(**CONFIGS[name] | change))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.to(dtype).eval()


def some_ids(rows: int, length: int, seed: int = 2) -> Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(seed))


@EVERY
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    model = random_model(name)
    ids = some_ids(1, 20)
    changed = ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 61
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


@EVERY
def test_positions_matter(name: str) -> None:
    model = random_model(name)
    hidden = model.hidden(some_ids(1, 1).repeat(1, 6))
    if model.position_embedding is None:  # equal tokens attend equally: rotations show in who is near whom
        ids = some_ids(1, 6)
        assert not torch.allclose(model(ids)[0, -1], model(ids[:, [1, 0, 2, 3, 4, 5]])[0, -1])
    else:
        assert not torch.allclose(hidden[0, 0], hidden[0, 1])


@EVERY
def test_rotary_positions_are_relative_and_learned_ones_absolute(name: str) -> None:
    model = random_model(name)
    ids = some_ids(1, 8)
    moved = model(ids, positions=torch.arange(8)[None] + 40)
    assert torch.allclose(moved, model(ids), atol=1e-10) == (model.position_embedding is None)


@EVERY
@pytest.mark.parametrize("length", [96, 80])
def test_cache_equals_no_cache(name: str, length: int) -> None:
    model = random_model(name)
    ids = some_ids(2, 80)
    wanted = model(ids)
    cache = KVCache(model.config, 2, length, torch.float64)
    found = []
    for start, stop in ((0, 30), (30, 31), (31, 63), (63, 64), (64, 65), (65, 80)):
        positions = torch.arange(start, stop)[None]
        hidden = model.hidden(ids[:, start:stop], positions, cache=cache, reach=stop)
        found.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(found, dim=1), wanted, rtol=0, atol=1e-12)


def test_rows_of_a_cache_stand_at_different_places_and_are_reused() -> None:
    model = random_model("modern-grouped")
    cache = KVCache(model.config, 2, 96, torch.float64)
    long, short = some_ids(1, 20), some_ids(1, 9, seed=4)
    model.hidden(some_ids(2, 90, seed=9), cache=cache)  # what other sequences left behind
    prompt = torch.cat((long[:, :8], short[:, :8]))
    model.hidden(prompt, cache=cache, reach=8)
    model.hidden(long[:, 8:19].repeat(2, 1), torch.stack((torch.arange(8, 19), torch.arange(70, 81))), cache=cache)
    last = torch.cat((long[:, 19:], short[:, 8:]))
    found = model.logits(model.hidden(last, torch.tensor([[19], [8]]), cache=cache, reach=20))
    torch.testing.assert_close(found[0, 0], model(long)[0, -1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1, 0], model(short)[0, -1], rtol=0, atol=1e-12)


@EVERY
def test_greedy_ids_with_and_without_cache_are_the_same(name: str) -> None:
    model = random_model(name, torch.float32, context=232)
    plain = cached = some_ids(1, 32)
    cache = KVCache(model.config, 1, 232)
    with torch.no_grad():
        hidden = model.hidden(cached, cache=cache, reach=32)
        for step in range(32, 232):
            plain = torch.cat((plain, model(plain)[:, -1].argmax(-1, keepdim=True)), dim=1)
            cached = torch.cat((cached, model.logits(hidden[:, -1]).argmax(-1, keepdim=True)), dim=1)
            hidden = model.hidden(cached[:, -1:], torch.tensor([[step]]), cache=cache, reach=step + 1)
    assert torch.equal(plain, cached)


@EVERY
def test_the_plain_twin_and_its_weights(name: str) -> None:
    model = random_model(name)
    ids = some_ids(2, 10)
    weights: list[Tensor] = []
    hidden = model.hidden(ids, weights=weights)
    torch.testing.assert_close(hidden, model.hidden(ids), rtol=0, atol=1e-12)
    assert [tuple(layer.shape) for layer in weights] == [(2, 4, 10, 10)] * 2


@EVERY
def test_documents_packed_with_restarted_positions_equal_documents_alone(name: str) -> None:
    model = random_model(name)
    parts = [some_ids(1, length, seed=length) for length in (7, 12, 3)]
    positions = torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    documents = torch.cat([torch.full((part.shape[1],), i) for i, part in enumerate(parts)])[None]
    packed = model(torch.cat(parts, dim=1), positions, Mask(documents=documents))
    alone = torch.cat([model(part) for part in parts], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)


@EVERY
def test_a_sequence_padded_on_either_side_equals_itself(name: str) -> None:
    model = random_model(name)
    ids = some_ids(1, 9)
    wanted = model(ids)
    padding = torch.zeros(1, 4, dtype=torch.long)
    valid = torch.ones(1, 9, dtype=torch.bool)
    right = model(torch.cat((ids, padding), 1), mask=Mask(key_valid=torch.cat((valid, padding.bool()), 1)))
    positions = torch.cat((padding, torch.arange(9)[None]), 1)
    left = model(torch.cat((padding, ids), 1), positions, Mask(key_valid=torch.cat((padding.bool(), valid), 1)))
    torch.testing.assert_close(right[:, :9], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(left[:, 4:], wanted, rtol=0, atol=1e-12)


def test_the_soft_cap_bounds_the_logits() -> None:
    model = random_model("fast")
    with torch.no_grad():
        model.head.weight.mul_(1000)
    assert float(model(some_ids(1, 8)).detach().abs().max()) <= 15.0


@EVERY
def test_initialised_depends_on_config_and_seed_alone(name: str) -> None:
    config = ModelConfig(**CONFIGS[name])
    torch.manual_seed(1)
    first = Transformer.initialised(config, seed=4).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = Transformer.initialised(config, seed=4).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = Transformer.initialised(config, seed=5).state_dict()
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@EVERY
def test_a_fresh_model_is_near_uniform(name: str) -> None:
    model = Transformer.initialised(ModelConfig(**CONFIGS[name] | {"vocab_size": 512, "d_model": 128}), seed=0).eval()
    ids = torch.randint(512, (4, 64), generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(torch.tensor(512.0).log().item(), abs=0.1)


WIDE = {"d_model": 256, "n_layer": 8, "n_head": 4, "vocab_size": 1000, "context": 512}


def stds(name: str) -> dict[str, float]:
    model = Transformer.initialised(ModelConfig(**CONFIGS[name] | WIDE | {"d_ff": 0}), seed=3)
    return {key: float(parameter.detach().std()) for key, parameter in model.named_parameters()}


def test_gpt2_initialisation() -> None:
    found = stds("gpt2")
    for key, std in found.items():
        if key.endswith("bias") or "norm" in key:
            assert std == 0.0, key
        elif key.endswith(("attention.out.weight", "mlp.down.weight")):
            assert std == pytest.approx(0.02 / 16**0.5, rel=0.03), key
        else:
            assert std == pytest.approx(0.02, rel=0.03), key


def test_modern_initialisation() -> None:
    for key, std in stds("modern").items():
        if "norm" in key or key.endswith(("attention.out.weight", "mlp.down.weight")):
            assert std == 0.0, key
        else:
            assert std == pytest.approx(0.01 if key == "embedding.weight" else 256**-0.5, rel=0.03), key


def test_fast_initialisation() -> None:
    special = {"embedding.weight": 1.0, "head.weight": 0.001}
    for key, std in stds("fast").items():
        zero = key.endswith(("attention.out.weight", "mlp.down.weight"))
        wanted = 0.0 if zero else special.get(key, 256**-0.5)
        assert std == pytest.approx(wanted, rel=0.03, abs=1e-9), key


def test_a_head_size_that_does_not_divide_names_what_does() -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig(**preset("modern-nano") | {"d_model": 128, "n_head": 5})
    text = str(caught.value)
    assert "d_model 128 does not divide by n_head 5" in text
    assert "--n-head" in text and "4" in text and "--head-dim" in text


def test_several_wrong_sizes_are_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig(**preset("modern-nano") | {"n_kv_head": 3, "head_dim": 33})
    assert len(caught.value.problems) == 2
    assert "n_kv_head 3" in str(caught.value) and "33 is odd" in str(caught.value)
