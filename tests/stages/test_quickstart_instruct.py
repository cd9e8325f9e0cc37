"""The quickstart's instruction stage: form and content told apart, what the figures mean in words, and a tuning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gptloom.config.model import ModelConfig, preset
from gptloom.data.python_corpus.instructions import Pair, as_conversations
from gptloom.data.python_corpus.instructions import Part as PartName
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.quickstart import instruct
from gptloom.stages.quickstart.corpus import Instructions, QuickstartCorpus
from gptloom.stages.quickstart.form_and_content import Answer, Part, explain, score_names, score_numbers
from gptloom.stages.quickstart.instruct import FAST, FAST_QUESTIONS, INSTRUCT, instruct_base
from gptloom.stages.quickstart.stage import Context
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.run import Run, read_state

TRUTH = [
    f"Return the {word} of a file." for word in ("name", "size", "owner", "folder", "line", "page", "mode", "date")
]
NOTHING = [Answer("", False)] * 8


def said(texts: list[str], ended: bool = True) -> list[Answer]:
    return [Answer(text, ended) for text in texts]


# ---- scores ------------------------------------------------------------------------------------------------------------


def test_form_is_one_sentence_that_ends_by_itself() -> None:
    answers = [
        *said([" Return the name. ", "Open a file and read all of it."]),
        *said(["Return the name. It is", "Return the name", "Return\nthe name.", "12", ""]),
        Answer("Return the name.", ended=False),
    ]
    assert score_names(TRUTH, NOTHING, answers, TRUTH).form.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_words_are_held_against_those_of_other_answers() -> None:
    learned = ["Close the door.", "Open every window."]
    perfect = score_names(TRUTH, NOTHING, said(TRUTH), learned)
    assert perfect.score.tolist() == [1.0] * 8 and perfect.base_score.tolist() == [0.0] * 8
    assert perfect.chance.max() == 0  # articles do not count
    assert 0.5 < perfect.swapped.mean() < 0.9 and (perfect.gain == 1 - perfect.swapped).all()
    same = score_names(TRUTH, NOTHING, said(["Return the file."] * 8), learned)
    assert same.gain.tolist() == [0.0] * 8  # close to all, but to none for what was asked
    assert score_names(TRUTH, NOTHING, said(TRUTH), learned).as_dict() == perfect.as_dict()  # no luck in it


def test_numbers_are_right_to_the_letter_and_held_against_the_commonest() -> None:
    right = ["12", "0", "-3", "0", "7", "9", "40", "1"]
    answers = [*said([" 12", "0", "3", "0.0", "12 7", "seven"]), Answer("40", False), Answer("1", True)]
    part = score_numbers(right, NOTHING, answers, ["0", "0", "5"])
    assert part.score.tolist() == [1, 1, 0, 0, 0, 0, 1, 1] and part.form.tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
    assert part.chance.mean() == 0.25
    low, high = part.interval
    assert low < 0.5 < high and json.dumps(part.as_dict())


# ---- what they mean ----------------------------------------------------------------------------------------------------


def figures(score: float, chance: float = 0.1, form: float = 1.0, base_form: float = 0.0, asked: int = 60) -> Part:
    """Scores that scatter a little around their means."""
    scatter = np.tile([-0.02, 0.02], asked // 2)

    def forms(share: float) -> Any:
        return (np.arange(asked) < share * asked).astype(float)

    others = np.full(asked, chance)
    return Part(forms(base_form), forms(form), others, score + scatter, others, others)


@pytest.mark.parametrize(
    ("read", "unread", "expected"),
    [
        (0.4, 0.2, "partly by the words of a name, and is closer to the truth where the base has read it"),
        (0.2, 0.4, "closer to the truth where the base has never read it"),
        (0.3, 0.3, "nothing shows that it remembers facts"),
        (0.3, 0.1, "only where the base has read the name"),
        (0.1, 0.3, "only where the base has never read the name: it guesses"),
        (0.1, 0.1, "not measurably closer to the truth than another answer: nothing shows that it knows facts"),
        (0.05, 0.0, "not measurably closer to the truth than another answer: nothing shows that it knows facts"),
    ],
)
def test_the_content_is_put_into_words_by_its_figures(read: float, unread: float, expected: str) -> None:
    form, content, _ = explain(figures(read), figures(unread), figures(0.1)).split("; ")
    assert expected in content and form == "Tuning taught the form"


@pytest.mark.parametrize(
    ("form", "base_form", "expected"),
    [
        (1.0, 0.0, "Tuning taught the form"),
        (0.5, 0.0, "Tuning taught some of the form"),
        (0.5, 0.5, "Tuning did not measurably teach the form"),
        (0.0, 1.0, "Tuning did not measurably teach the form"),
    ],
)
def test_the_form_is_put_into_words(form: float, base_form: float, expected: str) -> None:
    part = figures(0.1, form=form, base_form=base_form)
    assert explain(part, part, part).split("; ")[0] == expected


def test_results_are_put_into_words() -> None:
    much, little = (explain(*[figures(score)] * 3).split("; ")[-1] for score in (0.4, 0.1))
    right = "of the results with new operands are right"
    assert much == f"40% {right}, more than by always giving the commonest (10%)."
    assert little == f"10% {right}, not measurably more than by always giving the commonest (10%)."


# ---- the stage ---------------------------------------------------------------------------------------------------------


def pairs(part: str, count: int) -> list[Pair]:
    if "arithmetic" in part:
        return [Pair(f"What is {i} + {len(part)}?", str(i + len(part))) for i in range(count)]
    return [Pair(f"What does {part}.f{i} do?", f"Return the {part} number {i}.") for i in range(count)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A quickstart whose pretraining is done: a base with random weights, and questions to learn from."""
    out = tmp_path_factory.mktemp("instruct")
    files = {part: out / f"instructions_{part}.jsonl" for part in get_args(PartName)}
    for part, file in files.items():
        file.write_text(as_conversations(pairs(part, 10 if part.startswith("heldout") else 30)), encoding="utf-8")
    texts = [f"{pair.question} {pair.answer}" for part in files for pair in pairs(part, 30)]
    tokenizer = train_tokenizer("bpe", texts, None)
    shape = {"n_layer": 1, "n_head": 1, "d_model": 32, "head_dim": 0, "d_ff": 0, "context": 128}
    config = ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": tokenizer.vocab_size})
    save_model(out / "base", Transformer.initialised(config, seed=0), config, tokenizer=tokenizer)
    instructions = Instructions(**files)
    corpus = QuickstartCorpus("python", "a text", "0" * 64, out, out, "", (), (), (), None, instructions)
    return Context(out, corpus, (), 1.0, fast=True, seed=1, machine={"threads": 1, "device": "cpu"})


