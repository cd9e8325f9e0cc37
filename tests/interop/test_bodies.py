"""Bodies of transformers: the same hidden states as transformers, heads, folders and refusals. All numbers random."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from small_models import small_tokenizer
from torch import Tensor, nn
from transformers_folders import write_folder

from gptloom.config.errors import UserError
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.interop import bodies
from gptloom.interop.bodies import (
    ForeignModel,
    is_foreign,
    open_body,
    open_foreign,
    save_foreign,
    suggested_pooling,
)
from gptloom.model.attention import Mask
from gptloom.model.checksum import file_sum
from gptloom.model.folder import read_json
from gptloom.model.store import load_model, read_lineage
from gptloom.model.task_head import task_scores
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.roles import framing

ROWS = 400
LAYERS = 3
LIKE_BERT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LIKE_ROBERTA = LIKE_BERT | {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 66}
LIKE_DEBERTA = LIKE_BERT | {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
BUCKETS = {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True, "conv_kernel_size": 3}
SMALL_BERT = {"vocab_size": ROWS, "dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4}
SMALL_T5 = {"vocab_size": ROWS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
SMALL_OPT = {"vocab_size": ROWS, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": LAYERS}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("RobertaModel", LIKE_ROBERTA),
    "camembert": ("CamembertModel", LIKE_ROBERTA),
    "albert": ("AlbertModel", LIKE_BERT | {"embedding_size": 16}),
    "distilbert": ("DistilBertModel", SMALL_BERT | {"max_position_embeddings": 64}),
    "electra": ("ElectraModel", LIKE_BERT | {"embedding_size": 16}),
    "deberta": ("DebertaModel", LIKE_DEBERTA),
    "deberta-v2": ("DebertaV2Model", LIKE_DEBERTA | BUCKETS),
    "t5": ("T5EncoderModel", SMALL_T5),
    "opt": (
        "OPTModel",
        SMALL_OPT | {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    ),
}
HEAD = HeadConfig(kind="sequence", n_labels=3, pooling="first", pooler=True, dropout=0.0)


def write_body(folder: Path, kind: str, fields: Mapping[str, Any]) -> Any:
    """A folder by transformers with numbers far from their means, and the model in it."""
    class_ = getattr(transformers, kind)
    torch.manual_seed(5)
    model = class_(class_.config_class(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Family -> its folder, and the model of transformers that lies there."""
    place = tmp_path_factory.mktemp("bodies")
    return {name: (place / name, write_body(place / name, *BODIES[name])) for name in BODIES}


def rows(*lengths: int) -> tuple[Tensor, Tensor]:
    """ids [N, T], padded on the right with RoBERTa's padding id, and where there are tokens."""
    torch.manual_seed(1)
    ids = torch.randint(5, ROWS, (len(lengths), max(lengths)))
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~valid, 1), valid


def refusal(reference: object) -> str:
    with pytest.raises(UserError) as caught:
        open_foreign(str(reference))
    return str(caught.value)


