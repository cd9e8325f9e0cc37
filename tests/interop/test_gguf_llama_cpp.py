"""The GGUF files in llama.cpp itself: its tokens, its logits, its greedy text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import LLAMA3, YARN, write_model

import gptloom
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.open import load
from gptloom.model.store import load_model
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import train_tokenizer

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.slow

PROMPT = "the old Naïve 東京 \n\n  cafés  don't 123456 river, of wood "
# llama.cpp takes GELU from a table in fp16; without it, fp32 differs in the order of sums only.
TABLE = 2e-3


def opened(folder: Path, **options: Any) -> Any:
    f32 = 0  # ggml's number for it: keys and values are otherwise kept in fp16
    return llama_cpp.Llama(
        str(folder / "model.gguf"),
        n_ctx=options.pop("n_ctx", 64),
        logits_all=True,
        verbose=False,
        type_k=f32,
        type_v=f32,
        flash_attn=False,
        n_threads=1,
        **options,
    )


@pytest.mark.parametrize(
    ("family", "changes", "tolerance"),
    [
        ("modern", {}, 1e-5),
        ("llama", {}, 1e-5),
        ("llama", {"rope_scaling": LLAMA3, "qkv_bias": True, "out_bias": True, "mlp_bias": True}, 1e-5),
        ("mistral", {}, 1e-5),
        ("qwen2", {"rope_scaling": YARN}, 1e-5),
        ("qwen2", {"rope_scaling": YARN | {"attention_factor": 1.3}}, 1e-5),
        ("qwen2", {"rope_scaling": {"kind": "linear", "factor": 2.0}}, 1e-5),
        ("gpt2", {}, TABLE),
        ("neox", {}, TABLE),
        ("neox", {"parallel_residual": False, "rope_scaling": {"kind": "linear", "factor": 2.0}}, TABLE),
    ],
)
def test_logits_and_tokens(tmp_path: Path, family: str, changes: dict[str, Any], tolerance: float) -> None:
    folder = write_model(tmp_path / "model", family, **changes)
    gptloom.export(str(folder), to="gguf", out=str(tmp_path / "out"))
    model, _ = load_model(folder)
    theirs = opened(tmp_path / "out")
    ids = load_tokenizer(folder).encode(PROMPT)[:60]
    assert theirs.tokenize(PROMPT.encode(), add_bos=True)[:60] == ids
    theirs.eval(ids)
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(theirs.scores[: len(ids)], ours, rtol=0, atol=tolerance * abs(ours).max())


def test_single_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tokenizer=train_tokenizer("bytes", [], None))
    gptloom.export(str(folder), to="gguf", out=str(tmp_path / "out"))
    theirs = opened(tmp_path / "out", vocab_only=True)
    assert theirs.tokenize(PROMPT.encode(), add_bos=True) == load_tokenizer(folder).encode(PROMPT)


def test_bert_gives_the_mean_of_its_hidden_states(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    gptloom.export(str(folder), to="gguf", out=str(tmp_path / "out"))
    theirs = opened(tmp_path / "out", embedding=True)
    model, tokenizer = load_model(folder)[0], load_tokenizer(folder)
    text = "The old King, and his boat; of wood!"
    ids = [tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id]
    assert theirs.tokenize(text.encode(), add_bos=True) == ids
    with torch.no_grad():
        ours = model.hidden(torch.tensor([ids]))[0].mean(0).numpy()
    np.testing.assert_allclose(theirs.embed(text, normalize=False), ours, rtol=0, atol=TABLE * abs(ours).max())


def test_a_trained_modern_model_writes_the_same_greedy_text(tmp_path: Path) -> None:
    text = "".join(f"{n} sheep jump over the fence, and then {n + 1} sheep sleep.\n" for n in range(400))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    gptloom.pretrain(
        data=str(tmp_path / "text.txt"),
        model="modern-nano",
        max_steps=60,
        out=str(run),
        device="cpu",
        seed=1,
        quiet=True,
    )
    done = gptloom.export(str(run), to="gguf", dtype="f32", out=str(tmp_path / "out"))
    assert done.receipt.verified
    ours: LanguageModel = load(run, device="cpu", precision="fp32")
    theirs = opened(tmp_path / "out", n_ctx=ours.model.config.context)
    for prompt in ("12 sheep", "The fence", "and then"):
        written = ours.generate(prompt, max_tokens=40, temperature=0)
        ids = theirs.tokenize(prompt.encode(), add_bos=True)
        assert ids == ours.tokenizer.encode(prompt)
        found = theirs(prompt, max_tokens=40, temperature=0, repeat_penalty=1.0)
        assert len(written.ids) == 40 or written.finish_reason == "stop"
        assert found["choices"][0]["text"] == written.text
