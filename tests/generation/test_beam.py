"""Beam search: against every possible completion of a tiny vocabulary, and against transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gptloom.config.generate import SamplingOptions
from gptloom.generation.beam import beam_search, length_penalty
from gptloom.generation.weights import prepare
from gptloom.model.transformer import Transformer

EOT = 4


class Letters:
    eot_id = EOT

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == EOT else b"abcd"[token_id : token_id + 1]


def every_completion(model: Transformer, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every completion that ends in end-of-text or has ``length`` tokens."""
    table = {}
    for size in range(1, length + 1):
        for ids in itertools.product(range(EOT + 1), repeat=size):
            if EOT in ids[:-1] or (size < length and ids[-1] != EOT):
                continue
            with torch.no_grad():
                logprobs = model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
            table[ids] = float(logprobs.gather(1, torch.tensor(ids)[:, None]).sum())
    return table


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_wide_beams_find_the_best_of_all(make_model: Callable[..., Transformer], alpha: float) -> None:
    model = make_model("gpt2", vocab_size=EOT + 1, seed=3)
    table = every_completion(model, [0, 1], 4)
    best = sorted(table, key=lambda ids: -table[ids] / length_penalty(len(ids), alpha))[:5]
    options = SamplingOptions(beams=400, n=5, max_tokens=4, length_penalty=alpha)
    found = beam_search(prepare(model), Letters(), [0, 1], options)
    assert [tuple(generated.ids) for generated in found] == best
    for generated in found:
        assert sum(generated.logprobs) == pytest.approx(table[tuple(generated.ids)], abs=1e-4)
        assert generated.finish_reason == ("stop" if generated.ids[-1] == EOT else "length")
        assert generated.text == "".join("abcd"[i] for i in generated.ids if i != EOT)


def test_the_length_penalty_is_the_papers() -> None:
    assert length_penalty(1, 0.6) == 1 and length_penalty(7, 1.0) == 2 and length_penalty(100, 0) == 1


def hugging_face_twin(model: Transformer) -> GPT2LMHeadModel:
    config = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context,
            n_embd=config.d_model,
            n_layer=config.n_layer,
            n_head=config.n_head,
            layer_norm_epsilon=config.norm_eps,
            bos_token_id=EOT,
            eos_token_id=EOT,
            pad_token_id=EOT,
        )
    ).eval()
    assert model.position_embedding is not None
    state = {"wte.weight": model.embedding.weight, "wpe.weight": model.position_embedding.weight}
    state |= {f"ln_f.{kind}": getattr(model.norm, kind) for kind in ("weight", "bias")}
    for number, block in enumerate(model.blocks):
        parts = {"ln_1": block.attention_norm, "ln_2": block.mlp_norm}
        state |= {f"h.{number}.{a}.{kind}": getattr(b, kind) for a, b in parts.items() for kind in ("weight", "bias")}
        attention = block.attention
        linears = {"attn.c_attn": (attention.q, attention.k, attention.v), "attn.c_proj": (attention.out,)}
        linears |= {"mlp.c_fc": (block.mlp.up,), "mlp.c_proj": (block.mlp.down,)}
        for name, layers in linears.items():
            state[f"h.{number}.{name}.weight"] = torch.cat([layer.weight for layer in layers]).T
            state[f"h.{number}.{name}.bias"] = torch.cat([layer.bias for layer in layers])
    theirs.transformer.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("seed", range(4))
def test_equals_transformers_without_a_length_penalty(make_model: Callable[..., Transformer], seed: int) -> None:
    model = make_model("gpt2", vocab_size=40, seed=seed)
    prompt = [1, 2, 3]
    answer = hugging_face_twin(model).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        num_beams=4,
        num_return_sequences=3,
        max_new_tokens=12,
        length_penalty=0.0,
        early_stopping="never",
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    options = SamplingOptions(beams=4, n=3, max_tokens=12)
    found = beam_search(prepare(model), Letters40(), prompt, options)
    for generated, ids, score in zip(found, answer.sequences, answer.sequences_scores, strict=True):
        theirs = ids[3:].tolist()
        theirs = theirs[: theirs.index(EOT) + 1] if EOT in theirs else theirs
        assert generated.ids == theirs
        assert sum(generated.logprobs) == pytest.approx(float(score), abs=1e-4)


class Letters40(Letters):
    def token_bytes(self, token_id: int) -> bytes:
        return bytes([65 + token_id])


def test_greedy_equals_transformers(make_model: Callable[..., Transformer]) -> None:
    from gptloom.generation.engine import Engine

    model = make_model("gpt2", vocab_size=40, seed=1)
    prompt = [5, 6, 7, 8]
    theirs = hugging_face_twin(model).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 4, dtype=torch.long),
        max_new_tokens=200,
        min_new_tokens=200,
        do_sample=False,
        suppress_tokens=[EOT],
    )
    options = SamplingOptions(temperature=0, max_tokens=200, logit_bias={EOT: -1e9})
    ours = Engine(prepare(model), Letters40()).run([(prompt, options)])[0][0]
    assert ours.ids == theirs[0, 4:].tolist()
