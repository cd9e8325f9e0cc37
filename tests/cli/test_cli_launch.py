"""``gptloom launch``: lines that could be typed, and a Slurm job that runs under a Slurm made of four small scripts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gptloom.cli.arguments import given_on_command_line
from gptloom.cli.main import main
from gptloom.config.pretrain import PretrainOptions

TRAINING = ("--", "pretrain", "--data", "my texts", "--out", "runs/x")


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["launch", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_a_torchrun_line_for_each_host(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(
        capsys, "--nodes", "localhost", "h2.invalid", "--processes", "8", "--port", "4000", *TRAINING
    )
    first, second = [shlex.split(line) for line in out.splitlines()]
    size = ["torchrun", "--nnodes", "2", "--nproc-per-node", "8", "--node-rank"]
    meeting = ["--master-addr", "localhost", "--master-port", "4000", "-m", "gptloom", "--", *TRAINING[1:]]
    assert code == 0 and first == [*size, "0", *meeting] and second == [*size, "1", *meeting]
    assert "h2.invalid: no such name here" in err and "localhost: no such" not in err


def test_torchrun_understands_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.distributed.run import parse_args

    _, out, _ = asked(capsys, "--nodes", "h1", "h2", "--processes", "2", "--quiet", *TRAINING)
    parsed = parse_args(shlex.split(out.splitlines()[1])[1:])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank, parsed.module) == ("2", "2", 1, True)
    assert (parsed.training_script, parsed.training_script_args) == ("gptloom", list(TRAINING[1:]))


def test_elastic_is_our_own_launchers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "--nodes", "h1", "h2", "--processes", "2", "--elastic", *TRAINING)
    first, second = [shlex.split(line) for line in out.splitlines()]
    assert code == 0 and first == second and first[:2] == ["gptloom", "pretrain"]
    given = given_on_command_line("pretrain", "", PretrainOptions, first[2:])
    assert given == {
        "data": ["my texts"],
        "out": "runs/x",
        "nodes": ["h1", "h2"],
        "processes": "2",
        "port": "29400",
        "elastic": True,
    }


def test_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "--nodes", "h1", "--json", *TRAINING)
    document = json.loads(out)
    assert code == 0 and document["script"] is None
    assert [line["host"] for line in document["lines"]] == ["h1"] and "torchrun" in document["lines"][0]["command"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "h1", "--", "generate", "x"], "'generate' is no training that several processes share"),
        (["--nodes", "h1", "--", "pretrian"], "did you mean pretrain?"),
        (
            ["--nodes", "h1", "--", "pretrain", "--data", "x", "--out", "y", "--setps", "3"],
            "there is no option --setps",
        ),
        (
            ["--nodes", "h1", "--", "pretrain", "--data", "x", "--out", "y", "--lr", "-1"],
            "--lr '-1' must be greater than 0",
        ),
        (["--nodes", "h1", "--", "pretrain", "--data", "x"], "the training does not say where it goes"),
        (
            ["--nodes", "h1", "--", "pretrain", "--data", "x", "--out", "y", "--port", "5000"],
            "--port is given to pretrain",
        ),
        (
            ["--nodes", "h1", "--", "pretrain", "--data", "x", "--out", "y", "--elastic"],
            "--elastic is given to pretrain",
        ),
        (["--nodes", "3", *TRAINING], "--nodes 3 names no machine"),
        (["--nodes", "h1", "--time", "1:00:00", *TRAINING], "--time is for a Slurm job"),
        (["--nodes", "h1", "--partition", "gpu", *TRAINING], "--partition is for a Slurm job"),
        (["--nodes", "3", "--slurm", "--elastic", *TRAINING], "--elastic does nothing in a Slurm job"),
        (["--nodes", "h1", "h2", "--slurm", *TRAINING], "Slurm chooses the machines itself"),
        (["--nodes", "0", "--slurm", *TRAINING], "there must be one at least"),
        (["--nodes", "h1"], "COMMAND is missing"),
        ([*TRAINING], "--nodes is missing"),
        (["--nodes", "h1", "--"], "needs at least 1 values"),
    ],
)
def test_mistakes(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys, *arguments)
    assert code == 2 and out == "" and said in err


def test_mistakes_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = asked(capsys, "--nodes", "3", "--time", "1:00:00", "--", "pretrain", "--data", "x", "--setps", "3")
    assert err.count("error:") == 3


def test_from_python() -> None:
    import gptloom

    planned = gptloom.launch(["resume", "runs/x"], nodes=["h1", "h2"])
    assert [host for host, _ in planned.lines] == ["h1", "h2"] and planned.script is None
    assert planned.lines[0][1].endswith("-m gptloom -- resume runs/x")


# ---- Slurm -----------------------------------------------------------------------------------------------------------

# What the job calls, in little: srun starts the training once, which writes its state and waits for the signal.
SLURM = {
    "scontrol": 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >> "$FOLDER/requeued"; fi',
    "srun": 'echo "$@" >> "$FOLDER/started"; shift; exec "$@"',
    "gptloom": """
        mkdir -p "$FOLDER/run 1"
        state() { printf '{\\n "state": "%s"\\n}\\n' "$1" > "$FOLDER/run 1/state.json"; }
        state running
        trap 'sleep 0.3; state paused; exit 0' USR1
        case "$HOW" in finish) state finished; exit 0;; fail) state failed; exit 3;; esac
        for i in $(seq 200); do sleep 0.1; done
        """,
}


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    if shutil.which("bash") is None or not hasattr(signal, "SIGUSR1"):
        pytest.skip("no bash here")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, code in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{code}\n")
        (folder / name).chmod(0o755)
    run = str(folder / "run 1")
    training = ("--", "pretrain", "--data", "my texts", "--out", run)
    _, out, _ = asked(capsys, "--nodes", "2", "--processes", "8", "--slurm", "--time", "24:00:00", *training)
    (folder / "job.sh").write_text(out)

    def start(how: str) -> subprocess.Popen[bytes]:
        names = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "HOW": how}
        slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77"}
        return subprocess.Popen(["bash", folder / "job.sh"], env={**os.environ, **names, **slurm})

    start.folder, start.text = folder, out  # type: ignore[attr-defined]
    return start


def test_the_header_of_a_slurm_job(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    header = [line.removeprefix("#SBATCH --") for line in job.text.splitlines() if line.startswith("#SBATCH")]
    wanted = ["nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "time=24:00:00", "signal=B:USR1@120", "requeue"]
    assert set(wanted) < set(header)
    assert not any(line.startswith("partition") for line in header)
    cpu = ("--", "pretrain", "--data", "x", "--out", "y", "--device", "cpu")
    _, out, _ = asked(capsys, "--nodes", "1", "--slurm", "--partition", "long", *cpu)
    assert "#SBATCH --partition=long" in out and "gpus" not in out


def test_a_job_that_finishes(job: Any) -> None:
    assert job("finish").wait(20) == 0
    started = (job.folder / "started").read_text()
    assert "gptloom pretrain --data my texts --out" in started
    assert "--nodes n1 n2 --processes 8 --port 29400 --save-on-signal USR1" in started
    assert not (job.folder / "requeued").exists()


def test_a_job_that_fails_says_so(job: Any) -> None:
    assert job("fail").wait(20) == 3
    assert not (job.folder / "requeued").exists()


def test_a_job_whose_time_is_over_saves_is_queued_again_and_goes_on(job: Any) -> None:
    process = job("wait")
    until = time.monotonic() + 20
    while not (job.folder / "run 1" / "state.json").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert (job.folder / "requeued").read_text() == "requeue 77\n"
    assert job("finish").wait(20) == 0
    last = (job.folder / "started").read_text().splitlines()[-1]
    assert f"gptloom resume {job.folder}/run 1 --nodes n1 n2" in last
