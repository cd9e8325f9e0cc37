"""What a base lacks that cannot be fine-tuned as it is: trained weights, or their tokenizer."""

from __future__ import annotations

from gptloom.config.errors import Problem, UserError
from gptloom.interop.bodies import WRITE_TOKENIZER
from gptloom.interop.hub import HUB_NAMES_OF_PRESETS, PREFIX
from gptloom.model.reference import Reference
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE

TOKENIZER_FILES = ("tokenizer*", "*vocab*", "*merges.txt", "encoder*.json", "*.model")
PUBLISHED = {  # presets whose weights the hub has, under this name
    **{name: name for name in HUB_NAMES_OF_PRESETS},
    "gpt1": "openai-community/openai-gpt",
    "bert-base": "google-bert/bert-base-uncased",
    "bert-large": "google-bert/bert-large-uncased",
}


def weights_for(preset: str, *, untrained: bool = True) -> str:
    """Where weights of the shape of ``preset`` come from; ``untrained``: whether the command takes random ones."""
    own = f"gptloom pretrain --model {preset} --data FILE --out runs/{preset} for your own"
    own += "; --untrained: random ones" if untrained else ""
    if preset not in PUBLISHED:
        return own
    return f"{PREFIX}{PUBLISHED[preset]} for the trained weights of the hub; {own}"


def check_tokenizer(reference: Reference) -> None:
    """``UserError`` where trained weights came without any tokenizer: no other than their own fits them.

    What is wrong with one that is there, opening it says.
    """
    folder = reference.path
    assert folder is not None
    folders = [folder] if reference.run is None else [folder, reference.run]
    if any(any(own.glob(pattern)) for own in folders for pattern in TOKENIZER_FILES):
        return
    what = f"the tokenizer is missing: there is no {TOKENIZER_FILE}, and no other fits these weights"
    write = WRITE_TOKENIZER.format("ORG/NAME", folder)
    raise UserError(
        Problem(what, str(folder), f"copy it from where the model comes from; of a model of the hub: {write}")
    )