# ---- what a body computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(name: str, folders: dict[str, tuple[Path, Any]]) -> None:
    folder, theirs = folders[name]
    body = open_body(folder)
    assert is_foreign(folder) and not body.training
    ids, valid = rows(9, 5)
    hidden = body.hidden(ids, None, Mask(key_valid=valid))
    expected = theirs(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    torch.testing.assert_close(hidden[valid], expected[valid], rtol=1e-5, atol=1e-5)
    alone = body.hidden(ids[1:, :5])  # padding is seen by nobody, and moves no position
    torch.testing.assert_close(hidden[1:, :5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["roberta", "camembert", "albert"])
@torch.no_grad()
def test_a_summary_is_the_body_s_own_pooler(name: str, folders: dict[str, tuple[Path, Any]]) -> None:
    folder, theirs = folders[name]
    ids, _ = rows(7, 7)
    body = open_body(folder)
    assert body.config.pooler and suggested_pooling(body) == ("first", False)
    torch.testing.assert_close(body.summary(body.hidden(ids)), theirs(input_ids=ids).pooler_output)


def test_what_a_body_is(folders: dict[str, tuple[Path, Any]]) -> None:
    found = {name: open_body(folder) for name, (folder, _) in folders.items()}
    configs = {name: body.config for name, body in found.items()}
    assert {config.d_model for config in configs.values()} == {32}
    assert {config.vocab_size for config in configs.values()} == {ROWS}
    assert {name for name, config in configs.items() if config.mask == "causal"} == {"opt"}
    assert {name for name, config in configs.items() if config.segments == 2} == {"albert", "electra"}
    assert {name: config.context for name, config in configs.items() if config.context != 64} == {"t5": 512}
    assert {name: config.n_layer for name, config in configs.items() if config.n_layer != LAYERS} == {"albert": 1}
    assert configs["distilbert"].dropout == 0.1 and configs["albert"].dropout == 0.0
    pooled = {name: suggested_pooling(body) for name, body in found.items()}
    assert pooled["t5"] == ("mean", False) and pooled["opt"] == ("last", False)
    assert pooled["distilbert"] == pooled["electra"] == pooled["deberta-v2"] == ("first", True)


@torch.no_grad()
def test_segments_and_only_where_the_body_has_them(folders: dict[str, tuple[Path, Any]]) -> None:
    ids, _ = rows(8)
    segments = (torch.arange(8) > 3).long()[None]
    for name, (folder, theirs) in folders.items():
        body = open_body(folder)
        told = body.hidden(ids, segments=segments)
        if body.config.segments:
            expected = theirs(input_ids=ids, token_type_ids=segments).last_hidden_state
            torch.testing.assert_close(told, expected)
            assert not torch.allclose(told, body.hidden(ids), atol=1e-3)
        else:
            assert torch.equal(told, body.hidden(ids)), name


@torch.no_grad()
def test_bert_scores_the_same_through_our_layout_and_through_the_adapter(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert", vocab_size=ROWS)
    ours, config = load_model(tmp_path)
    adapter = open_body(tmp_path)
    assert not is_foreign(tmp_path) and adapter.config.pooler
    for field in ("d_model", "context", "vocab_size", "n_layer", "mask", "segments"):
        assert getattr(adapter.config, field) == getattr(config, field), field
    head = HEAD.model_copy(update={"pooler": False})
    adapter.add_head(head, seed=3)
    ours = Transformer(config.model_copy(update={"task_head": head})).eval()
    stored, _ = load_model(tmp_path)
    ours.load_state_dict(stored.state_dict() | task_head_of(adapter))
    ids, valid = rows(9, 6, 9)
    segments = (torch.arange(9) > 4).long().expand(3, 9)
    first, second = (task_scores(model, ids, valid, segments) for model in (ours, adapter))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def task_head_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith("task_head.")}


@torch.no_grad()
def test_gpt2_through_our_layout_and_through_the_adapter(tmp_path: Path) -> None:
    write_folder(tmp_path, "gpt2", vocab_size=ROWS)
    ours, _ = load_model(tmp_path)
    adapter = open_body(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    ids, valid = rows(9, 6)
    mask = Mask(key_valid=valid)
    hidden = ours.hidden(ids, mask=mask)
    torch.testing.assert_close(hidden[valid], adapter.hidden(ids, mask=mask)[valid], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.logits(hidden[:1]), theirs(ids[:1]).logits, rtol=1e-4, atol=1e-4)


def test_the_first_deberta_says_that_it_computes_in_fp32(
    folders: dict[str, tuple[Path, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    body = open_body(folders["deberta"][0], compute_dtype=torch.bfloat16)
    assert body.compute_dtype == torch.float32
    assert "deberta: its code in transformers fails in lower precision" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in BODIES if name != "deberta"])
def test_bf16_computes_in_bf16_and_learns_in_fp32(name: str, folders: dict[str, tuple[Path, Any]]) -> None:
    body = open_body(folders[name][0], compute_dtype=torch.bfloat16)
    body.add_head(HeadConfig(kind="sequence", n_labels=2, pooling="mean"), seed=0)
    ids, valid = rows(9, 5)
    scores = task_scores(body, ids, valid)
    scores.sum().backward()
    assert scores.dtype == torch.float32
    assert {parameter.dtype for parameter in body.parameters()} == {torch.float32}
    assert all(parameter.grad.dtype == torch.float32 for parameter in body.parameters() if parameter.grad is not None)
    with torch.no_grad():
        exact = open_body(folders[name][0]).hidden(ids, mask=Mask(key_valid=valid))
        rounded = body.hidden(ids, mask=Mask(key_valid=valid))
    assert not torch.equal(rounded, exact)
    difference = (rounded - exact)[valid].norm() / exact[valid].norm()
    assert difference < 0.03


def test_dropout_is_changed_everywhere(folders: dict[str, tuple[Path, Any]]) -> None:
    for name, (folder, _) in folders.items():
        body = open_body(folder, dropout=0.37)
        assert body.config.dropout == 0.37
        assert {m.p for m in body.modules() if isinstance(m, nn.Dropout)} <= {0.37}, name
        still = open_body(folder, dropout=0.0).train()
        ids, _ = rows(6)
        with torch.no_grad():
            torch.testing.assert_close(still.hidden(ids), open_body(folder).hidden(ids))


def test_several_documents_in_a_row_are_not_read(folders: dict[str, tuple[Path, Any]]) -> None:
    body = open_body(folders["distilbert"][0])
    ids, _ = rows(6)
    with pytest.raises(ValueError, match="one text a row"):
        body.hidden(ids, mask=Mask(documents=torch.zeros_like(ids)))
    with pytest.raises(ValueError, match="numbers its tokens itself"):
        body.hidden(ids, torch.arange(6)[None])


# ---- depth ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
def test_depth_by_where_a_gradient_goes(name: str, folders: dict[str, tuple[Path, Any]]) -> None:
    """Once what the last block puts out is detached, a gradient reaches what stands above the blocks, and nothing else."""
    body = open_body(folders[name][0])
    body.add_head(HEAD, seed=0)
    layers = body.config.n_layer
    depths = {parameter: body.depth_of(parameter) for parameter, _ in body.named_parameters()}
    assert set(depths.values()) == set(range(layers + 2))
    assert all(depths[parameter] == layers + 1 for parameter in depths if parameter.startswith("task_head."))
    embedding = body.body.get_input_embeddings()
    assert all(depths[p] == 0 for p, tensor in body.named_parameters() if tensor is embedding.weight)
    stack: Any = body.body.get_submodule(body._stacks[0])
    stack[layers - 1].register_forward_hook(lambda module, inputs, output: _detached(output))
    ids, _ = rows(7)
    body.hidden(ids).sum().backward()
    reached = {parameter for parameter, tensor in body.named_parameters() if tensor.grad is not None}
    assert all(depths[parameter] == layers + 1 for parameter in reached)


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(part) for part in output)
    return None if output is None else output.detach().requires_grad_()


def test_the_parts_of_deberta_that_every_block_reads_are_low(folders: dict[str, tuple[Path, Any]]) -> None:
    body = open_body(folders["deberta-v2"][0])
    assert body.depth_of("body.encoder.rel_embeddings.weight") == 0
    assert body.depth_of("body.encoder.LayerNorm.weight") == 0
    assert body.depth_of("body.encoder.conv.conv.weight") == 1
    assert body.depth_of("body.encoder.layer.2.attention.self.query_proj.lora_a") == 3


def test_the_shared_layers_of_albert_are_one_block(folders: dict[str, tuple[Path, Any]]) -> None:
    body = open_body(folders["albert"][0])
    inside = [name for name, _ in body.named_parameters() if "albert_layers" in name]
    assert inside and {body.depth_of(name) for name in inside} == {body.config.n_layer} == {1}
    assert body.depth_of("body.encoder.embedding_hidden_mapping_in.weight") == 0
    assert body.depth_of("body.pooler.weight") == 2


# ---- folders -------------------------------------------------------------------------------------------------------

TASK = TaskConfig(
    task="classify",
    labels=("bad", "fair", "good"),
    columns=Columns(text="text"),
    inputs="bert",
    tokens=TaskTokens(start=2, delimiter=(3,), extract=3),
    max_length=32,
)


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_a_fine_tuned_body_is_stored_and_opened_again(
    name: str, folders: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    model = open_body(folders[name][0])
    model.add_head(HEAD, seed=7)
    masters = {key: parameter + 0.01 for key, parameter in model.named_parameters()}  # no buffers, no tied names
    out = tmp_path / "out"
    tokenizer = small_tokenizer("wordpiece")
    sums = save_foreign(out, masters, model, tokenizer=tokenizer, lineage={"stage": "finetune"}, task=TASK)
    assert sums == {path.name: file_sum(path) for path in out.glob("*.safetensors")}
    assert set(sums) == {"model.safetensors", "task_head.safetensors"}
    assert not list(out.glob("*.bin")) and is_foreign(out)
    again, read = open_foreign(out)
    assert read.hash == tokenizer.hash and again.config == model.config
    card = read_lineage(out)
    assert card["lineage"] == {"stage": "finetune"} and TaskConfig(**card["task"]) == TASK
    model.load_state_dict(masters, strict=False)
    ids, valid = rows(9, 5)
    assert torch.equal(task_scores(again, ids, valid), task_scores(model, ids, valid))
    opener = transformers.AutoModelForTextEncoding if name == "t5" else transformers.AutoModel
    theirs = opener.from_pretrained(out).eval()
    torch.testing.assert_close(theirs(input_ids=ids[:1]).last_hidden_state, again.hidden(ids[:1]))


@torch.no_grad()
def test_bert_stored_through_the_adapter_is_opened_through_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "bert", "bert")
    model = open_body(tmp_path / "bert")
    save_foreign(tmp_path / "out", model.state_dict(), model, tokenizer=small_tokenizer("wordpiece"))
    assert is_foreign(tmp_path / "out") and not is_foreign(tmp_path / "bert")


def test_a_state_of_another_model_is_refused_and_nothing_is_left(
    folders: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = open_body(folders["distilbert"][0]), small_tokenizer("wordpiece")
    state = model.state_dict()
    del state["body.embeddings.word_embeddings.weight"]
    with pytest.raises(ValueError, match="word_embeddings"):
        save_foreign(tmp_path / "out", state, model, tokenizer=tokenizer)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        save_foreign(tmp_path / "out", model.state_dict(), model, tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_head_depends_on_its_seed_alone(folders: dict[str, tuple[Path, Any]]) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(heads))
        model = open_body(folders["electra"][0])
        model.add_head(HEAD, seed)
        heads.append(task_head_of(model))
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    weight = "task_head.score.weight"
    assert not torch.equal(heads[0][weight], heads[2][weight])
    assert heads[0][weight].std() < 0.03 and not heads[0]["task_head.score.bias"].any()


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_a_pooler_that_was_never_trained_is_left_out(tmp_path: Path) -> None:
    write_body(tmp_path, "RobertaForMaskedLM", LIKE_ROBERTA)
    body = open_body(tmp_path)
    assert not body.config.pooler and suggested_pooling(body) == ("first", True)
    ids, _ = rows(5)
    hidden = body.hidden(ids)
    assert torch.equal(body.summary(hidden), hidden[:, 0])
    assert not [name for name, _ in body.named_parameters() if "pooler" in name]


def test_an_encoder_decoder_gives_its_encoder(tmp_path: Path) -> None:
    theirs = write_body(tmp_path, "T5ForConditionalGeneration", SMALL_T5)
    body = open_body(tmp_path)
    assert not [name for name, _ in body.named_parameters() if "decoder" in name]
    ids, _ = rows(6, 6)
    with torch.no_grad():
        torch.testing.assert_close(body.hidden(ids), theirs.encoder(input_ids=ids).last_hidden_state)


def write_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")


def test_what_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_body(tmp_path, *BODIES["distilbert"])
    write_config(tmp_path, model_type="future")
    assert "no model of type 'future'" in refusal(tmp_path)
    write_config(tmp_path, model_type="bart", is_encoder_decoder=True)
    assert "no class for the encoder of 'bart'" in refusal(tmp_path)
    write_config(tmp_path, model_type="distilbert", is_encoder_decoder=False, n_layers=LAYERS + 1)
    assert "weights are missing: transformer.layer.3" in refusal(tmp_path)
    write_config(tmp_path, n_layers=LAYERS, hidden_dim=50)
    assert "cannot open it" in refusal(tmp_path)
    assert "is a preset" in refusal("gpt2-xl") and "no run, model folder" in refusal(tmp_path / "nowhere")
    monkeypatch.setattr(bodies, "find_spec", lambda name: None)
    assert 'pip install "gptloom[hub]"' in refusal(tmp_path)


def test_a_body_that_reads_no_text_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    write_body(tmp_path, "ViTModel", sizes | {"image_size": 32})
    assert "not a body for text: a vit model reads pixel_values" in refusal(tmp_path)


def test_pickled_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    write_body(tmp_path, *BODIES["distilbert"])
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    assert "cut short or damaged" in refusal(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    text = refusal(tmp_path)
    assert "pickled weights" in text and "save_pretrained(" in text


def test_a_head_that_is_missing_or_another_is_refused(folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    model = open_body(folders["distilbert"][0])
    model.add_head(HEAD, seed=0)
    save_foreign(tmp_path / "out", model.state_dict(), model, tokenizer=small_tokenizer("wordpiece"))
    card = read_json(tmp_path / "out" / "gptloom.json")
    card["model"]["task_head"]["n_labels"] = 5
    (tmp_path / "out" / "gptloom.json").write_text(json.dumps(card), encoding="utf-8")
    assert "task_head.score.bias, task_head.score.weight" in refusal(tmp_path / "out")
    (tmp_path / "out" / "task_head.safetensors").unlink()
    assert "task_head.safetensors is missing" in refusal(tmp_path / "out")


# ---- tokenizers ----------------------------------------------------------------------------------------------------

TRAINING = ["the old king and his young queen went down to the river. Ünïcode, été! 1984"] * 20
TEXTS = (
    "the old king",
    " the old  king\n",
    "The King went DOWN",
    "été, ünïcode!",
    "unknown: \u4e2d\u6587 \U0001f600",
    "",
    "a",
    "river...river",
    "it's 1984; isn't it?",
    "tab\tand ``quotes'' and ''more''",
    "queen's",
    "ﬁne ½",
)
ENDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BRACKETS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]


def byte_level(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges."""
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = split
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=split.alphabet(), special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(TRAINING, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def unigram(special: list[str], unknown: str) -> list[tuple[str, float]]:
    """Tokens and their log-probabilities."""
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token=unknown, show_progress=False
    )
    backend.train_from_iterator(TRAINING, trainer)
    return [tuple(entry) for entry in json.loads(backend.to_str())["model"]["vocab"]]


def their_tokenizer(name: str) -> Any:
    if name == "roberta":
        return transformers.RobertaTokenizer(*byte_level(ENDS))
    if name == "deberta":
        return transformers.DebertaTokenizer(*byte_level(BRACKETS))
    if name == "albert":
        return transformers.AlbertTokenizer(unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"))
    if name == "camembert":
        return transformers.CamembertTokenizer(vocab=unigram(ENDS, "<unk>"), additional_special_tokens=[])
    if name == "t5":
        return transformers.T5Tokenizer(unigram(["<pad>", "</s>", "<unk>"], "<unk>"), extra_ids=3)
    vocab = unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    return transformers.DebertaV2Tokenizer(vocab, unk_id=3)


@pytest.mark.parametrize("bare", [False, True], ids=["saved", "tokenizer.json alone"])
@pytest.mark.parametrize("name", ["roberta", "deberta", "albert", "camembert", "t5", "deberta-v2"])
def test_ids_and_roles_are_those_of_transformers(name: str, bare: bool, tmp_path: Path) -> None:
    theirs = their_tokenizer(name)
    theirs.save_pretrained(tmp_path)
    if bare:  # as the hub has RoBERTa, ALBERT and T5
        (tmp_path / "tokenizer_config.json").unlink()
    else:
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    expected = (theirs.pad_token_id, theirs.eos_token_id, theirs.convert_tokens_to_ids(theirs.unk_token))
    assert (ours.pad_id, ours.eot_id) == expected[:2]
    assert ours.unk_id == (None if name in ("roberta", "deberta") else expected[2])  # every byte is known
    if name == "t5":
        assert (ours.cls_id, ours.sep_id, ours.mask_id) == (None, None, None)
    else:
        assert (ours.cls_id, ours.sep_id, ours.mask_id) == (
            theirs.cls_token_id,
            theirs.sep_token_id,
            theirs.mask_token_id,
        )
    frame = framing(ours)
    assert frame is not None
    start = [] if frame.start is None else [frame.start]
    one, two = ours.encode("the king"), ours.encode("his queen")
    assert theirs("the king")["input_ids"] == [*start, *one, frame.extract]
    assert theirs("the king", "his queen")["input_ids"] == [*start, *one, *frame.delimiter, *two, frame.extract]
    assert (len(frame.delimiter) == 2) == (name in ("roberta", "camembert", "deberta"))


def test_a_tokenizer_s_framing_by_its_kind() -> None:
    wordpiece = small_tokenizer("wordpiece")
    tokens = framing(wordpiece)
    assert tokens == TaskTokens(start=wordpiece.cls_id, delimiter=(wordpiece.sep_id,), extract=wordpiece.sep_id)
    assert framing(small_tokenizer("bpe")) is None


def test_a_body_and_its_tokenizer_open_together(tmp_path: Path) -> None:
    write_body(tmp_path, *BODIES["roberta"])
    their_tokenizer("roberta").save_pretrained(tmp_path)
    model, tokenizer = open_foreign(f"hf:{tmp_path}")
    assert isinstance(model, ForeignModel) and tokenizer.cls_id == 0
    write_body(tmp_path, "RobertaModel", LIKE_ROBERTA | {"vocab_size": 300})
    assert f"the tokenizer has {tokenizer.vocab_size} ids and the body only 300" in refusal(tmp_path)


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    write_body(tmp_path, *BODIES["roberta"])
    text = refusal(tmp_path)
    assert "there is no tokenizer.json" in text and "from_pretrained('ORG/NAME')" in text
    (tmp_path / "spiece.model").write_bytes(b"...")
    text = refusal(tmp_path)
    assert "spiece.model alone" in text and f"AutoTokenizer.from_pretrained('{tmp_path}').save_pretrained" in text
