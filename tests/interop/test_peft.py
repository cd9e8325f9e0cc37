"""Adapter folders beside PEFT itself: what it loads of ours and we of its, with equal logits in fp32."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, random_model, write_model
from torch import Tensor

from gptloom.config.errors import UserError
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.interop.export.door import export_model
from gptloom.interop.hub import resolve_model
from gptloom.interop.open import open_model
from gptloom.interop.peft import read_adapter, write_adapter
from gptloom.model.lora import LoraConfig, add_lora, is_lora
from gptloom.model.store import content_hash, load_model, own_task, read_config, save_model
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.observe.lineage import lineage as tree_of
from gptloom.tokenizer.load import load_tokenizer

IDS = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # of fp32 sums taken in another order
SEQUENCE = HeadConfig(kind="sequence", n_labels=3, pooling="last", bias=False)
OF_BERT = HeadConfig(kind="sequence", n_labels=3, pooling="first")


def fill(model: torch.nn.Module, starts: tuple[str, ...]) -> None:
    """Random numbers in adapters and in whatever begins so."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or name.startswith(starts):
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.2)


def adapted(
    base: Path, lora: LoraConfig, head: HeadConfig | None = None, new: tuple[str, ...] = ("task_head.",)
) -> tuple[Transformer, dict[str, Tensor]]:
    """The model of ``base`` with adapters and a head, and what of it is not the base's; ``new``: how that begins."""
    body, config = load_model(base)
    config = config.model_copy(update={"task_head": head, "pooler": config.pooler or "pooler." in new})
    model = Transformer(config)
    model.load_state_dict(body.state_dict(), strict=False)
    add_lora(model, lora, 0)
    fill(model, new)
    state = model.state_dict()
    return model.eval(), {name: state[name] for name in state if is_lora(name) or name.startswith(new)}


def theirs(kind: str, base: Path, folder: Path, **fields: Any) -> Any:
    """PEFT's reading of the adapter in ``folder``; nothing in it is missing or left over."""
    model = getattr(transformers, kind).from_pretrained(base, **fields)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(model, folder)
    assert not [str(one.message) for one in caught if "keys" in str(one.message)]
    return model.eval()


def refusal(folder: Path, base: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_adapter(folder, read_config(base))
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gpt2") / "base", "gpt2")


@pytest.fixture
def adapter(gpt2: Path, tmp_path: Path) -> Path:
    lora = LoraConfig(3, 6.0)
    model, tensors = adapted(gpt2, lora)
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(gpt2))
    return tmp_path / "adapter"


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


# ---- ours, loaded by PEFT ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [
        name if name in ("gpt2", "neox", "fast", "bert") else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES
        if name != "gpt3"  # which no class of transformers computes
    ],
)
@torch.no_grad()
def test_peft_computes_the_same_and_we_read_back_what_we_wrote(family: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", family)
    name = "blocks.1.attention.v"
    lora = LoraConfig(
        2, 6.0, target_modules=("q", "v", "out", "down"), rank_pattern={name: 4}, alpha_pattern={name: 12}
    )
    model, tensors = adapted(base, lora)
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(base))
    kind = "BertForPreTraining" if family == "bert" else "AutoModelForCausalLM"
    found = theirs(kind, base, tmp_path / "adapter")(input_ids=IDS)
    torch.testing.assert_close(found[0], model(IDS), **CLOSE)
    assert (model(IDS) - load_model(base)[0](IDS)).abs().max() > 0.1

    config, read = read_adapter(tmp_path / "adapter", model.config)
    assert config == lora
    assert set(read) == set(tensors) and all(torch.equal(read[name], tensors[name]) for name in read)


@pytest.mark.parametrize(
    ("family", "kind", "head"),
    [
        ("gpt2", "SequenceClassification", SEQUENCE),
        ("neox", "SequenceClassification", SEQUENCE),
        ("modern", "SequenceClassification", SEQUENCE),
        ("bert", "SequenceClassification", OF_BERT),
        ("gpt2", "TokenClassification", HeadConfig(kind="tokens", n_labels=5)),
        ("neox", "QuestionAnswering", HeadConfig(kind="span", n_labels=2)),
    ],
)
@torch.no_grad()
def test_peft_computes_the_same_scores(family: str, kind: str, head: HeadConfig, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", family)
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, head)
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(base))
    labels = {} if head.kind == "span" else {"num_labels": head.n_labels}
    # Decoders look for the last token that is no padding.
    found = theirs(f"AutoModelFor{kind}", base, tmp_path / "adapter", pad_token_id=0, **labels)(input_ids=IDS)
    scores = torch.stack([found.start_logits, found.end_logits], -1) if head.kind == "span" else found.logits
    torch.testing.assert_close(scores, task_scores(model, IDS), **CLOSE)

    opened, _ = open_model(tmp_path / "adapter", device="cpu", precision="fp32")
    assert opened.config.task_head == head
    torch.testing.assert_close(task_scores(opened, IDS), task_scores(model, IDS), **CLOSE)


