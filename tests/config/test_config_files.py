"""What is said of a file before it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.config.files import check_new_file, new_file_problems


def test_a_new_name_in_a_folder_that_is_there_is_fine(tmp_path: Path) -> None:
    assert new_file_problems(tmp_path / "new.csv", endings=(".csv", ".tsv")) == []
    check_new_file(tmp_path / "NEW.CSV", False, (".csv",))


def test_every_problem_is_told_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "no" / "answers.pdf"
    ending, folder = new_file_problems(path, endings=(".csv", ".jsonl"))
    assert ".csv, .jsonl" in ending.what and ending.mend == str(path.with_suffix(".csv"))
    assert folder.mend == f"mkdir -p {path.parent}"
    with pytest.raises(UserError, match="does not exist"):
        check_new_file(path)


def test_what_is_there_is_left_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "there.csv"
    path.write_text("mine", encoding="utf-8")
    assert [problem.mend for problem in new_file_problems(path)] == ["another name"]
    assert [problem.mend for problem in new_file_problems(path, False)] == ["another name, or --overwrite"]
    assert new_file_problems(path, True) == []


def test_a_folder_is_no_file_whatever_may_be_replaced(tmp_path: Path) -> None:
    [problem] = new_file_problems(tmp_path, True, (".csv",))
    assert problem.what == "it is a folder" and problem.mend is not None
    assert problem.mend.endswith(str(tmp_path / "result.csv"))
    [here] = new_file_problems(Path())
    assert here.what == "it is a folder"
