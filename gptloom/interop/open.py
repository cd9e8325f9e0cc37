"""Opens any model reference, as a ``LanguageModel`` or as it is; callers can't tell where it came from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.generate import GenerationPrecision
from gptloom.config.model import ModelConfig, preset, preset_tokenizer
from gptloom.data.render import Renderer
from gptloom.data.templates import own_format
from gptloom.generation.chat import ChatModel, Messages
from gptloom.generation.language_model import Completion, LanguageModel
from gptloom.generation.weights import Precision
from gptloom.interop.companions import stop_ids
from gptloom.interop.hub import resolve_model, tokenizer_folder
from gptloom.model.counting import count_parameters
from gptloom.model.dtypes import DTYPES
from gptloom.model.reference import Reference
from gptloom.model.store import check_vocabulary, load_model, read_chat, read_config, read_lineage
from gptloom.model.transformer import Transformer
from gptloom.observe.machine import has_fast_bf16
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.precision import choose_device

BF16_PARAMETERS = 30_000_000  # below, a model is fast enough in fp32


class OpenedModel(LanguageModel):
    """A ``LanguageModel`` from disk. Where it was taught to hold conversations, ``chat`` answers; ``generate`` and all
    else continue a text exactly as it is given, as of any model."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        reference: str,
        folder: Path | None,
        *,
        precision: Precision | None,
        compile: bool | None,
        slots: int,
    ) -> None:
        """``folder``: of the model; None for an untrained preset."""
        ends = () if folder is None else stop_ids(folder)
        super().__init__(model, tokenizer, precision=precision, compile=compile, slots=slots, stop_ids=ends)
        self.reference = reference
        self._stored_format = None if folder is None else read_chat(folder)
        # A pretraining may borrow a chat model's tokenizer, and never used the template in it.
        stage = None if folder is None else read_lineage(folder).get("lineage", {}).get("stage")
        self._pretrained = folder is None or stage == "pretrain"

    @cached_property
    def chat_format(self) -> ChatFormat | None:
        """How conversations are rendered for it: as it was tuned here, or by the template of its own tokenizer.

        None for a base model. ``UserError`` when its tokenizer's template cannot be used.
        """
        if self._stored_format is not None or self._pretrained:
            return self._stored_format
        return own_format(self.tokenizer)

    @cached_property
    def chat_model(self) -> ChatModel:
        """The model as one that answers, also in streams. ``UserError`` for a base model."""
        if self.chat_format is None:
            what = "this is a base model: it continues texts, and was never taught to answer"
            teach = f"gptloom sft {self.reference} --data FILE --out runs/sft"
            mend = f'{teach}; or let it continue: gptloom generate {self.reference} --prompt "Once upon a time"'
            raise UserError(Problem(what, self.reference, mend))
        return ChatModel(self, Renderer(self.tokenizer, self.chat_format))

    def chat(self, messages: Messages, **options: Any) -> Completion:
        """The answer to the last of ``messages``; see ``ChatModel.reply``. ``UserError`` for a base model."""
        return self.chat_model.reply(messages, **options)


def load(
    reference: str | Path | Reference,
    *,
    device: str = "auto",
    precision: str = "auto",
    untrained: bool = False,
    compile: bool | None = None,
    slots: int = 16,
) -> OpenedModel:
    """Opens a model for generating and scoring, and where it was taught to answer for chatting.

    Args:
        reference: a run folder, ``runs/x@500`` (or ``@best``, ``@last``), a model folder, ``hf:`` and a folder or a
            name of the Hugging Face hub, or, with ``untrained``, a preset; or what ``resolve_model`` found.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16``, ``int8``, or ``auto``: bf16 for 30M parameters and more where it is fast.
        untrained: take a preset as it is, with random weights (seed 0); ``modern`` and ``fast`` then read bytes.
        compile: compile the step for a single row, always or never; by default where it pays.
        slots: how many completions are written side by side.

    Raises:
        UserError: nothing is called that, a preset without ``untrained``, ``untrained`` with trained weights, a model
            folder that cannot be read, a tokenizer that does not fit it, or a model that fills masks (BERT).
    """
    resolved = _resolve(reference, precision, untrained)
    model, tokenizer = _open(resolved, device, precision)
    return OpenedModel(
        model,
        tokenizer,
        resolved.name,
        resolved.path,
        precision="int8" if precision == "int8" else None,
        compile=compile,
        slots=slots,
    )


