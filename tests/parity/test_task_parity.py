"""Heads of tasks against `transformers`: each class that has one, opened from what we write, and what it writes read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from side_by_side import open_theirs, padding, randomise, randomised, relative, some_ids
from torch import Tensor

import gptloom
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.data.example import Example
from gptloom.data.task_inputs import TaskInputs
from gptloom.generation.classifier import Classifier
from gptloom.interop.classifiers import open_classifier
from gptloom.model.layouts import layout_for
from gptloom.model.store import load_model, save_model
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import gpt1, gpt2
from gptloom.tokenizer.layout import byte_letters
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

PAD = 96  # of 97 ids
SIZES = {"vocab_size": 97, "context": 24, "n_layer": 2, "d_model": 64, "n_head": 4}
LLAMA = {"n_kv_head": 2, "norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "init": "modern"}
BODIES: dict[str, dict[str, Any]] = {
    "gpt1": preset("gpt1") | SIZES,
    "gpt2": preset("gpt2") | SIZES | {"tied_head": False},
    "gpt_neo": preset("gpt2") | SIZES | {"family": "gpt_neo", "qkv_bias": False, "scale_attention": False},
    "neox": preset("neox-20b") | SIZES | {"rotary_dim": 4},
    "llama": {"family": "llama", **SIZES, **LLAMA, "qk_norm": "none", "tied_head": False},
    "mistral": {"family": "mistral", **SIZES, **LLAMA, "qk_norm": "none"},
    "qwen2": {"family": "qwen2", **SIZES, **LLAMA, "qk_norm": "none", "qkv_bias": True},
    "modern": preset("modern-nano") | SIZES,
    "bert": preset("bert-tiny") | SIZES | {"masked_head": False, "pair_head": False},
}
STEMS = {
    "gpt1": "OpenAIGPT",
    "gpt2": "GPT2",
    "gpt_neo": "GPTNeo",
    "neox": "GPTNeoX",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "modern": "Qwen3",
    "bert": "Bert",
}
KINDS = {
    "sequence": "SequenceClassification",
    "choice": "MultipleChoice",
    "tokens": "TokenClassification",
    "span": "QuestionAnswering",
}
CASES = [
    *((family, "sequence") for family in BODIES),
    *((family, kind) for family in BODIES if family != "gpt1" for kind in ("tokens", "span")),
    ("bert", "choice"),
]
CHOICES = 2


def head_of(family: str, kind: str) -> HeadConfig:
    bert = family == "bert"
    n_labels = {"choice": 1, "span": 2}.get(kind, 3)
    whole = kind in ("sequence", "choice")
    pooling = "first" if bert and whole else "last"
    return HeadConfig.model_validate(
        {"kind": kind, "n_labels": n_labels, "pooling": pooling, "bias": bert or kind != "sequence"}
    )


def config_of(family: str, kind: str) -> ModelConfig:
    return ModelConfig(**BODIES[family] | {"task_head": head_of(family, kind)})


def batch(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """ids and which are none of the padding, on the right; no text ends in the padding's id."""
    ids = some_ids(config, rows=4) % PAD
    valid = padding("right", *ids.shape)
    return ids.masked_fill(~valid, PAD), valid


@torch.no_grad()
def theirs_of(model: transformers.PreTrainedModel, ids: Tensor, valid: Tensor, kind: str) -> Tensor:
    model.config.pad_token_id = PAD
    if kind == "choice":
        ids, valid = ids.view(-1, CHOICES, ids.shape[1]), valid.view(-1, CHOICES, ids.shape[1])
    result = model(input_ids=ids, attention_mask=valid.long())
    return torch.stack([result.start_logits, result.end_logits], -1) if kind == "span" else result.logits


@torch.no_grad()
def difference(ours: Transformer, theirs: transformers.PreTrainedModel, kind: str) -> float:
    ids, valid = batch(ours.config)
    found = task_scores(ours, ids, valid, group=CHOICES if kind == "choice" else 1)
    wanted = theirs_of(theirs, ids, valid, kind)
    assert found.shape == wanted.shape
    if kind in ("tokens", "span"):
        found, wanted = found[valid], wanted[valid]
    assert wanted.std() > 1e-2
    return relative(found, wanted)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_opened_by_its_class_and_by_auto(family: str, kind: str, tmp_path: Path) -> None:
    config = config_of(family, kind)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    auto = getattr(transformers, f"AutoModelFor{KINDS[kind]}")
    theirs, report = auto.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert type(theirs).__name__ == f"{STEMS[family]}For{KINDS[kind]}"
    assert not report["missing_keys"] and not report["mismatched_keys"]
    left_over = set() if config.tied_head else {layout_for(config).head}
    if family == "bert" and kind in ("tokens", "span"):
        left_over |= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(report["unexpected_keys"]) == left_over
    assert difference(ours, theirs.eval(), kind) <= 1e-5


