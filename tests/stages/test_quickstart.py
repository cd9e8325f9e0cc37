"""The quickstart on a small text of one's own: what it measures, stores, skips, goes on with and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.data.python_corpus import HeldoutExample
from gptloom.evaluation.yardsticks import Yardstick
from gptloom.stages.quickstart import STAGES, Stage, StageResult, examples, pipeline, pretrain
from gptloom.stages.quickstart.corpus import open_corpus
from gptloom.stages.quickstart.moments import Watch, compare, moments
from gptloom.stages.quickstart.pipeline import choose_stages, share_minutes
from gptloom.train.run import Run, read_state

PAGES = Path(__file__).parents[2] / "docs"


def write_text(folder: Path) -> Path:
    """Some 60 kB of prose."""
    path = folder / "own.txt"
    path.write_text(
        "\n".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md"))), encoding="utf-8"
    )
    return path


def start(folder: Path, **options: Any) -> Any:
    given = {"corpus": write_text(folder), "out": folder / "quick", "fast": True, "threads": 1, **options}
    return gptloom.quickstart(**given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A quickstart from start to end."""
    return start(tmp_path_factory.mktemp("finished"))


def test_the_record_holds_everything(finished: Any) -> None:
    stored = json.loads((finished.folder / "quickstart.json").read_text(encoding="utf-8"))
    assert {**stored, "folder": str(finished.folder)}.items() <= finished.as_dict().items()
    assert finished.done and len(stored["corpus"]["hash"]) == 64 and stored["corpus"]["python"]
    assert [yardstick["name"] for yardstick in stored["yardsticks"]] == ["byte unigram", "6-gram", "lzma"]
    figures = stored["stages"]["pretrain"]["figures"]
    best = min(yardstick["bits_per_byte"] for yardstick in stored["yardsticks"])
    assert best < figures["bits_per_byte"] < figures["untrained_bits_per_byte"]  # 24 steps beat no compressor
    assert figures["beaten"] == [
        y["name"] for y in stored["yardsticks"] if y["bits_per_byte"] > figures["bits_per_byte"]
    ]
    assert sum(sample["tokens"] for sample in figures["samples"]) >= pretrain.FAST_TOKENS
    assert 0 < figures["copying"]["known_words"] <= 1 and figures["examples"] == []


def test_the_figure_is_that_of_the_run_on_all_of_the_held_out_text(finished: Any) -> None:
    figures = finished.stages[0][1].figures
    assert figures["bits_per_byte"] == read_state(finished.folder / "base").bits_per_byte
    assert figures["moments"][-1]["bits_per_byte"] == figures["bits_per_byte"]


def test_six_moments_are_watched(finished: Any) -> None:
    watched = finished.stages[0][1].figures["moments"]
    assert [moment["step"] for moment in watched] == moments(24)
    assert watched[0]["bits_per_byte"] > watched[-1]["bits_per_byte"]
    assert len({moment["prompt"] for moment in watched}) == 1 and len({moment["text"] for moment in watched}) == 6


def test_the_corpus_can_be_read(finished: Any) -> None:
    text = (finished.folder.parent / "own.txt").read_text(encoding="utf-8")
    train, valid = (
        (finished.folder / "corpus" / name).read_text(encoding="utf-8") for name in ("train.txt", "valid.txt")
    )
    assert text == train + valid and len(valid) / len(text) == pytest.approx(0.1, abs=0.02)


def test_the_model_of_the_last_stage_writes(finished: Any) -> None:
    assert finished.model.generate("The", max_tokens=3, seed=1).tokens == 3


def test_a_second_call_repeats_nothing(
    finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "open_corpus", lambda *_: pytest.fail("nothing is left to do"))
    again = start(finished.folder.parent)
    assert again.done and again.record.as_dict() == finished.record.as_dict()
    assert "pretrain is done already" in capsys.readouterr().err


