"""A folder appears whole or not at all, whoever is killed and whoever comes in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.model.folder import replaced_folder

posix = pytest.mark.skipif(os.name == "nt", reason="Windows cannot tell whether a process lives")


def fill(folder: Path, text: str, overwrite: bool = True) -> None:
    with replaced_folder(folder, overwrite=overwrite) as partial:
        (partial / "config.json").write_text(text, encoding="utf-8")


def content(folder: Path) -> str:
    return (folder / "config.json").read_text(encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert ended.wait(timeout=60) == 0
    return ended.pid


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "m", "old")
    with pytest.raises(UserError, match="exists already"):
        fill(tmp_path / "m", "new", overwrite=False)
    assert content(tmp_path / "m") == "old"
    fill(tmp_path / "m", "new")
    assert content(tmp_path / "m") == "new" and names(tmp_path) == ["m"]


def test_of_two_at_once_neither_result_is_lost(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"meanwhile.*the result is .*m-2"),
        replaced_folder(tmp_path / "m", overwrite=False) as partial,
    ):
        (partial / "config.json").write_text("second", encoding="utf-8")
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "config.json").write_text("first", encoding="utf-8")
    assert names(tmp_path) == ["m", "m-2"]
    assert (content(tmp_path / "m"), content(tmp_path / "m-2")) == ("first", "second")


@posix
def test_what_the_killed_left_is_cleared_and_the_living_keep_theirs(tmp_path: Path, dead: int) -> None:
    living = os.getppid()
    left = [f".m.{dead}.part", f"..m.{dead}.part.{dead}.old", f"..m.{dead}.part.{dead}.part", f".m.{os.getpid()}.part"]
    kept = [f".m.{living}.part", f".other.{dead}.part", f".m.{dead}.part.txt", ".m.part"]
    for name in left + kept:
        (tmp_path / name).mkdir()
    fill(tmp_path / "m", "new")
    assert names(tmp_path) == sorted([*kept, "m"])


@posix
def test_a_kill_within_the_swap_loses_nothing(tmp_path: Path, dead: int) -> None:
    aside = tmp_path / f".m.{dead}.old"
    fill(aside, "old")
    with pytest.raises(UserError, match="exists already"):
        fill(tmp_path / "m", "new", overwrite=False)
    assert content(tmp_path / "m") == "old" and names(tmp_path) == ["m"]
    fill(aside, "older")
    fill(tmp_path / "m", "new")
    assert content(tmp_path / "m") == "new" and names(tmp_path) == ["m"]


def test_the_current_folder_is_filled_where_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    fill(Path(), "new")
    assert Path("config.json").read_text(encoding="utf-8") == "new" and names(tmp_path) == ["m"]
    with pytest.raises(UserError, match="the current folder cannot be replaced"):
        fill(Path(), "newer")
    assert content(tmp_path / "m") == "new"


@posix
def test_behind_a_link_lies_what_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "m", "old")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    fill(tmp_path / "link", "new")
    assert content(tmp_path / "m") == "new" and (tmp_path / "link").is_symlink() and names(tmp_path) == ["link", "m"]
