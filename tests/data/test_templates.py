"""Templates: built-in ones, a tokenizer's own, files, and all the ways in which a template can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.data.conversation import Conversation, Message
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in, from_file, needs_tokens, own_format
from gptloom.tokenizer import Tokenizer, train_tokenizer
from gptloom.tokenizer.layout import LINE_END

TALK = Conversation(
    (Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "A"), Message("assistant", "B")), "f:1"
)
SYSTEM = Conversation((Message("system", "S"), *TALK.messages), "f:2")
LOOP = "{% for m in messages %}"
GOOD = (
    LOOP + "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def learned(tokenizer: Tokenizer, source: str, *conversations: Conversation) -> list[str]:
    """What a tokenizer's own template lets learn of ``conversations``."""
    format = own_format(tokenizer.changed({}, {"chat_template": source}))
    assert format is not None
    examples = Renderer(tokenizer, format).examples(conversations)
    return [tokenizer.decode(example.ids[a:b].tolist()) for example in examples for a, b in example.turns]


def refusal(tokenizer: Tokenizer, source: str, *conversations: Conversation) -> str:
    with pytest.raises(UserError) as refused:
        learned(tokenizer, source, *conversations)
    return str(refused.value)


# ---- built in --------------------------------------------------------------------------------------------------------


def test_new_tokens_stand_behind_the_vocabulary_and_old_ones_stay(byte_tokenizer: Tokenizer) -> None:
    for name in ("gptloom", "chatml", "llama", "alpaca", "plain"):
        format, tokenizer = built_in(name, byte_tokenizer)
        assert format.template == name
        assert tokenizer.vocab_size == byte_tokenizer.vocab_size + len(needs_tokens(name))
        assert built_in(name, tokenizer)[1].hash == tokenizer.hash, "a second time changes nothing"
        assert format.end in tokenizer.special_tokens


def test_a_vocabulary_whose_end_of_text_is_no_special_token_gets_one() -> None:
    """GPT-1's is a line end, which an answer may hold."""
    from gptloom.tokenizer import layout

    vocab = {letter: i for i, letter in enumerate(["a", "b", "a</w>", "b</w>", LINE_END, "<unk>"])}
    gpt1 = Tokenizer(layout.gpt1(vocab, [], {"type": "Lowercase"}, {"type": "Whitespace"}), "gpt1", eot_token=LINE_END)
    format, tokenizer = built_in("alpaca", gpt1)
    assert format.end == "<|endoftext|>" and tokenizer.vocab_size == gpt1.vocab_size + 1
    example = Renderer(tokenizer, format).examples(
        [Conversation((Message("user", "a"), Message("assistant", "b")), "f:1")]
    )[0]
    assert example.ids[-1] == gpt1.vocab_size and example.turns[0][1] == len(example.ids)


def test_a_tokenizer_that_begins_its_texts_begins_conversations(byte_tokenizer: Tokenizer) -> None:
    start = {"id": "<s>", "ids": [258], "tokens": ["<s>"]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {"<s>": start}}
    from gptloom.tokenizer.added import with_special_tokens

    beginning = with_special_tokens(byte_tokenizer, ["<s>"]).changed({"post_processor": processor}, {})
    for name in ("gptloom", "chatml", "llama", "alpaca", "plain"):
        format, tokenizer = built_in(name, beginning)
        assert Renderer(tokenizer, format).prompt([Message("user", "Hi")])[0] == 258
        assert Renderer(tokenizer, format).prompt([]).count(258) == 1


def test_llama_has_one_line_break_where_two_would_join_the_answer() -> None:
    text = "One.\n\n\nTwo.\n\n\nThree.\n\n\n" * 9
    joining = train_tokenizer("bpe", [text], None)
    assert len(joining.encode("\n\n")) == 1 and joining.encode("\n\nOne")[0] != joining.encode("\n\n")[0]
    assert '{%- set gap = "\\n" -%}' in built_in("llama", joining)[0].jinja
    assert '{%- set gap = "\\n\\n" -%}' in built_in("llama", train_tokenizer("bytes", [], None))[0].jinja


