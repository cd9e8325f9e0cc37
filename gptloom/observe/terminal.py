"""What a person sees in a terminal: messages, tables, and one live line."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TextIO

from gptloom.config.excerpt import beginning


def printable(line: str) -> str:
    """``line`` with U+FFFD for what would move a terminal's cursor or ring its bell: an untrained model writes anything."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line)


class Terminal:
    """Standard error as a place for messages, with at most one live line below them.

    ``quiet`` silences messages and the live line (errors are printed by the command line itself). The live line exists
    only where standard error is a terminal that can move its cursor.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self.quiet = quiet
        self._live = False

    @property
    def stream(self) -> TextIO:
        """Looked up when used, since tests and notebooks replace ``sys.stderr``."""
        return self._stream or sys.stderr

    @property
    def moves(self) -> bool:
        """Whether a line may be overwritten: a person looks at it, and has not asked for plain output."""
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.stream.isatty() and not plain

    def say(self, text: str = "") -> None:
        """Prints a message; a live line below is removed first and comes back with its next update."""
        if self.quiet:
            return
        self.end_live()
        _write(self.stream, text + "\n")

    def show_live(self, line: str) -> None:
        """Replaces the live line; does nothing where the output does not move."""
        if self.quiet or not self.moves:
            return
        width = shutil.get_terminal_size().columns - 1
        _write(self.stream, "\r\x1b[2K" + beginning(line, width))
        self._live = True

    def end_live(self) -> None:
        """Removes the live line, if there is one."""
        if self._live:
            _write(self.stream, "\r\x1b[2K")
            self._live = False


terminal = Terminal()
"""The process's standard error; the command line sets ``terminal.quiet``."""


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Inside, ``say`` and the live line are silent where ``quiet`` is true."""
    before, terminal.quiet = terminal.quiet, terminal.quiet or quiet
    try:
        yield
    finally:
        terminal.quiet = before


def speaker() -> str:
    """``process 3 on node7``: what an error begins with in every process of a training but the first, which needs none.

    Known from torchrun's environment, so that it is right before the processes have met and after they have parted.
    """
    rank = os.environ.get("RANK", "0")
    return f"process {rank} on {socket.gethostname()}" if rank != "0" else ""


def say(text: str = "") -> None:
    """A message for the person who started the command, on standard error, unless ``--quiet``."""
    terminal.say(text)


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Collection[str] = (),
    file: TextIO | None = None,
) -> None:
    """A table on standard output or ``file``: drawn by rich on a terminal, else plain columns two spaces apart.

    Plain as well where the terminal has room for that only, so that no cell is broken.

    ``right`` names the headers of columns whose cells stand right (numbers).
    """
    file = file or sys.stdout
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    drawn, plain = sum(widths) + 3 * len(widths) + 1, sum(widths) + 2 * (len(widths) - 1)
    if file.isatty() and not plain <= shutil.get_terminal_size().columns < drawn:
        _print_rich_table(headers, cells, right, file)
        return
    for row in [list(headers), *cells]:
        line = "  ".join(
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers, strict=True)
        )
        _write(file, line.rstrip() + "\n")


def _print_rich_table(headers: Sequence[str], rows: list[list[str]], right: Collection[str], file: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
    Console(file=file).print(table)


def _write(stream: TextIO, text: str) -> None:
    """Writes and flushes; characters a console cannot show (code page 1252) become question marks, never an error."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, errors="replace").decode(encoding))
    stream.flush()
