"""Instruction tuning against `trl`: the same labels, loss and gradients as its SFTTrainer, padded and packed.

`trl` may live in an environment of its own: GPTLOOM_TEST_TRL names the Python interpreter of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from real_data import real_data
from safetensors.torch import load_file
from side_by_side import randomised

from gptloom.config.model import ModelConfig, preset
from gptloom.data.conversation_batches import ConversationBatches
from gptloom.data.instruction_formats import read_conversations
from gptloom.data.render import Rendered, Renderer
from gptloom.data.templates import built_in
from gptloom.model.layouts import layout_for
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.objective import NextToken

pytestmark = pytest.mark.slow

EXAMPLES = 50


def interpreter() -> str:
    named = os.environ.get("GPTLOOM_TEST_TRL")
    if named is None and importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed here; GPTLOOM_TEST_TRL may name the interpreter of another environment")
    return named or sys.executable


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, list[Rendered], Path]:
    """Our model, the examples as we render them, and the folder with what SFTTrainer found of the same rows."""
    python = interpreter()
    rows = real_data("instruction/alpaca_en_demo.json")
    folder = tmp_path_factory.mktemp("trl")
    conversations = read_conversations([str(rows)]).conversations[:EXAMPLES]
    texts = [message.content for one in conversations for message in one.messages]
    format, tokenizer = built_in("chatml", train_tokenizer("bpe", texts, 600))
    examples = Renderer(tokenizer, format).examples(conversations)
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 1024, "n_layer": 2, "d_model": 64, "n_head": 4}
    config = ModelConfig(**preset("modern-nano") | sizes | {"n_kv_head": 2})
    model = randomised(config, torch.float32, std=0.1)
    save_model(folder / "model", model, config, tokenizer=tokenizer, chat=format)
    rows = [
        {
            "prompt": [{"role": message.role, "content": message.content} for message in one.prompt],
            "completion": [{"role": "assistant", "content": one.answer}],
        }
        for one in conversations
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    script = Path(__file__).with_name("trl_peer.py")
    command = [python, str(script), str(folder / "model"), str(folder / "rows.json"), str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return model, examples, folder


def theirs(folder: Path, layout: str) -> dict[str, Any]:
    found = json.loads((folder / f"{layout}.json").read_text(encoding="utf-8"))
    assert len(found["examples"]) == EXAMPLES
    return found


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_same_tokens_are_labels(both: tuple[Transformer, list[Rendered], Path], layout: str) -> None:
    _, examples, folder = both
    found = theirs(folder, layout)["examples"]
    ours = [
        (one.ids.tolist(), [id if weight else -100 for id, weight in zip(one.ids.tolist(), one.weights, strict=True)])
        for one in examples
    ]
    assert sorted(map(tuple, found)) == sorted(ours)
    labelled = sum(label != -100 for _, labels in found for label in labels)
    assert labelled == sum(int((one.weights > 0).sum()) for one in examples) > EXAMPLES


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_same_loss_and_gradients(both: tuple[Transformer, list[Rendered], Path], layout: str) -> None:
    model, examples, folder = both
    batch = ConversationBatches([(examples, 1.0)], EXAMPLES, 0, 0, packed=layout == "packed").batch(0)
    objective = NextToken()
    model.zero_grad()
    total = torch.zeros(())
    for part in batch.split(8):
        loss = objective.loss(model, part)["next_token"] / objective.count(batch)["next_token"]
        loss.backward()
        total += loss.detach()
    assert float(total) == pytest.approx(theirs(folder, layout)["loss"], rel=1e-5)
    wanted = load_file(folder / f"{layout}.safetensors")
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = dict(layout_for(model.config).to_tensors(own, model.config))
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) <= 1e-5, name
