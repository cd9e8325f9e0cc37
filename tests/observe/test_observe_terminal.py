"""What is printed: numbers, lines, tables, and how they change where nobody watches."""

from __future__ import annotations

import io
from typing import Any

import pytest

from gptloom.observe.numbers import human_bytes, human_count, human_time
from gptloom.observe.progress import Progress, ProgressReader, event_line, progress_line
from gptloom.observe.terminal import Terminal, print_table, speaker


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class OldConsole(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="cp1252")


def event(type: str, step: int, time: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"version": 1, "time": time, "type": type, "attempt": 0, "step": step, **fields}


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (9_876, "9,876"), (12_345, "12.3k"), (999_499, "999k"), (999_600, "1M"),
     (123_589_632, "124M"), (1_300_000_000, "1.3B"), (3e12, "3T"), (4e15, "4000T")],
)  # fmt: skip
def test_human_count(number: float, text: str) -> None:
    assert human_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1_400, "1.4 kB"), (999_950, "1 MB"), (6.12e9, "6.1 GB"), (5e15, "5000 TB")]
)
def test_human_bytes(number: float, text: str) -> None:
    assert human_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"),
     (7_500, "2 h 05 min"), (86_399, "1 d 00 h"), (3 * 86_400 + 4 * 3_600, "3 d 04 h")],
)  # fmt: skip
def test_human_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_the_progress_line_says_everything_known() -> None:
    progress = Progress()
    progress.update(event("start", 0, 0.0, steps=5000))
    assert progress_line(progress) == "step 0/5,000 0%"
    progress.update(event("train", 1000, 60.0, loss=4.0, tokens_per_second=11_000.0))
    progress.update(event("evaluate", 1100, 66.0, valid_loss=3.3, bits_per_byte=1.842))
    progress.update(event("train", 1200, 90.0, loss=3.2141, tokens_per_second=12_345.0, mfu=0.413))
    assert progress_line(progress) == (
        "step 1,200/5,000 24% · loss 3.214 · valid 1.842 bits/byte · 12.3k tok/s · MFU 41% · 9 min 30 s left"
    )


def test_time_left_is_measured_in_the_attempt_that_runs_with_its_evaluations() -> None:
    progress = Progress()
    progress.update(event("start", 0, 0.0, steps=100))
    progress.update(event("train", 10, 1000.0, loss=1.0))
    assert progress.seconds_left is None
    progress.update(event("start", 10, 5000.0, steps=100))
    progress.update(event("train", 20, 5900.0, loss=1.0))  # compiles
    progress.update(event("train", 30, 5910.0, loss=1.0))
    assert progress.seconds_left == 70
    progress.update(event("evaluate", 30, 5920.0, valid_loss=1.0))
    progress.update(event("train", 40, 5930.0, loss=1.0))
    assert progress.seconds_left == 60 * 1.5


def test_a_loss_that_is_not_finite_is_said() -> None:
    progress = Progress()
    progress.update(event("train", 3, loss=None))
    assert progress_line(progress) == "step 3 · loss not finite"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (event("start", 0, steps=900, model="modern-nano", parameters=1_000_000, tokens_per_step=4096, context=256),
         "started, to step 900 (modern-nano · 1M parameters · 4,096 tokens a step · context 256)"),
        ({**event("start", 50), "attempt": 1}, "resumed from step 50"),
        (event("evaluate", 1500, valid_loss=2.5, bits_per_byte=None), "step 1,500: validation loss 2.500"),
        (event("sample", 5, prompt="To be", text=" or\nnot"), "step 5 writes:\n  │ To be or\n  │ not"),
        (event("checkpoint", 5, path="checkpoints/step-00000005", kind="best"),
         "step 5: saved checkpoints/step-00000005 (best)"),
        (event("guard", 5, reason="loss 9.1 is a spike", action="update skipped"),
         "step 5: guard: loss 9.1 is a spike → update skipped"),
        (event("timing", 5, stragglers=[{"rank": 3, "host": "node7", "times": 1.456}]),
         "step 5: the others wait for process 3 on node7 (1.46 times the middle one's work)"),
        (event("timing", 5, stragglers=[]), "step 5: no process waits for another"),
        (event("end", 5, state="finished", reason="max_steps reached"), "finished at step 5: max_steps reached"),
    ],
)  # fmt: skip
def test_event_lines(found: dict[str, Any], line: str) -> None:
    assert event_line(found) == line