def test_json_is_one_document_and_the_screen_a_table(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, out = str(finished.folder.parent / "own.txt"), str(finished.folder)
    command = ["quickstart", "--corpus", corpus, "--out", out, "--fast", "--threads", "1"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["done"] and document["stages"]["pretrain"]["run"] == "base"
    assert main([*command, "--quiet"]) == 0
    printed = capsys.readouterr()
    head, row, *_ = printed.out.splitlines()
    assert head.split()[:5] == ["stage", "data", "objective", "model", "time"]
    assert row.startswith("pretrain  raw text  next token") and "bits per byte" in row
    assert "gptloom pretrain --data yourfile.txt" in printed.out and printed.err == ""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_broken_off_quickstart_ends_as_if_it_had_not_been(
    how: str, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch.__call__

    def break_off(self: Watch, event: dict[str, Any], run: Run) -> None:
        watch(self, event, run)
        if event["type"] == "train" and run.state.step == 13:
            if how == "killed":
                raise RuntimeError("the power is gone")
            (run.path / "stop").touch()

    monkeypatch.setattr(pretrain, "SAVE_EVERY", 4)
    with monkeypatch.context() as during:
        during.setattr(Watch, "__call__", break_off)
        if how == "killed":
            with pytest.raises(RuntimeError, match="power"):
                start(tmp_path)
        else:
            assert not start(tmp_path).done
    assert read_state(tmp_path / "quick" / "base").step == 13
    result = start(tmp_path)
    assert result.done
    figures, expected = result.stages[0][1].figures, finished.stages[0][1].figures
    assert figures["bits_per_byte"] == expected["bits_per_byte"] and figures["moments"] == expected["moments"]


@pytest.mark.slow
def test_what_was_broken_off_while_preparing_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as during:
        during.setattr("gptloom.stages.pretrain.open_shards_of", fail)
        with pytest.raises(RuntimeError):
            start(tmp_path)
    assert (tmp_path / "quick" / "base" / "tokenizer").is_dir()
    assert start(tmp_path).done


def test_stages_run_in_order_with_their_shares_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float, list[str]]] = []

    def work(name: str) -> Any:
        def done(context: Any) -> StageResult:
            calls.append((name, context.minutes, sorted(path.name for path in context.out.iterdir())))
            return StageResult(name, "a model", 1.0, "something", {})

        return done

    stages = tuple(
        Stage(name, minutes, "text", "a loss", work(name)) for name, minutes in (("first", 1.0), ("then", 3.0))
    )
    monkeypatch.setattr(pipeline, "STAGES", stages)
    first = start(tmp_path, fast=False, minutes=2, stages="first")
    assert first.done and [stage.name for stage, _ in first.stages] == ["first"]
    both = start(tmp_path, fast=False, minutes=2, stages="then,first")
    assert [(name, minutes) for name, minutes, _ in calls] == [("first", 0.5), ("then", 1.5)]
    assert [stage.name for stage, _ in both.stages] == ["first", "then"]


def test_shares() -> None:
    assert sum(stage.minutes for stage in STAGES) <= 8
    assert share_minutes(STAGES[0], None) == STAGES[0].minutes
    assert sum(share_minutes(stage, 4.0) for stage in STAGES) == pytest.approx(4.0)
    assert choose_stages([]) == STAGES


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 24, 1000])
def test_moments_are_different_steps(steps: int) -> None:
    found = moments(steps)
    assert len(found) == min(6, steps) and found == sorted(set(found)) and found[-1] == steps and found[0] >= 1


def test_beating_a_yardstick_is_reported_not_assumed() -> None:
    yardsticks = [Yardstick("6-gram", 2.0, ""), Yardstick("lzma", 1.7, "")]
    assert compare(1.8, yardsticks) == "better than 6-gram"
    assert compare(2.0, yardsticks) == "worse than all yardsticks"


