"""Makes ``.venv`` ready: finds a fitting Python, installs torch from the right index, then gptloom and its tools.

    python3 scripts/setup.py [--torch-index URL] [--extras dev]

Standard library only, and written so that an old Python can still run it far enough to find a newer one. Where torch
comes from, first match wins:

1. ``--torch-index URL``;
2. what pip is configured with (an index or find-links, in pip.conf or PIP_*): kept, and used alone;
3. Linux without an NVIDIA driver: PyTorch's index of CPU builds, if it answers within seconds;
4. pip's default index.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 14)  # NEWEST: the last one that the pinned torch has wheels for
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
REACH_SECONDS = 5
DEFAULT_SIZE = "about 2-3 GB with the CUDA libraries"
PIP_SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")


def main() -> int:
    parser = argparse.ArgumentParser(description="make .venv ready")
    parser.add_argument("--torch-index", default="", help="index to install torch from")
    parser.add_argument("--extras", default="dev", help="extras of gptloom to install (default: dev)")
    arguments = parser.parse_args()
    begun = time.time()
    python = venv_python()
    if not works(python):
        make_venv()
    source = torch_source(python, arguments.torch_index)
    install(python, torch_requirement(), "--no-deps", *source)
    target = f"{ROOT}[{arguments.extras}]" if arguments.extras else str(ROOT)
    install(python, "--editable", target)
    say(f"set-up done in {time.time() - begun:.0f} s")
    return 0


# ---- a Python, and a virtual environment -----------------------------------------------------------------------------


def venv_python() -> Path:
    """The interpreter of ``.venv``, in the layout of this system."""
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


def make_venv() -> None:
    """Creates ``.venv`` anew with the first Python that fits; ends the program, saying what is missing, if none does."""
    refused = []
    for command in candidates():
        verdict = judge(command)
        if verdict is None:
            say(f"creating .venv with {' '.join(command)}")
            run([*command, "-m", "venv", "--clear", str(VENV)])
            return
        refused.append(f"  {' '.join(command)}: {verdict}")
    fail(
        f"gptloom needs Python {dotted(OLDEST)} to {dotted(NEWEST)}, with venv. Found:",
        *(refused or ["  none"]),
        "Install one (python.org, your package manager, or pyenv), then run the same command again;",
        "make PYTHON=/path/to/python names it if it is not on the PATH.",
    )


def candidates() -> list[list[str]]:
    """Commands that may be a fitting Python: the one running, then those on the PATH under their versioned names."""
    versions = [(3, minor) for minor in (13, 12, 11, 14)]
    found = [[sys.executable]]
    for version in versions:
        path = shutil.which("python" + dotted(version))
        if path:
            found.append([path])
        elif os.name == "nt" and shutil.which("py"):
            found.append(["py", "-" + dotted(version)])
    for name in ("python3", "python"):
        path = shutil.which(name)
        if path and [path] not in found:
            found.append([path])
    return found


def dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def judge(command: list[str]) -> str | None:
    """Why ``command`` can't make the environment, or None when it can."""
    probe = "import sys; print(*sys.version_info[:2]); import venv, ensurepip"
    done = subprocess.run([*command, "-c", probe], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    match = re.match(r"(\d+) (\d+)", done.stdout)
    if not match:
        return "does not run"
    version = (int(match.group(1)), int(match.group(2)))
    if not OLDEST <= version <= NEWEST:
        return f"is Python {dotted(version)}"
    if done.returncode:
        return f"is Python {dotted(version)} without venv (Debian, Ubuntu: apt install python{dotted(version)}-venv)"
    return None


def works(python: Path) -> bool:
    """Whether ``.venv`` has a Python that fits and a pip: it may be half-made, or its Python may have been removed."""
    if not python.exists():
        return False
    probe = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    return subprocess.run([str(python), "-c", probe], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


# ---- where torch comes from ------------------------------------------------------------------------------------------


def torch_source(python: Path, asked: str) -> list[str]:
    """pip's arguments for the index that torch is installed from, and a line that says which."""
    if asked:
        say(f"torch from {asked}, as asked for")
        return ["--index-url", asked]
    configured = pip_sources(python)
    if configured:
        say(f"torch from where pip is configured to look ({', '.join(configured)})")
        return []
    if not sys.platform.startswith("linux"):
        say("torch from the default index")  # its builds for macOS and Windows hold no CUDA libraries
        if os.name == "nt" and has_nvidia_driver():
            say("  that is the CPU build; for the GPU set TORCH_INDEX to one of PyTorch's CUDA indexes (pytorch.org)")
        return []
    if has_nvidia_driver():
        say(f"torch from the default index: there is an NVIDIA driver ({DEFAULT_SIZE})")
        return []
    if offers_torch(python, CPU_INDEX):
        say(f"torch from {CPU_INDEX}: there is no NVIDIA driver")
        return ["--index-url", CPU_INDEX]
    say(f"{CPU_INDEX} did not answer: torch from the default index, {DEFAULT_SIZE}")
    say("  TORCH_INDEX=URL names another index")
    return []


def pip_sources(python: Path) -> list[str]:
    """Which of pip's options that say where packages are the user has set, in a file or by PIP_*."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout
    keys = [line.partition("=")[0].rpartition(".")[2].replace("_", "-") for line in listed.splitlines()]
    return [source for source in PIP_SOURCES if source in keys]


def has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def offers_torch(python: Path, index: str) -> bool:
    """Whether ``index`` answers quickly and has the pinned torch. Asked through pip, which knows proxies and certificates."""
    command = [str(python), "-m", "pip", "index", "versions", "torch", "--index-url", index, "--retries", "0"]
    try:
        done = subprocess.run(
            [*command, "--timeout", str(REACH_SECONDS), "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=3 * REACH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    version = torch_requirement().partition("==")[2]
    available = re.search(r"^Available versions: (.*)$", done.stdout, re.MULTILINE)
    return available is not None and version in re.split(r"[, ]+|\+\w+", available.group(1))


def torch_requirement() -> str:
    """``torch==VERSION``, as pinned."""
    pins = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in pins if line.startswith("torch=="))


# ---- running things --------------------------------------------------------------------------------------------------


def install(python: Path, *arguments: str) -> None:
    shown = [] if sys.stdout.isatty() else ["--quiet"]  # progress bars are for people
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *shown]
    run([*pip, "--constraint", str(CONSTRAINTS), *arguments])


def run(command: list[str]) -> None:
    say("$ " + " ".join(command))
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode:
        fail(f"set-up stopped: the command above failed with status {done.returncode}")


def say(line: str) -> None:
    print("== " + line, flush=True)


def fail(*lines: str) -> None:
    print("\n".join(lines), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