def test_on_a_terminal_one_line_moves_and_messages_stay_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    stream = FakeTerminal()
    reader = ProgressReader(Terminal(stream))
    reader(event("train", 1, loss=4.0, tokens_per_second=1e6))
    reader(event("guard", 1, reason="spike", action="skipped"))
    reader(event("train", 2, loss=3.0))
    reader.close()
    clear = "\r\x1b[2K"
    first = f"{clear}step 1 · loss 4.000 · 1M tok…"
    guard = "step 1: guard: spike → skipped\n"
    assert stream.getvalue() == f"{first}{clear}{guard}{clear}step 2 · loss 3.000{clear}"


def test_a_process_that_keeps_the_others_waiting_is_named_when_it_does_so_for_long() -> None:
    stream = io.StringIO()
    reader = ProgressReader(Terminal(stream))
    for step, ranks in enumerate([[1], [1], [], [1], [0, 1], [0, 1], [0, 1], [0, 1]]):
        late = [{"rank": rank, "host": f"node{rank}", "times": 1.5} for rank in ranks]
        reader(event("timing", step, stragglers=late))
    lines = stream.getvalue().splitlines()
    assert [line[:6] for line in lines] == ["step 5", "step 6"], "1 for the third time in a row, then 0"


def test_errors_of_all_processes_but_the_first_say_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.delenv("RANK", raising=False)
    assert speaker() == ""
    monkeypatch.setenv("RANK", "0")
    assert speaker() == ""
    monkeypatch.setenv("RANK", "3")
    assert speaker() == "process 3 on node7"


@pytest.mark.parametrize("variable", [("NO_COLOR", ""), ("TERM", "dumb")])
def test_plain_terminals_get_no_escape_codes(variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*variable)
    stream = FakeTerminal()
    reader = ProgressReader(Terminal(stream))
    reader(event("train", 1, loss=4.0))
    reader(event("train", 2, loss=3.0))
    assert stream.getvalue() == "step 1 · loss 4.000\n"


@pytest.mark.parametrize("last", [5, 6])
def test_in_a_file_lines_come_seldom_but_evaluations_and_the_end_always(last: int) -> None:
    """The line of the last step comes once, whether it was evaluated or not."""
    stream = io.StringIO()
    reader = ProgressReader(Terminal(stream))
    for step in range(1, 6):
        reader(event("train", step, loss=4.0))
    reader(event("evaluate", 5, valid_loss=3.0))
    reader(event("checkpoint", 5, path="p", kind="last"))
    if last == 6:
        reader(event("train", 6, loss=3.5))
    reader(event("end", last, state="finished", reason=None))
    *lines, end = stream.getvalue().splitlines()
    assert lines[:2] == ["step 1 · loss 4.000", "step 5 · loss 4.000 · valid loss 3.000"]
    assert lines[2:] == ([] if last == 5 else ["step 6 · loss 3.500 · valid loss 3.000"])
    assert end == f"finished at step {last}"


def test_quiet_is_silent() -> None:
    stream = FakeTerminal()
    terminal = Terminal(stream, quiet=True)
    terminal.say("hello")
    terminal.show_live("hello")
    assert stream.getvalue() == ""


def test_a_console_that_lacks_a_character_still_prints() -> None:
    stream = OldConsole()
    Terminal(stream).say("a → b 🙂 é")
    assert stream.buffer.getvalue().decode("cp1252") == "a ? b ? é\n"  # type: ignore[attr-defined]


def test_a_table_in_a_file_is_plain_columns() -> None:
    file = io.StringIO()
    print_table(["run", "step"], [["plays", 5], ["x[red]", None], ["y", 1200]], right=["step"], file=file)
    assert file.getvalue() == "run     step\nplays      5\nx[red]\ny       1200\n"


def test_a_table_on_a_terminal_keeps_brackets_as_text() -> None:
    file = FakeTerminal()
    print_table(["run"], [["x[red]"]], file=file)
    assert "x[red]" in file.getvalue() and "run" in file.getvalue()


def test_a_fine_tuning_shows_its_metric() -> None:
    progress = Progress()
    measured = event(
        "evaluate", 20, 6.0, valid_loss=0.412, metric="matthews", metrics={"accuracy": 0.8731, "matthews": 0.5}
    )
    progress.update(measured)
    assert progress_line(progress) == "step 20 · valid matthews 0.500"
    assert event_line(measured) == "step 20: validation loss 0.412, accuracy 87.3 %, matthews 0.500"