@pytest.fixture(scope="module")
def finished(begun: Context) -> Any:
    return instruct_base(begun)


def test_base_and_tuned_model_are_asked_the_same(finished: Any, begun: Context) -> None:
    found = finished.figures
    assert (found["train_names"], found["train_arithmetic"]) == (30, 30)
    assert set(found["parts"]) == {"read", "unread", "arithmetic"}
    assert all(part["asked"] == FAST_QUESTIONS for part in found["parts"].values())
    assert [sample["question"] for sample in found["samples"]] == [
        pairs(part, 1)[0].question for part in ("heldout_read", "heldout_unread", "heldout_arithmetic")
    ]
    assert found["meaning"].count("; ") >= 2 and json.dumps(found)
    assert finished.run == INSTRUCT and finished.better.startswith("answers in form 0% → ")
    assert read_state(begun.out / INSTRUCT).step == FAST["max_steps"]


def test_the_screen_shows_three_questions_two_tables_and_the_meaning(
    finished: Any, begun: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    assert instruct_base(begun) == finished  # nothing is made again
    shown = capsys.readouterr().err
    assert all(f"\n{sample['question']}\n" in shown for sample in finished.figures["samples"])
    assert shown.count("\n  before") == shown.count("\n  after") == shown.count("\n  right") == 3
    assert "in form" in shown and "content" in shown and finished.figures["meaning"] in " ".join(shown.split())


@pytest.mark.slow
def test_a_stopped_tuning_is_gone_on_with(
    finished: Any, begun: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quick"
    shutil.copytree(begun.out / "base", out / "base")
    stopped = Context(out, begun.corpus, (), 1.0, fast=True, seed=1, machine=begun.machine)
    whole: Callable[..., Any] = instruct.sft

    def stop(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train" and run.state.step == 3:
            (run.path / "stop").touch()

    with monkeypatch.context() as during:
        during.setattr(instruct, "sft", lambda resolved: whole(resolved, [stop]))
        assert instruct_base(stopped) is None
    assert read_state(out / INSTRUCT).step == 3
    monkeypatch.setattr(instruct, "sft", lambda *_: pytest.fail("it goes on from the checkpoint"))
    result = instruct_base(stopped)
    assert result is not None and result.figures == finished.figures


def test_the_stage_keeps_to_its_minutes(begun: Context) -> None:
    instructions = begun.corpus.instructions
    assert instructions is not None
    whole = Context(begun.out, begun.corpus, (), 0.5, fast=False, seed=1, machine={"compile": True})
    asked = instruct._options(whole, instructions)
    assert asked["max_minutes"] == 0.5 and asked["compile"] and "max_steps" not in asked
    assert len(asked["data"]) == 2 and len(asked["valid"]) == 3
