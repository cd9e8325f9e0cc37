"""The layout of the ``Bert...`` classes: one encoder, and whichever of its three heads a folder holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import ACTIVATIONS, attention_dropout, layer, spelling
from gptloom.model.layouts.task_heads import TaskClass

# Field of ModelConfig -> how the tensors of that head begin: in a folder, in a bare one, in a checkpoint under our names.
HEADS = {
    "masked_head": ("cls.predictions.", "masked_head."),
    "pooler": ("bert.pooler.", "pooler."),
    "pair_head": ("cls.seq_relationship.", "pair_head."),
}
ARCHITECTURES = {  # and the heads that each has
    "BertForPreTraining": ("masked_head", "pooler", "pair_head"),
    "BertForMaskedLM": ("masked_head",),
    "BertForNextSentencePrediction": ("pooler", "pair_head"),
    "BertModel": ("pooler",),
}
TASK_CLASSES = (
    TaskClass("BertForSequenceClassification", "sequence", "classifier", pooling="first"),
    TaskClass("BertForMultipleChoice", "choice", "classifier", pooling="first"),
    TaskClass("BertForTokenClassification", "tokens", "classifier"),
    TaskClass("BertForQuestionAnswering", "span", "qa_outputs"),
)
BIAS, BIAS_COPY = "cls.predictions.bias", "cls.predictions.decoder.bias"


class BertLayout(Layout):
    """BERT as ``transformers`` has it, with absolute positions and as an encoder."""

    family = "bert"
    model_type = "bert"
    architecture = "BertForPreTraining"
    task_classes = TASK_CLASSES
    prefix = "bert."
    embedding = "bert.embeddings.word_embeddings.weight"
    head = "cls.predictions.decoder.weight"
    bare = ("cls.",)
    has_optional_heads = True
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "layernorm",
        "norm_place": "post",
        "embedding_norm": True,
        "positions": "learned",
        "mask": "bidirectional",
        "qk_norm": "none",
        "bias": True,
    }

    def architecture_of(self, config: ModelConfig) -> str:
        # A pooler that no pair head reads is left over to BertForMaskedLM, which opens the rest.
        if config.masked_head:
            return "BertForPreTraining" if config.pair_head else "BertForMaskedLM"
        return "BertForNextSentencePrediction" if config.pair_head else "BertModel"

    def heads_of(self, names: Collection[str]) -> dict[str, Any]:
        return {field: any(name.startswith(starts) for name in names) for field, starts in HEADS.items()}

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "type_vocab_size": config.segments,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "hidden_act": spelling(config.activation, ACTIVATIONS),
            "layer_norm_eps": config.norm_eps,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": attention_dropout(config),
            "position_embedding_type": "absolute",
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        for name in ("is_decoder", "add_cross_attention"):
            fields.must_be(name, False)
        fields.must_be("position_embedding_type", "absolute")
        if fields.get("type_vocab_size", 2) == 0:
            fields.problems.append(Problem("type_vocab_size is 0; BERT adds a segment to every token", fields.where))
        heads = self._heads(fields)
        return {
            "vocab_size": fields.get("vocab_size", 30522),
            "context": fields.get("max_position_embeddings", 512),
            "segments": fields.get("type_vocab_size", 2),
            "d_model": fields.get("hidden_size", 768),
            "d_ff": fields.get("intermediate_size", 3072),
            "n_layer": fields.get("num_hidden_layers", 12),
            "n_head": fields.get("num_attention_heads", 12),
            "activation": fields.choice("hidden_act", ACTIVATIONS, "gelu"),
            "norm_eps": fields.get("layer_norm_eps", 1e-12),
            **fields.dropouts("hidden_dropout_prob", "attention_probs_dropout_prob", 0.1),
            **heads,
            # Without the masked head there is no output matrix, tied or not.
            "tied_head": fields.get("tie_word_embeddings", True) or not heads["masked_head"],
            "init": "bert",
        }

    def _heads(self, fields: Fields) -> dict[str, Any]:
        """By the stored tensors; where they are not known, by the class that wrote the folder."""
        if fields.stored is not None:
            return self.heads_of(fields.stored)
        names = fields.get("architectures", [])
        held = ARCHITECTURES.get(names[0] if names else "BertModel", ARCHITECTURES["BertModel"])
        return {name: name in held for name in HEADS}

    def spelled(self, name: str) -> str:
        if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):  # converted from TensorFlow
            name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        return super().spelled(name)

    def canonical(self, stored: Iterable[str]) -> dict[str, str]:
        names = super().canonical(stored)
        # With a tied head the output's bias is stored as the first, with a head of its own as either or both.
        for name, other in ((BIAS, BIAS_COPY), (BIAS_COPY, BIAS)):
            if other in names:
                names.setdefault(name, names[other])
        return names

    def is_buffer(self, name: str) -> bool:
        return name.endswith(("position_ids", "token_type_ids"))  # 0, 1, 2, ... and zeros, in old files

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("bert.embeddings.position_embeddings.weight", ("position_embedding.weight",))
        yield Rule("bert.embeddings.token_type_embeddings.weight", ("segment_embedding.weight",))
        yield from layer("bert.embeddings.LayerNorm", "embedding_norm")
        if config.pooler:
            yield from layer("bert.pooler.dense", "pooler")
        if config.pair_head:
            yield from layer("cls.seq_relationship", "pair_head")
        if config.masked_head:
            yield from layer("cls.predictions.transform.dense", "masked_head.dense")
            yield from layer("cls.predictions.transform.LayerNorm", "masked_head.norm")
            yield Rule(BIAS, ("masked_head.bias",))
            if not config.tied_head:  # the one that is added; the other is stored and idle
                yield Rule(BIAS_COPY, ("masked_head.bias",))

    def copies(self, config: ModelConfig) -> dict[str, str]:
        return {**super().copies(config), BIAS_COPY: BIAS} if config.masked_head and config.tied_head else {}

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        names = {
            "attention.self.query": "attention.q",
            "attention.self.key": "attention.k",
            "attention.self.value": "attention.v",
            "attention.output.dense": "attention.out",
            "attention.output.LayerNorm": "attention_norm",
            "intermediate.dense": "mlp.up",
            "output.dense": "mlp.down",
            "output.LayerNorm": "mlp_norm",
        }
        for theirs, ours in names.items():
            yield from layer(f"bert.encoder.layer.{index}.{theirs}", f"blocks.{index}.{ours}")
