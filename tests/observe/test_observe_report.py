"""The report, its charts and the loss picture of a small run that has everything, and of one that has nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.observe import pictures
from gptloom.observe.charts import Line, line_chart, ticks
from gptloom.observe.curves import expected_band
from gptloom.observe.events import EventLog
from gptloom.observe.report import _spread, write_report
from gptloom.observe.runs import read_run

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '<script>alert("x")</script> & $body'


class Page(HTMLParser):
    """Collects text, tags and addresses, and fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def full(tmp_path: Path) -> Path:
    folder = tmp_path / "plays & more"
    (folder / "final").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    with EventLog(folder / "events.jsonl") as log:
        log.append("start", step=0, steps=4, model="modern-nano", parameters=1_000_000, context=64, tokens_per_step=100)
        for step in range(1, 5):
            speed = {"tokens_per_second": 1234.0, "mfu": 0.25}
            loss = None if step == 3 else 4.0 / step
            log.append("train", step=step, loss=loss, lr=0.1, grad_norm=1.0, tokens=step * 100, **speed)
        log.append("guard", step=3, reason=f"not finite {EVIL}", action="update skipped")
        for step in (2, 4):
            log.append("evaluate", step=step, valid_loss=3.0 / step, bits_per_byte=1.0, perplexity=2.0)
            log.append("sample", step=step, prompt="To", text=f" be {EVIL}")
            log.append("checkpoint", step=step, path=f"checkpoints/step-{step:08}", kind="last")
        log.append("end", step=4, state="finished", reason="4 steps")
    (folder / "state.json").write_text('{"state": "finished", "reason": "4 steps"}', encoding="utf-8")
    options = {"data": {"value": [EVIL], "source": "command line"}, "lr": {"value": 1, "source": "x", "rule": "a rule"}}
    config = {"version": 1, "gptloom": "0.1.0", "options": options, "band": [[400, 0.5, 0.9], [100, 2.0, 3.0]]}
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    card = {"versions": {"torch": "2.13.0"}, "lineage": {"parents": [{"path": "../base", "hash": "cd" * 32}]}}
    (folder / "final" / "gptloom.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_the_page_is_whole_alone_and_escaped(full: Path) -> None:
    text = write_report(full, lambda _: False).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count(EVIL) == 5, "two samples, the guard, the option data in the head and in the table"
    assert not re.search(r"(https?:)?//\w", text)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "onclick", "onload")]
    assert [path.name for path in full.iterdir() if "report" in path.name] == ["report.html"]


def test_the_page_tells_the_whole_run(full: Path) -> None:
    page = Page(write_report(full, lambda _: False).read_text(encoding="utf-8"))
    headings = [
        "Curves",
        "What it wrote",
        "Evaluations",
        "Checkpoints",
        "Guards",
        "Configuration",
        "Lineage",
        "Machine",
    ]
    assert [heading for heading in headings if heading not in page.text] == []
    facts = [
        "plays & more",
        "finished",
        "1M parameters",
        "expected",
        "a rule",
        "cdcdcdcd",
        "2.13.0",
        "best",
        "1 more were",
    ]
    assert [fact for fact in facts if fact not in page.text] == []
    assert any(name == "title" and "surprise per" in (value or "") for name, value in page.attributes)


def timed(log: EventLog, step: int, forward: list[float], late: dict[int, float], hosts: list[str]) -> None:
    phases = {
        "data": [0.01] * len(hosts),
        "forward": forward,
        "backward": [0.5] * len(hosts),
        "communication": [max(forward) - own for own in forward],
    }
    stragglers = [{"rank": rank, "host": hosts[rank], "times": times} for rank, times in late.items()]
    log.append("timing", step=step, phases=phases, hosts=hosts, stragglers=stragglers)


def test_the_page_shows_where_the_time_goes_and_who_is_late(tmp_path: Path) -> None:
    hosts = ["north", "north", f"south {EVIL}"]
    with EventLog(tmp_path / "events.jsonl") as log:
        timed(log, 1, [9.0, 9.0], {0: 9.0}, ["north", "south"])  # of an attempt with fewer processes
        timed(log, 2, [0.2, 0.4, 0.6], {2: 1.5}, hosts)
        timed(log, 3, [0.2, 0.4, 0.7], {1: 1.3, 2: 1.7}, hosts)
        timed(log, 4, [0.2, 0.4, 0.6], {}, hosts)
    page = Page(write_report(tmp_path, lambda _: False).read_text(encoding="utf-8"))
    assert "Where the time goes" in page.text and "average over 3 looks" in page.text
    assert "process 0 on north: forward 200 ms" in page.text and f"process 2 on {hosts[2]}: forward 633 ms" in page.text
    assert "1.14 s" in page.text, "process 1: 0.01 of data, 0.4, 0.5, and 0.23 of waiting"
    assert "forward 36%" in page.text and "communication 19%" in page.text
    said = f"Process 2 on {hosts[2]} kept the others waiting"
    assert page.text.count("kept the others waiting") == 1 and said in page.text
    assert "took 1.60 times" in page.text and "at 2 of 3 looks" in page.text