def of_transformers(family: str, kind: str, folder: Path) -> transformers.PreTrainedModel:
    """A random classifier, made by the class of transformers and written by it."""
    config = config_of(family, kind)
    described = transformers.AutoConfig.for_model(**layout_for(config).to_config(config))
    theirs = getattr(transformers, f"{STEMS[family]}For{KINDS[kind]}")._from_config(
        described, dtype=torch.float32, attn_implementation="eager"
    )
    randomise(theirs)
    theirs.save_pretrained(folder)
    return theirs.eval()


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_a_class_writes_is_read(family: str, kind: str, tmp_path: Path) -> None:
    theirs = of_transformers(family, kind, tmp_path / "m")
    ours, config = load_model(tmp_path / "m")
    assert config.task_head == head_of(family, kind)
    assert difference(ours, theirs, kind) <= 1e-5


@pytest.mark.parametrize("family", ["gpt2", "bert", "modern", "llama"])
def test_a_class_reads_what_was_read_and_written_again(family: str, tmp_path: Path) -> None:
    theirs = of_transformers(family, "sequence", tmp_path / "theirs")
    ours, config = load_model(tmp_path / "theirs")
    save_model(tmp_path / "m", ours, config)
    assert difference(ours, open_theirs(tmp_path / "m", torch.float32), "sequence") <= 1e-5
    assert difference(load_model(tmp_path / "m")[0], theirs, "sequence") <= 1e-5


def test_no_class_mistakes_a_head_of_ours_for_its_own(tmp_path: Path) -> None:
    head = head_of("gpt2", "sequence").model_copy(update={"pooling": "mean"})
    config = ModelConfig(**BODIES["gpt2"] | {"task_head": head})
    save_model(tmp_path / "m", randomised(config, torch.float32), config)
    _, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", output_loading_info=True
    )
    assert set(report["missing_keys"]) == {"score.weight"}  # of which transformers warns
    assert "task_head.score.weight" in report["unexpected_keys"]
    causal = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ids = some_ids(config)
    with torch.no_grad():
        assert relative(load_model(tmp_path / "m")[0](ids), causal(ids).logits) <= 1e-5


# ---- texts in, labels out ------------------------------------------------------------------------------------------------

TEXT = "The cat sat, on it's mat. " * 40
GPT2_BYTES = gpt2.from_vocabulary({letter: i for i, letter in enumerate([*byte_letters(), "<|endoftext|>"])}, [], {})
LETTERS = "abcdefghijklmnopqrstuvwxyz.,'?"
GPT1_LETTERS = {
    token: index
    for index, token in enumerate(
        ["<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "th", "the</w>", "\n</w>"]
    )
}
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bpe": lambda: train_tokenizer("bpe", [TEXT], 270),
    "chars": lambda: train_tokenizer("chars", [TEXT], None),
    "words": lambda: train_tokenizer("words", [TEXT], None),
    "wordpiece": lambda: train_tokenizer("wordpiece", [TEXT], None),
    "no padding": lambda: GPT2_BYTES,
    "gpt1": lambda: gpt1.from_vocabulary(GPT1_LETTERS, [("t", "h"), ("th", "e</w>")], gpt1.STANDARDISED, {}),
    "gpt1, the hub's": lambda: gpt1.from_vocabulary(GPT1_LETTERS, [("t", "h"), ("th", "e</w>")], gpt1.BASIC, {}),
}
FITTING = [
    *(("modern", kind) for kind in ("bpe", "chars", "words", "wordpiece")),
    *((family, "bpe") for family in ("gpt1", "gpt2", "gpt_neo", "neox", "llama", "mistral", "qwen2")),
    ("gpt1", "gpt1"),
    ("gpt1", "gpt1, the hub's"),
    ("gpt2", "no padding"),
    ("bert", "wordpiece"),
]


def with_framing_tokens(tokenizer: Tokenizer) -> tuple[Tokenizer, TaskTokens]:
    """BERT's own, else three new ones behind the vocabulary."""
    if tokenizer.cls_id is not None and tokenizer.sep_id is not None:
        return tokenizer, TaskTokens(start=tokenizer.cls_id, delimiter=(tokenizer.sep_id,), extract=tokenizer.sep_id)
    first = tokenizer.vocab_size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    new = [
        {"id": first + i, "content": f"<|{name}|>", **flags} for i, name in enumerate(("start", "delimiter", "extract"))
    ]
    added = [*tokenizer.settings["added_tokens"], *new]
    tokens = TaskTokens(start=first, delimiter=(first + 1,), extract=first + 2)
    return tokenizer.changed({"added_tokens": added}, {}), tokens


