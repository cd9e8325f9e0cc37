"""Chat templates in the manner of well-known families, written for these tests, and tokenizers of other programs' kinds."""

from __future__ import annotations

import json
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gptloom.tokenizer import Tokenizer

THINKING = """
{%- set last = namespace(question=-1) -%}
{%- for m in messages -%}
  {%- if m.role == 'user' and not (m.content.startswith('<reply>') and m.content.endswith('</reply>')) -%}
    {%- set last.question = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for m in messages %}
  {%- set said = m.content -%}
  {%- if m.role == 'assistant' -%}
    {%- set thought = '' -%}
    {%- if '</think>' in said -%}
      {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
      {%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {%- if loop.index0 > last.question -%}
      {{- '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + said -}}
    {%- else -%}
      {{- '<|im_start|>assistant\\n' + said -}}
    {%- endif -%}
    {%- for call in m.tool_calls or [] -%}
      {{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' -}}
    {%- endfor -%}
  {%- else -%}
    {{- '<|im_start|>' + m.role + '\\n' + said -}}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""Forgets what was thought before the last question (as Qwen 3's does)."""

BRACKETS = """{{ bos_token }}
{%- if messages[0].role == 'system' -%}
  {%- set system = '<<SYS>>\\n' + messages[0].content.strip() + '\\n<</SYS>>\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for m in turns -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('user and assistant must take turns') }}{%- endif -%}
  {%- if m.role == 'user' -%}
    {{- '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' -}}
  {%- else -%}
    {{- ' ' + m.content.strip() + ' ' + eos_token -}}
  {%- endif -%}
{%- endfor -%}"""
"""Puts the system message into the first question, and asks without a header (as Llama 2's does)."""

LATE_SYSTEM = """{{- bos_token }}
{%- for m in messages if m.role != 'system' -%}
  {%- if m.role == 'user' -%}
    {{- '[INST] ' -}}
    {%- if loop.last or (loop.index == loop.length - 1 and messages[-1].role == 'assistant') -%}
      {%- for s in messages if s.role == 'system' -%}{{- s.content + '\\n\\n' -}}{%- endfor -%}
    {%- endif -%}
    {{- m.content + '[/INST]' -}}
  {%- else -%}{{- ' ' + m.content + eos_token -}}{%- endif -%}
{%- endfor -%}"""
"""Puts the system message before the last question, wherever that is (as some of Mistral's do)."""

RENAMED = """{{ bos_token }}
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{{ raise_exception('the system role is not supported') }}{%- endif -%}
  {%- set role = 'model' if m.role == 'assistant' else m.role -%}
  {{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
"""Another name for the assistant (as Gemma's)."""

HEADERS = """{{- bos_token -}}
{%- for m in messages -%}
  {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""
"""Headers with an empty line (as Llama 3's)."""

LINES = """{% for m in messages %}
{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
"""Tokens that take the line break behind them along, and an end of text behind the end of the turn (as Phi 3's)."""

GENERATION = """{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\\n' -}}{%- generation -%}{{- m.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
"""Says itself what an assistant writes."""

SPECIAL = {
    "thinking": (THINKING, ("<|im_start|>", "<|im_end|>")),
    "brackets": (BRACKETS, ()),
    "late system": (LATE_SYSTEM, ("[INST]", "[/INST]")),
    "renamed": (RENAMED, ("<start_of_turn>", "<end_of_turn>")),
    "headers": (HEADERS, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "lines": (LINES, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "generation": (GENERATION, ("<|im_start|>", "<|im_end|>")),
}
"""Name: the template, and the special tokens that it writes."""

TEXT = (
    "Hello, how are you? I am fine. What is this?\n\nAn answer to the question is here: it is 12.\n"
    "Be kind and say so. def f(x):\n    return x + 1\n Yes, no, and so on; the user and the assistant and the system.\n"
)


def sentencepiece_like(special: Sequence[str], template: str | None, *, legacy: bool) -> Tokenizer:
    """BPE with ``▁`` for a space and one before each text: in the old way before each part, in the new at the start."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False, max_token_length=8
    )
    inner.train_from_iterator([TEXT.replace("\n", " ")] * 4, trainer)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    settings = json.loads(inner.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["content"].startswith("<0x")]
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return with_template(settings, special, template, config)


def byte_level(
    special: Sequence[str], template: str | None, *, prefix_space: bool = False, strip: bool = False
) -> Tokenizer:
    """Byte-level BPE with Llama 3's splitting; ``strip``: its special tokens take the white space behind them along."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    pattern = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    if prefix_space:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT] * 4, trainer)
    settings = json.loads(inner.to_str())
    return with_template(settings, special, template, {"bos_token": "<s>", "eos_token": "</s>"}, rstrip=strip)


def with_template(
    settings: dict[str, object],
    special: Sequence[str],
    template: str | None,
    config: dict[str, str],
    *,
    rstrip: bool = False,
) -> Tokenizer:
    """A tokenizer of another program: further special tokens, and a chat template in its configuration."""
    added = settings["added_tokens"]
    assert isinstance(added, list)
    known = {token["content"] for token in added}
    start = Tokenizer(settings, "other", eot_token="</s>").vocab_size
    for token_id, content in enumerate((one for one in special if one not in known), start=start):
        flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": True}
        added.append({"id": token_id, "content": content, **flags})
    told = dict(config) if template is None else {**config, "chat_template": template}
    return Tokenizer(settings, "other", eot_token="</s>", config=told)