def test_a_lone_process_has_one_bar_and_waits_for_nobody(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        timed(log, 2, [1.0], {}, ["here"])
    page = Page(write_report(tmp_path, lambda _: False).read_text(encoding="utf-8"))
    assert page.tags.count("rect") == 4 and "1.51 s" in page.text
    assert "process 0" not in page.text and "waiting" not in page.text


def test_of_many_processes_those_with_the_most_work_are_drawn(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        timed(log, 2, [1.0 if rank in (40, 7) else 0.1 for rank in range(64)], {}, ["here"] * 64)
    page = Page(write_report(tmp_path, lambda _: False).read_text(encoding="utf-8"))
    assert "process 40" in page.text and "process 7:" in page.text and "process 63" not in page.text
    assert "Drawn are the 32 with the most work of their own, of 64 processes." in page.text


def test_an_empty_run_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"state": "running"}', encoding="utf-8")
    page = Page(write_report(tmp_path, lambda _: False).read_text(encoding="utf-8"))
    assert "broken off" in page.text and "Curves" not in page.text and "svg" not in page.tags


def test_a_long_run_makes_a_small_page_and_shows_few_samples(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for step in range(1, 5001):
            log.append("train", step=step, loss=4.0 + step % 7, tokens=step)
        for step in range(40):
            log.append("sample", step=step, prompt="To", text=f"number {step}.")
    path = write_report(tmp_path, lambda _: False)
    assert path.stat().st_size < 60_000
    text = path.read_text(encoding="utf-8")
    assert text.count("number ") == 6 and "number 0." in text and "number 39." in text and "34 more" in text


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (1.62, 3.1, 5, [2.0, 2.5, 3.0]), (0, 8.3e6, 8, [i * 1e6 for i in range(9)]),
     (3, 3, 5, [3])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(expected)


def test_a_chart_puts_points_where_they_belong() -> None:
    svg = line_chart([Line([(0, 0.0), (100, 1.0)], "a", "train")], "a & b", (0.0, 1.0), width=720, height=300)
    [(x0, y0), (x1, y1)] = re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="([^"]*)"', svg).group(1))  # type: ignore[union-attr]
    assert (float(x0), float(y0), float(y1)) == (52.0, 274.0, 10.0)
    assert float(x1) == pytest.approx(52 + (720 - 52 - 14) / 1.015, abs=0.1)
    assert 'aria-label="a &amp; b"' in svg


def test_a_band_of_one_point_has_a_width() -> None:
    svg = line_chart([], "loss", (0.0, 2.0), band=[(100.0, 0.5, 1.5)])
    corners = re.findall(r"([\d.]+),([\d.]+)", re.search(r'class="band" points="([^"]*)"', svg).group(1))  # type: ignore[union-attr]
    assert len(corners) == 4 and len({x for x, _ in corners}) == 2 and len({y for _, y in corners}) == 2


def test_samples_are_spread_from_first_to_last() -> None:
    assert _spread(range(11), 6) == [0, 2, 4, 6, 8, 10]
    assert _spread([1, 2], 6) == [1, 2]


@pytest.mark.slow
def test_the_loss_picture_is_a_png_of_the_run(full: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = read_run(full)
    for name, band in (("none", []), ("one", [(300.0, 0.5, 1.0)]), ("several", expected_band(run.config))):
        pictures.draw_loss(run.events, tmp_path / f"{name}.png", title="plays", band=band)
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000
    assert not list(tmp_path.glob("*.partial"))


def test_without_matplotlib_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape('pip install "gptloom[plots]"')):
        pictures.draw_loss([], tmp_path / "x.png", title="plays")


def test_looking_at_runs_loads_no_torch() -> None:
    code = "import sys, gptloom.observe.report, gptloom.observe.readers, gptloom.cli.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
