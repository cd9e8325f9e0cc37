"""What a ``tokenizer.json`` itself says about the tokens around a text: ``[CLS]`` and ``[SEP]``, ``<s>`` and ``</s>``.

Folders of RoBERTa, ALBERT, T5 and their relatives often name no special tokens beside the vocabulary. The post-processor
of the file, which puts them around texts, knows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptloom.config.task import TaskTokens

if TYPE_CHECKING:
    from gptloom.tokenizer.tokenizer import Tokenizer

USUAL = {"pad_token": ("<pad>", "[PAD]"), "mask_token": ("<mask>", "[MASK]")}
Token = tuple[str, int]  # spelling and id


@dataclass(frozen=True)
class Frame:
    """The tokens that a post-processor adds to a pair of texts: before it, between the two, after it."""

    start: tuple[Token, ...]
    delimiter: tuple[Token, ...]
    end: tuple[Token, ...]


def frame_of(settings: Mapping[str, Any]) -> Frame | None:
    """How a parsed ``tokenizer.json`` frames a pair; None where it puts nothing after a text, as decoders' files do."""
    for processor in _processors(settings.get("post_processor")):
        if processor["type"] in ("BertProcessing", "RobertaProcessing"):
            start, end = [(token[0], token[1]) for token in (processor["cls"], processor["sep"])]
            return Frame((start,), (end,) * (2 if processor["type"] == "RobertaProcessing" else 1), (end,))
        if processor["type"] == "TemplateProcessing":
            return _of_template(processor)
    return None


def _processors(processor: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if processor is not None:
        yield processor
        for part in processor.get("processors", ()):
            yield from _processors(part)


def _of_template(template: Mapping[str, Any]) -> Frame | None:
    parts: list[list[Token]] = [[]]
    for piece in template["pair"]:
        if "Sequence" in piece:
            parts.append([])
            continue
        added = template["special_tokens"][piece["SpecialToken"]["id"]]
        parts[-1] += zip(added["tokens"], added["ids"], strict=True)
    if len(parts) != 3 or not parts[1] or not parts[2]:
        return None
    return Frame(*(tuple(part) for part in parts))


def with_roles(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """``config``, a ``tokenizer_config.json``, with the roles that it leaves out, as far as ``settings`` frames texts.

    The token after a text is ``eos_token``, and ``sep_token`` where one comes before, which is ``cls_token``; padding and
    mask are those special tokens that are usually spelled so.
    """
    frame = frame_of(settings)
    if frame is None:
        return dict(config)
    last = frame.end[-1][0]
    roles = {"eos_token": last}
    if frame.start:
        roles |= {"cls_token": frame.start[0][0], "sep_token": last}
    special = {token["content"] for token in settings.get("added_tokens", ()) if token.get("special")}
    for role, usual in USUAL.items():
        if found := [token for token in usual if token in special]:
            roles[role] = found[0]
    return {**config, **{role: token for role, token in roles.items() if not config.get(role)}}


def framing(tokenizer: Tokenizer) -> TaskTokens | None:
    """The ids with which this tokenizer's own model was taught to read texts; None for a decoder's.

    BERT: ``[CLS]``, ``[SEP]``, ``[SEP]``. RoBERTa: ``<s>``, ``</s></s>``, ``</s>``. T5: nothing, ``</s>``, ``</s>``.
    """
    frame = frame_of(tokenizer.settings)
    if frame is None:
        return None
    start = frame.start[0][1] if frame.start else None
    return TaskTokens(start=start, delimiter=tuple(i for _, i in frame.delimiter), extract=frame.end[-1][1])
