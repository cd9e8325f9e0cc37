"""What ends prompts and completions on purpose, and what ends them by chance."""

from __future__ import annotations

import pytest

from gptloom.data.separators import SEPARATORS, STOPS, common_prefix, common_suffix, separator_of, stop_of


@pytest.mark.parametrize("mark", SEPARATORS)
def test_every_separator_that_is_added_is_found_again(mark: str) -> None:
    assert separator_of([f"Who wrote Emma?{mark}", f"Who wrote Ulysses?{mark}"]) == mark
    assert separator_of([f"one prompt,\ntwo lines{mark}"]) == mark


@pytest.mark.parametrize("mark", STOPS)
def test_every_stop_that_is_added_is_found_again(mark: str) -> None:
    assert stop_of([f" Jane Austen.{mark}", f" James Joyce.{mark}"]) == mark


@pytest.mark.parametrize(
    "prompts",
    [
        ["cherry", "may", "sky"],  # the letter y
        ["Who?", "What?"],
        ["It rained.", "It snowed."],
        ['He said "no."', 'She said "yes."'],
        ["你是谁？", "他是谁？"],
        ["दी", "की"],  # a vowel sign belongs to its letter
        ["a ", "b "],
        ["Why? ", "How? "],
        ["chapter 10", "verse 10"],
        ["one line\nanother", "one line\nanother"],  # the same prompt twice
        ["a ->", "b"],
        [
            "A story.\n\nAnswer in one sentence.",
            "Another\n\nAnswer in one sentence.",
        ],  # a request, and part of the prompt
        ["A story.\nYes or no?", "Another\nYes or no?"],
        [""],
        [],
    ],
)
def test_a_suffix_by_chance_is_no_separator(prompts: list[str]) -> None:
    assert separator_of(prompts) == ""


@pytest.mark.parametrize(
    ("prompts", "separator"),
    [
        (["Who? ->", "What? ->"], " ->"),
        (["7 + 5 =", "3 + 4 ="], " ="),
        (["to bed\nAnswer:", "no\nAnswer:"], "\nAnswer:"),
        (["Text: a\n\nSentiment:", "Text: ba\n\nSentiment:"], "\n\nSentiment:"),
        (["x\n", "y\n"], "\n"),
        (["a\n\n### Response:\n", "b\n\n### Response:\n"], "\n\n### Response:\n"),
        (["a\nIn one word.\n\nAnswer:", "b\nIn one word.\n\nAnswer:"], "\n\nAnswer:"),
        (["a\nIn one word.\n\n###\n\n", "b\nIn one word.\n\n###\n\n"], "\n\n###\n\n"),
        (["x -->", "y -->"], " -->"),
        ([f"{x}\nOf all that was said above write down what matters most:" for x in "xy"], ":"),  # no label: too long
    ],
)
def test_marks_of_a_persons_own(prompts: list[str], separator: str) -> None:
    assert separator_of(prompts) == separator


@pytest.mark.parametrize(
    "completions",
    [[" first line\nsecond\n", " only\n"], [" positive", " negative"], [" yes", " yes"], [" One.", " Two."], [""], []],
)
def test_no_stop(completions: list[str]) -> None:
    assert stop_of(completions) == ""


def test_a_stop_of_a_persons_own() -> None:
    assert stop_of([" a ###", " b ###"]) == " ###"


def test_common_ends() -> None:
    assert common_suffix(["walking", "talking"]) == "alking"
    assert common_prefix(iter(["walk", "wall", "wa"])) == "wa"
    assert common_prefix([]) == common_suffix(["a", "b"]) == ""
    assert common_suffix(["same", "same"]) == "same"
