"""``data check``: repeats, leaks and oddities that are planted are found, and no others; memory does not grow with rows."""

import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.data.check.report import CheckReport, Gathered
from gptloom.data.check.seen import Leaked, Repeated, Seen
from gptloom.data.check.sketches import near_pairs, repeats, sketch
from gptloom.data.check.survey import Survey
from gptloom.data.prepare.load import load

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]


def text(seed: int, n: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def changed(words: str, *places: int) -> str:
    """Some words replaced."""
    parts = words.split()
    for place in places:
        parts[place] = "otherwise"
    return " ".join(parts)


def put(path: Path, rows: Any) -> str:
    content = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(content, encoding="utf-8", newline="")
    return str(path)


def pair(prompt: str, completion: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def told(problems: list[Problem], folder: Path) -> str:
    return "\n".join(map(str, problems)).replace(f"{folder}/", "")


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., CheckReport]:
    """The report on rows, or on files of rows."""

    def run(rows: Any, valid: Any = None, **options: Any) -> CheckReport:
        data = [put(tmp_path / "rows.jsonl", rows)]
        held_out = [] if valid is None else [put(tmp_path / "valid.jsonl", valid)]
        return gptloom.data_check(data=data, valid=held_out, quiet=True, **options)

    return run


# ---- sketches --------------------------------------------------------------------------------------------------------


def pieces(words: str) -> set[str]:
    return {words[i : i + 8] for i in range(len(words) - 7)}


def test_sketches_estimate_the_share_of_common_pieces() -> None:
    for n_changed in (0, 1, 3, 8, 20, 60):
        errors = []
        for seed in range(30):
            one = text(seed)
            other = changed(one, *random.Random(seed).sample(range(60), n_changed))
            true = len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))
            errors.append(float((sketch(one) == sketch(other)).mean()) - true)
        # one standard deviation of an estimate from 64 minima is at most 0.0625; of the mean of 30 a fifth of that
        assert abs(np.mean(errors)) < 0.05 and np.std(errors) < 0.09, n_changed


def test_capitals_and_spaces_do_not_count() -> None:
    assert (sketch("The Old Man\n\n and the Sea " * 5) == sketch("the old man and the sea " * 5)).all()


def test_near_pairs_are_those_of_four_fifths() -> None:
    texts = [text(seed) for seed in range(300)]
    near = [changed(text(seed), 59) for seed in range(50)]
    half = [changed(text(seed), *range(0, 60, 4)) for seed in range(50, 100)]
    short = ["What does Python print for 7 + 5?", "What does Python print for 7 + 4?"]
    sketches = np.stack([sketch(one) for one in (*texts, *near, *half, *short)])
    found = {(int(a), int(b)) for rows, first in near_pairs(sketches) for a, b in zip(rows, first, strict=True)}
    assert found == {(300 + i, i) for i in range(50)}


def test_repeats_name_the_first() -> None:
    rows, first = repeats(np.array([5, 3, 5, 7, 3, 5], np.uint64))
    assert sorted(zip(rows.tolist(), first.tolist(), strict=True)) == [(2, 0), (4, 1), (5, 0)]
    assert len(repeats(np.zeros(0, np.uint64))[0]) == 0


# ---- repeats and leaks -----------------------------------------------------------------------------------------------


def test_repeats_are_told_apart() -> None:
    seen = Seen()
    for i in range(300):
        seen.add(f"a.jsonl:{i + 1}", text(i), text(1000 + i))
    seen.add("a.jsonl:301", text(3), text(1003))  # the same
    seen.add("b.parquet row 7", text(4), text(5000))  # another answer
    seen.add("b.parquet row 8", changed(text(5), 7), text(1005))  # nearly the same
    found = Repeated.of(seen)
    assert (found.exact.count, found.exact.examples) == (1, ["a.jsonl:301 = line 4"])
    assert (found.other_answers.count, found.other_answers.examples) == (1, ["b.parquet row 7 = a.jsonl:5"])
    assert (found.near.count, found.near.examples) == (1, ["b.parquet row 8 ~ a.jsonl:6"])


def test_a_template_around_prompts_makes_them_no_duplicates() -> None:
    frame = "Below is an instruction that describes a task. Write a response that completes it.\n\n### Instruction:\n"
    seen = Seen(prompts_too=True)
    for i in range(250):
        seen.add(f"a:{i + 1}", f"{frame}{text(i, 4)}\n\n### Response:\n", text(1000 + i, 3))
    assert Repeated.of(seen).near.count == 0