@torch.no_grad()
def test_a_new_pooler_comes_along(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "bert", pooler=False, pair_head=False)
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, OF_BERT, ("task_head.", "pooler."))
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(base))
    told = json.loads((tmp_path / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert told["modules_to_save"] == ["bert.pooler.dense", "classifier"] and told["task_type"] == "SEQ_CLS"
    found = theirs("AutoModelForSequenceClassification", base, tmp_path / "adapter", num_labels=3)
    torch.testing.assert_close(found(input_ids=IDS).logits, task_scores(model, IDS), **CLOSE)
    opened, _ = open_model(tmp_path / "adapter", device="cpu", precision="fp32")
    torch.testing.assert_close(task_scores(opened, IDS), task_scores(model, IDS), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("family", "pooling"), [("gpt2", "mean"), ("gpt3", "last")])
def test_what_no_class_of_transformers_computes_is_for_us_alone(family: str, pooling: Any, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", family)
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, SEQUENCE.model_copy(update={"pooling": pooling}))
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(base))
    told = json.loads((tmp_path / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert told["task_type"] is None
    opened, _ = open_model(tmp_path / "adapter", device="cpu", precision="fp32")
    torch.testing.assert_close(task_scores(opened, IDS), task_scores(model, IDS), **CLOSE)


def test_names_say_no_more_than_they_must(tmp_path: Path) -> None:
    """A fused layer is one adapter of the sum of the ranks, scaled alike; the ends of names are PEFT's own way."""
    base = write_model(tmp_path / "base", "gpt2")
    for targets, names in {
        ("q", "v"): ["c_attn"],
        ("q", "down"): ["c_attn", "mlp.c_proj"],
        ("blocks.1.mlp.up",): ["1.mlp.c_fc"],
    }.items():
        lora = LoraConfig(2, 8.0, target_modules=targets)
        model, tensors = adapted(base, lora)
        write_adapter(tmp_path / "adapter", tensors, model.config, lora, "hf:gpt2")
        told = json.loads((tmp_path / "adapter/adapter_config.json").read_text(encoding="utf-8"))
        assert told["target_modules"] == names and told["fan_in_fan_out"] and told["base_model_name_or_path"] == "gpt2"
        if targets == ("q", "v"):
            assert (told["r"], told["lora_alpha"]) == (4, 16)


def test_what_no_folder_can_say_is_refused(gpt2: Path, tmp_path: Path) -> None:
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(gpt2, lora)
    half = tensors | {"blocks.0.attention.q.weight": model.state_dict()["blocks.0.attention.q.weight"]}
    with pytest.raises(UserError, match=r"cannot be stored without blocks\.0\.attention\.k\.weight"):
        write_adapter(tmp_path / "a", half, model.config, lora, "base")
    with pytest.raises(UserError, match="qk_norm"):
        unfit = model.config.model_copy(update={"qk_norm": "before_rotary"})
        write_adapter(tmp_path / "a", tensors, unfit, lora, "base")
    with pytest.raises(ValueError, match="rank 2, not 3"):
        write_adapter(tmp_path / "a", tensors, model.config, LoraConfig(3), "base")
    assert not (tmp_path / "a").exists()


# ---- PEFT's, opened by us ----------------------------------------------------------------------------------------------


def save_theirs(folder: Path, kind: str, base: Path, config: peft.LoraConfig, **fields: Any) -> Any:
    """What PEFT writes of a model that it adapted."""
    model = peft.get_peft_model(getattr(transformers, kind).from_pretrained(base, **fields), config)
    fill(model, ("base_model.model.score.modules", "base_model.model.classifier.modules"))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    ("family", "targets", "more"),
    [
        ("gpt2", ["c_attn", "mlp.c_proj"], {"fan_in_fan_out": True, "rank_pattern": {"mlp.c_proj": 5}}),
        ("neox", ["query_key_value"], {"use_rslora": True}),
        ("modern", ["q_proj", "down_proj"], {"layers_to_transform": [1], "alpha_pattern": {"down_proj": 7}}),
        ("bert", ["query", "dense"], {"exclude_modules": ["pooler.dense", "transform.dense"]}),
    ],
)
@torch.no_grad()
def test_an_adapter_by_peft_opens_like_any_model(
    family: str, targets: list[str], more: dict[str, Any], tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", family)
    kind = "BertForPreTraining" if family == "bert" else "AutoModelForCausalLM"
    config = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=targets, **more)
    model = save_theirs(tmp_path / "adapter", kind, base, config)
    opened, tokenizer = open_model(tmp_path / "adapter", device="cpu", precision="fp32")
    torch.testing.assert_close(opened(IDS), model(input_ids=IDS)[0], **CLOSE)
    assert tokenizer.hash == open_model(base)[1].hash


@pytest.mark.parametrize(("family", "pooling"), [("gpt2", "last"), ("bert", "first")])
@torch.no_grad()
def test_a_classifier_by_peft_opens_with_its_head(family: str, pooling: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", family)
    targets = ["c_attn"] if family == "gpt2" else ["query", "value"]
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, fan_in_fan_out=family == "gpt2")
    kind = "AutoModelForSequenceClassification"
    model = save_theirs(tmp_path / "adapter", kind, base, config, num_labels=4, pad_token_id=0)
    opened, _ = open_model(tmp_path / "adapter", device="cpu", precision="fp32")
    assert opened.config.task_head is not None
    assert (opened.config.task_head.n_labels, opened.config.task_head.pooling) == (4, pooling)
    torch.testing.assert_close(task_scores(opened, IDS), model(input_ids=IDS).logits, **CLOSE)


def test_a_fused_adapter_is_one_for_each_part_that_it_works_in(gpt2: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True)
    save_theirs(tmp_path / "adapter", "AutoModelForCausalLM", gpt2, config)
    lora, tensors = read_adapter(tmp_path / "adapter", read_config(gpt2))
    assert lora == LoraConfig(4, 8.0, target_modules=("q", "k", "v"))
    halves = [tensors[f"blocks.0.attention.{part}.lora_a"] for part in "qkv"]
    assert torch.equal(halves[0], halves[1]) and torch.equal(halves[0], halves[2])


def test_what_we_could_not_compute_is_refused_by_name_and_at_once(adapter: Path, gpt2: Path) -> None:
    change(adapter, use_dora=True, bias="all", target_parameters=["x"], init_lora_weights="pissa", new_trick={"a": 1})
    said = "\n".join(refusal(adapter, gpt2))
    for name in ("use_dora is True", "bias is 'all'", "target_parameters", "'pissa': this beginning", "new_trick"):
        assert name in said
    change(adapter, peft_type="PREFIX_TUNING", r="8")
    said = "\n".join(refusal(adapter, gpt2))
    assert "gptloom reads LORA" in said and "r is '8'" in said


def test_tensors_that_belong_nowhere_are_named(adapter: Path, gpt2: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    kept = dict(tensors)
    name = "base_model.model.transformer.h.0.attn.c_attn"
    tensors["base_model.model.transformer.wte.weight"] = torch.zeros(2, 64)
    tensors["base_model.model.transformer.h.7.attn.c_attn.lora_A.weight"] = torch.zeros(3, 64)
    tensors[f"{name}.lora_magnitude_vector"] = torch.zeros(64)
    del tensors[f"{name}.lora_B.weight"]
    save_file(tensors, path)
    said = refusal(adapter, gpt2)
    assert len(said) == 4
    assert any("wte.weight replaces the matrix of the vocabulary" in one for one in said)
    assert any("h.7.attn.c_attn.lora_A.weight belongs to nothing" in one for one in said)
    assert any("lora_magnitude_vector belongs to nothing" in one for one in said)
    assert any("c_attn.lora_B.weight is missing" in one for one in said)
    save_file(kept, path)
    change(adapter, r=5)
    assert "is [6, 64]; base and adapter_config.json ask for [5, 64]" in refusal(adapter, gpt2)[0]
    path.write_bytes(path.read_bytes()[:-4])
    assert "damaged" in refusal(adapter, gpt2)[0]


def test_pickled_weights_are_refused_with_the_way_to_convert_them(adapter: Path, gpt2: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    said = refusal(adapter, gpt2)[0]
    assert "pickle" in said and "load_peft_weights" in said


def test_heads_of_another_task_may_be_left_aside(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "gpt2")
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, SEQUENCE)
    write_adapter(tmp_path / "adapter", tensors, model.config, lora, str(base))
    other = model.config.model_copy(update={"task_head": SEQUENCE.model_copy(update={"n_labels": 2})})
    with pytest.raises(UserError, match=r"task_head.score.weight is \[3, 64\] in the adapter and \[2, 64\]"):
        read_adapter(tmp_path / "adapter", other)
    read, found = read_adapter(tmp_path / "adapter", other, whole=False)
    assert read == lora and set(found) == {name for name in tensors if is_lora(name)}


# ---- an adapter is a model reference -----------------------------------------------------------------------------------


def test_the_base_is_looked_for_beside_the_adapter_first(
    gpt2: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected, _ = open_model("adapter", device="cpu", precision="fp32")
    config = read_config(gpt2)
    other = random_model(config.model_copy(update={"vocab_size": config.vocab_size + 1}))
    save_model(tmp_path / "base", other, other.config)
    shutil.copytree(gpt2, adapter / "base")
    change(adapter, base_model_name_or_path="base")
    found, _ = open_model("adapter", device="cpu", precision="fp32")
    assert torch.equal(found(IDS), expected(IDS))
    shutil.rmtree(adapter / "base")
    shutil.copyfile(gpt2 / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    assert open_model("adapter")[0].config.vocab_size == config.vocab_size + 1


def test_a_base_may_be_a_step_of_a_run(gpt2: Path, adapter: Path, tmp_path: Path) -> None:
    step = tmp_path / "run" / "checkpoints" / "step-00000007"
    shutil.copytree(gpt2, step / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # lie with the run alone
        (tmp_path / "run" / "tokenizer").mkdir(exist_ok=True)
        (step / "model" / name).rename(tmp_path / "run" / "tokenizer" / name)
    (step / "state.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "state.json").write_text("{}", encoding="utf-8")
    expected, tokenizer = open_model(adapter, device="cpu", precision="fp32")
    change(adapter, base_model_name_or_path="../run@7")
    found, same = open_model(adapter, device="cpu", precision="fp32")
    assert torch.equal(found(IDS), expected(IDS)) and same.hash == tokenizer.hash


def test_a_base_that_is_nowhere_is_one_clear_error(adapter: Path, gpt2: Path) -> None:
    change(adapter, base_model_name_or_path="../gone/base model")
    with pytest.raises(UserError) as caught:
        open_model(adapter)
    (problem,) = caught.value.problems
    assert "'../gone/base model' is neither a folder" in problem.what
    assert 'set "base_model_name_or_path"' in str(problem.mend)
    change(adapter, base_model_name_or_path=None)
    with pytest.raises(UserError, match="base_model_name_or_path is not set"):
        open_model(adapter)
    change(adapter, base_model_name_or_path=".")
    with pytest.raises(UserError, match="is an adapter itself"):
        open_model(adapter)


def test_task_tokenizer_and_lineage_come_along(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "gpt2")
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, SEQUENCE)
    task = TaskConfig(
        task="classify",
        labels=("bad", "fair", "good"),
        columns=Columns(text="text"),
        inputs="gpt1",
        tokens=TaskTokens(start=0, delimiter=(0,), extract=0),
        max_length=16,
    )
    lineage = {"stage": "finetune", "parents": [{"path": "../base", "hash": content_hash(base)}]}
    write_adapter(tmp_path / "a", tensors, model.config, lora, "../base", task=task, lineage=lineage)
    path = resolve_model(str(tmp_path / "a")).path
    assert path is not None and path.name == "a" and own_task(path) == task
    [parent] = tree_of(path, content_hash).parents
    assert parent.path == base.resolve() and parent.note is None, "the merged model lies elsewhere than the adapter"
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["id2label"]["2"] == "good"
    assert resolve_model(f"hf:{tmp_path / 'a'}").path == path  # made once


def test_an_adapter_has_a_hash_by_which_lineages_know_it(adapter: Path) -> None:
    before = content_hash(adapter)
    assert content_hash(adapter) == before
    change(adapter, lora_alpha=99)
    assert content_hash(adapter) != before


def test_the_tokenizer_frames_texts_as_the_task_does(tmp_path: Path) -> None:
    """Who reads texts by it for ``peft`` gets the ids that the adapter was trained on."""
    base = write_model(tmp_path / "base", "gpt2")
    lora = LoraConfig(2, 4.0)
    model, tensors = adapted(base, lora, SEQUENCE)
    tokenizer = load_tokenizer(base)
    tokens = TaskTokens(start=tokenizer.eot_id, delimiter=(tokenizer.eot_id,), extract=tokenizer.eot_id)
    columns, labels = Columns(text="text"), ("bad", "fair", "good")
    task = TaskConfig(task="classify", labels=labels, columns=columns, inputs="gpt1", tokens=tokens, max_length=16)
    write_adapter(tmp_path / "a", tensors, model.config, lora, "../base", tokenizer=tokenizer, task=task)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")("a fine film")["input_ids"]
    assert found == [tokens.start, *tokenizer.encode("a fine film"), tokens.extract]


@torch.no_grad()
def test_an_export_of_an_adapter_is_merged(adapter: Path, tmp_path: Path) -> None:
    exported = export_model(str(adapter), "hf", tmp_path / "out")
    assert exported.receipt.verified
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    opened, _ = open_model(adapter, device="cpu", precision="fp32")
    torch.testing.assert_close(found(input_ids=IDS).logits, opened(IDS), **CLOSE)
