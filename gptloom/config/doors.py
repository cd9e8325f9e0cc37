"""The options of the doors: what import and export share, and those of ``gptloom import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gptloom.config.options import POSITIONAL, JsonOption, Metavar, OutOption, OverwriteOption, QuietOption

MODELS = Path("models")
"""Where ``gptloom import`` puts models, by habit."""
StoredDtype = Literal["f32", "bf16", "f16"]


class DoorOptions(OutOption, OverwriteOption, JsonOption, QuietOption):
    """A model goes through, and a receipt says what became of it."""

    verify: bool = Field(
        True, description="open the result again, compare its logits with the source's, and write a receipt"
    )


class ImportOptions(DoorOptions):
    """``gptloom import PATH_OR_NAME --out models/x``."""

    source: Annotated[str, POSITIONAL, Metavar("PATH_OR_NAME")] = Field(
        description="folder of a transformers model, or its name on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION"
    )
    out: Annotated[str | None, Metavar("FOLDER")] = Field(None, description="where to write (default: models/NAME)")
    dtype: StoredDtype | None = Field(None, description="numbers to store the weights in (default: as they are)")
    tokenizer: Annotated[str | None, Metavar("NAME|FOLDER")] = Field(
        None, description="tokenizer to take instead of the folder's own"
    )
    resize_vocab: bool = Field(
        False, description="give a tokenizer that is larger than the embedding rows of its own: the mean of the others"
    )