class Scripted:
    """A model that knows one sum and, after a demonstration, repeats the answer it was shown."""

    class model:
        class config:
            context = 200

    def count(self, text: str) -> int:
        return len(text)

    def generate(self, prompts: list[str], **_: Any) -> list[str]:
        return [
            "2" if prompt == ">>> 1 + 1\n" else prompt.splitlines()[-2] if "\n>>>" in prompt else ""
            for prompt in prompts
        ]


def test_answers_are_right_to_the_letter() -> None:
    def example(prompt: str, answer: str, shown: str) -> HeldoutExample:
        return HeldoutExample("sum", f">>> {prompt}\n", answer, (f">>> 0 + {shown}\n{shown}\n",) * 8)

    asked = [
        example("1 + 1", "2", "9"),
        example("3 + 4", "7", "7"),
        example("1 + 7", "8", "9"),
        example("6 + 1", "7", "9"),
    ]
    too_long = HeldoutExample("word", ">>> len('a')\n", "1", ("x" * 200,) * 8)
    (score,) = examples.ask(Scripted(), [*asked, too_long], 3)  # type: ignore[arg-type]
    assert (score.questions, score.right) == (3, {"0": 1 / 3, "1": 1 / 3, "4": 1 / 3})
    assert score.commonest == 0.5


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": -1.5}, "minutes"),
        ({"fast": True, "minutes": 1}, "fast has a length of its own"),
        ({"stages": "pretrian"}, "there is no stage 'pretrian'\n  try: did you mean pretrain"),
        ({"corpus": "nowhere.txt"}, "nowhere.txt: there is no such text"),
        ({"corpus": "short.txt"}, "300 bytes of text are too little"),
        ({"corpus": "picture.png"}, "NUL byte"),
        ({"corpus": "repeats.jsonl"}, "the documents repeat each other"),
        ({"out": "mine"}, "holds no quickstart"),
        ({"out": "short.txt"}, "there is a file of this name"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(
    options: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "short.txt").write_text("too short\n" * 30, encoding="utf-8")
    (tmp_path / "repeats.jsonl").write_text('{"text": "%s"}\n' % ("on and on " * 20) * 300, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0" * 9000)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        gptloom.quickstart(**{"out": "quick", **options})
    assert expected in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"seed": 2}, "begun with seed 1337, not with seed 2"), ({"fast": False, "minutes": 3}, "minutes None")],
)
def test_other_options_do_not_go_on_with_an_old_quickstart(
    finished: Any, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        start(finished.folder.parent, **options)


def test_figures_of_different_texts_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STAGES", (Stage("first", 1.0, "text", "a loss", lambda context: None),))
    assert not start(tmp_path).done
    other = (tmp_path / "own.txt").read_text(encoding="utf-8").replace("the", "teh")
    (tmp_path / "own.txt").write_text(other, encoding="utf-8")
    options = {"corpus": tmp_path / "own.txt", "out": tmp_path / "quick", "fast": True, "threads": 1}
    with pytest.raises(UserError, match="figures would not compare"):
        gptloom.quickstart(**options)
    assert not gptloom.quickstart(**options, overwrite=True).done  # begun anew


def test_overwrite_takes_only_a_quickstart_away(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "novel.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="holds no quickstart"):
        start(tmp_path, overwrite=True)
    assert (tmp_path / "quick" / "novel.txt").exists()


def test_shakespeare_is_read_like_a_text_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_text(tmp_path)
    monkeypatch.setattr("gptloom.stages.quickstart.corpus.shakespeare_corpus", lambda folder: text)
    corpus = open_corpus("shakespeare", tmp_path / "corpus", seed=1)
    own = open_corpus(str(text), tmp_path / "corpus", seed=1)
    assert corpus.title.startswith("Tiny Shakespeare, ") and corpus.hash == own.hash and not corpus.examples


def test_a_failed_download_names_the_way_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(UserError, match=r"no network.*\n  try: .*--corpus FILE"):
        gptloom.quickstart(corpus="shakespeare", out=tmp_path / "quick", threads=1)
    assert not (tmp_path / "quick").exists()
