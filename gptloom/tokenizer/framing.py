"""A tokenizer whose ``tokenizer.json`` says how a fine-tuned model's texts are framed, for other programs to do alike."""

from __future__ import annotations

from typing import Any

from gptloom.config.task import TaskTokens
from gptloom.tokenizer.tokenizer import Tokenizer

INPUTS = "model_input_names"  # of a tokenizer_config.json: what a tokenizer gives beside the ids
BEFORE = "gptloom_unframed"  # our entry there: what stood in the place of the framing


def framed(tokenizer: Tokenizer, tokens: TaskTokens, *, segments: bool) -> Tokenizer:
    """The same tokenizer, of which ``AutoTokenizer`` in ``transformers`` gives the ids of a task's row.

    A text becomes ``start A extract``, a pair ``start A delimiter B extract``. What ``Tokenizer.encode`` gives is as
    before: nothing is added there.

    Args:
        tokenizer: any; a framing that it has already is replaced.
        tokens: ids of the vocabulary.
        segments: whether the model is told which of two texts a token is of (BERT): 0 up to the delimiter, then 1.
    """
    second = 1 if segments else 0
    start = [] if tokens.start is None else [_token(tokenizer, tokens.start, 0)]
    delimiter = [_token(tokenizer, token_id, 0) for token_id in tokens.delimiter]
    first, last = _text("A", 0), _text("B", second)
    ids = {tokens.extract, *tokens.delimiter, *([] if tokens.start is None else [tokens.start])}
    spelled = {tokenizer.spelling_of(token_id): token_id for token_id in sorted(ids)}
    template = {
        "type": "TemplateProcessing",
        "single": [*start, first, _token(tokenizer, tokens.extract, 0)],
        "pair": [*start, first, *delimiter, last, _token(tokenizer, tokens.extract, second)],
        "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]} for text, i in spelled.items()},
    }
    inputs = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    before = {"post_processor": tokenizer.settings.get("post_processor"), INPUTS: tokenizer.config.get(INPUTS)}
    kept = tokenizer.config.get(BEFORE, before)
    return tokenizer.changed({"post_processor": template}, {INPUTS: inputs, BEFORE: kept})


def unframed(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as it was before ``framed``: of a model that goes on to be trained for something else."""
    before = tokenizer.config.get(BEFORE)
    if before is None:
        return tokenizer
    entries = {INPUTS: before[INPUTS], BEFORE: None}
    return tokenizer.changed({"post_processor": before["post_processor"]}, entries)


def _token(tokenizer: Tokenizer, token_id: int, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": tokenizer.spelling_of(token_id), "type_id": segment}}


def _text(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}
