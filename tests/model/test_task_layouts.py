"""Folders of models with the head of a task: what they say, what of them is read, and what no class of others computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.model.layouts import LAYOUTS, layout_for
from gptloom.model.store import load_model, read_body, read_config, read_lineage, read_task, save_model
from gptloom.model.stored_weights import StoredWeights
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.framing import framed
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

TINY = {"vocab_size": 300, "context": 16, "n_layer": 2, "d_model": 32, "n_head": 4}
BERT = preset("bert-tiny") | TINY | {"masked_head": False, "pair_head": False}
LAST = HeadConfig(kind="sequence", n_labels=3, bias=False)
FIRST = HeadConfig(kind="sequence", n_labels=3, pooling="first")
TASK = TaskConfig(
    task="classify",
    labels=("bad", "so-so", "good"),
    columns=Columns(text="sentence", label="label"),
    inputs="gpt1",
    tokens=TaskTokens(start=256, delimiter=(257,), extract=256),
    max_length=16,
)


def model_of(fields: dict[str, Any], head: HeadConfig, **change: Any) -> Transformer:
    config = ModelConfig(**fields | TINY | change | {"task_head": head})
    model = Transformer.initialised(config, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model


def saved(folder: Path, fields: dict[str, Any], head: HeadConfig, **change: Any) -> Transformer:
    model = model_of(fields, head, **change)
    save_model(folder, model, model.config)
    return model


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def edit(folder: Path, name: str, **change: Any) -> None:
    document = json.loads((folder / name).read_text(encoding="utf-8")) | change
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


def some_ids() -> torch.Tensor:
    return torch.arange(24).view(2, 12) * 7 % 300


@pytest.fixture(scope="module")
def by_bytes() -> Tokenizer:
    return train_tokenizer("bytes", [], None)


WITHOUT_CLASS = {  # body, its changes, head, and what no class has
    "mean": (preset("gpt2"), {}, LAST.model_copy(update={"pooling": "mean"}), ["pooling is 'mean'"]),
    "biased, twice": (
        preset("modern-nano"),
        {},
        LAST.model_copy(update={"bias": True, "orders": 2}),
        ["bias is True", "orders is 2"],
    ),
    "pooled": (preset("gpt1"), {}, LAST.model_copy(update={"pooler": True}), ["pooler is True"]),
    "choice": (preset("gpt2"), {}, HeadConfig(kind="choice", n_labels=1), ["for choices"]),
    "tokens": (preset("gpt1"), {}, HeadConfig(kind="tokens", n_labels=3), ["for tokens"]),
    "fast": (preset("fast-nano"), {}, LAST, ["for whole texts; transformers has no such class for fast"]),
    "gpt3": (preset("gpt3-small"), {"window": 4}, LAST, ["for whole texts"]),
    "bert, no pooler": (BERT, {"pooler": False}, FIRST, ["the body has no pooler"]),
    "bert, last": (BERT, {}, FIRST.model_copy(update={"pooling": "last"}), ["pooling is 'last'"]),
}


@pytest.mark.parametrize("case", WITHOUT_CLASS)
def test_a_head_of_no_class_is_stored_under_names_of_ours(case: str, tmp_path: Path) -> None:
    fields, change, head, reasons = WITHOUT_CLASS[case]
    model = saved(tmp_path / "m", fields, head, **change)
    layout = layout_for(model.config)
    found = layout.task_unfit(model.config)
    assert len(found) == len(reasons) and all(part in text for part, text in zip(reasons, found, strict=True))
    assert layout.task_class(model.config) is None
    assert described(tmp_path / "m")["architectures"] == [layout.architecture_of(model.config) + "WithTaskHead"]
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert {"task_head.score.weight"} <= set(stored) and not [name for name in stored if name.startswith("score.")]
    again, config = load_model(tmp_path / "m")
    assert config == model.config
    assert torch.equal(task_scores(again, some_ids(), group=2), task_scores(model, some_ids(), group=2))


def test_no_two_classes_of_a_layout_are_of_a_kind() -> None:
    for layout in LAYOUTS:
        kinds = [one.kind for one in layout.task_classes]
        assert len(kinds) == len(set(kinds))


def test_the_folder_tells_labels_task_and_tokens(tmp_path: Path, by_bytes: Tokenizer) -> None:
    model = model_of(preset("gpt2"), LAST)
    save_model(tmp_path / "m", model, model.config, tokenizer=by_bytes, task=TASK)
    raw = described(tmp_path / "m")
    assert raw["id2label"] == {"0": "bad", "1": "so-so", "2": "good"}
    assert raw["label2id"] == {"bad": 0, "so-so": 1, "good": 2}
    assert (raw["num_labels"], raw["problem_type"]) == (3, "single_label_classification")
    assert raw["pad_token_id"] == by_bytes.pad_id
    assert read_task(tmp_path / "m") == TASK
    again = load_tokenizer(tmp_path / "m")
    assert again.encode("a b") == by_bytes.encode("a b")
    assert read_lineage(tmp_path / "m")["tokenizer_hash"] == again.hash


def test_a_number_is_a_regression(tmp_path: Path) -> None:
    head = FIRST.model_copy(update={"n_labels": 1})
    saved(tmp_path / "m", BERT, head)
    raw = described(tmp_path / "m")
    assert (raw["num_labels"], raw["problem_type"]) == (1, "regression") and "id2label" not in raw


def test_a_model_without_a_head_has_no_task(tmp_path: Path) -> None:
    config = ModelConfig(**preset("gpt2") | TINY)
    save_model(tmp_path / "m", Transformer.initialised(config, 0), config)
    assert read_task(tmp_path / "m") is None
    assert "num_labels" not in described(tmp_path / "m")


def test_a_damaged_task_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "m", preset("gpt2"), LAST)
    edit(tmp_path / "m", "gptloom.json", task=TASK.model_dump(mode="json") | {"task": "guess", "max_length": 0})
    with pytest.raises(UserError, match=r"max_length, task"):
        read_task(tmp_path / "m")


def test_the_output_matrix_stays_for_training_on(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", preset("gpt2"), LAST, tied_head=False)
    assert torch.equal(load_file(tmp_path / "m" / "model.safetensors")["lm_head.weight"], model.head_weight)
    assert torch.equal(load_model(tmp_path / "m")[0].head_weight, model.head_weight)


@pytest.mark.parametrize("head", [LAST, LAST.model_copy(update={"pooling": "mean"})], ids=["score", "task_head"])
def test_a_body_is_read_without_its_classifier(head: HeadConfig, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", preset("gpt2"), head)
    config = read_body(tmp_path / "m")
    assert config == model.config.model_copy(update={"task_head": None})
    with StoredWeights(tmp_path / "m", config) as weights:
        assert set(weights) == {name for name in model.state_dict() if not name.startswith("task_head.")}
        assert torch.equal(weights["norm.weight"], model.norm.weight)


def strangers(folder: Path, fields: dict[str, Any], head: HeadConfig, **change: Any) -> Transformer:
    """As ``transformers`` writes a classifier: nothing of ours beside it, no output matrix."""
    model = saved(folder, fields, head, **change)
    (folder / "gptloom.json").unlink()
    file = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}, file)
    return model


def test_a_classifier_without_an_output_matrix_is_no_base(tmp_path: Path) -> None:
    model = strangers(tmp_path / "m", preset("gpt2"), LAST, tied_head=False)
    again, config = load_model(tmp_path / "m")
    assert config.task_head == LAST
    assert torch.equal(task_scores(again, some_ids()), task_scores(model, some_ids()))
    with pytest.raises(UserError, match="GPT2ForSequenceClassification is stored without the output matrix"):
        read_body(tmp_path / "m")


def test_a_tied_one_is(tmp_path: Path) -> None:
    strangers(tmp_path / "m", preset("gpt2"), LAST)
    assert read_body(tmp_path / "m").task_head is None


def test_several_processes_keep_the_output_matrix() -> None:
    model = model_of(preset("gpt2"), LAST, tied_head=False)
    layout = layout_for(model.config)
    assert layout.from_config(layout.to_config(model.config), stored=list(model.state_dict())).tied_head is False


def test_scores_of_a_wrong_size_are_named(tmp_path: Path) -> None:
    strangers(tmp_path / "m", preset("gpt2"), LAST)
    edit(tmp_path / "m", "config.json", id2label={"0": "no", "1": "yes"})
    with pytest.raises(UserError, match=r"score\.weight is \[3, 32\]; config\.json asks for \[2, 32\]"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": ["a", "b"]}, "id2label"),
        ({"num_labels": "three"}, "num_labels is 'three'"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_labels_that_make_no_sense(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    strangers(tmp_path / "m", preset("gpt2"), LAST)
    edit(tmp_path / "m", "config.json", **change)
    with pytest.raises(UserError, match=reason):
        read_config(tmp_path / "m")


# ---- the task of a stranger's folder -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_tokenizer("wordpiece", ["the cat sat on the mat and the dog saw it " * 9], None)


@pytest.mark.parametrize(
    ("kind", "n_labels", "task", "labels"),
    [
        ("sequence", 3, "classify", ("bad", "so-so", "good")),
        ("sequence", 1, "regress", ()),
        ("choice", 1, "choice", ()),
        ("tokens", 3, "tokens", ("bad", "so-so", "good")),
        ("span", 2, "span", ()),
    ],
)
def test_of_a_bert(
    kind: Any, n_labels: int, task: str, labels: tuple[str, ...], tmp_path: Path, wordpiece: Tokenizer
) -> None:
    strangers(tmp_path / "m", BERT, FIRST.model_copy(update={"kind": kind, "n_labels": n_labels}))
    wordpiece.save(tmp_path / "m")
    if labels:
        edit(tmp_path / "m", "config.json", id2label={str(index): label for index, label in enumerate(labels)})
    found = read_task(tmp_path / "m")
    assert found is not None
    assert (found.task, found.labels, found.inputs, found.max_length) == (task, labels, "bert", 16)
    sep = wordpiece.sep_id
    assert found.tokens == TaskTokens(start=wordpiece.cls_id, delimiter=(sep,), extract=sep)


def test_classes_without_a_name_are_called_as_transformers_does(tmp_path: Path, wordpiece: Tokenizer) -> None:
    strangers(tmp_path / "m", BERT, FIRST)
    wordpiece.save(tmp_path / "m")
    found = read_task(tmp_path / "m")
    assert found is not None and found.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_strangers_decoder_that_does_not_say_how_a_text_ends(tmp_path: Path, by_bytes: Tokenizer) -> None:
    strangers(tmp_path / "m", preset("gpt2"), LAST)
    by_bytes.save(tmp_path / "m")
    edit(tmp_path / "m", "config.json", problem_type="multi_label_classification")
    with pytest.raises(UserError) as caught:
        read_task(tmp_path / "m")
    problems = [problem.what for problem in caught.value.problems]
    assert len(problems) == 2
    assert "GPT2ForSequenceClassification without a tokenizer that ends a text" in problems[0]
    assert "one label a text" in problems[1]


def test_a_strangers_decoder_whose_tokenizer_does(tmp_path: Path, by_bytes: Tokenizer) -> None:
    strangers(tmp_path / "m", preset("gpt2"), LAST)
    framed(by_bytes, TASK.tokens, segments=False).save(tmp_path / "m")
    found = read_task(tmp_path / "m")
    assert found is not None and (found.inputs, found.tokens) == ("gpt1", TASK.tokens)


# ---- framing -------------------------------------------------------------------------------------------------------------


def as_others_read(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(dict(tokenizer.settings)))


@pytest.mark.parametrize(
    ("tokens", "single", "pair"),
    [
        (TaskTokens(start=9, delimiter=(7,), extract=8), [9, 97, 8], [9, 97, 7, 98, 8]),
        (TaskTokens(start=None, delimiter=(7, 7), extract=7), [97, 7], [97, 7, 7, 98, 7]),
        (TaskTokens(start=256, delimiter=(ord("$"),), extract=256), [256, 97, 256], [256, 97, ord("$"), 98, 256]),
    ],
)
def test_a_framed_tokenizer_adds_the_tokens_for_others_only(
    tokens: TaskTokens, single: list[int], pair: list[int], by_bytes: Tokenizer
) -> None:
    found = framed(framed(by_bytes, TASK.tokens, segments=True), tokens, segments=False)
    assert found.encode("a") == [97]
    backend = as_others_read(found)
    assert backend.encode("a").ids == single
    both = backend.encode("a", "b")
    assert both.ids == pair and set(both.type_ids) == {0}
    in_segments = as_others_read(framed(by_bytes, tokens, segments=True)).encode("a", "b")
    assert in_segments.type_ids == [0] * (len(pair) - 2) + [1, 1]


@pytest.mark.parametrize("kind", ["bytes", "wordpiece"])
def test_a_training_for_something_else_frees_the_texts_again(
    kind: str, tmp_path: Path, by_bytes: Tokenizer, wordpiece: Tokenizer
) -> None:
    tokenizer = by_bytes if kind == "bytes" else wordpiece
    model = model_of(preset("gpt2"), LAST)
    task = TASK.model_copy(update={"tokens": TaskTokens(start=3, delimiter=(4,), extract=5)})
    save_model(tmp_path / "m", model, model.config, tokenizer=tokenizer, task=task)
    body = ModelConfig(**model.config.model_dump() | {"task_head": None})
    fine_tuned = load_tokenizer(tmp_path / "m")
    assert as_others_read(fine_tuned).encode("a").ids[0] == 3
    twice = framed(fine_tuned, TASK.tokens, segments=True) if kind == "bytes" else fine_tuned
    save_model(tmp_path / "m", Transformer.initialised(body, 0), body, tokenizer=twice)
    again = load_tokenizer(tmp_path / "m")
    assert again.hash == tokenizer.hash
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"model_input_names", "gptloom_unframed"} & set(config)


def test_an_id_without_a_token_frames_nothing(by_bytes: Tokenizer) -> None:
    with pytest.raises(ValueError, match="no token of this tokenizer has the id 4000"):
        framed(by_bytes, TaskTokens(start=4000, delimiter=(1,), extract=2), segments=False)