def open_model(
    reference: str | Path | Reference, *, device: str = "auto", precision: str = "auto", untrained: bool = False
) -> tuple[Transformer, Tokenizer]:
    """The model itself, causal or not, in evaluation mode, and its tokenizer; as ``load``, which says the rest.

    Raises:
        UserError: as ``load``.
    """
    return _open(_resolve(reference, precision, untrained), device, precision)


def _resolve(reference: str | Path | Reference, precision: str, untrained: bool) -> Reference:
    """What the reference names; what can be wrong with the arguments is found out first."""
    if precision not in get_args(GenerationPrecision):
        raise UserError(Problem(f"no precision {precision!r}", mend=nearest(precision, get_args(GenerationPrecision))))
    resolved = resolve_model(reference)
    _check_untrained(resolved, untrained)
    return resolved


def _open(resolved: Reference, device: str, precision: str) -> tuple[Transformer, Tokenizer]:
    place = choose_device(device)
    if resolved.path is None:
        model, tokenizer = _untrained(resolved)
        return model.to(place, _dtype(precision, place, model.config)).eval(), tokenizer
    dtype = _dtype(precision, place, read_config(resolved.path))
    model, config = load_model(resolved.path, place, dtype)
    tokenizer = load_tokenizer(tokenizer_folder(resolved))
    check_vocabulary(tokenizer, config, str(resolved.path))
    return model, tokenizer


def _check_untrained(resolved: Reference, untrained: bool) -> None:
    if resolved.kind == "preset" and not untrained:
        name = resolved.preset
        mend = f"gptloom pretrain --model {name} --data FILE --out runs/{name}   (or --untrained: random weights)"
        raise UserError(Problem(f"{name} is a preset: it has no trained weights", mend=mend))
    if resolved.kind != "preset" and untrained:
        raise UserError(Problem("--untrained is for presets; this is trained", str(resolved.path), "leave it out"))


def _dtype(precision: str, place: torch.device, config: ModelConfig) -> torch.dtype:
    """What the weights are opened in; int8 is rounded from fp32 by the ``LanguageModel``."""
    if precision == "auto":
        large = count_parameters(config).total >= BF16_PARAMETERS
        return torch.bfloat16 if large and has_fast_bf16(place) else torch.float32
    return DTYPES.get(precision, torch.float32)


def trained(reference: str | Reference, mend: str) -> tuple[Path, Tokenizer]:
    """The folder of the model that is to read texts, as ``--model`` names it, and its tokenizer.

    Raises:
        UserError: a preset, with ``mend``, what to name instead; nothing is called that; a tokenizer that cannot be read.
    """
    resolved = resolve_model(reference)
    if resolved.path is None:
        raise UserError(Problem(f"{resolved.preset} is a preset, which reads nothing yet", "--model", mend))
    return resolved.path, load_tokenizer(tokenizer_folder(resolved))


def _untrained(resolved: Reference) -> tuple[Transformer, Tokenizer]:
    assert resolved.preset is not None
    fields, published = preset(resolved.preset), preset_tokenizer(resolved.preset)
    if published is not None:
        tokenizer = load_tokenizer(published)
    else:
        tokenizer = train_tokenizer("bytes", [], None)
        fields["vocab_size"] = tokenizer.vocab_size
    return Transformer.initialised(ModelConfig(**fields), seed=0), tokenizer
