"""The ``Modelfile`` beside a GGUF file: ``ollama create NAME -f Modelfile``."""

from __future__ import annotations

from collections.abc import Sequence

PLAIN_TEMPLATE = 'TEMPLATE """{{ .Prompt }}"""'
CHAT_NOTE = (
    "Ollama reads no Jinja: it looks the chat template up among those that it knows; for another one, "
    "write a TEMPLATE of its own kind into the Modelfile"
)


def modelfile(file: str, context: int, has_chat_template: bool, stops: Sequence[str]) -> str:
    """The text of the file, for the model in ``file``, which lies beside it.

    ``stops``: the special tokens that end an answer. Ollama looks for them in the text, so that an ordinary token, which
    may stand inside a word, must not be among them.
    """
    lines = [f"FROM ./{file}"]
    if not has_chat_template:  # without one, Ollama would put words of its own around the prompt
        lines.append(PLAIN_TEMPLATE)
    # Ollama's own default may be longer than what the model has positions for.
    lines.append(f"PARAMETER num_ctx {context}")
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f'"""{text}"""' if '"' in text else f'"{text}"'
