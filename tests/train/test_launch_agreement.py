"""What processes compare before they train together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

from gptloom.config.errors import EndedElsewhere, UserError
from gptloom.observe.terminal import terminal
from gptloom.train import agreement
from gptloom.train.agreement import check_agreement, check_shared_folder, source_hash
from gptloom.train.world import World


def outcome(check: Any, *arguments: Any) -> Any:
    """None, the problems, or the exit code of a process that leaves the words to another."""
    try:
        check(*arguments)
    except UserError as error:
        return [[problem.what, problem.mend] for problem in error.problems]
    except EndedElsewhere as end:
        return end.code
    return None


def compare(world: World, folder: str) -> dict[str, Any]:
    """Every comparison once, in processes that differ in one thing after the other."""
    world.host = f"h{world.rank + 1}"
    said: list[str] = []
    terminal.say = said.append  # type: ignore[method-assign]
    options = {"lr": 0.001, "data": ["a.txt"], "tokenizer": None}
    equal = outcome(check_agreement, world, options)
    different = outcome(
        check_agreement, world, {**options, "lr": 0.001 * (1 + world.rank), "data": ["a.txt"][: 1 - world.rank]}
    )
    agreement.source_hash = lambda: f"{world.rank}" * 64  # type: ignore[assignment]
    code = outcome(check_agreement, world, options)
    agreement.source_hash = source_hash
    quiet = list(said)
    late = time.time() + 20 * world.rank
    agreement.time.time = lambda: late  # type: ignore[attr-defined]
    clocks = outcome(check_agreement, world, options)
    agreement.VISIBLE = 0.3  # type: ignore[misc]
    seen = outcome(check_shared_folder, world, Path(folder) / "run")
    unseen = outcome(check_shared_folder, world, Path(folder) / f"own{world.rank}")
    left = sorted(path.name for path in Path(folder).glob("*/*"))
    return {
        "equal": equal,
        "different": different,
        "code": code,
        "quiet": quiet,
        "clocks": clocks,
        "said": said,
        "seen": seen,
        "unseen": unseen,
        "left": left if world.first else [],
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(compare, 2, folder=str(tmp_path_factory.mktemp("shared")))


@pytest.mark.slow
def test_the_same_everywhere_passes_in_silence(both: list[dict[str, Any]]) -> None:
    assert [process["equal"] for process in both] == [None, None]
    assert [process["quiet"] for process in both] == [[], []]


def test_every_option_that_differs_is_named_with_who_has_which_value(both: list[dict[str, Any]]) -> None:
    problems, code = [process["different"] for process in both]
    assert code == 2
    assert [what for what, _ in problems] == [
        "--lr differs between the processes: 0.001 at process 0 (h1); 0.002 at process 1 (h2)",
        '--data differs between the processes: ["a.txt"] at process 0 (h1); [] at process 1 (h2)',
    ]


def test_other_code_is_refused(both: list[dict[str, Any]]) -> None:
    problems, code = [process["code"] for process in both]
    assert code == 2
    assert problems == [
        [
            "the code of gptloom differs between the processes: 000000000000 at process 0 (h1); "
            "111111111111 at process 1 (h2)",
            "the same installation everywhere",
        ]
    ]


def test_clocks_that_differ_are_said_and_not_refused(both: list[dict[str, Any]]) -> None:
    assert [process["clocks"] for process in both] == [None, None]
    assert both[1]["said"] == []
    assert len(both[0]["said"]) == 1 and "the clock of h2 is 20 s ahead of that of h1" in both[0]["said"][0]


def test_a_machine_that_does_not_see_the_run_folder_is_named(both: list[dict[str, Any]]) -> None:
    assert [process["seen"] for process in both] == [None, None]
    problems, code = [process["unseen"] for process in both]
    assert code == 2 and len(problems) == 1
    assert problems[0][0] == "h2: does not see the run folder that h1 writes"
    assert both[0]["left"] == []  # what was looked for is gone


def test_one_process_agrees_with_itself(tmp_path: Path) -> None:
    check_agreement(World(), {"anything": object()})
    check_shared_folder(World(), tmp_path / "not" / "there")
    assert not (tmp_path / "not").exists()


def test_the_hash_is_of_every_source_file() -> None:
    assert len(source_hash()) == 64 and source_hash() == source_hash()
