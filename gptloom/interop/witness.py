"""The witnesses of a receipt: a model folder as gptloom computes it, and as ``transformers`` does, always in float32."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from torch import Tensor

import gptloom
from gptloom.config.errors import Problem, VerificationError
from gptloom.interop.receipt import TEXTS, Prompt, Witness
from gptloom.model.folder import CONFIG_FILE, read_json
from gptloom.model.layouts import task_class_named
from gptloom.model.store import load_model
from gptloom.model.task_head import head_scores
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

THEIR_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
Encode = Callable[[str], list[int]]

OUTPUTS = {  # what the classes of transformers call what a receipt compares
    "logits": "logits",
    "prediction_logits": "logits",
    "seq_relationship_logits": "pair_logits",
    "last_hidden_state": "hidden",
    "pooler_output": "pooled",
}


class OurModel:
    """A model folder by gptloom's own reading and code."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer | None = None,
        rounded: torch.dtype | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """``rounded``: take the weights through this dtype first, as a conversion to it does. ``vocab_size``: answer for
        the first so many ids, where the other witness has no more."""
        self._folder, self._tokenizer, self._rounded, self._vocab_size = folder, tokenizer, rounded, vocab_size
        self.name = f"gptloom {gptloom.__version__}"

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        model, _ = load_model(self._folder, dtype=self._rounded)
        model.float()
        outputs = [our_outputs(model, torch.tensor([prompt.ids])) for prompt in prompts]
        for output in outputs:
            if "logits" in output:
                output["logits"] = output["logits"][:, : self._vocab_size]
        return outputs

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        return None if self._tokenizer is None else self._tokenizer.encode_batch(list(texts))


class TheirModel:
    """A model folder by the class of ``transformers`` that its config.json names, with eager attention.

    ``why_not`` says beforehand whether there is such a class here.
    """

    def __init__(
        self, folder: Path, rounded: torch.dtype | None = None, encode: Encode | Literal["auto"] | None = "auto"
    ) -> None:
        """``rounded``: take the weights through this dtype first, as a conversion to it does. ``encode`` gives the ids of
        a text: by default the tokenizer that ``transformers`` finds in the folder; None: there is none."""
        self._folder, self._rounded, self._encode = folder, rounded, encode
        self.name = f"transformers {version('transformers')}, eager attention"

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
        with quiet():
            try:
                model = self._open()
                outputs = [_their_outputs(model, torch.tensor([prompt.ids])) for prompt in prompts]
            except Exception as error:  # of whatever kind: another library's code on what may be a stranger's files
                what = f"transformers {version('transformers')} cannot compute with it: {type(error).__name__}: {error}"
                raise VerificationError(
                    Problem(what, str(self._folder), "--no-verify; the receipt will say so")
                ) from error
        del model
        gc.collect()  # its modules know each other: without this the next witness would find it still in memory
        return outputs

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        encode = their_encode(self._folder) if self._encode == "auto" else self._encode
        return None if encode is None else [encode(text) for text in texts]

    def _open(self) -> Any:
        """The model by the named class; by its body, where only that is stored: a head of fresh numbers is no witness."""
        import transformers

        named = read_json(self._folder / CONFIG_FILE).get("architectures") or ["AutoModelForCausalLM"]
        missing: list[str] = []
        first: Any = getattr(transformers, named[0], None)
        if not hasattr(first, "from_pretrained"):  # unknown here, or no class of models: "pipeline" is a function
            first = transformers.AutoModelForCausalLM
        for kind in (first, transformers.AutoModel):
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
        raise ValueError(f"it finds no {', '.join(missing[:5])}")


def reference_of(
    folder: Path, tokenizer: Tokenizer | None = None, rounded: torch.dtype | None = None
) -> tuple[Witness, list[str]]:
    """The best witness that there is of a model folder, and what a receipt should say of the choice.

    ``transformers`` where it is installed and has the architecture, else our own reading. ``tokenizer``: how gptloom
    reads that of the folder; None where there is nothing to compare. ``rounded``: as the witnesses have it.
    """
    reason = TheirModel.why_not(folder)
    if reason is not None:
        return OurModel(folder, tokenizer, rounded), [f"{reason}: compared with gptloom's own reading of the source"]
    if tokenizer is None:
        return TheirModel(folder, rounded, None), []
    try:
        # Where it knows none of the files, it makes a tokenizer without a vocabulary and says nothing.
        if not any((folder / name).is_file() for name in THEIR_VOCABULARIES):
            raise FileNotFoundError(f"no {', '.join(THEIR_VOCABULARIES)}")
        encode, notes = their_encode_or_the_files(folder)
        return TheirModel(folder, rounded, encode), notes
    except Exception as error:  # of whatever kind: a tokenizer that transformers cannot read
        first_line = (str(error).splitlines() or [""])[0]
        reason = f"transformers cannot open the tokenizer ({type(error).__name__}: {first_line})"
        note = f"{reason}: token ids compared with gptloom's own reading of the source"
        return TheirModel(folder, rounded, tokenizer.encode), [note]


def their_encode(folder: Path) -> Encode:
    """Text -> ids, nothing added, by the tokenizer that ``transformers`` finds in a folder; its errors where it finds none."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return encode


def their_encode_or_the_files(folder: Path) -> tuple[Encode, list[str]]:
    """``their_encode``; where it does not do what tokenizer.json says, that file's own ids, and a note of it.

    ``transformers`` 5 builds some tokenizers by the model's type, with a normalizer and a split of the class: only tokens
    and merges are then the file's (a Qwen2 whose file has no NFC normalizer still gets one).
    """
    theirs, file = their_encode(folder), folder / TOKENIZER_FILE
    if not file.is_file():
        return theirs, []
    plain = tokenizers.Tokenizer.from_file(str(file))
    plain.no_truncation()
    plain.no_padding()

    def encode(text: str) -> list[int]:
        ids: list[int] = plain.encode(text, add_special_tokens=False).ids
        return ids

    other = next((text for text in TEXTS if theirs(text) != encode(text)), None)
    if other is None:
        return theirs, []
    what = f"transformers {version('transformers')} overrides {TOKENIZER_FILE} by the model's type: it gives other ids"
    return encode, [f"{what}, as of {other!r}; those compared here are what the file says"]


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
    if model.task_head is not None and model.task_head.config.orders == 1:
        outputs["scores"] = head_scores(model, hidden, None)[0]
    return outputs


def _their_outputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """By the names of a receipt, for ids [1, T]; the ``logits`` of a class for sentence pairs alone are [1, 2]."""
    head = task_class_named(type(model).__name__)
    if head is not None:
        model.config.pad_token_id = None  # nothing is padded: a text is scored by its last token, whatever that is
        result = model(input_ids=ids[:, None] if head.kind == "choice" else ids)
        if head.kind == "span":
            return {"scores": torch.stack([result.start_logits[0], result.end_logits[0]], dim=-1).float()}
        return {"scores": result.logits[0].float()}
    result, outputs = model(input_ids=ids), {}
    for theirs, ours in OUTPUTS.items():
        value = getattr(result, theirs, None)
        if value is not None:
            outputs["pair_logits" if value.dim() == 2 and ours == "logits" else ours] = value[0].float()
    return outputs


@contextmanager
def quiet() -> Iterator[None]:
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
