"""Figures of generated answers equal the libraries that define them, and stand beside what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.config.model import ModelConfig, preset
from gptloom.data.conversation import Conversation, Message
from gptloom.data.instruction_formats import METRICS
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in
from gptloom.evaluation.answer_metrics import FIGURES, FIRST, answer_figures, score_answers, usual_metric
from gptloom.evaluation.answers import answer_all, answer_report, check_answers, task_answers
from gptloom.evaluation.spans import normalise
from gptloom.generation.chat import ChatModel
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.observe.glossary import metric, written
from gptloom.tokenizer.train import train_tokenizer

ANSWERS = ["Ein Hund läuft über die Wiese .", "Zwei Männer", "", "Eine Frau in Rot lacht laut.", "the cat sat"]
RIGHT = [
    "Ein brauner Hund rennt über die Wiese.",
    "Zwei Männer reden.",
    "Leer.",
    "Eine Frau in Rot lacht.",
    "The cat sat.",
]


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install sacrebleu")
    figures = answer_figures(ANSWERS, RIGHT, "bleu")
    assert figures["bleu"] == sacrebleu.corpus_bleu(ANSWERS, [RIGHT]).score > 0
    assert figures["chrf"] == sacrebleu.corpus_chrf(ANSWERS, [RIGHT]).score > 0


def test_the_interval_of_bleu_is_that_of_resampled_corpora() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install sacrebleu")
    import numpy as np

    from gptloom.evaluation.answer_metrics import _statistic

    counts = np.array([2.0, 0.0, 0.0, 3.0, 1.0])
    again = [place for place, times in enumerate(counts) for _ in range(int(times))]
    drawn = [[ANSWERS[place] for place in again], [RIGHT[place] for place in again]]
    bleu, chrf = _statistic(ANSWERS, RIGHT, "bleu")(counts)
    assert bleu == sacrebleu.corpus_bleu(drawn[0], [drawn[1]]).score
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(drawn[0], [drawn[1]]).score)
    scores = score_answers(ANSWERS, RIGHT, "bleu")
    low, high = scores.intervals["chrf"]
    assert low < scores.figures["chrf"] < high


def test_rouge_is_that_of_rouge_score() -> None:
    pytest.importorskip("rouge_score", reason="pip install rouge-score")
    from rouge_score.rouge_scorer import RougeScorer

    figures = answer_figures(ANSWERS, RIGHT, "rouge")
    for name in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([name])
        each = [scorer.score(right, answer)[name].fmeasure for answer, right in zip(ANSWERS, RIGHT, strict=True)]
        assert figures[name] == pytest.approx(sum(each) / len(each), abs=1e-12) and figures[name] > 0


def test_equal_as_written_and_as_squad_compares() -> None:
    figures = answer_figures(["-734", "734", " Yes. ", "the cat"], ["-734", "-734", "yes", "a dog"], "exact")
    assert figures["exact"] == 0.25, "a number without its sign is wrong, and so is another case"
    assert figures["exact_match"] == 0.75, "SQuAD drops case, signs and articles"
    assert normalise("-734") == normalise("734")
    assert figures["f1"] == 0.75


def test_shares_have_wilsons_interval() -> None:
    low, high = score_answers(["a"] * 10, ["a"] * 10, "exact").intervals["exact"]
    assert 0.7 < low < 0.75 and high == 1.0, "ten of ten right is not certainty, as a bootstrap would have it"


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="2 answers for 1"):
        answer_figures(["a", "b"], ["a"], "exact")
    with pytest.raises(ValueError, match="no metric 'bleurt'"):
        answer_figures(["a"], ["a"], "bleurt")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.evaluation.answer_metrics.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sacrebleu.*\n.*pip install 'gptloom\[eval\]'"):
        check_answers([asked("a", "b", metric="bleu")])
    assert answer_figures(["a"], ["a"], "f1")["f1"] == 1


def test_every_metric_has_a_meaning() -> None:
    assert set(FIGURES) == set(FIRST) == set(METRICS)
    assert all(metric(name) is not None for names in FIGURES.values() for name in names)
    assert (written("bleu", 23.456), written("exact", 0.5)) == ("23.5", "50.0 %")


def test_the_usual_metric_is_by_the_length_of_answers() -> None:
    assert usual_metric(["yes", "no", "a long answer with very many words in it"]) == "exact"
    assert usual_metric(["yes", *["a long answer with very many words in it"] * 2]) == "f1"


# ---- reports ---------------------------------------------------------------------------------------------------------


def asked(prompt: str, answer: str, task: str = "t", **about: Any) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)), f"f:{prompt}", task, **about)


class Stand:
    """Answers by a function of the prompt; does not stop where that ends in "..."; no prompt longer than 40 fits."""

    def __init__(self, answer: Callable[[str], str], stop: Sequence[str] = ()) -> None:
        self.answer = answer
        self.renderer = SimpleNamespace(stop=list(stop))
        self.language_model = SimpleNamespace(count=lambda text: len(text.split()))
        self.options: list[SamplingOptions] = []

    def prompt(self, messages: Sequence[Message], max_tokens: int, tools: Any = ()) -> None:
        if len(messages[-1].content) > 40:
            raise UserError("too long")

    def complete(self, conversations: Sequence[Conversation], options: SamplingOptions) -> Iterator[Any]:
        self.options.append(options)
        for conversation in conversations:
            text = self.answer(conversation.prompt[-1].content)
            yield SimpleNamespace(text=text, finish_reason="length" if text.endswith("...") else "stop")


ROWS = [asked(f"is {i} even?", "no" if i % 2 else "yes") for i in range(20)] + [asked("is 20 even?", "yes")]


def test_answers_beside_the_commonest_one() -> None:
    model: Any = Stand(lambda prompt: "yes" if "4" in prompt else "maybe" if "5" in prompt else " no ")
    report = task_answers(model, ROWS)
    right = {1, 3, 7, 9, 11, 13, 17, 19} | {4, 14}
    assert report.metric == "exact" and report.scores.figures["exact"] == pytest.approx(len(right) / 21)
    assert (report.baseline.answer, report.baseline.figures["exact"]) == ("always yes", pytest.approx(11 / 21))
    assert report.among == pytest.approx(19 / 21), "maybe is no answer of this task"
    assert report.stopping == 1 and set(report.intervals) == {"exact", "exact_match", "f1", "stopping", "among"}
    document = report.as_dict()
    assert document["figures"][document["first"]] == report.scores.figures["exact"] and len(document["samples"]) == 3
    assert model.options[0].temperature == 0


def test_copying_is_the_baseline_of_translations() -> None:
    pytest.importorskip("sacrebleu", reason="pip install sacrebleu")
    pairs = [("Anna in Berlin sagt ja.", "Anna in Berlin says yes."), ("Das ist gut so hier.", "This is good here.")]
    rows = [asked(f"English? {text}", right, metric="bleu", source=text) for text, right in pairs]
    report = task_answers(Stand(lambda prompt: "Anna in Berlin says yes."), rows)  # type: ignore[arg-type]
    copied = answer_figures([text for text, _ in pairs], [right for _, right in pairs], "bleu")
    assert (report.baseline.answer, report.baseline.figures) == ("the text itself", copied)
    assert report.first == "bleu" and report.among is None


def test_what_does_not_end_and_what_does_not_fit_is_counted() -> None:
    rows = [asked("one", "1"), asked("two", "2"), asked("x" * 41, "3")]
    report = task_answers(Stand(lambda prompt: "and on..." if prompt == "two" else "1"), rows)  # type: ignore[arg-type]
    assert (report.n, report.too_long, report.stopping, report.scores.figures["exact"]) == (2, 1, 0.5, 0.5)
    with pytest.raises(UserError, match="too long"):
        task_answers(Stand(str), rows[2:])  # type: ignore[arg-type]


def test_the_same_rows_are_asked_before_and_after() -> None:
    asks: list[list[str]] = []
    for word in ("no", "yes"):
        report = task_answers(Stand(lambda prompt, word=word: word), ROWS, limit=5)  # type: ignore[arg-type, misc]
        asks.append([answer.where for answer in report.answers])
    assert asks[0] == asks[1] and len(asks[0]) == 5
    other = task_answers(Stand(str), ROWS, limit=5, seed=2)  # type: ignore[arg-type]
    assert [answer.where for answer in other.answers] != asks[0]


def test_each_task_has_its_own_report_and_length() -> None:
    model: Any = Stand(lambda prompt: "two words")
    rows = [asked("a", "one two three four five six"), asked("b", "1", "sum"), asked("c", "22", "sum")]
    report = answer_report(model, rows)
    assert [(name, task.metric, task.n) for name, task in report.tasks.items()] == [("t", "f1", 1), ("sum", "exact", 2)]
    assert [options.max_tokens for options in model.options] == [6 + 3 + 8, 1 + 0 + 8]
    assert set(report.as_dict()) == {"t", "sum"}


def test_a_real_model_is_asked_what_fits_its_context() -> None:
    words = train_tokenizer("bytes", [], None)
    chat_format, words = built_in("gptloom", words)
    fields = {**preset("modern-nano"), "n_layer": 1, "context": 128, "vocab_size": words.vocab_size}
    language_model = LanguageModel(Transformer.initialised(ModelConfig(**fields), 0).eval(), words)
    model = ChatModel(language_model, Renderer(words, chat_format))
    rows = [asked("2 + 2 =", "4", metric="exact"), asked("w" * 200, "no"), asked("What is it?", "five")]
    report = task_answers(model, rows)
    assert [answer.right for answer in report.answers] == ["4", "five"] and report.too_long == 1
    assert all(len(answer.answer.encode()) <= 4 + 2 + 8 for answer in report.answers)
    again = model.reply(rows[0].prompt, temperature=0, max_tokens=14)
    assert report.answers[0].answer == again.text.strip() and report.answers[0].stopped == (
        again.finish_reason == "stop"
    )


def test_the_stop_text_of_a_prepared_file_is_no_part_of_the_answer() -> None:
    rows = [asked("a ->", " Kant END"), asked("b ->", " Hegel END")]
    answers = answer_all(Stand(lambda prompt: " Kant", stop=[" END"]), rows, max_tokens=4)  # type: ignore[arg-type]
    assert [answer.right for answer in answers] == ["Kant", "Hegel"] and answers[0].answer == "Kant"
