"""The options of masked pretraining: what is hidden, and how sentences come in pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gptloom.config.options import Options

MASKED_ONLY = ("pairs", "masking", "mask_rate", "whole_word")


class MaskedOptions(Options):
    """What a pretraining learns: the next word (GPT), or hidden words (BERT)."""

    objective: Literal["next", "masked"] | None = Field(
        None, description="next word, or masked words (default: by the model, next for a new one)"
    )
    pairs: Literal["nsp", "order", "none"] | None = Field(
        None,
        description="masked: next sentence (BERT), order of two (ALBERT), or text as it comes (RoBERTa)"
        " (default: nsp, order in a text of one document)",
    )
    masking: Literal["dynamic", "static"] = Field(
        "dynamic", description="masked: drawn anew in each pass, or ten fixed choices for each text as in the paper"
    )
    mask_rate: float = Field(0.15, gt=0, lt=1, description="masked: share of the tokens to be guessed")
    whole_word: bool = Field(False, description="masked: all pieces of a word are hidden together")
