"""Opens any model reference as a ``LanguageModel``; callers can't tell where it came from."""

from __future__ import annotations

from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import FAMILIES, ModelConfig, preset
from gptloom.generation.language_model import LanguageModel
from gptloom.model.reference import Resolved, resolve_reference
from gptloom.model.store import check_vocabulary, load_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.precision import choose_device, choose_dtype


def load(
    reference: str | Path, *, device: str = "auto", precision: str = "auto", untrained: bool = False
) -> LanguageModel:
    """Opens a model for generating and scoring.

    Args:
        reference: a run folder, ``runs/x@500`` (or ``@best``, ``@last``), a model folder, or, with ``untrained``, a preset.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        untrained: take a preset as it is, with random weights (seed 0); ``modern`` and ``fast`` then read bytes.

    Raises:
        UserError: nothing is called that, a preset without ``untrained``, ``untrained`` with trained weights, a model
            folder that cannot be read, or a tokenizer that does not fit it.
    """
    resolved = resolve_reference(str(reference))
    if resolved.kind == "preset" and not untrained:
        name = resolved.preset
        mend = f"gptloom pretrain --model {name} --data FILE --out runs/{name}   (or --untrained: random weights)"
        raise UserError(Problem(f"{name} is a preset: it has no trained weights", mend=mend))
    if resolved.kind != "preset" and untrained:
        raise UserError(Problem("--untrained is for presets; this is trained", str(resolved.path), "leave it out"))
    place = choose_device(device)
    dtype, _ = choose_dtype(precision, place)
    if resolved.path is None:
        model, tokenizer = _untrained(resolved)
        return LanguageModel(model.to(place, dtype).eval(), tokenizer)
    model, config = load_model(resolved.path, place, dtype)
    tokenizer = _tokenizer_of(resolved)
    check_vocabulary(tokenizer, config, str(resolved.path))
    return LanguageModel(model, tokenizer)


def _tokenizer_of(resolved: Resolved) -> Tokenizer:
    """The tokenizer in the model folder; a run's checkpoints may leave it to the run's ``tokenizer/``."""
    assert resolved.path is not None
    if resolved.run is not None and not (resolved.path / TOKENIZER_FILE).is_file():
        return load_tokenizer(resolved.run)
    return load_tokenizer(resolved.path)


def _untrained(resolved: Resolved) -> tuple[Transformer, Tokenizer]:
    assert resolved.preset is not None
    if resolved.preset in FAMILIES and resolved.preset != "gpt2":
        raise UserError(
            Problem(f"{resolved.preset} is a family; its size follows from the text", mend=f"{resolved.preset}-nano")
        )
    fields = preset(resolved.preset)
    if fields["family"] == "gpt2":
        tokenizer = load_tokenizer("gpt2")
    else:
        tokenizer = train_tokenizer("bytes", [], None)
        fields["vocab_size"] = tokenizer.vocab_size
    return Transformer.initialised(ModelConfig(**fields), seed=0), tokenizer
