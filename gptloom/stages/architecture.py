"""From options to a ModelConfig: a preset, what was changed in it, and what follows from the text."""

from __future__ import annotations

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import FAMILIES, ModelConfig, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved
from gptloom.stages.derive import AIM_MINUTES, AIM_PASSES, choose_context, choose_size

SHAPE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")


def refuse_with_base(resolved: Resolved[PretrainOptions]) -> None:
    """UserError for every option that a base model decides already."""
    fixed = ("model", "tokenizer", "vocab_size", "context", *SHAPE)
    given = [name for name in fixed if resolved.given(name)]
    if given:
        raise UserError(
            *(
                Problem(
                    f"--{name.replace('_', '-')} cannot be given with a base model: it keeps its own",
                    mend="leave it out",
                )
                for name in given
            )
        )


def choose_model(
    resolved: Resolved[PretrainOptions], vocab_size: int, n_tokens: int, peak: float
) -> tuple[ModelConfig, Resolved[PretrainOptions]]:
    """The model for ``n_tokens`` of training text on a machine of ``peak`` FLOP/s."""
    options = resolved.options
    name = options.model
    if name is None and any(getattr(options, field) is not None for field in SHAPE):
        resolved = resolved.derive("model", "modern-nano", "a shape of one's own starts from the smallest of modern")
    elif name is None:
        minutes = options.max_minutes or AIM_MINUTES
        passes = options.max_epochs or AIM_PASSES
        chosen = choose_size("modern", n_tokens, vocab_size, peak, minutes, passes)
        resolved = resolved.derive("model", chosen.value, chosen.rule)
    name = str(resolved.options.model)
    if name in FAMILIES and name != "gpt2":
        chosen = choose_size(name, n_tokens, vocab_size, peak, options.max_minutes or AIM_MINUTES, AIM_PASSES)
        name = str(chosen.value)
    fields = preset(name)
    given = {field: getattr(options, field) for field in SHAPE if getattr(options, field) is not None}
    if "d_model" in given and "n_head" not in given:
        wanted = max(1, given["d_model"] // 64)  # heads of about 64, as many as divide the width
        given["n_head"] = next(n for n in range(wanted, 0, -1) if given["d_model"] % n == 0)
    if options.dropout is not None:
        given["dropout"] = options.dropout
    config = ModelConfig(**{**fields, **given, "vocab_size": vocab_size})
    if options.context is not None:
        return ModelConfig(**{**fields, **given, "vocab_size": vocab_size, "context": options.context}), resolved
    context = choose_context(config, n_tokens)
    resolved = resolved.derive("context", context.value, context.rule)
    return ModelConfig(**{**fields, **given, "vocab_size": vocab_size, "context": context.value}), resolved