@pytest.mark.parametrize(("family", "kind"), FITTING)
def test_their_tokenizer_and_class_read_a_text_as_ours(family: str, kind: str, tmp_path: Path) -> None:
    tokenizer, tokens = with_framing_tokens(TOKENIZERS[kind]())
    task = TaskConfig(
        task="entail",
        labels=("no", "maybe", "yes"),
        columns=Columns(text="a", second="b"),
        inputs="bert" if family == "bert" else "gpt1",
        tokens=tokens,
        max_length=64,
    )
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "task_head": head_of(family, "sequence")}
    config = ModelConfig(**BODIES[family] | sizes)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config, tokenizer=tokenizer, task=task)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    pairs = [("the cat  sat.", "on it's mat?"), ("a mat.", "the cat sat on the, mat")]
    examples = [Example("here", texts, None, 0) for texts in (*pairs, ("the cat sat on",))]
    rows = [one.rows[0] for one in TaskInputs(tokenizer, task, sizes["task_head"]).encode(examples)]
    found = [theirs(*example.texts) for example in examples]
    assert [one["input_ids"] for one in found] == [list(row.ids) for row in rows]
    if family == "bert":
        assert [one["token_type_ids"] for one in found] == [list(row.segments or ()) for row in rows]
    else:
        assert all("token_type_ids" not in one for one in found)  # of which GPT-2's class would add embeddings
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    assert [model.config.id2label[i] for i in range(3)] == list(task.labels)
    answers = Classifier(ours, tokenizer, task).scores(examples)
    with torch.no_grad():
        if theirs.pad_token is None:  # one by one: their class would not know where a padded row ends
            logits = torch.cat([model(**theirs(*pair, return_tensors="pt")).logits for pair in pairs])
        else:
            firsts, seconds = map(list, zip(*pairs, strict=True))
            logits = model(**theirs(firsts, seconds, padding=True, return_tensors="pt")).logits
    assert relative(torch.stack(answers[:2]), logits) <= 1e-5


def test_a_classifier_by_transformers_answers_here_as_there(tmp_path: Path) -> None:
    theirs = of_transformers("bert", "sequence", tmp_path / "m")
    described = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))
    named = {"id2label": {"0": "bad", "1": "so-so", "2": "good"}, "label2id": {"bad": 0, "so-so": 1, "good": 2}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(described | named), encoding="utf-8")
    train_tokenizer("wordpiece", [TEXT], None).save(tmp_path / "m")
    texts = ["the cat sat.", "a mat, on it's mat", "it's on the cat"]
    found = open_classifier(f"hf:{tmp_path / 'm'}", device="cpu").classify(texts)
    encoded = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = theirs(**encoded).logits.softmax(-1)
    for answer, row in zip(found, wanted, strict=True):
        assert answer.probabilities == pytest.approx(
            dict(zip(("bad", "so-so", "good"), row.tolist(), strict=True)), abs=1e-5
        )
        assert answer.answer == ("bad", "so-so", "good")[int(row.argmax())]


# ---- doors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "sequence"), ("llama", "span"), ("bert", "choice")])
def test_in_by_one_door_and_out_by_the_other(family: str, kind: str, tmp_path: Path) -> None:
    theirs = of_transformers(family, kind, tmp_path / "theirs")
    train_tokenizer("wordpiece", [TEXT], None).save(tmp_path / "theirs")
    described = json.loads((tmp_path / "theirs" / "config.json").read_text(encoding="utf-8"))
    names = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    if kind in ("sequence", "tokens"):
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(described | names), encoding="utf-8")
    imported = gptloom.import_model(str(tmp_path / "theirs"), out=str(tmp_path / "in"))
    assert imported.receipt.verified and "scores" in imported.receipt.outputs
    exported = gptloom.export(str(tmp_path / "in"), to="hf", out=str(tmp_path / "out"))
    assert exported.receipt.verified and "scores" in exported.receipt.outputs
    if kind in ("sequence", "tokens"):
        assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8")).items() >= names.items()
    assert difference(load_model(tmp_path / "in")[0], theirs, kind) <= 1e-5
    assert difference(load_model(tmp_path / "in")[0], open_theirs(tmp_path / "out", torch.float32), kind) <= 1e-5
