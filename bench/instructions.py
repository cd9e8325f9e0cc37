"""What the bench of instruction tuning trains on: rows of the Alpaca sample, and models of random weights that all open.

Every side gets the same rows. ``gptloom sft`` deals them into batches by itself; ``lay_out`` foresees which, so that the
peers, which render and tokenize the same texts by themselves, can be given the same first batch and the same rows after it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

SAMPLE, VOCABULARY = (
    harness.DATA / "instruction" / "alpaca_en_demo.json",
    harness.DATA / "vocab_gpt2",
)  # 999 rows; GPT-2's 50,257 tokens
HELD_OUT = 4  # rows: gptloom measures a loss on some before it begins
TINY_ROWS = 200

# name -> (preset, what differs from it, template of its conversations)
MODERN, PYTHIA = "modern-124m", "pythia-160m"
BODIES: dict[str, tuple[str, dict[str, Any], str]] = {
    MODERN: ("modern-medium", {}, "gptloom"),
    PYTHIA: (
        "neox-20b",
        {"n_layer": 12, "n_head": 12, "d_model": 768, "rotary_dim": 16, "activation": "gelu", "vocab_size": 50304},
        "alpaca",  # low-rank adapters teach nobody what a new token means; and it is litgpt's own
    ),
}
TINY_BODIES: dict[str, dict[str, Any]] = {
    MODERN: {"n_layer": 2, "n_head": 2, "d_model": 32, "context": 512},
    PYTHIA: {
        "n_layer": 6,
        "n_head": 4,
        "d_model": 128,
        "rotary_dim": 8,
        "context": 512,
    },  # Pythia-14M's, litgpt knows it
}

Row = dict[str, str]


@dataclass(frozen=True)
class Rounds:
    """The steps of one round: rows in the order in which gptloom takes them, and what each step counts."""

    train: Path  # a file of rows as gptloom reads it
    valid: Path
    rows: list[Row]  # in the order of the steps, each with the messages' texts as ``prompt`` and ``completion``
    tokens: list[int]  # of each step, without padding
    learned: list[int]  # of these, those that count in the loss

    def shuffled(self, batch: int, warmup: int, seed: int) -> list[Row]:
        """The rows in random order, but for the steps that warm up: these, and the set of all others, stay the same."""
        kept, others = self.rows[: warmup * batch], self.rows[warmup * batch :]
        random.Random(seed).shuffle(others)
        return [*kept, *others]


def read_sample(*, tiny: bool) -> list[Row]:
    """The rows of the sample, or a few made ones, which can be learned."""
    if tiny:
        draw = random.Random(0)
        words = ["loom", "warp", "weft", "shuttle", "thread", "cloth", "weaver", "spins"]
        lists = [[draw.choice(words) for _ in range(draw.randint(2, 12))] for _ in range(TINY_ROWS)]
        asked = "Repeat these words in the opposite order."
        return [{"instruction": asked, "input": " ".join(l), "output": " ".join(l[::-1])} for l in lists]
    rows = json.loads(SAMPLE.read_text(encoding="utf-8"))
    # Who trims and who does not would else tokenize differently.
    return [{name: row.get(name, "").strip() for name in ("instruction", "input", "output")} for row in rows]


def write_body(folder: Path, name: str, rows: list[Row], *, tiny: bool) -> Path:
    """A model folder of random weights with GPT-2's tokenizer, or one trained on the rows, and a chat template."""
    from gptloom.config.model import ModelConfig, preset
    from gptloom.data.templates import built_in
    from gptloom.model.store import save_model
    from gptloom.model.transformer import Transformer
    from gptloom.tokenizer.load import load_tokenizer
    from gptloom.tokenizer.train import train_tokenizer

    base, changes, template = BODIES[name]
    texts = (text for row in rows for text in row.values())
    plain = train_tokenizer("bpe", texts, 300) if tiny else load_tokenizer(VOCABULARY)
    format, tokenizer = built_in(template, plain)
    fields = {**preset(base), "vocab_size": tokenizer.vocab_size, **changes, **(TINY_BODIES[name] if tiny else {})}
    config = ModelConfig(**fields)
    save_model(folder, Transformer.initialised(config, seed=0), config, tokenizer=tokenizer, chat=format)
    return folder


def lay_out(folder: Path, body: Path, rows: list[Row], steps: int, batch: int, max_length: int, seed: int) -> Rounds:
    """The first ``steps`` of an epoch of ``gptloom sft`` over all rows that fit, which are written to ``folder``."""
    from gptloom.data.conversation_batches import ConversationBatches
    from gptloom.data.instruction_formats import read_conversations
    from gptloom.data.render import Renderer
    from gptloom.model.store import read_chat
    from gptloom.tokenizer.load import load_tokenizer

    tokenizer, format = load_tokenizer(body), read_chat(body)
    assert format is not None, "write_body stored one"
    renderer = Renderer(tokenizer, format)
    conversations = read_conversations([str(_write(folder / "sample.json", rows))]).conversations
    examples = renderer.examples(conversations)
    assert len(examples) == len(rows), "every row of the sample is a conversation"
    fitting = [index for index, example in enumerate(examples) if len(example.ids) <= max_length]
    kept = fitting[: (len(fitting) - HELD_OUT) // batch * batch]  # no step has fewer rows: the peers' would not
    if len(kept) < steps * batch:
        raise RuntimeError(f"{len(fitting)} rows fit: too few for {steps} steps of {batch}")
    sources = [([examples[index] for index in kept], 1.0)]
    batches = ConversationBatches(sources, batch, seed, tokenizer.pad_id or 0, packed=True)
    dealt = [[kept[place.index] for place in batches.describe(step)] for step in range(steps)]
    texts = [{"prompt": one.messages[0].content, "completion": one.answer} for one in conversations]
    return Rounds(
        _write(folder / "train.json", [rows[index] for index in kept]),
        _write(folder / "valid.json", [rows[index] for index in fitting[-HELD_OUT:]]),
        [{**rows[index], **texts[index]} for step in dealt for index in step],
        [sum(len(examples[index].ids) for index in step) for step in dealt],
        [sum(int((examples[index].weights > 0).sum()) for index in step) for step in dealt],
    )


def _write(file: Path, rows: list[Row]) -> Path:
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file