def test_an_unknown_name_gets_the_nearest(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="did you mean chatml"):
        built_in("chatlm", byte_tokenizer)
    with pytest.raises(UserError, match='no template is called "mine"'):
        needs_tokens("mine")


@pytest.mark.parametrize("separator", [' "->" ', "%}{{ end }}{#", "\\n\\", "\n\u2028é😀\n", "\x00"])
def test_any_separator_can_be_written_down(separator: str, byte_tokenizer: Tokenizer) -> None:
    format, tokenizer = built_in("plain", byte_tokenizer, separator=separator)
    assert tokenizer.decode(Renderer(tokenizer, format).prompt([Message("user", "a")])) == f"a{separator}"


# ---- a tokenizer's own -----------------------------------------------------------------------------------------------


def test_none_without_a_template(byte_tokenizer: Tokenizer) -> None:
    assert own_format(byte_tokenizer) is None


def test_of_several_named_ones_the_default(byte_tokenizer: Tokenizer) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": GOOD}]
    format = own_format(byte_tokenizer.changed({}, {"chat_template": named}))
    assert format is not None and format.jinja == GOOD and format.template == "tokenizer"
    assert format.end == "<|endoftext|>", "found by writing an answer"


def test_the_mask_comes_from_roles_whatever_the_texts_say(byte_tokenizer: Tokenizer) -> None:
    echo = Conversation((Message("user", "assistant: Yo"), Message("assistant", "assistant: "), *TALK.messages), "f:1")
    end = "<|endoftext|>"
    assert learned(byte_tokenizer, GOOD, echo) == [f"assistant: {end}", f"Yo{end}", f"B{end}"]


