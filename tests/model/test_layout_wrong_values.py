"""Every field of every family's config.json with values of every kind: read, or refused as the user's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.layouts import LAYOUTS, layout_for, layout_of

PRESETS = {"gpt1": "gpt1", "gpt2": "gpt2", "gpt3": "gpt3-small", "neox": "neox-20b", "bert": "bert-tiny"} | {
    "fast": "fast-nano"
}
STRANGE = ("4", "x", 4.0, 3.5, -1, 0, True, [], [1], [["a"]], {}, {"a": "b"}, math.inf)


def raw_of(family: str) -> dict[str, Any]:
    """A config.json of the family that is read; Llama's near relations have its fields."""
    if family == "gpt_neo":
        changed = {"family": "gpt_neo", "scale_attention": False, "qkv_bias": False}
        config = ModelConfig(**preset("gpt2") | changed)
    else:
        config = ModelConfig(**preset(PRESETS.get(family, "modern-nano")))
    own = {layout.family: layout.model_type for layout in LAYOUTS}
    return layout_for(config).to_config(config) | {"model_type": own[family]}


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        layout_of(raw).from_config(raw, "m/config.json")
    assert all(problem.where == "m/config.json" for problem in caught.value.problems)
    return str(caught.value)


@pytest.mark.parametrize("family", [layout.family for layout in LAYOUTS])
def test_nothing_but_user_errors(family: str) -> None:
    raw = raw_of(family)
    for name in raw.keys() - {"model_type"}:
        for value in STRANGE:
            try:
                layout_of(raw).from_config(raw | {name: value})
            except UserError as error:
                assert all(problem.what for problem in error.problems)


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("gpt2", "n_head"),
        ("gpt2", "n_inner"),
        ("neox", "num_attention_heads"),
        ("modern", "hidden_size"),
        ("bert", "num_attention_heads"),
        ("modern", "head_dim"),
        ("llama", "num_key_value_heads"),
        ("mistral", "sliding_window"),
        ("gpt_neo", "num_heads"),
    ],
)
@pytest.mark.parametrize("value", ["4", 4.0, True, 3.5])
def test_sizes_are_whole_numbers_and_named_as_in_the_file(family: str, field: str, value: object) -> None:
    text = refusal(raw_of(family) | {field: value})
    assert f"{field} is {value!r}" in text and text.count("m/config.json") == 1 and "try:" not in text


def test_sizes_that_do_not_fit_each_other_have_the_names_of_the_file_and_no_flags() -> None:
    raw = raw_of("neox") | {"num_attention_heads": 7}
    assert "hidden_size 6144 does not divide by num_attention_heads 7" in refusal(raw)
    assert "--" not in refusal(raw)
    assert "num_attention_heads is -2: " in refusal(raw | {"num_attention_heads": -2})


@pytest.mark.parametrize("field", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", ["x", 1.5, True, [1, "x"]])
def test_special_ids_are_whole_numbers(field: str, value: object) -> None:
    assert f"{field} is {value!r}; expected a token id" in refusal(raw_of("modern") | {field: value})
    raw = raw_of("modern")
    assert layout_of(raw).from_config(raw | {field: [1, 2]}) == layout_of(raw).from_config(raw)
