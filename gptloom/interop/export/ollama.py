"""The ``Modelfile`` beside a GGUF file: ``ollama create NAME -f Modelfile``."""

from __future__ import annotations

PLAIN_TEMPLATE = 'TEMPLATE """{{ .Prompt }}"""'


def modelfile(file: str, context: int, has_chat_template: bool) -> str:
    """The text of the file, for the model in ``file``, which lies beside it."""
    lines = [f"FROM ./{file}"]
    if not has_chat_template:  # without one, Ollama would put words of its own around the prompt
        lines.append(PLAIN_TEMPLATE)
    # Ollama's own default may be longer than what the model has positions for.
    lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"
