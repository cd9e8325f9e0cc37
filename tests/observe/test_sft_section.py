"""The report of an instruction tuning."""

from __future__ import annotations

from importlib import resources

from gptloom.observe.sft_section import sft_section


def test_answers_that_do_not_end_are_warned_of_where_it_is_seen() -> None:
    sample = {"prompt": "q" * 900, "answer": "on and on", "stopped": False}
    smoke = {"stopping": 0.0, "repetition": 0.9, "samples": [sample], "warning": "no answer ends <soon>"}
    figures = {"losses": {"loss": 2.0}, "smoke": smoke}
    section = sft_section({"before": figures, "after": figures})
    assert '<p class="warning">no answer ends &lt;soon&gt;</p>' in section
    assert "q" * 399 + "…" in section and "q" * 400 not in section and "on and on [does not end]" in section
    page = resources.files("gptloom.observe").joinpath("report.html").read_text(encoding="utf-8")
    assert ".warning { color:" in page
