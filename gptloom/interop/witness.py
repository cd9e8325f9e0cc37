"""The witnesses of a receipt: a model folder as gptloom computes it, and as ``transformers`` does, always in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gptloom
from gptloom.interop.receipt import Prompt
from gptloom.model.folder import CONFIG_FILE, read_json
from gptloom.model.store import load_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer

OUTPUTS = {  # what the classes of transformers call what a receipt compares
    "logits": "logits",
    "prediction_logits": "logits",
    "seq_relationship_logits": "pair_logits",
    "last_hidden_state": "hidden",
    "pooler_output": "pooled",
}


class OurModel:
    """A model folder by gptloom's own reading and code."""

    def __init__(self, folder: Path, tokenizer: Tokenizer | None = None, rounded: torch.dtype | None = None) -> None:
        """``rounded``: take the weights through this dtype first, as a conversion to it does."""
        self._folder, self._tokenizer, self._rounded = folder, tokenizer, rounded
        self.name = f"gptloom {gptloom.__version__}'s own reading of {folder.name}"

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        model, _ = load_model(self._folder, dtype=self._rounded)
        model.float()
        return [our_outputs(model, torch.tensor([prompt.ids])) for prompt in prompts]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        return None if self._tokenizer is None else self._tokenizer.encode_batch(list(texts))


class TheirModel:
    """A model folder by the class of ``transformers`` that its config.json names, with eager attention.

    ``why_not`` says beforehand whether there is such a class here.
    """

    def __init__(self, folder: Path, rounded: torch.dtype | None = None) -> None:
        """``rounded``: take the weights through this dtype first, as a conversion to it does."""
        self._folder, self._rounded = folder, rounded
        self.name = f"transformers {version('transformers')} on {folder.name}, eager attention"

    @staticmethod
    def why_not(folder: Path) -> str | None:
        """Why ``transformers`` cannot be the witness of ``folder``; None when it can."""
        if find_spec("transformers") is None:
            return "transformers is not installed"
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        kind = read_json(folder / CONFIG_FILE).get("model_type")
        return None if kind in CONFIG_MAPPING_NAMES else f"transformers {version('transformers')} has no {kind!r}"

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        with _quiet():
            model = self._open()
        return [_their_outputs(model(input_ids=torch.tensor([prompt.ids]))) for prompt in prompts]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        from transformers import AutoTokenizer

        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    def _open(self) -> Any:
        """The model by the named class; by its body, where only that is stored: a head of fresh numbers is no witness."""
        import transformers

        named = read_json(self._folder / CONFIG_FILE).get("architectures") or ["AutoModelForCausalLM"]
        missing: list[str] = []
        for kind in (getattr(transformers, named[0], transformers.AutoModelForCausalLM), transformers.AutoModel):
            model, report = kind.from_pretrained(
                self._folder,
                dtype=self._rounded or torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
            missing = sorted(report["missing_keys"])
            if not missing:
                return model.float().eval()
            del model
        raise ValueError(f"transformers finds no {', '.join(missing[:5])} in {self._folder}")


def our_outputs(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    """What a witness answers with a model of ours for ids [1, T]."""
    hidden = model.hidden(ids)
    outputs = {"hidden": hidden[0]}
    if model.config.mask == "causal" or model.config.masked_head:
        outputs["logits"] = model.logits(hidden)[0]
    if model.config.pooler:
        outputs["pooled"] = model.pooled(hidden)[0]
    if model.config.pair_head:
        outputs["pair_logits"] = model.pair_logits(hidden)[0]
    return outputs


def _their_outputs(result: Any) -> dict[str, Tensor]:
    """By the names of a receipt; the ``logits`` of a class for sentence pairs alone are [1, 2], one for each text."""
    outputs = {}
    for theirs, ours in OUTPUTS.items():
        value = getattr(result, theirs, None)
        if value is not None:
            outputs["pair_logits" if value.dim() == 2 and ours == "logits" else ours] = value[0].float()
    return outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """``transformers`` without progress bars and warnings; its settings are put back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