def test_leaks_exact_and_near() -> None:
    train, valid = Seen(prompts_too=True), Seen(prompts_too=True)
    for i in range(100):
        train.add(f"train:{i + 1}", text(i), "yes")
        valid.add(f"valid:{i + 1}", text(500 + i), "yes")
    valid.add("valid:101", f" {text(7)}\n", "no")  # white space aside, whatever the answer
    valid.add("valid:102", changed(text(8), 30), "yes")
    valid.add("valid:103", text(501), "yes")  # repeats a held-out row: no leak
    found = Leaked.of(train, valid)
    assert (found.exact.count, found.exact.examples) == (1, ["valid:101 = train:8"])
    assert (found.near.count, found.near.examples) == (1, ["valid:102 ~ train:9"])


# ---- sft -------------------------------------------------------------------------------------------------------------


def test_a_sound_file(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    report = check([pair(text(i), text(1000 + i)) for i in range(50)])
    assert report.is_fine and not report.problems and not report.warnings and not report.classes
    assert report.verdict == f"fine for: gptloom sft BASE --data {tmp_path}/rows.jsonl"
    facts = report.files[0]
    size = sum(len(text(i)) + len(text(1000 + i)) for i in range(50))
    assert (facts.rows, facts.turns, facts.size, facts.format) == (50, 50, size, "prompt/completion")
    assert report.lengths["total"] == size and report.lengths["unit"] == "characters"
    longest = max(range(50), key=lambda i: len(text(i)) + len(text(1000 + i)))
    assert report.lengths["longest"][0]["where"] == f"{tmp_path}/rows.jsonl:{longest + 1}"
    json.dumps(report.as_dict())


def test_everything_at_once(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    rows = [pair(text(i), text(1000 + i)) for i in range(20)]
    rows += [rows[2], pair(text(3), "another answer"), pair("", "caf\u00c3\u00a9 \ufffd \u0000"), pair("a", "  ")]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "broken\n"
    report = check(lines, [pair(text(4), "held out"), pair(text(99), "held out")])
    problems, warnings = told(report.problems, tmp_path), told(report.warnings, tmp_path)
    assert "rows.jsonl:24: the answer is white space only" in problems
    assert "rows.jsonl:25: not JSON" in problems
    assert "1 held-out prompt is also trained on (of 2): valid.jsonl:1 = rows.jsonl:5" in problems
    assert report.n_problems == 3 and not report.is_fine and "3 problems to mend" in report.verdict
    assert "1 row repeats an earlier one: rows.jsonl:21 = line 3" in warnings
    assert "1 row has the prompt of an earlier one and another answer: rows.jsonl:22 = line 4" in warnings
    assert "rows.jsonl:23: U+FFFD in" in warnings and "was read in a wrong encoding once" in warnings
    assert "rows.jsonl:23: the control character U+0000" in warnings


def test_a_beginning_that_is_trained_on_is_a_leak(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    """As ``gptloom sft`` has it, which learns every answer of a conversation."""
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    longer = [*turns, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    report = check([{"messages": longer}, pair("x", "y")], [pair("a", "other"), pair("c", "d")])
    assert "1 held-out prompt is also trained on (of 2): valid.jsonl:1 = rows.jsonl:1" in told(
        report.problems, tmp_path
    )


def test_other_calls_are_other_rows(check: Callable[..., CheckReport]) -> None:
    def row(city: str, tool: str = "weather") -> dict[str, Any]:
        call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": tool, "arguments": city}}]}
        return {"messages": [{"role": "user", "content": "how cold?"}, call], "tools": [{"name": tool}]}

    report = check([row("Oslo"), row("Rome"), row("Oslo", "time")], valid=[row("Oslo", "fish")])
    assert report.is_fine and report.repeated is not None and report.leaked is not None
    assert (report.repeated.exact.count, report.repeated.other_answers.count, report.leaked.exact.count) == (0, 1, 0)
    assert report.lengths["median"] > 60


def test_a_misspelled_key_is_told_before_another_format(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    rows = [pair(text(i), text(i + 50)) for i in range(20)]
    report = check([*rows, {"promt": "what?", "completion": "this"}, {"completion": "that"}, {"text": "a text"}])
    assert [problem.mend for problem in report.problems] == [
        "is it called promt? rename it to prompt",
        "write 'prompt', or delete the row",
        "one format in a file: write these rows to a file of their own, and give both files",
    ]


def test_how_a_file_was_taken_is_told(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", json.dumps({"data": [pair("a", "b"), pair("c", "d")]}))
    assert gptloom.data_check(data=[path], quiet=True).notes == [f"{path}: its rows are those of 'data'"]


def test_a_file_of_a_mix_may_have_its_weight(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.jsonl", [pair(text(i), text(i + 50)) for i in range(4)])
    report = gptloom.data_check(data=[f"{path}@0.5"], quiet=True)
    assert report.is_fine and report.files[0].rows == 4 and report.next == f"gptloom sft BASE --data {path}@0.5"
    assert told(gptloom.data_check(data=[f"{path}@0"], quiet=True).problems, tmp_path).startswith(
        "rows.jsonl@0: a weight of 0"
    )


def test_pairs_of_answers_lack_their_columns(check: Callable[..., CheckReport]) -> None:
    def mend(*names: str) -> str | None:
        return check([dict.fromkeys(names, text(i)) for i in range(4)], stage="dpo").problems[0].mend

    wanted = "columns prompt, chosen and rejected: what is asked, the better answer and the worse one"
    assert mend("question", "answer") == wanted
    assert mend("question", "choosen", "rejected") == "'choosen': did you mean chosen?"


def test_many_problems_are_counted(check: Callable[..., CheckReport]) -> None:
    report = check([pair("a", "b"), *[pair("a", "")] * 40])
    assert len(report.problems) == 4 and str(report.problems[-1]) == "and 37 more: empty answers"
    assert report.n_problems == 40


def test_classes_and_their_balance(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    report = check([pair(text(i), " yes" if i % 20 else " no") for i in range(60)])
    assert report.classes == {"yes": 57, "no": 3}
    assert "95% of the answers are 'yes'" in told(report.warnings, tmp_path)
    report = check([pair(text(i), " yes") for i in range(60)])
    assert "every answer is 'yes'" in told(report.warnings, tmp_path)


def test_weights_that_leave_ends_or_everything_out(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    quiet = {**answer, "weight": 0}
    report = check([{"messages": [user, answer, user, quiet]}])
    assert report.is_fine and "the last answer has weight 0: where it ends is not learned" in told(
        report.warnings, tmp_path
    )
    report = check([{"messages": [user, quiet]}])
    assert "no message of the assistant is learned: all have weight 0" in told(report.problems, tmp_path)


def test_unreadable_files_come_together(tmp_path: Path) -> None:
    good = put(tmp_path / "good.jsonl", [pair(text(1), text(2))])
    other = put(tmp_path / "other.csv", "text,label\ngood,1\nbad,0\n")
    report = gptloom.data_check(data=[good, other, str(tmp_path / "missing.jsonl")])
    assert [facts.path for facts in report.files] == [good]
    assert "no such file" in told(report.problems, tmp_path) and "gptloom data instruct" in told(
        report.problems, tmp_path
    )


# ---- other stages ----------------------------------------------------------------------------------------------------


def test_pairs_of_answers(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    human = "\n\nHuman: Hi\n\nAssistant:"
    rows = [
        {"chosen": f"{human} Hello", "rejected": f"{human} Go"},
        {"chosen": f"{human} Hello", "rejected": f"{human} Hello"},
        {"chosen": f"{human} Hello", "rejected": "\n\nHuman: Bye\n\nAssistant: Go"},
        {"chosen": f"{human} Hello", "rejected": f"{human} Hello\n\nHuman: And?\n\nAssistant: Go"},
        {"chosen": f"{human} Hello", "rejected": human},
    ]
    report = check(rows, stage="dpo")
    problems = told(report.problems, tmp_path)
    assert "rows.jsonl:3: chosen and rejected answer different prompts (message 1 differs)" in problems
    assert "rows.jsonl:4: chosen and rejected answer different prompts (1 and 3 messages before the answer)" in problems
    assert "rows.jsonl:5: rejected: the answer is empty" in problems and report.n_problems == 3
    assert "rows.jsonl:2: chosen and rejected are the same" in told(report.warnings, tmp_path)
    assert check(rows[:1], stage="reward").is_fine
    assert "not preference data; its columns: prompt" in told(check([pair("a", "b")], stage="dpo").problems, tmp_path)


def test_labelled_rows(tmp_path: Path) -> None:
    rows = "".join(f"{text(i, 8)}\t{i % 2}\n" for i in range(30)) + f"{text(3, 8)}\t1\n"
    train = put(tmp_path / "train.tsv", f"text\tlabel\n{rows}")
    valid = put(tmp_path / "valid.tsv", f"text\tlabel\n{text(5, 8)}\t1\n{text(99, 8)}\t0\n")
    report = gptloom.data_check(data=train, valid=valid, stage="finetune")
    assert report.is_fine and report.classes == {"1": 16, "0": 15}
    warnings = told(report.warnings, tmp_path)
    assert "1 row repeats an earlier one: train.tsv:32 = line 5" in warnings
    assert "1 held-out prompt is also trained on (of 2): valid.tsv:2 = train.tsv:7" in warnings
    assert report.next.startswith(f"gptloom finetune BASE --task classify --data {train} --valid {valid}")
    broken = put(tmp_path / "broken.tsv", f"text\tlabel\n{rows}good\t\n")
    assert "no label in column 'label'" in told(gptloom.data_check(data=broken, stage="finetune").problems, tmp_path)


def test_lengths_go_to_the_file_of_the_row(tmp_path: Path) -> None:
    first = put(tmp_path / "a.tsv", "text\tlabel\n" + "abc\t1\nabcde\t0\n")
    packed = tmp_path / "a.tsv.gz"
    packed.write_bytes(gzip.compress(b"text\tlabel\nabcdefghi\t1\nb\t0\n"))
    report = gptloom.data_check(data=[first, str(packed)], valid=first, stage="finetune")
    assert [(facts.side, facts.rows, facts.size) for facts in report.files] == [
        ("train", 2, 8),
        ("train", 2, 10),
        ("valid", 2, 8),
    ]


def test_too_long_rows_of_both_sides_are_named() -> None:
    gathered = Gathered("sft", Survey("tokens", 5), Survey("tokens", 5))
    gathered.train.add("a.jsonl:1", "a", "b", 3)
    gathered.valid.add("b.jsonl:7", "c", "d", 9)
    (problem,) = [problem for problem in gathered.report("next").warnings if "longer than" in problem.what]
    assert problem.where == "b.jsonl:7" and problem.what.startswith("1 row longer than the 5 tokens")


def test_documents(tmp_path: Path) -> None:
    long = "\n".join(text(i) for i in range(1000))  # comes in pieces
    rows = [{"text": long}, {"text": long + " and more"}, {"text": long}, {"text": text(7)}]
    report = gptloom.data_check(data=put(tmp_path / "a.jsonl", rows), stage="pretrain")
    assert report.is_fine and report.files[0].rows == 4
    assert report.lengths["total"] == 3 * len(long) + len(" and more") + len(text(7))
    assert report.repeated is not None
    assert (report.repeated.exact.count, report.repeated.near.count) == (1, 1)
    chats = put(tmp_path / "chats.json", json.dumps([pair("a", "b")]))
    report = gptloom.data_check(data=chats, stage="pretrain")
    assert f"gptloom sft BASE --data {chats}" in str(report.problems[0])


def test_lengths_are_those_of_rows(check: Callable[..., CheckReport]) -> None:
    report = check([pair("a", "b" * n) for n in (1, 1, 8, 99)])
    assert (report.lengths["median"], report.lengths["percentile_95"]) == (2, 100)


def test_prepare_is_advised_where_it_takes_the_file(check: Callable[..., CheckReport], tmp_path: Path) -> None:
    whole = [pair(f"question {i}", f"answer {i}") for i in range(20)]
    file = str(tmp_path / "rows.jsonl")

    def takes() -> bool:
        try:
            return bool(load(file).rows)
        except UserError:
            return False

    few = check([*whole, pair("?", ["a list"])])
    assert f"gptloom data prepare {file} leaves out the rows that are broken" in few.verdict and takes()
    many = check([*whole, *[pair("?", ["a list"])] * 3])
    assert "data prepare" not in many.verdict and not takes()
    mixed = check([*whole, *[{"messages": [{"role": "user", "content": "a"}]}] * 3])
    assert "split by format" in mixed.verdict and "data prepare" not in mixed.verdict and not takes()


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("different", [1, 1000, 50_000], ids=["all the same", "few", "all different"])
def test_bytes_per_row(monkeypatch: pytest.MonkeyPatch, different: int) -> None:
    """What a docstring of ``Seen`` says: beyond the sketched rows less than 100 bytes a row, whatever repeats."""
    monkeypatch.setattr("gptloom.data.check.seen.SKETCHED_ROWS", 0)
    rows = 50_000
    tracemalloc.start()
    try:
        survey = Survey("characters")
        for i in range(rows):
            survey.add(f"a.jsonl:{i + 1}", f"question {i % different}", f"answer {i % 2000}", i)
        repeated = Repeated.of(survey.seen)
        survey.lengths.as_dict()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert repeated.exact.count + repeated.other_answers.count > 0 or different == rows
    assert peak < 100 * rows, f"{peak / rows:.0f} bytes a row"


MEASURED = """
import resource, sys
import gptloom
gptloom.data_check(data=sys.argv[1], quiet=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = gptloom.data_check(data=sys.argv[2], quiet=True)
assert report.is_fine, report.problems
print(report.files[0].rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is counted in kilobytes on Linux only")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """100 MB in 25,000 rows take less than 30 MB more than one row does."""
    small = put(tmp_path / "small.jsonl", [pair("a", "b")])
    large = tmp_path / "large.jsonl"
    with large.open("w", encoding="utf-8") as file:
        for i in range(25_000):
            file.write(json.dumps(pair(text(i, 40), text(i, 900))) + "\n")
    assert large.stat().st_size > 90_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, small, str(large)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 25_000 and kilobytes < 30_000