def test_where_a_template_puts_no_end_behind_an_answer_it_gets_one(byte_tokenizer: Tokenizer) -> None:
    source = (
        LOOP + "{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert learned(byte_tokenizer, source, TALK) == ["Yo<|endoftext|>", "B<|endoftext|>"]
    format = own_format(byte_tokenizer.changed({}, {"chat_template": source}))
    assert format is not None and format.jinja.endswith(source), "what is stored ends answers by itself"


def test_a_call_behind_that_end_is_refused(byte_tokenizer: Tokenizer) -> None:
    source = LOOP + "{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    source += "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    call = {"function": {"name": "add", "arguments": "{}"}}
    calling = Conversation((Message("user", "x"), Message("assistant", "y", extra={"tool_calls": [call]})), "f:1")
    assert "puts no <|endoftext|> behind message 2: the model would never stop" in refusal(
        byte_tokenizer, source, calling
    )


def test_an_end_that_gets_lost_is_refused(byte_tokenizer: Tokenizer) -> None:
    source = LOOP + "{{ m.content.split('<|end')[0] }}{% endfor %}"
    assert "ends its answers in no special token" in refusal(byte_tokenizer, source, TALK)


# ---- templates that are wrong ----------------------------------------------------------------------------------------


def test_one_that_drops_messages(byte_tokenizer: Tokenizer) -> None:
    source = GOOD.replace(LOOP, "{% for m in messages if m.role != 'system' %}")
    assert learned(byte_tokenizer, source, TALK) == ["Yo<|endoftext|>", "B<|endoftext|>"]
    told = refusal(byte_tokenizer, source, TALK, SYSTEM)
    assert told.startswith("f:2: the tokenizer's template leaves out message 1 (system)")
    with pytest.raises(UserError, match="leaves out message 1"):  # nor in service
        format = own_format(byte_tokenizer.changed({}, {"chat_template": source}))
        assert format is not None
        Renderer(byte_tokenizer, format).prompt(SYSTEM.messages[:2])


def test_one_that_cuts_messages(byte_tokenizer: Tokenizer) -> None:
    source = GOOD.replace("m.content", "m.content[:40]")
    long = Conversation((Message("user", "a long question " * 4), Message("assistant", "Yo")), "f:3")
    assert learned(byte_tokenizer, source, TALK) == ["Yo<|endoftext|>", "B<|endoftext|>"]
    assert refusal(byte_tokenizer, source, TALK, long).startswith("f:3: the tokenizer's template cuts texts")
    halves = GOOD.replace("m.content", "m.content.split(' long')[0]")
    assert "f:3: the tokenizer's template leaves out a part of message 1 (user)" in refusal(
        byte_tokenizer, halves, long
    )


def test_one_that_drops_tools_and_calls(byte_tokenizer: Tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    with_tools = Conversation(TALK.messages, "f:4", tools=(tool,))
    assert "leaves out the tools" in refusal(byte_tokenizer, GOOD, with_tools)
    call = {"function": {"name": "add", "arguments": "{}"}}
    calling = Conversation((Message("user", "x"), Message("assistant", "", extra={"tool_calls": [call]})), "f:5")
    assert "f:5: the tokenizer's template leaves out message 2 (assistant)" in refusal(byte_tokenizer, GOOD, calling)


def test_one_that_rewrites_what_is_learned(byte_tokenizer: Tokenizer) -> None:
    assert "rewrites message 2" in refusal(byte_tokenizer, GOOD.replace("m.content", "m.content | upper"), TALK)


def test_one_that_looks_into_texts(byte_tokenizer: Tokenizer) -> None:
    source = GOOD.replace("{{ m.role", "{{ ('!' if m.content[0] == 'H' else '') + m.role")
    assert "where each stands cannot be told" in refusal(byte_tokenizer, source, TALK)
    asking = GOOD.replace("{{ m.role", "{{ ('!' if m.content.startswith('H') and m.content != 'A' else '') + m.role")
    assert learned(byte_tokenizer, asking, TALK) == ["Yo<|endoftext|>", "B<|endoftext|>"], "asking is allowed"


def test_one_whose_generation_prompt_is_another(byte_tokenizer: Tokenizer) -> None:
    told = refusal(byte_tokenizer, GOOD.replace("%}assistant: {%", "%}Assistant: {%"), TALK)
    assert "asks for message 2 with 'Assistant: ' where it is then written as 'assistant: Yo" in told
    assert "service would differ from training" in told


def test_one_that_ends_only_the_conversation(byte_tokenizer: Tokenizer) -> None:
    """Its earlier answers have no end of their own: each is learned as it is when it is the last."""
    source = LOOP + "{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    source += "{% if add_generation_prompt %}assistant: {% else %}{{ eos_token }}{% endif %}"
    assert learned(byte_tokenizer, source, TALK) == ["Yo\n<|endoftext|>", "B\n<|endoftext|>"]


def test_one_that_refuses_or_fails_says_why_and_where(byte_tokenizer: Tokenizer) -> None:
    source = GOOD.replace(LOOP, LOOP + "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}")
    told = refusal(byte_tokenizer, source, TALK, SYSTEM)
    assert told.startswith("f:2: the tokenizer's template refuses: no system here")
    told = refusal(byte_tokenizer, "\n" + GOOD.replace("m.role", "m.name.first"), TALK)
    assert "cannot write a question and its answer" in told and "(line 2 of the template)" in told


def test_a_program_in_a_template_stays_in_its_sandbox(byte_tokenizer: Tokenizer) -> None:
    told = refusal(byte_tokenizer, "{{ messages.__class__.__mro__[1].__subclasses__() }}" + GOOD, TALK)
    assert "unsafe" in told


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_called_by_its_name(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(GOOD, encoding="utf-8-sig")
    format = from_file(path, byte_tokenizer)
    assert (format.template, format.jinja, format.end) == ("mine.jinja", GOOD, "<|endoftext|>")


def test_a_file_that_is_no_jinja_is_told_with_its_line(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{# fine #}\n{% for m in messages %}\n{{ m.content }\n{% endfor %}", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        from_file(path, byte_tokenizer)
    assert refused.value.problems[0].where == f"{path}:3"
    with pytest.raises(UserError, match="cannot be read"):
        from_file(tmp_path / "none.jinja", byte_tokenizer)
