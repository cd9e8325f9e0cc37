"""The docs' Python: the example file runs, and so does every snippet that is marked as runnable.

A ``python`` block is run when the line before it is ``<!-- runnable -->``. What would take minutes is cut short there,
out of the reader's sight: ``<!-- runnable: max_minutes=10 as max_steps=2, threads=1; n=10 as n=3 -->``.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from gptloom.observe.events import read_events

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(
    r"^<!-- runnable(?:: (?P<changes>.*?))? -->\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def snippets() -> list[tuple[str, str]]:
    """(page:line, code) of every marked block, its changes made."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in MARKED.finditer(text):
            code = match["code"]
            for change in filter(None, (match["changes"] or "").split("; ")):
                old, new = change.split(" as ")
                assert old in code, f"{page.name}: the snippet has no {old}"
                code = code.replace(old, new)
            found.append((f"{page.name}:{text.count(chr(10), 0, match.start('code')) + 1}", code))
    return found


def test_some_snippets_are_marked() -> None:
    assert {place.split(":")[0] for place, _ in snippets()} >= {"README.md", "pretraining.md"}


@pytest.mark.parametrize(("place", "code"), snippets(), ids=[place for place, _ in snippets()])
def test_marked_snippets_run(place: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plays.txt").write_text("\n".join(page.read_text(encoding="utf-8") for page in PAGES), encoding="utf-8")
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_a_loop_of_ones_own_learns(tmp_path: Path) -> None:
    example = runpy.run_path(str(ROOT / "docs" / "examples" / "own_objective.py"))
    share = example["main"](folder=str(tmp_path / "sorting"), steps=30)
    train = [event for event in read_events(tmp_path / "sorting" / "events.jsonl") if event["type"] == "train"]
    assert [event["step"] for event in train] == list(range(1, 31))
    assert train[0]["losses"]["answer"] == pytest.approx(2.4, abs=0.3)  # ln 11: it knows next to nothing
    assert train[-1]["losses"]["answer"] < 1.4 and share > 0.3  # chance is a tenth


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "examples" / "own_objective.py").read_text(encoding="utf-8") in page
